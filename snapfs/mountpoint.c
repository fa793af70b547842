/* The place of the mount: see mountpoint.h. */
#define _GNU_SOURCE
#include "mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define DEAD_MAX 16 /* dead mounts on top of each other */

extern char **environ;

static bool lies_in(const char *inner, const char *outer)
{
	size_t n = strlen(outer);

	/* "/" holds everything. */
	if (n == 1)
		return true;
	return strncmp(inner, outer, n) == 0 && (inner[n] == '/' || inner[n] == '\0');
}

bool sfs_paths_overlap(const char *a, const char *b)
{
	return lies_in(a, b) || lies_in(b, a);
}

/* fusermount3 -u, with -z where lazy: for those who may not unmount by themselves. */
static int run_fusermount(const char *path, bool lazy)
{
	char *argv[] = { "fusermount3",		  "-u", lazy ? "-qz" : "-q", "--",
			 (char *)(uintptr_t)path, NULL };
	int status, rc;
	pid_t pid;

	rc = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (rc != 0)
		return -rc;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int unmount(const char *path, bool lazy)
{
	if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	return errno == EPERM ? run_fusermount(path, lazy) : -errno;
}

int sfs_mountpoint_unmount(const char *path, bool *busy)
{
	int rc = unmount(path, false);

	*busy = rc == -EBUSY;
	if (*busy)
		rc = unmount(path, true);
	/* Somebody was faster. */
	return rc == -EINVAL || rc == -ENOENT ? 0 : rc;
}

/* Detaches the dead mounts at `given`: those whose daemon has gone. */
static int clear_dead(const char *given, struct stat *st, struct err *e)
{
	for (int i = 0; i < DEAD_MAX; i++) {
		struct statfs fs;
		int rc;

		/* The kernel may still have the attributes: that one has to be asked for. */
		if (statfs(given, &fs) == 0 && stat(given, st) == 0)
			return 0;
		if (errno != ENOTCONN)
			break;
		rc = unmount(given, true);
		if (rc < 0)
			return err_sys(e, -rc, "a dead mount is at %s and cannot be detached",
				       given);
		log_warn("replaced the dead mount at %s: its daemon was gone", given);
	}
	if (errno == ENOENT)
		return err_refuse(e, ENOENT, "mount point %s does not exist", given);
	if (errno == ENOTDIR)
		return err_refuse(e, ENOTDIR, "mount point %s is not a directory", given);
	return err_sys(e, errno, "cannot look at mount point %s", given);
}

/* True where the topmost mount at `path` is one of snapfs. */
static bool is_snapfs(const char *path)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char line[4 * PATH_MAX];
	struct mntent entry;
	bool found = false;

	/* The last one there is the topmost. */
	while (f && getmntent_r(f, &entry, line, sizeof(line)))
		if (strcmp(entry.mnt_dir, path) == 0)
			found = strcmp(entry.mnt_type, "fuse.snapfs") == 0;
	if (f)
		endmntent(f);
	return found;
}

int sfs_mountpoint_prepare(const char *given, const char *store, char **resolved, struct err *e)
{
	auto_free char *path = NULL;
	struct stat st;
	int rc = clear_dead(given, &st, e);

	if (rc < 0)
		return rc;
	if (!S_ISDIR(st.st_mode))
		return err_refuse(e, ENOTDIR, "mount point %s is not a directory", given);
	path = realpath(given, NULL);
	if (!path)
		return err_sys(e, errno, "cannot resolve mount point %s", given);
	/* snapfs would wait for itself, and whoever looks there with it. */
	if (sfs_paths_overlap(path, store))
		return err_refuse(e, EINVAL,
				  "mount point %s and store %s lie in one another; mount elsewhere",
				  path, store);
	if (is_snapfs(path))
		return err_refuse(e, EBUSY, "snapfs is mounted at %s already", path);
	*resolved = take_ptr(&path);
	return 0;
}

static bool has_fusermount(void)
{
	const char *dirs = getenv("PATH");
	char path[PATH_MAX];

	if (access("/usr/bin/fusermount3", X_OK) == 0 || access("/bin/fusermount3", X_OK) == 0)
		return true;
	while (dirs && *dirs) {
		int n = (int)strcspn(dirs, ":");

		snprintf(path, sizeof(path), "%.*s/fusermount3", n, dirs);
		if (access(path, X_OK) == 0)
			return true;
		dirs += n + (dirs[n] == ':');
	}
	return false;
}

/* True where /etc/fuse.conf lets users other than root give allow_other. */
static bool may_allow_other(void)
{
	auto_file FILE *f = fopen("/etc/fuse.conf", "re");
	auto_free char *line = NULL;
	size_t room = 0;

	while (f && getline(&line, &room, f) > 0) {
		const char *word = line + strspn(line, " \t");

		if (strncmp(word, "user_allow_other", 16) == 0 &&
		    strspn(word + 16, " \t\r\n") == strlen(word + 16))
			return true;
	}
	return false;
}

int sfs_mountpoint_check_fuse(bool allow_other, struct err *e)
{
	auto_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_env(e, errno, "cannot open /dev/fuse: %s; %s", strerror(errno),
			       errno == EACCES || errno == EPERM
				       ? "its mode does not let this user (0666 is usual)"
				       : "load the fuse module (modprobe fuse)");
	if (geteuid() == 0)
		return 0;
	if (!has_fusermount())
		return err_env(e, ENOENT,
			       "fusermount3 is missing: users other than root mount by it; install "
			       "the package fuse3");
	if (allow_other && !may_allow_other())
		return err_env(e, EPERM,
			       "-o allow_other is for root only, until /etc/fuse.conf has a line "
			       "'user_allow_other'");
	return 0;
}
