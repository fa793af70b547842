/*
 * refused ro|rw MOUNT SNAPSHOT LINK OUTSIDE: tries whatever would change something in the
 * mount, on its files, directories, links and on names that do not exist, and checks the
 * errno of each. SNAPSHOT has disks/disk0.0, LINK is another snapshot's name for a parent,
 * as in the mount ("child/parent"); OUTSIDE is an empty folder of another file system or
 * at least mount, where it leaves all as it was.
 *
 * ro: the mount as it is made. rw: after `mount -o remount,rw`, when the kernel lets calls
 * through and it is the daemon that refuses.
 *
 * EROFS is the answer, but where the kernel has another one before it looks at whose file
 * system it is, or before it asks that; each of these stands in the tables with its reason.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

enum kind { FILE_, DIRECTORY, LINK, MISSING, KINDS };

#define DONE 0	  /* it changes nothing, and works */
#define NONE (-1) /* there is no such call for this kind */

static const char *const kind_names[KINDS] = { "file", "directory", "link", "missing" };
static const char *mount_dir, *outside;
static unsigned failures;

static void at_mount(char path[PATH_MAX], const char *name)
{
	snprintf(path, PATH_MAX, "%s/%s", mount_dir, name);
}

static void judge(const char *call, const char *what, int want, int got)
{
	if (want == NONE || want == got)
		return;
	fprintf(stderr, "refused: %s on %s: %s, not %s\n", call, what,
		got ? strerrorname_np(got) : "done", want ? strerrorname_np(want) : "done");
	failures++;
}

/* --- calls on a name --- */

