/* One snapshot of the store, verified whole: see verify.h. */
#define _GNU_SOURCE
#include "catalog/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/merkle.h"
#include "catalog/compose.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"

/* A new file for the tree that comes of hashing; -1: there is none, or nobody may keep it. */
static int open_tree(struct store *store, const struct snapdir_file *f)
{
	struct merkle m;

	merkle_layout(&m, f->size);
	if (!m.tree_size || store->staging < 0)
		return -1;
	return openat(store->staging, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, STORE_FILE_MODE);
}

static bool is_same_content(int a, int b)
{
	uint8_t x[16384], y[16384];
	struct stat sa, sb;

	if (fstat(a, &sa) < 0 || fstat(b, &sb) < 0 || !S_ISREG(sb.st_mode) ||
	    sa.st_size != sb.st_size)
		return false;
	for (uint64_t at = 0; at < (uint64_t)sa.st_size; at += sizeof(x)) {
		const uint64_t left = (uint64_t)sa.st_size - at;
		const size_t n = left < sizeof(x) ? (size_t)left : sizeof(x);

		if (io_pread_full(a, x, n, at) < 0 || io_pread_full(b, y, n, at) < 0 ||
		    memcmp(x, y, n) != 0)
			return false;
	}
	return true;
}

/* Puts the new tree in the place of what is there. 0 or a negative errno. */
static int replace_tree(const struct store *store, const struct snapdir *d,
			const struct snapdir_file *f, int tree)
{
	const struct timespec times[2] = { d->stat.st_atim, d->stat.st_mtim };
	struct io_fd_path path = io_fd_path(tree);
	const char *slash = strchr(f->tree, '/');
	char name[48], folder[SNAPDIR_PATH_MAX];
	struct stat st;

	/* Where that is a link, another directory's file would be replaced. */
	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - f->tree) : 1,
		 slash ? f->tree : ".");
	if (fstatat(d->dirfd, folder, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return -ENOTDIR;
	snprintf(name, sizeof(name), "tree-%ld", (long)getpid());
	unlinkat(store->staging, name, 0);
	if (fsync(tree) < 0 ||
	    linkat(AT_FDCWD, path.text, store->staging, name, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	if (renameat(store->staging, name, d->dirfd, f->tree) < 0) {
		int rc = -errno;

		unlinkat(store->staging, name, 0);
		return rc;
	}
	/* The directory's time is the snapshot's. */
	futimens(d->dirfd, times);
	return fsync(d->dirfd) < 0 ? -errno : 0;
}

/*
 * Of a file that is right the tree that was computed is, too. One that is missing or
 * another costs whoever reads the file before the next verification, and is made anew.
 */
static void mend_tree(const struct store *store, const struct snapdir *d,
		      const struct snapdir_file *f, const char *name, int tree)
{
	auto_fd int old = -1;
	int rc;

	if (tree < 0)
		return;
	old = openat(d->dirfd, f->tree, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (old >= 0 && is_same_content(tree, old))
		return;
	rc = replace_tree(store, d, f, tree);
	if (rc < 0)
		log_warn("%s of snapshot %s is %s and cannot be made anew: %s", f->tree, name,
			 old < 0 ? "missing" : "wrong", strerror(-rc));
	else
		log_warn("%s of snapshot %s was %s: made anew", f->tree, name,
			 old < 0 ? "missing" : "wrong");
}

static int verify_file(struct store *store, const struct snapdir *d, const struct snapdir_file *f,
		       const char *name, bool anew, struct io_progress *progress, struct err *e)
{
	auto_fd int fd = proto_snapdir_open_file(d, f, name, e);
	char text[SNAPDIR_DAMAGE_MAX];
	auto_fd int tree = -1;
	int rc;

	if (fd < 0)
		return fd;
	if (!anew && cat_stamp_holds(store, fd, f->digest))
		return 0;
	/* Anew means what the disk has, not what was read from it before. */
	if (anew) {
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		tree = open_tree(store, f);
	}
	rc = cat_stamp_verify(store, fd, f->size, f->digest, tree, progress, e);
	if (rc == 0)
		mend_tree(store, d, f, name, tree);
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
	const size_t n = proto_snapdir_files(d->manifest, d->layered);
	struct progress_sum sum = { .whole = progress };
	struct io_progress part = cat_progress_part(&sum);
	struct snapdir_file f;
	int rc = 0;

	for (size_t i = 0; i < n; i++) {
		proto_snapdir_file(d->manifest, d->layered, i, &f);
		sum.total += f.size;
	}
	for (size_t i = 0; rc == 0 && i < n; i++) {
		proto_snapdir_file(d->manifest, d->layered, i, &f);
		rc = verify_file(store, d, &f, name, anew, &part, e);
		sum.before += f.size;
	}
	return rc;
}

/* The maps, and that all layers are together what the manifest says of the flat RAM. */
static int verify_layers(struct store *store, const struct snapdir *d, const char *name,
			 struct err *e)
{
	struct ram_sources s = { 0 };
	uint8_t digest[DIGEST_SIZE];
	struct flat f;
	int rc = proto_snapdir_read_flat(d, name, &f, e);

	if (rc < 0)
		return rc;
	rc = cat_sources_open(&s, d, name, store->staging, NULL, e);
	if (rc == 0) {
		rc = cat_compose_digest(&f, s.v, digest);
		if (rc < 0)
			err_sys(e, -rc, "cannot digest the RAM of snapshot %s", name);
	}
	if (rc == 0 && memcmp(digest, d->manifest->memory_digest.data, DIGEST_SIZE) != 0)
		rc = err_refuse(e, EBADMSG,
				"snapshot %s is damaged: its layers together do not have the "
				"manifest's digest of its RAM",
				name);
	cat_sources_close(&s);
	proto_flat_free(&f);
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
	if (rc == 0 && d.layered)
		rc = verify_layers(store, &d, name, e);
	/* What somebody removes loses its files on the way: that is no damage. */
	if (rc == -EBADMSG && !cat_tree_is(store->snapshots, name, d.dirfd))
		rc = err_refuse(e, ENOENT, "snapshot %s was removed while it was verified", name);
	proto_snapdir_close(&d);
	return rc;
}

int cat_verify_snapshot(struct store *store, const char *name, bool anew,
			struct io_progress *progress, struct err *e)
{
	struct err own = { 0 };
	struct cat_row row, now;
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
	/* A tree that was made is a change of disks/: seen first, it does not undo the outcome. */
	if (rc == 0)
		cat_index_find(store, row.name, &now, NULL);
	if (rc == 0)
		cat_index_set_status(store, row.name, row.manifest_digest, CAT_VALID, "", NULL);
	/* What could not be read is not known to be damaged: its status stays. */
	if (rc == -EBADMSG)
		cat_index_set_status(store, row.name, row.manifest_digest, CAT_DAMAGED, e->text,
				     NULL);
	return rc;
}
