/* One snapshot of the store, verified whole: see verify.h. */
#define _GNU_SOURCE
#include "catalog/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"

static int verify_file(struct store *store, const struct snapdir *d, const struct snapdir_file *f,
		       const char *name, bool anew, struct io_progress *progress, struct err *e)
{
	auto_fd int fd = proto_snapdir_open_file(d, f, name, e);
	char text[SNAPDIR_DAMAGE_MAX];
	int rc;

	if (fd < 0)
		return fd;
	if (!anew && cat_stamp_holds(store, fd, f->digest))
		return 0;
	/* Anew means what the disk has, not what was read from it before. */
	if (anew)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	rc = cat_stamp_verify(store, fd, f->size, f->digest, progress, e);
	if (rc == -EBADMSG) {
		proto_snapdir_tell_damage(d, f, fd, text);
		return err_refuse(e, EBADMSG, "snapshot %s is damaged: %s", name, text);
	}
	return rc < 0 ? err_prefix(e, rc, "%s of snapshot %s", f->path, name) : 0;
}

/* Memory and disks: all of them have to be right. */
static int verify_files(struct store *store, const struct snapdir *d, const char *name, bool anew,
			struct io_progress *progress, struct err *e)
{
	const size_t n = proto_snapdir_files(d->manifest);
	struct progress_sum sum = { .whole = progress };
	struct io_progress part = cat_progress_part(&sum);
	struct snapdir_file f;
	int rc = 0;

	for (size_t i = 0; i < n; i++) {
		proto_snapdir_file(d->manifest, i, &f);
		sum.total += f.size;
	}
	for (size_t i = 0; rc == 0 && i < n; i++) {
		proto_snapdir_file(d->manifest, i, &f);
		rc = verify_file(store, d, &f, name, anew, &part, e);
		sum.before += f.size;
	}
	return rc;
}

static int verify_state(const struct snapdir *d, const char *name, struct err *e)
{
	auto_free uint8_t *state = NULL;
	size_t len;

	return proto_snapdir_read_state(d, name, &state, &len, e);
}

static int open_named(const struct store *store, const char *name, struct snapdir *d, struct err *e)
{
	int fd = openat(store->snapshots, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "cannot open snapshot %s", name);
	return proto_snapdir_open_fd(d, fd, name, e);
}

static int verify_content(struct store *store, const struct cat_row *row, bool anew,
			  struct io_progress *progress, struct err *e)
{
	const char *name = row->name;
	struct snapdir d;
	int rc = open_named(store, name, &d, e);

	if (rc < 0)
		return rc;
	/* The outcome is kept for the manifest that was looked up. */
	if (memcmp(d.manifest_digest, row->manifest_digest, DIGEST_SIZE) != 0)
		rc = err_env(e, EAGAIN, "snapshot %s changed meanwhile: verify it again", name);
	if (rc == 0)
		rc = verify_state(&d, name, e);
	if (rc == 0)
		rc = verify_files(store, &d, name, anew, progress, e);
	proto_snapdir_close(&d);
	return rc;
}

int cat_verify_snapshot(struct store *store, const char *name, bool anew,
			struct io_progress *progress, struct err *e)
{
	struct err own = { 0 };
	struct cat_row row;
	int rc = cat_index_find(store, name, &row, e);

	if (!e)
		e = &own;
	if (rc < 0)
		return rc;
	if (row.status == CAT_MISSING)
		return err_refuse(e, ENOENT,
				  "snapshot %s is missing: its directory is gone; `snapctl rm %s` "
				  "forgets it",
				  row.name, row.name);
	if (row.status == CAT_REPLACED)
		return err_refuse(e, ESTALE,
				  "snapshot %s was replaced by another of the same name; `snapctl "
				  "reindex --accept %s` takes it as it is now",
				  row.name, row.name);
	rc = verify_content(store, &row, anew, progress, e);
	if (rc == 0)
		cat_index_set_status(store, row.name, row.manifest_digest, CAT_VALID, "", NULL);
	/* What could not be read is not known to be damaged: its status stays. */
	if (rc == -EBADMSG)
		cat_index_set_status(store, row.name, row.manifest_digest, CAT_DAMAGED, e->text,
				     NULL);
	return rc;
}
