/* Directories that are made, emptied and swept: see internal.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/internal.h"

/* A snapshot directory has one level below it; a hostile one may have more. */
#define DEPTH_MAX 16

static DIR *open_dir(int at, const char *name)
{
	auto_fd int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d;

	if (fd < 0)
		return NULL;
	d = fdopendir(fd);
	if (d)
		take_fd(&fd);
	return d;
}

static bool is_dot(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int remove_at(int at, const char *name, int depth)
{
	auto_dir DIR *d = NULL;
	struct dirent *entry;
	int rc = 0;

	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth == DEPTH_MAX)
		return -ELOOP;
	d = open_dir(at, name);
	if (!d && errno == EACCES && fchmodat(at, name, STORE_DIR_MODE, 0) == 0)
		d = open_dir(at, name);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	/* A directory that its owner may not write cannot be emptied. */
	fchmod(dirfd(d), STORE_DIR_MODE);
	while (rc == 0 && (entry = readdir(d)))
		if (!is_dot(entry->d_name))
			rc = remove_at(dirfd(d), entry->d_name, depth + 1);
	if (rc == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = -errno;
	return rc;
}

int cat_tree_remove(int at, const char *name)
{
	return remove_at(at, name, 0);
}

static int unique_name(const char *prefix, char *name, size_t room)
{
	char text[UUID_TEXT_MAX];
	uint8_t id[UUID_SIZE];
	struct timespec now;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	rc = uuid_make(&now, id);
	if (rc < 0)
		return rc;
	return snprintf(name, room, "%s%s", prefix, uuid_format(id, text)) < (int)room
		       ? 0
		       : -ENAMETOOLONG;
}

bool cat_tree_is(int at, const char *name, int fd)
{
	struct stat a, b;

	return fstatat(at, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int cat_tree_make_locked(int at, const char *prefix, char *name, size_t room)
{
	/* A sweeper may lock and take the directory before we have locked it: once more then. */
	for (int tries = 0; tries < 8; tries++) {
		auto_fd int fd = -1;
		int rc = unique_name(prefix, name, room);

		if (rc < 0)
			return rc;
		if (mkdirat(at, name, STORE_DIR_MODE) < 0)
			return -errno;
		fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) == 0 && cat_tree_is(at, name, fd))
			return take_fd(&fd);
	}
	return -EBUSY;
}

static void sweep_one(int at, const char *name, int trash)
{
	auto_fd int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	char unique[64];

	/* What cannot be asked (out of descriptors, say) may well be locked. */
	if (fd < 0 ? errno != ENOTDIR && errno != ELOOP : flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	if (trash < 0) {
		cat_tree_remove(at, name);
		return;
	}
	if (unique_name("", unique, sizeof(unique)) == 0 && renameat(at, name, trash, unique) == 0)
		cat_tree_remove(trash, unique);
}

void cat_tree_sweep(int at, const char *prefix, int trash)
{
	auto_dir DIR *d = open_dir(at, ".");
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (!is_dot(entry->d_name) && strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
			sweep_one(at, entry->d_name, trash);
}

void cat_store_sweep(struct store *store)
{
	auto_dir DIR *d = NULL;
	struct dirent *entry;

	if (!store->writable)
		return;
	cat_tree_sweep(store->staging, "", store->trash);
	d = open_dir(store->trash, ".");
	while (d && (entry = readdir(d)))
		if (!is_dot(entry->d_name))
			cat_tree_remove(store->trash, entry->d_name);
}
