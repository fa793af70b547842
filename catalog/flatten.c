/*
 * A snapshot in layers made flat: see change.h. The new directory is made in staging and
 * exchanged with the old one, so that at each moment a whole one has the name; a kill
 * leaves one of the two in staging, for the next to sweep away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/change.h"
#include "catalog/compose.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"

struct flatten {
	struct store *store;
	const char *name;
	struct snapdir old; /* locked */
	int dir;	    /* the new one, locked, owned */
	char temp[64];	    /* its name in staging, then that of the old one */
	struct lease lease; /* of its memory.bin */
};

static int cannot(const struct flatten *f, int rc, struct err *e)
{
	return err_sys(e, -rc, "cannot flatten snapshot %s", f->name);
}

static int copy_layers(const struct flatten *f, int to, struct io_progress *progress, struct err *e)
{
	const SnapshotManifest *m = f->old.manifest;
	struct ram_source s[MANIFEST_LAYERS_MAX] = { 0 };
	struct flat flat;
	size_t n = 0;
	int rc = proto_snapdir_read_flat(&f->old, f->name, &flat, e);

	if (rc < 0)
		return rc;
	for (; rc >= 0 && n < m->n_layer; n++) {
		struct snapdir_file file;

		proto_snapdir_file(m, true, n, &file);
		rc = s[n].fd = proto_snapdir_open_file(&f->old, &file, f->name, e);
	}
	if (rc >= 0) {
		rc = cat_compose_file(&flat, s, to, progress);
		if (rc < 0)
			cannot(f, rc, e);
	}
	while (n)
		if (s[--n].fd >= 0)
			close(s[n].fd);
	proto_flat_free(&flat);
	return rc < 0 ? rc : 0;
}

