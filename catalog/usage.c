/* What snapshots take on the disk: see usage.h. */
#define _GNU_SOURCE
#include "catalog/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* More than any snapshot has: what is beyond, somebody has put there. */
#define FILES_MAX 65536

static int add(struct cat_inodes *i, const struct cat_inode *one)
{
	if (i->n == i->room) {
		const size_t room = i->room ? 2 * i->room : 64;
		void *v = reallocarray(i->v, room, sizeof(*i->v));

		if (!v)
			return -ENOMEM;
		i->v = v;
		i->room = room;
	}
	i->v[i->n++] = *one;
	return 0;
}

static int add_dir(struct cat_inodes *i, int fd, bool below)
{
	const int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
	const size_t before = i->n;
	struct dirent *entry;
	int rc = 0;

	if (!d && copy >= 0)
		close(copy);
	while (d && rc == 0 && i->n - before < FILES_MAX && (entry = readdir(d))) {
		struct stat st;

		if (fstatat(copy, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISDIR(st.st_mode) && below && entry->d_name[0] != '.') {
			auto_fd int sub = openat(copy, entry->d_name,
						 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			rc = sub < 0 ? 0 : add_dir(i, sub, false);
		}
		if (rc == 0 && S_ISREG(st.st_mode))
			rc = add(i, &(struct cat_inode){ st.st_dev, st.st_ino,
							 (uint64_t)st.st_blocks * 512, st.st_nlink,
							 1 });
	}
	return rc;
}

int cat_inodes_add(struct cat_inodes *i, int fd)
{
	return add_dir(i, fd, true);
}

int cat_inodes_merge(struct cat_inodes *i, const struct cat_inodes *other)
{
	int rc = 0;

	for (size_t k = 0; rc == 0 && k < other->n; k++)
		rc = add(i, &other->v[k]);
	return rc;
}

static int by_inode(const void *a, const void *b)
{
	const struct cat_inode *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

struct cat_usage cat_inodes_sum(struct cat_inodes *i)
{
	struct cat_usage u = { 0 };
	size_t n = 0;

	if (i->n)
		qsort(i->v, i->n, sizeof(*i->v), by_inode);
	for (size_t k = 0; k < i->n; k++) {
		if (n && by_inode(&i->v[n - 1], &i->v[k]) == 0)
			i->v[n - 1].seen += i->v[k].seen;
		else
			i->v[n++] = i->v[k];
	}
	i->n = n;
	for (size_t k = 0; k < n; k++) {
		u.stored += i->v[k].bytes;
		if (i->v[k].seen >= i->v[k].links)
			u.unique += i->v[k].bytes;
	}
	return u;
}

void cat_inodes_free(struct cat_inodes *i)
{
	free(i->v);
	*i = (struct cat_inodes){ 0 };
}
