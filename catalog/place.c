/* The place that a snapshot is made in: see publish.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/publish.h"

static int taken(struct err *e, const char *path)
{
	return err_refuse(e, EEXIST, "%s exists already: choose another name, or remove it first",
			  path);
}

static int check_free(const struct place *p, struct err *e)
{
	struct stat st;

	if (fstatat(p->parent, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return p->in_store ? err_refuse(e, EEXIST,
						"there is a snapshot %s already: choose another "
						"name, or remove it first (`snapctl rm %s`)",
						p->name, p->name)
				   : taken(e, p->path);
	return errno == ENOENT ? 0 : err_sys(e, errno, "cannot look at %s", p->path);
}

static int in_store(struct place *p, struct store *store, const char *name, struct err *e)
{
	int rc = cat_store_need_writable(store, e);

	if (rc == 0)
		rc = cat_name_check(name, e);
	if (rc < 0)
		return rc;
	p->in_store = true;
	snprintf(p->name, sizeof(p->name), "%s", name);
	if (asprintf(&p->path, "%s/snapshots/%s", store->path, name) < 0) {
		p->path = NULL;
		return err_sys(e, ENOMEM, "cannot save %s", name);
	}
	p->parent = fcntl(store->snapshots, F_DUPFD_CLOEXEC, 0);
	p->holder = fcntl(store->staging, F_DUPFD_CLOEXEC, 0);
	if (p->parent < 0 || p->holder < 0)
		return err_sys(e, errno, "cannot save %s", name);
	return 0;
}

/* Splits "/dir/name" (or "./name"); trailing slashes do not count. */
static int split(struct place *p, const char *path, char **dir, struct err *e)
{
	size_t n = strlen(path);
	const char *base;

	while (n && path[n - 1] == '/')
		n--;
	for (base = path + n; base > path && base[-1] != '/';)
		base--;
	n -= (size_t)(base - path);
	if (n == 0 || (n <= 2 && memcmp(base, "..", n) == 0))
		return err_usage(e, EINVAL, "'%s' does not name a new directory", path);
	if (n > CAT_NAME_MAX)
		return err_usage(e, EINVAL, "the last part of '%s' is longer than %d bytes", path,
				 CAT_NAME_MAX);
	memcpy(p->name, base, n);
	p->name[n] = '\0';
	*dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
	return *dir ? 0 : err_sys(e, ENOMEM, "cannot save to %s", path);
}