/* Digests the new memory.bin, and keeps its tree: what was read has to be what was saved. */
static int check_memory(struct flatten *f, struct io_progress *progress, struct err *e)
{
	const SnapshotManifest *m = f->old.manifest;
	auto_fd int fd = openat(f->dir, SNAPDIR_MEMORY, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	uint8_t digest[DIGEST_SIZE];
	auto_fd int tree = -1;
	struct merkle layout;
	int rc = fd < 0 ? -errno : 0;

	merkle_layout(&layout, m->memory_size_bytes);
	if (rc == 0 && layout.tree_size) {
		tree = openat(f->dir, SNAPDIR_MEMORY_TREE,
			      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, STORE_FILE_MODE);
		rc = tree < 0 ? -errno : 0;
	}
	if (rc < 0)
		return cannot(f, rc, e);
	f->lease = cat_lease_take(fd);
	rc = cat_lease_digest(&f->lease, fd, m->memory_size_bytes, tree, progress, digest);
	if (rc == 0 && tree >= 0 && fsync(tree) < 0)
		rc = -errno;
	if (rc < 0)
		return cannot(f, rc, e);
	if (memcmp(digest, m->memory_digest.data, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "snapshot %s is damaged: its layers together do not have the "
				  "manifest's digest of its RAM; `snapctl verify %s` tells where",
				  f->name, f->name);
	return 0;
}

static int make_memory(struct flatten *f, struct io_progress *progress, struct err *e)
{
	auto_fd int fd = openat(f->dir, SNAPDIR_MEMORY,
				O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc = fd < 0 ? cannot(f, -errno, e) : copy_layers(f, fd, progress, e);

	if (rc == 0 && (fchmod(fd, STORE_FILE_MODE) < 0 || fsync(fd) < 0))
		rc = cannot(f, -errno, e);
	if (rc < 0)
		return rc;
	close(take_fd(&fd));
	return check_memory(f, progress, e);
}

static bool is_made_anew(const char *name)
{
	return strcmp(name, SNAPDIR_MANIFEST) == 0 || strcmp(name, SNAPDIR_MEMORY) == 0 ||
	       strcmp(name, SNAPDIR_MEMORY_TREE) == 0;
}

/* Links the regular files of one directory into another. */
static int link_files(int from, int to, bool all)
{
	const int copy = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	if (!d)
		return -errno;
	while ((entry = readdir(d))) {
		struct stat st;

		if (fstatat(copy, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if (S_ISREG(st.st_mode) && (all || !is_made_anew(entry->d_name)) &&
		    linkat(copy, entry->d_name, to, entry->d_name, 0) < 0)
			return -errno;
	}
	return 0;
}

static int link_disks(const struct flatten *f)
{
	const int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	auto_fd int from = openat(f->old.dirfd, SNAPDIR_DISKS, how), to = -1;
	int rc;

	if (from < 0)
		return errno == ENOENT ? 0 : -errno;
	if (mkdirat(f->dir, SNAPDIR_DISKS, STORE_DIR_MODE) < 0)
		return -errno;
	to = openat(f->dir, SNAPDIR_DISKS, how);
	rc = to < 0 ? -errno : link_files(from, to, true);
	return rc == 0 && fsync(to) < 0 ? -errno : rc;
}

static int write_manifest(const struct flatten *f, struct err *e)
{
	SnapshotManifest m = *f->old.manifest; /* shares what that owns */
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc;

	m.n_layer = 0;
	m.layer = NULL;
	rc = proto_manifest_encode(&m, &buf, &len, e);
	return rc < 0 ? rc : io_write_file(f->dir, SNAPDIR_MANIFEST, buf, len, STORE_FILE_MODE, e);
}

static int make(struct flatten *f, struct io_progress *progress, struct err *e)
{
	const struct timespec times[2] = { f->old.stat.st_atim, f->old.stat.st_mtim };
	int rc = make_memory(f, progress, e);

	if (rc < 0)
		return rc;
	rc = link_files(f->old.dirfd, f->dir, false);
	if (rc == 0)
		rc = link_disks(f);
	if (rc < 0)
		return cannot(f, rc, e);
	rc = write_manifest(f, e);
	if (rc < 0)
		return rc;
	futimens(f->dir, times);
	return fsync(f->dir) < 0 ? cannot(f, -errno, e) : 0;
}

static int swap(const struct flatten *f)
{
	return renameat2(f->store->staging, f->temp, f->store->snapshots, f->name,
			 RENAME_EXCHANGE) < 0
		       ? -errno
		       : 0;
}

static int exchange(const struct flatten *f, struct err *e)
{
	int rc = swap(f);

	if (rc < 0)
		return cannot(f, rc, e);
	/* Somebody has renamed it meanwhile, and another has its name: that gets it back. */
	if (!cat_tree_is(f->store->staging, f->temp, f->old.dirfd)) {
		swap(f);
		return err_env(e, EBUSY, "snapshot %s changed meanwhile: flatten it again",
			       f->name);
	}
	if (fsync(f->store->snapshots) < 0 || fsync(f->store->staging) < 0)
		return cannot(f, -errno, e);
	return 0;
}

/* On kernels with coarse times the file has to be two seconds old first. */
static void stamp(struct flatten *f)
{
	const uint8_t *digest = f->old.manifest->memory_digest.data;
	int64_t wait_ns = 0;

	if (cat_stamp_grant(f->store, &f->lease, digest, &wait_ns) != -EAGAIN)
		return;
	nanosleep(&(struct timespec){ wait_ns / 1000000000, wait_ns % 1000000000 }, NULL);
	cat_stamp_grant(f->store, &f->lease, digest, &wait_ns);
}

static int flatten(struct flatten *f, struct io_progress *progress, struct err *e)
{
	struct kept_stamps kept;
	int rc;

	f->dir = cat_tree_make_locked(f->store->staging, "", f->temp, sizeof(f->temp));
	if (f->dir < 0)
		return cannot(f, f->dir, e);
	kept = cat_stamps_keep(f->store, f->old.dirfd);
	rc = make(f, progress, e);
	if (rc == 0)
		rc = exchange(f, e);
	/* The new one where it failed, else the old one. */
	cat_tree_remove(f->store->staging, f->temp);
	cat_stamps_follow(f->store, &kept);
	if (rc == 0) {
		stamp(f);
		rc = cat_index_add(f->store, f->name, e);
	}
	cat_lease_drop(&f->lease);
	close(f->dir);
	return rc;
}

static int open_old(struct flatten *f, struct err *e)
{
	int fd = openat(f->store->snapshots, f->name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return cannot(f, -errno, e);
	rc = proto_snapdir_open_fd(&f->old, fd, f->name, e);
	if (rc == 0 && flock(f->old.dirfd, LOCK_EX | LOCK_NB) < 0) {
		proto_snapdir_close(&f->old);
		return err_env(e, EBUSY, "snapshot %s is in use by another operation", f->name);
	}
	return rc;
}

int cat_snapshot_flatten(struct store *store, const char *name, struct io_progress *progress,
			 struct err *e)
{
	struct flatten f = { .store = store, .dir = -1, .lease = { .fd = -1 } };
	struct cat_row row = { 0 };
	int rc = cat_store_need_writable(store, e);

	if (rc == 0)
		rc = cat_index_find(store, name, &row, e);
	if (rc < 0)
		return rc;
	if (row.status == CAT_MISSING || row.status == CAT_REPLACED)
		return err_refuse(e, ENOENT, "snapshot %s is %s: there is nothing to flatten",
				  row.name, cat_status_word(row.status));
	f.name = row.name;
	rc = open_old(&f, e);
	if (rc < 0)
		return rc;
	if (!cat_tree_is(store->snapshots, row.name, f.old.dirfd))
		rc = err_refuse(e, ENOENT, "there is no snapshot %s in %s", name, store->path);
	else
		rc = f.old.layered ? flatten(&f, progress, e) : 1;
	proto_snapdir_close(&f.old);
	return rc;
}
