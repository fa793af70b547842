/* Changes to published snapshots by name: see change.h. */
#define _GNU_SOURCE
#include "catalog/change.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/publish.h"
#include "catalog/rows.h"
#include "catalog/verify.h"
#include "proto/snapdir.h"

/* A file that has other names: its stamp must outlive our unlink of this one. */
struct kept_stamp {
	int fd;
	uint8_t digest[DIGEST_SIZE];
};

/* Keeps the stamp of a file that has one. */
static void keep_stamp(struct store *store, const struct snapdir *d, size_t i,
		       struct kept_stamps *k)
{
	struct snapdir_file f;
	auto_fd int fd = -1;

	proto_snapdir_file(d->manifest, d->layered, i, &f);
	fd = proto_snapdir_open_file(d, &f, "", NULL);
	if (fd < 0 || !cat_stamp_holds(store, fd, f.digest))
		return;
	memcpy(k->stamp[k->n].digest, f.digest, DIGEST_SIZE);
	k->stamp[k->n++].fd = take_fd(&fd);
}

struct kept_stamps cat_stamps_keep(struct store *store, int dirfd)
{
	struct kept_stamps k = { 0 };
	struct snapdir d;
	size_t n;
	int copy = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0 || proto_snapdir_open_fd(&d, copy, "", NULL) < 0)
		return k;
	n = proto_snapdir_files(d.manifest, d.layered);
	k.stamp = calloc(n, sizeof(*k.stamp));
	for (size_t i = 0; k.stamp && i < n; i++)
		keep_stamp(store, &d, i, &k);
	proto_snapdir_close(&d);
	return k;
}

void cat_stamps_follow(struct store *store, struct kept_stamps *k)
{
	for (size_t i = 0; i < k->n; i++) {
		cat_stamp_follow(store, k->stamp[i].fd, k->stamp[i].digest, true);
		close(k->stamp[i].fd);
	}
	free(k->stamp);
	*k = (struct kept_stamps){ 0 };
}

static int move_to_trash(struct store *store, const char *name, char unique[UUID_TEXT_MAX],
			 struct err *e)
{
	uint8_t id[UUID_SIZE];
	struct timespec now;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	rc = uuid_make(&now, id);
	if (rc < 0)
		return err_sys(e, -rc, "cannot remove snapshot %s", name);
	uuid_format(id, unique);
	if (renameat(store->snapshots, name, store->trash, unique) < 0)
		return err_sys(e, errno, "cannot remove snapshot %s", name);
	if (fsync(store->snapshots) < 0 || fsync(store->trash) < 0)
		return err_sys(e, errno, "cannot make the removal of %s durable", name);
	return 0;
}

static int remove_dir(struct store *store, const char *name, int dirfd, struct err *e)
{
	struct kept_stamps k;
	char unique[UUID_TEXT_MAX];
	int rc;

	if (flock(dirfd, LOCK_EX | LOCK_NB) < 0)
		return err_env(e, EBUSY, "snapshot %s is in use by another operation", name);
	/* Until now another one may have removed it, and published anew by its name. */
	if (!cat_tree_is(store->snapshots, name, dirfd))
		return err_refuse(e, ENOENT, "there is no snapshot %s in %s", name, store->path);
	rc = cat_index_mark_removing(store, name, e);
	if (rc < 0)
		return rc;
	k = cat_stamps_keep(store, dirfd);
	rc = move_to_trash(store, name, unique, e);
	if (rc == 0) {
		rc = cat_tree_remove(store->trash, unique);
		if (rc < 0)
			err_sys(e, -rc, "cannot empty %s/trash/%s", store->path, unique);
	}
	cat_stamps_follow(store, &k);
	return rc;
}

int cat_snapshot_remove(struct store *store, const char *name, struct err *e)
{
	auto_fd int fd = -1;
	struct cat_row row;
	int rc = cat_store_need_writable(store, e);

	if (rc == 0)
		rc = cat_index_find(store, name, &row, e);
	if (rc < 0)
		return rc;
	fd = openat(store->snapshots, row.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT)
		return err_sys(e, errno, "cannot remove snapshot %s", row.name);
	if (fd >= 0)
		rc = remove_dir(store, row.name, fd, e);
	if (rc < 0)
		return rc;
	return cat_index_drop(store, row.name, e);
}

/* A missing row of the new name would keep the renamed one from being recognized. */
static int make_room(struct store *store, const char *to, struct err *e)
{
	struct cat_row row;
	int rc = cat_index_find(store, to, &row, NULL);

	if (rc == -ENOENT)
		return 0;
	if (rc == 0 && row.status != CAT_MISSING)
		return err_refuse(e, EEXIST, "there is a snapshot %s already", to);
	return rc == 0 ? cat_index_drop(store, to, e) : rc;
}

int cat_snapshot_rename(struct store *store, const char *from, const char *to, struct err *e)
{
	struct cat_row row = { 0 };
	int rc = cat_store_need_writable(store, e);

	if (rc == 0)
		rc = cat_name_check(to, e);
	if (rc == 0)
		rc = cat_index_find(store, from, &row, e);
	if (rc < 0)
		return rc;
	if (row.status == CAT_MISSING)
		return err_refuse(e, ENOENT, "snapshot %s is missing: there is nothing to rename",
				  row.name);
	rc = make_room(store, to, e);
	if (rc < 0)
		return rc;
	rc = cat_rename_new(store->snapshots, row.name, store->snapshots, to, store);
	if (rc == -EEXIST)
		return err_refuse(e, EEXIST, "there is a snapshot %s already", to);
	if (rc < 0)
		return err_sys(e, -rc, "cannot rename snapshot %s", row.name);
	if (fsync(store->snapshots) < 0)
		return err_sys(e, errno, "cannot make the renaming of %s durable", row.name);
	return cat_index_rename(store, row.name, to, e);
}

static int reindex(struct store *store, void *arg, struct err *e)
{
	const char *accept = arg;
	int rc = accept ? cat_rows_accept(store->db, accept, e) : 0;

	return rc < 0 ? rc : cat_index_sync(store, CAT_SYNC_READ, e);
}

int cat_store_reindex(struct store *store, const char *accept, struct err *e)
{
	char name[CAT_NAME_MAX + 1];
	struct cat_row row;
	int rc = accept ? cat_index_find(store, accept, &row, e) : 0;

	if (rc < 0)
		return rc;
	if (accept && row.status != CAT_REPLACED)
		return err_refuse(e, EINVAL, "snapshot %s is %s, not replaced: nothing to accept",
				  row.name, cat_status_word(row.status));
	if (accept)
		memcpy(name, row.name, sizeof(name));
	return cat_index_run(store, reindex, accept ? name : NULL, e);
}
