/*
 * Reads of a large file that is not known to be good: whole blocks are read, and each
 * is checked by the file's tree, which itself is checked against the manifest's digest,
 * before a byte of it is given out. What is wrong is reported to the snapshot.
 */
#pragma once

#include "fs.h"
#include "ops.h"

struct checked;

/* The file that is open. It all stays the caller's, and outlives the struct checked. */
struct checked_file {
	struct fs *fs;
	struct snap *snap;
	size_t number; /* proto_snapdir_file() */
	int fd;
	struct identity id;
};

/* `what`: the file as the view has it. NULL: it has no tree, or there is no memory. */
struct checked *sfs_checked_new(const struct checked_file *file, struct view *view,
				const struct snapdir_file *what);

/* NULL is nothing. */
void sfs_checked_free(struct checked *c);

/*
 * Bytes [at, at + len) of the file: whole blocks, but for its end. 0, -EIO where one of
 * them is wrong or cannot be read. Any thread.
 */
int sfs_checked_pread(struct checked *c, void *buf, size_t len, uint64_t at);

/* Answers a read request: the bytes, or EIO where one of the blocks is wrong. Any thread. */
void sfs_checked_read(struct checked *c, fuse_req_t req, size_t size, off_t off);
