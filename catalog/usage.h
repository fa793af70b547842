/*
 * What snapshots take on the disk. Files are hard links, so it is inodes that count: one
 * that another directory has a name of is shared, and removing a snapshot does not free it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cat_inode {
	dev_t dev;
	ino_t ino;
	uint64_t bytes;	      /* of blocks */
	uint64_t links, seen; /* names that it has, and of these in what was added */
};

struct cat_inodes {
	struct cat_inode *v; /* owned */
	size_t n, room;
};

struct cat_usage {
	uint64_t stored; /* bytes of all inodes, each once */
	uint64_t unique; /* of those with no other name than what was added */
};

/* Adds the regular files of the directory fd, and of its one level below. 0 or -ENOMEM. */
int cat_inodes_add(struct cat_inodes *i, int fd);

/* Adds what is in another set. 0 or -ENOMEM. */
int cat_inodes_merge(struct cat_inodes *i, const struct cat_inodes *other);

/* Sums up; brings what was added several times together. */
struct cat_usage cat_inodes_sum(struct cat_inodes *i);

void cat_inodes_free(struct cat_inodes *i);