/* True where `fd` is the store's own snapshots/, reached by its path. */
static bool is_snapshots(const struct store *store, int fd)
{
	struct stat a, b;

	return store && fstat(fd, &a) == 0 && fstat(store->snapshots, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int at_path(struct place *p, struct store *store, const char *path, struct err *e)
{
	auto_free char *dir = NULL;
	auto_free char *real = NULL;
	int rc = split(p, path, &dir, e);

	if (rc < 0)
		return rc;
	p->parent = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	real = realpath(dir, NULL);
	if (p->parent < 0 || !real)
		return err_sys(e, errno, "cannot save to %s", path);
	if (is_snapshots(store, p->parent)) {
		char name[CAT_NAME_MAX + 1];

		memcpy(name, p->name, sizeof(name));
		close(p->parent);
		p->parent = -1;
		return in_store(p, store, name, e);
	}
	if (asprintf(&p->path, "%s/%s", strcmp(real, "/") ? real : "", p->name) < 0) {
		p->path = NULL;
		return err_sys(e, ENOMEM, "cannot save to %s", path);
	}
	p->holder = fcntl(p->parent, F_DUPFD_CLOEXEC, 0);
	return p->holder < 0 ? err_sys(e, errno, "cannot save to %s", path) : 0;
}

static int make(struct place *p, struct store *store, const char *name, struct err *e)
{
	char prefix[CAT_NAME_MAX + 16] = "";
	int rc = strchr(name, '/') ? at_path(p, store, name, e) : in_store(p, store, name, e);

	if (rc == 0)
		rc = check_free(p, e);
	if (rc < 0)
		return rc;
	if (!p->in_store) {
		snprintf(prefix, sizeof(prefix), ".%s.saving-", p->name);
		/* What a killed one left beside this very path. */
		cat_tree_sweep(p->holder, prefix, -1);
	}
	p->dir = cat_tree_make_locked(p->holder, prefix, p->temp, sizeof(p->temp));
	if (p->dir < 0)
		return err_sys(e, -p->dir, "cannot make a directory for %s", p->path);
	return 0;
}

int cat_place_make(struct place *p, struct store *store, const char *name, struct err *e)
{
	int rc;

	*p = (struct place)PLACE_NONE;
	rc = make(p, store, name, e);
	if (rc < 0)
		cat_place_drop(p);
	return rc;
}

/* --- disks that are to be kept there --- */

/* The mount that fd was reached through: a link never crosses one. 0: not known. */
static uint64_t mount_of(int fd)
{
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0 || !(x.stx_mask & STATX_MNT_ID))
		return 0;
	return x.stx_mnt_id;
}

static int elsewhere(const char *device, const char *what, const char *where, struct err *e)
{
	return err_refuse(e, EXDEV,
			  "%s lies on another %s than %s: keep the store beside it, or start vmm "
			  "with --disk-policy external",
			  device, what, where);
}

static int check_disk(int folder, const char *where, const char *device, int fd, struct err *e)
{
	struct stat st, dir;
	int flags = 0;

	if (fstat(fd, &st) < 0 || fstat(folder, &dir) < 0)
		return err_sys(e, errno, "cannot stat %s", device);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL,
				  "%s is not a regular file, so it cannot be kept with a snapshot: "
				  "start vmm with --disk-policy external",
				  device);
	if (st.st_dev != dir.st_dev)
		return elsewhere(device, "file system", where, e);
	if (mount_of(fd) != mount_of(folder))
		return elsewhere(device, "mount", where, e);
	if (st.st_uid != geteuid() && geteuid() != 0)
		return err_refuse(e, EPERM,
				  "%s belongs to another user, so it cannot be kept with a "
				  "snapshot: start vmm with --disk-policy external",
				  device);
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)))
		return err_refuse(e, EPERM,
				  "%s is immutable or append-only, so it cannot be kept with a "
				  "snapshot: chattr -ia it, or start vmm with --disk-policy "
				  "external",
				  device);
	return 0;
}

int cat_check_disks(int folder, const char *where, char *const *names, const int *fds, size_t n,
		    struct err *e)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = check_disk(folder, where, names[i], fds[i], e);
	return rc;
}

void cat_place_drop(struct place *p)
{
	if (p->dir >= 0) {
		cat_tree_remove(p->holder, p->temp);
		close(p->dir);
	}
	if (p->holder >= 0)
		close(p->holder);
	if (p->parent >= 0)
		close(p->parent);
	free(p->path);
	*p = (struct place)PLACE_NONE;
}

/* Check, then rename, with everybody else who does so kept out. */
static int rename_locked(int from_at, const char *from, int to_at, const char *to,
			 struct store *store)
{
	auto_fd int lock = -1;
	struct stat st;

	if (store)
		lock = cat_store_lock(store, LOCK_EX);
	if (store && lock < 0)
		return lock;
	if (fstatat(to_at, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	if (errno != ENOENT)
		return -errno;
	return renameat(from_at, from, to_at, to) < 0 ? -errno : 0;
}

int cat_rename_new(int from_at, const char *from, int to_at, const char *to, struct store *store)
{
	if (renameat2(from_at, from, to_at, to, RENAME_NOREPLACE) == 0)
		return 0;
	/* NFS and others do not know the flag. */
	if (errno == EINVAL || errno == ENOSYS)
		return rename_locked(from_at, from, to_at, to, store);
	return -errno;
}

int cat_place_publish(struct place *p, struct store *store, struct err *e)
{
	int rc = cat_rename_new(p->holder, p->temp, p->parent, p->name, p->in_store ? store : NULL);

	if (rc == -EEXIST)
		return p->in_store
			       ? err_refuse(e, EEXIST, "there is a snapshot %s already", p->name)
			       : taken(e, p->path);
	if (rc < 0)
		return err_sys(e, -rc, "cannot publish %s", p->path);
	/* Published: no failure from here on may remove it. */
	close(p->dir);
	p->dir = -1;
	if (fsync(p->parent) < 0 || fsync(p->holder) < 0)
		return err_sys(e, errno, "%s is whole, but may not survive a loss of power",
			       p->path);
	return 0;
}
