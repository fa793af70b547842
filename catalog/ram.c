/* RAM files: made, accepted or refused; their unused space: see publish.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/publish.h"
#include "proto/snapdir.h"

/* More than any host has; keeps every sum of sizes far from overflow. */
#define RAM_MAX ((uint64_t)1 << 46)

static int check_size(uint64_t size, struct err *e)
{
	if (size == 0 || size % MANIFEST_PAGE_SIZE || size > RAM_MAX)
		return err_usage(e, EINVAL,
				 "a RAM size of %llu bytes is not possible: it is a multiple of 4 "
				 "KiB up to 64 TiB",
				 (unsigned long long)size);
	return 0;
}

static int no_space(int fd, uint64_t size, const char *where, struct err *e)
{
	char need[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];
	struct statvfs fs = { 0 };

	fstatvfs(fd, &fs);
	return err_env(e, ENOSPC,
		       "the RAM file needs %s in %s, which has %s free: make room, or start with "
		       "--no-reserve",
		       text_format_size(size, need), where,
		       text_format_size((uint64_t)fs.f_bavail * fs.f_frsize, have));
}

/* Gives fd its size, all zeros, and where asked for the space for it. */
static int set_size(int fd, uint64_t size, bool reserve, const char *where, struct err *e)
{
	struct statfs fs;

	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)size) < 0) {
		if (errno == EFBIG)
			return err_env(e, EFBIG,
				       "the file system of %s has no room for so large a file",
				       where);
		return err_sys(e, errno, "cannot give the RAM file in %s its size", where);
	}
	/* On tmpfs reserving is using: it would take the memory at once. */
	if (!reserve || (fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC))
		return 0;
	if (fallocate(fd, 0, 0, (off_t)size) == 0 || errno == EOPNOTSUPP)
		return 0;
	if (errno == ENOSPC || errno == EDQUOT) {
		int rc;

		/* What it got so far is given back before the free space is named. */
		if (ftruncate(fd, 0) < 0)
			return err_sys(e, errno, "cannot reserve the RAM file in %s", where);
		rc = no_space(fd, size, where, e);
		return rc;
	}
	return err_sys(e, errno, "cannot reserve the RAM file in %s", where);
}

