/*
 * FUSE passthrough: the kernel reads a file of the store itself, so reads and
 * page faults cost what they cost on the bare file, share its page cache, and go on
 * when this process has ended. Only for files of which every byte is known to
 * be good.
 *
 * It takes Linux 6.9, CAP_SYS_ADMIN at each open, and a store that lies on no
 * stacked file system. Where it cannot be had, files are served by this process,
 * with the kernel's cache kept; why, is said once in the log.
 *
 * The kernel wants all opens of an inode that are there at one time to be of one
 * kind, and by one backing id: else it gives EIO. So each node counts its opens
 * and has the kind of the first of them; a node whose kind is no longer the
 * right one is retired, and what looks the name up next gets another.
 *
 * Linux: fs/fuse/{passthrough,backing,iomode}.c.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "node.h"

#define PASSTHROUGH_WHY_MAX 160

struct passthrough {
	int device; /* /dev/fuse, the session's; -1: not mounted */
	int probe;  /* owned: a file of the store, to try it on; -1: none */
	/* Of the INIT request, while its answer is to be completed; 0: none. */
	_Atomic uint64_t init;
	pthread_mutex_t lock;
	/* Guarded by lock; and so is what the nodes have in `opened`. */
	bool tried;
	char why[PASSTHROUGH_WHY_MAX]; /* why there is none; empty, once tried: there is */
};

/* How a file of a node is opened: the answer of sfs_passthrough_begin(). */
enum opening {
	OPEN_STALE = -1, /* look the name up again (ESTALE); the open does not count */
	OPEN_SERVED = 0, /* reads come to this process */
	OPEN_PASSED = 1, /* they do not */
};

/*
 * `probe`: a file of the store, read-only, taken over. `wanted` false: the
 * operator wants none of it.
 */
void sfs_passthrough_init(struct passthrough *p, int probe, bool wanted);
void sfs_passthrough_destroy(struct passthrough *p);

/*
 * Between the mount of the session and its first request. io_data is the
 * session's userdata, by which sfs_passthrough_of() finds *p. 0 or a negative errno.
 */
int sfs_passthrough_attach(struct passthrough *p, struct fuse_session *se);

/* Asks the kernel for it, in the INIT request. */
void sfs_passthrough_ask(struct passthrough *p, struct fuse_conn_info *conn);

/*
 * True where it works, by trying it (the first time; after INIT was answered).
 * False: `why` has the reason. Any thread.
 */
bool sfs_passthrough_works(struct passthrough *p, char why[PASSTHROUGH_WHY_MAX]);

/*
 * Decides how the file of the node is opened now. fd: the file, read-only;
 * `good`: every byte of it is known to be good. Other than OPEN_STALE it counts
 * as an open until sfs_passthrough_end(). *retire: the node is of the other
 * kind: sfs_nodes_retire() it. *backing: for sfs_passthrough_reply().
 */
enum opening sfs_passthrough_begin(struct passthrough *p, struct node *n, int fd, bool good,
				   bool *retire, int *backing);
void sfs_passthrough_end(struct passthrough *p, struct node *n);

/* fuse_reply_open() for OPEN_PASSED. */
int sfs_passthrough_reply(fuse_req_t req, const struct fuse_file_info *fi, int backing);
