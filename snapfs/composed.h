/*
 * memory.bin of a layered snapshot: its RAM, composed of the layers' files. Each layer
 * is on a rung of its own: what is known to be good is read as it is, the rest block by
 * block checked (checked.h). Served by this process, always: the kernel passes one file
 * through, not many.
 *
 *	sfs_composed_new()	the maps; no layer is open yet
 *	sfs_composed_open()	opens them, until one has to be hashed before
 *	sfs_composed_share()	all are open: who has the same open shares descriptors
 *	sfs_composed_read() and so on, and at last sfs_composed_put()
 */
#pragma once

#include "fs.h"

struct composed;

/*
 * Of the view, which is of a layered snapshot. Reads the maps, if they are not known.
 * 0, -EBADMSG with words, or another negative errno.
 */
int sfs_composed_new(struct fs *fs, struct snap *s, struct view *v, struct composed **c,
		     struct err *e);
void sfs_composed_put(struct composed *c); /* NULL is nothing */

/* A layer that has to be hashed before it can be read: it has no tree. */
struct composed_wait {
	size_t layer;
	int fd; /* of its file, the struct composed's */
};

/*
 * Opens the layers that are not yet open. Constant in their sizes. 0: all are, 1: one
 * has to be verified first: then call it again (that layer is taken as good then);
 * -EBADMSG with words, or another negative errno.
 */
int sfs_composed_open(struct composed *c, struct composed_wait *wait, struct err *e);

/*
 * All layers are open. Those who have the same files open, known in the same way, are
 * given one struct composed, so that many clones hold few descriptors. Takes `c` over.
 */
struct composed *sfs_composed_share(struct composed *c);

/* True where each layer is known to be good as a whole. */
bool sfs_composed_is_good(const struct composed *c);

/* As sfs_snap_serve(): notes what is served, true where what the kernel caches is right. */
bool sfs_composed_serve(const struct composed *c);

/*
 * Bytes [at, at + len), which lie in the RAM and are whole pages. 0, -EIO where one
 * of them is wrong or cannot be read, or -ENOMEM. Any thread.
 */
int sfs_composed_read(struct composed *c, void *buf, size_t len, uint64_t at);

/* Answers a read request. Any thread. */
void sfs_composed_reply(struct composed *c, fuse_req_t req, size_t size, off_t off);

/* As lseek(2) by SEEK_DATA or SEEK_HOLE: runs of zeros and holes in the files are holes. */
off_t sfs_composed_seek(const struct composed *c, off_t off, int whence);

/*
 * As sfs_view_look(), of memory.bin as it is composed: its own size, what the layers
 * occupy, the times of the uppermost one; device and inode are the manifest's.
 */
int sfs_composed_look(const struct view *v, struct stat *st);