/* A file without a name in STORE/ram, which can be given one. */
static int make_unnamed(const struct store *store)
{
	int fd = openat(store->ram, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

static bool has_no_unnamed(int rc)
{
	return rc == -EOPNOTSUPP || rc == -EISDIR || rc == -EINVAL;
}

int cat_file_make(struct store *store, struct err *e)
{
	int fd = cat_store_need_writable(store, e);

	if (fd < 0)
		return fd;
	fd = make_unnamed(store);
	if (has_no_unnamed(fd))
		return err_refuse(e, EOPNOTSUPP,
				  "the file system of %s has no unnamed files (O_TMPFILE): a disk "
				  "cannot be kept there; start vmm with --disk-policy external",
				  store->path);
	return fd < 0 ? err_sys(e, -fd, "cannot make a file in %s/ram", store->path) : fd;
}

/* As make_unnamed(), or a file that has just lost its name and cannot be linked. */
static int make_nameless(struct store *store)
{
	int fd = make_unnamed(store);
	auto_free char *path = NULL;

	if (!has_no_unnamed(fd))
		return fd;
	if (asprintf(&path, "%s/ram/XXXXXX", store->path) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

int cat_ram_make(struct store *store, uint64_t size, bool reserve, struct err *e)
{
	auto_fd int fd = -1;
	int rc = check_size(size, e);

	if (rc == 0)
		rc = cat_store_need_writable(store, e);
	if (rc < 0)
		return rc;
	fd = make_nameless(store);
	if (fd < 0)
		return err_sys(e, -fd, "cannot make a RAM file in %s/ram", store->path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_sys(e, errno, "cannot lock the RAM file in %s/ram", store->path);
	rc = set_size(fd, size, reserve, store->path, e);
	return rc < 0 ? rc : take_fd(&fd);
}

/* --- a file that is given --- */

static bool is_sealed(int fd)
{
	struct io_fd_path path = io_fd_path(fd);
	auto_fd int ro = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int flags = 0;

	return ro >= 0 && ioctl(ro, FS_IOC_GETFLAGS, &flags) == 0 &&
	       (flags & (FS_VERITY_FL | FS_IMMUTABLE_FL | FS_APPEND_FL));
}

/* A snapshot that was copied, and so has a link count of 1 and maybe write permission. */
static bool is_in_snapshot(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	auto_free char *manifest = NULL;

	if (strcmp(base, SNAPDIR_MEMORY) != 0)
		return false;
	if (asprintf(&manifest, "%.*s%s", (int)(base - path), path, SNAPDIR_MANIFEST) < 0) {
		manifest = NULL;
		return true;
	}
	return access(manifest, F_OK) == 0;
}

/* Each thing that says: this may be somebody's snapshot. `fd`: O_PATH. */
static int check_existing(int fd, const char *path, uint64_t size, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", path);
	if (S_ISLNK(st.st_mode))
		return err_refuse(e, ELOOP, "%s is a symbolic link: give the RAM file itself",
				  path);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL,
				  "%s is not a regular file: give the path of a file, or of none",
				  path);
	if (st.st_nlink > 1)
		return err_refuse(
			e, EMLINK,
			"%s has other links, so it may be part of a snapshot: give another "
			"path, or copy it",
			path);
	if (!(st.st_mode & 0222))
		return err_refuse(
			e, EACCES,
			"%s is not writable, so it may be part of a snapshot: give another "
			"path, or chmod u+w it if nothing needs it",
			path);
	if (is_sealed(fd))
		return err_refuse(
			e, EPERM,
			"%s is sealed (fs-verity, immutable or append-only): give another "
			"path",
			path);
	if (is_in_snapshot(path))
		return err_refuse(e, EEXIST,
				  "%s lies beside a %s, so it is a snapshot's: give another path",
				  path, SNAPDIR_MANIFEST);
	if ((uint64_t)st.st_size != size)
		return err_refuse(
			e, EINVAL,
			"%s has %llu bytes, the machine's RAM has %llu: give another path, "
			"or remove it",
			path, (unsigned long long)st.st_size, (unsigned long long)size);
	return 0;
}

static int lock_ram(int fd, const char *path, struct err *e)
{
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return err_refuse(
			e, EBUSY,
			"%s is in use by another machine: give another path, or end that one",
			path);
	return err_sys(e, errno, "cannot lock %s", path);
}

static int open_existing(const char *path, uint64_t size, bool reserve, struct err *e)
{
	auto_fd int look = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct io_fd_path again;
	auto_fd int fd = -1;
	int rc;

	if (look < 0)
		return err_sys(e, errno, "cannot open %s", path);
	rc = check_existing(look, path, size, e);
	if (rc < 0)
		return rc;
	/* Through the descriptor: the very file that was looked at. */
	again = io_fd_path(look);
	fd = open(again.text, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "cannot open %s for writing", path);
	rc = lock_ram(fd, path, e);
	/* Once more now that no machine can save it as a snapshot meanwhile. */
	if (rc == 0)
		rc = check_existing(look, path, size, e);
	if (rc == 0)
		rc = set_size(fd, size, reserve, path, e);
	return rc < 0 ? rc : take_fd(&fd);
}

int cat_ram_open(const char *path, uint64_t size, bool reserve, struct err *e)
{
	auto_fd int fd = -1;
	int rc = check_size(size, e);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EEXIST)
		return open_existing(path, size, reserve, e);
	if (fd < 0)
		return err_sys(e, errno, "cannot make the RAM file %s", path);
	rc = lock_ram(fd, path, e);
	if (rc == 0)
		rc = set_size(fd, size, reserve, path, e);
	if (rc < 0)
		unlink(path);
	return rc < 0 ? rc : take_fd(&fd);
}

/* --- space that was reserved and never written --- */

#define EXTENTS 64

struct extents {
	struct fiemap map;
	struct fiemap_extent room[EXTENTS];
};

void cat_ram_give_back(int fd)
{
	struct io_fd_path path = io_fd_path(fd);
	auto_fd int rw = open(path.text, O_RDWR | O_CLOEXEC);
	auto_free struct extents *x = calloc(1, sizeof(*x));
	uint64_t next = 0;
	bool last = false;

	while (rw >= 0 && x && !last) {
		struct fiemap_extent *v = x->map.fm_extents;

		x->map = (struct fiemap){
			.fm_start = next,
			.fm_length = FIEMAP_MAX_OFFSET - next,
			.fm_flags = FIEMAP_FLAG_SYNC,
			.fm_extent_count = EXTENTS,
		};
		if (ioctl(rw, FS_IOC_FIEMAP, &x->map) < 0 || x->map.fm_mapped_extents == 0)
			return;
		for (uint32_t i = 0; i < x->map.fm_mapped_extents; i++) {
			last = v[i].fe_flags & FIEMAP_EXTENT_LAST;
			next = v[i].fe_logical + v[i].fe_length;
			if ((v[i].fe_flags & FIEMAP_EXTENT_UNWRITTEN) &&
			    fallocate(rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      (off_t)v[i].fe_logical, (off_t)v[i].fe_length) < 0)
				return;
		}
	}
}