/* Closes what an open has given; as the open, with errno. */
static int opened(int fd)
{
	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static int open_write(const char *p)
{
	return opened(open(p, O_WRONLY | O_CLOEXEC));
}

static int open_both(const char *p)
{
	return opened(open(p, O_RDWR | O_APPEND | O_CLOEXEC));
}

static int open_trunc(const char *p)
{
	return opened(open(p, O_RDONLY | O_TRUNC | O_CLOEXEC));
}

static int open_trunc_write(const char *p)
{
	return opened(open(p, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600));
}

static int open_create(const char *p)
{
	return opened(open(p, O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int open_new(const char *p)
{
	return opened(open(p, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

static int truncate_0(const char *p)
{
	return truncate(p, 0);
}

static int truncate_more(const char *p)
{
	return truncate(p, 1 << 30);
}

static int chmod_it(const char *p)
{
	return chmod(p, 0600);
}

static int chown_it(const char *p)
{
	return chown(p, 1, 1);
}

static int lchown_it(const char *p)
{
	return lchown(p, getuid(), getgid());
}

static int touch(const char *p)
{
	return utimensat(AT_FDCWD, p, NULL, 0);
}

static int touch_itself(const char *p)
{
	const struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 2 } };

	return utimensat(AT_FDCWD, p, times, AT_SYMLINK_NOFOLLOW);
}

static int mkdir_it(const char *p)
{
	return mkdir(p, 0700);
}

static int mknod_fifo(const char *p)
{
	return mknod(p, S_IFIFO | 0600, 0);
}

static int mknod_file(const char *p)
{
	return mknod(p, S_IFREG | 0600, 0);
}

static int symlink_it(const char *p)
{
	return symlink("anything", p);
}

static int xattr_set(const char *p)
{
	return setxattr(p, "user.x", "y", 1, 0);
}

static int xattr_ours(const char *p)
{
	return setxattr(p, "user.snapfs.rung", "sealed", 6, 0);
}

static int lxattr_set(const char *p)
{
	return lsetxattr(p, "user.x", "y", 1, 0);
}

static int xattr_remove(const char *p)
{
	return removexattr(p, "user.snapfs.problem");
}

static int lxattr_remove(const char *p)
{
	return lremovexattr(p, "user.x");
}

static int link_from(const char *p)
{
	char to[PATH_MAX];

	at_mount(to, "again");
	return link(p, to);
}

static int link_out(const char *p)
{
	char to[PATH_MAX];

	snprintf(to, sizeof(to), "%s/got", outside);
	return link(p, to);
}

static int link_in(const char *p)
{
	char from[PATH_MAX];

	snprintf(from, sizeof(from), "%s/mine", outside);
	return link(from, p);
}

static int rename_to_new(const char *p)
{
	char to[PATH_MAX];

	at_mount(to, "moved");
	return rename(p, to);
}

static int rename_to_new_only(const char *p)
{
	char to[PATH_MAX];

	at_mount(to, "moved");
	return renameat2(AT_FDCWD, p, AT_FDCWD, to, RENAME_NOREPLACE);
}

static int rename_out(const char *p)
{
	char to[PATH_MAX];

	snprintf(to, sizeof(to), "%s/got", outside);
	return rename(p, to);
}

static int rename_in(const char *p)
{
	char from[PATH_MAX];

	snprintf(from, sizeof(from), "%s/mine", outside);
	return rename(from, p);
}

static int exchange_out(const char *p)
{
	char with[PATH_MAX];

	snprintf(with, sizeof(with), "%s/mine", outside);
	return renameat2(AT_FDCWD, p, AT_FDCWD, with, RENAME_EXCHANGE);
}

/*
 * What is expected, by kind; of a mount that has been made writable by `rw`, where that is
 * not the same. A link that is followed leads to a directory.
 */
static const struct name_call {
	const char *name;
	int (*run)(const char *path);
	int want[KINDS];
	int rw[KINDS]; /* all 0: as `want` */
} name_calls[] = {
	/* No directory is opened for writing anywhere, and what is not there is not found. */
	{ "open for writing", open_write, { EROFS, EISDIR, EISDIR, ENOENT }, { 0 } },
	{ "open for both", open_both, { EROFS, EISDIR, EISDIR, ENOENT }, { 0 } },
	{ "open with O_TRUNC", open_trunc, { EROFS, EISDIR, EISDIR, ENOENT }, { 0 } },
	{ "open as > does", open_trunc_write, { EROFS, EISDIR, EISDIR, EROFS }, { 0 } },
	/* O_CREAT asks for nothing where the file is there; O_EXCL is told that it is. */
	{ "open with O_CREAT", open_create, { DONE, EISDIR, EISDIR, EROFS }, { 0 } },
	{ "open with O_EXCL", open_new, { EEXIST, EEXIST, EEXIST, EROFS }, { 0 } },
	/* The kind of file is looked at before the file system. */
	{ "truncate", truncate_0, { EROFS, EISDIR, EISDIR, ENOENT }, { 0 } },
	{ "truncate to more", truncate_more, { EROFS, EISDIR, EISDIR, ENOENT }, { 0 } },
	/* ENOENT: the path is walked first. */
	{ "chmod", chmod_it, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "chown", chown_it, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "lchown", lchown_it, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "utimensat", touch, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "utimensat of itself", touch_itself, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "setxattr", xattr_set, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "setxattr of ours", xattr_ours, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	{ "removexattr", xattr_remove, { EROFS, EROFS, EROFS, ENOENT }, { 0 } },
	/* EPERM: a link has no attributes of users on any file system. */
	{ "lsetxattr",
	  lxattr_set,
	  { EROFS, EROFS, EROFS, ENOENT },
	  { EROFS, EROFS, EPERM, ENOENT } },
	{ "lremovexattr",
	  lxattr_remove,
	  { EROFS, EROFS, EROFS, ENOENT },
	  { EROFS, EROFS, EPERM, ENOENT } },
	/* Made is what is not there; a name that is taken is so on any file system. */
	{ "mkdir", mkdir_it, { EEXIST, EEXIST, EEXIST, EROFS }, { 0 } },
	{ "mknod of a fifo", mknod_fifo, { EEXIST, EEXIST, EEXIST, EROFS }, { 0 } },
	{ "mknod of a file", mknod_file, { EEXIST, EEXIST, EEXIST, EROFS }, { 0 } },
	{ "symlink", symlink_it, { EEXIST, EEXIST, EEXIST, EROFS }, { 0 } },
	/* Where it may write, the kernel refuses by itself what fits no name of this kind. */
	{ "unlink", unlink, { EROFS, EROFS, EROFS, EROFS }, { EROFS, EISDIR, EROFS, ENOENT } },
	{ "rmdir", rmdir, { EROFS, EROFS, EROFS, EROFS }, { ENOTDIR, EROFS, ENOTDIR, ENOENT } },
	/* EPERM: no directory gets a second name. */
	{ "link", link_from, { EROFS, EROFS, EROFS, ENOENT }, { EROFS, EPERM, EROFS, ENOENT } },
	/* EXDEV: no name leads into another mount, whatever that may be. */
	{ "link out", link_out, { EXDEV, EXDEV, EXDEV, ENOENT }, { 0 } },
	{ "link in",
	  link_in,
	  { EEXIST, EEXIST, EEXIST, EROFS },
	  { EEXIST, EEXIST, EEXIST, EXDEV } },
	{ "rename out", rename_out, { EXDEV, EXDEV, EXDEV, EXDEV }, { 0 } },
	{ "rename in", rename_in, { EXDEV, EXDEV, EXDEV, EXDEV }, { 0 } },
	{ "exchange with one outside", exchange_out, { EXDEV, EXDEV, EXDEV, EXDEV }, { 0 } },
	{ "rename",
	  rename_to_new,
	  { EROFS, EROFS, EROFS, EROFS },
	  { EROFS, EROFS, EROFS, ENOENT } },
	{ "rename to what is new",
	  rename_to_new_only,
	  { EROFS, EROFS, EROFS, EROFS },
	  { EROFS, EROFS, EROFS, ENOENT } },
};

/* --- calls on a descriptor, which can only be one for reading --- */

static int fd_write(int fd)
{
	return (int)write(fd, "x", 1);
}

static int fd_pwritev(int fd)
{
	const struct iovec iov = { .iov_base = (char[]){ "x" }, .iov_len = 1 };

	return (int)pwritev(fd, &iov, 1, 4096);
}

static int fd_truncate(int fd)
{
	return ftruncate(fd, 0);
}

static int fd_allocate(int fd)
{
	return fallocate(fd, 0, 0, 4096);
}

static int fd_punch(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
}

static int fd_chmod(int fd)
{
	return fchmod(fd, 0600);
}

static int fd_chown(int fd)
{
	return fchown(fd, 1, 1);
}

static int fd_touch(int fd)
{
	return futimens(fd, NULL);
}

static int fd_xattr_set(int fd)
{
	return fsetxattr(fd, "user.x", "y", 1, 0);
}

static int fd_xattr_remove(int fd)
{
	return fremovexattr(fd, "user.x");
}

static int fd_map(int fd)
{
	void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return m == MAP_FAILED ? -1 : 0;
}

static int fd_map_then_protect(int fd)
{
	void *m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

	if (m != MAP_FAILED)
		return mprotect(m, 4096, PROT_READ | PROT_WRITE);
	/* The status is another one at each open, and nothing to be mapped by many. */
	if (errno == ENODEV)
		errno = EACCES;
	return -1;
}

static int fd_reopen(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return opened(open(path, O_RDWR | O_CLOEXEC));
}

/* The same on both mounts: the kernel sees that the descriptor is for reading. */
static const struct fd_call {
	const char *name;
	int (*run)(int fd);
	int file, directory;
} fd_calls[] = {
	/* EBADF and EINVAL are what a descriptor for reading gets, EACCES what a mapping of it. */
	{ "write", fd_write, EBADF, EBADF },
	{ "pwritev", fd_pwritev, EBADF, EBADF },
	{ "ftruncate", fd_truncate, EINVAL, EINVAL },
	{ "fallocate", fd_allocate, EBADF, EBADF },
	{ "fallocate of a hole", fd_punch, EBADF, EBADF },
	{ "mmap for writing", fd_map, EACCES, NONE },
	{ "mprotect for writing", fd_map_then_protect, EACCES, NONE },
	{ "open by /proc/self/fd", fd_reopen, EROFS, EISDIR },
	{ "fchmod", fd_chmod, EROFS, EROFS },
	{ "fchown", fd_chown, EROFS, EROFS },
	{ "futimens", fd_touch, EROFS, EROFS },
	{ "fsetxattr", fd_xattr_set, EROFS, EROFS },
	{ "fremovexattr", fd_xattr_remove, EROFS, EROFS },
};

static void try_descriptor(const char *path, const char *name, enum kind kind)
{
	for (size_t i = 0; i < sizeof(fd_calls) / sizeof(*fd_calls); i++) {
		const struct fd_call *c = &fd_calls[i];
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0) {
			judge("open for reading", name, DONE, errno);
			return;
		}
		judge(c->name, name, kind == FILE_ ? c->file : c->directory,
		      c->run(fd) < 0 ? errno : DONE);
		close(fd);
	}
}

static bool has_other(const struct name_call *c)
{
	for (int i = 0; i < KINDS; i++)
		if (c->rw[i])
			return true;
	return false;
}

static void try_name(bool is_rw, const char *name, enum kind kind)
{
	char path[PATH_MAX], what[PATH_MAX];

	at_mount(path, name);
	snprintf(what, sizeof(what), "%s, a %s", name, kind_names[kind]);
	for (size_t i = 0; i < sizeof(name_calls) / sizeof(*name_calls); i++) {
		const struct name_call *c = &name_calls[i];

		const int *want = is_rw && has_other(c) ? c->rw : c->want;

		judge(c->name, what, want[kind], c->run(path) < 0 ? errno : DONE);
	}
	if (kind == FILE_ || kind == DIRECTORY)
		try_descriptor(path, what, kind);
}

/* The root of the mount as itself: its name is of the file system below. */
static void try_root(void)
{
	const struct name_call *c;

	for (size_t i = 0; i < sizeof(name_calls) / sizeof(*name_calls); i++) {
		c = &name_calls[i];
		if (c->run == chmod_it || c->run == chown_it || c->run == touch ||
		    c->run == xattr_set || c->run == xattr_remove)
			judge(c->name, "the root", EROFS, c->run(mount_dir) < 0 ? errno : DONE);
	}
	try_descriptor(mount_dir, "the root", DIRECTORY);
}

/* Two names of the mount at once: what is there is over-written or exchanged. */
static void try_pair(const char *from, const char *to)
{
	char a[PATH_MAX], b[PATH_MAX], what[2 * PATH_MAX];

	at_mount(a, from);
	at_mount(b, to);
	snprintf(what, sizeof(what), "%s and %s", from, to);
	judge("rename over", what, EROFS, rename(a, b) < 0 ? errno : DONE);
	judge("exchange", what, EROFS,
	      renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) < 0 ? errno : DONE);
}

/* A file without a name, which could get one: the kernel asks for none of a mount that is rw. */
static void try_tmpfile(bool is_rw, const char *name)
{
	char path[PATH_MAX];
	int got = DONE;

	at_mount(path, name);
	if (opened(open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) < 0)
		got = errno;
	judge("open with O_TMPFILE", name, is_rw ? EOPNOTSUPP : EROFS, got);
}

int main(int argc, char **argv)
{
	static const char *const files[] = { "memory.bin",    "state.bin", "manifest.bin",
					     "manifest.json", "status",	   "disks/disk0.0" };
	static const char *const missing[] = { "new", "disks/new" };
	const bool is_rw = argc == 6 && strcmp(argv[1], "rw") == 0;
	char path[PATH_MAX], other[PATH_MAX];
	int fd;

	if (argc != 6) {
		fprintf(stderr, "usage: refused ro|rw MOUNT SNAPSHOT LINK OUTSIDE\n");
		return 2;
	}
	mount_dir = argv[2];
	outside = argv[5];
	snprintf(path, sizeof(path), "%s/mine", outside);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		perror(path);
		return 2;
	}
	close(fd);

	try_root();
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "%s/%s", argv[3], files[i]);
		try_name(is_rw, path, FILE_);
	}
	try_name(is_rw, argv[3], DIRECTORY);
	try_name(is_rw, ".by-id", DIRECTORY);
	try_name(is_rw, "latest", LINK);
	try_name(is_rw, argv[4], LINK);
	try_name(is_rw, "new", MISSING);
	try_name(is_rw, ".by-id/new", MISSING);
	for (size_t i = 0; i < sizeof(missing) / sizeof(*missing); i++) {
		snprintf(path, sizeof(path), "%s/%s", argv[3], missing[i]);
		try_name(is_rw, path, MISSING);
	}
	snprintf(path, sizeof(path), "%s/disks", argv[3]);
	try_name(is_rw, path, DIRECTORY);
	try_tmpfile(is_rw, path);
	try_tmpfile(is_rw, argv[3]);
	try_tmpfile(is_rw, ".");
	snprintf(path, sizeof(path), "%s/state.bin", argv[3]);
	snprintf(other, sizeof(other), "%s/memory.bin", argv[3]);
	try_pair(path, other);
	try_pair(path, "latest");
	try_pair("latest", argv[4]);

	snprintf(path, sizeof(path), "%s/mine", outside);
	if (unlink(path) < 0)
		judge("unlink", "the file outside", DONE, errno);
	if (rmdir(outside) < 0)
		judge("rmdir", "the folder outside", DONE, errno);
	return failures != 0;
}
