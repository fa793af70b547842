/*
 * Verification of whole files (memory, disks), away from the threads that answer the
 * kernel. Each file is hashed once, however many wait for it: those who come
 * while it is under way share its outcome. Knows nothing of FUSE.
 *
 * The outcome is kept: a stamp (by catalog), the index, the snapshot's memory
 * of damage; and damage goes to the log.
 */
#pragma once

#include <stdbool.h>

#include "snap.h"

struct verifier;
struct verify_job;

/* One who waits; the caller's, untouched until done() or a cancel. */
struct verify_waiter {
	/*
	 * Called once, from a verifier thread, without locks. rc 0: the file has
	 * the digest; -EBADMSG: it has not; another negative errno: it could not
	 * be read. The waiter is the caller's again.
	 */
	void (*done)(struct verify_waiter *w, int rc);
	/* Guarded by the verifier's lock. */
	struct verify_job *job; /* waited for; NULL: none */
	struct verify_waiter *next;
	bool cancelled;
};

/* The store must outlive it. 0 or a negative errno. */
int sfs_verifier_start(struct verifier **v, struct store *store);

/*
 * Waits for the verification of the open file `fd`, which is number `file` of
 * the manifest in `view` of `s`, against the digest there, starting one if none
 * is under way. fd stays the caller's.
 * 0: done() will be called (it may be before this returns); -EINTR: it was
 * cancelled before; or another negative errno. On failure done() is not called.
 */
int sfs_verifier_wait(struct verifier *v, struct snap *s, struct view *view, size_t file, int fd,
		      struct verify_waiter *w);

/* As sfs_verifier_wait(), but nobody waits for the outcome. */
int sfs_verifier_begin(struct verifier *v, struct snap *s, struct view *view, size_t file, int fd);

/*
 * Stops waiting. True: done() will not be called, the waiter is the caller's.
 * False: done() is called, or sfs_verifier_wait() will return -EINTR. The
 * verification itself goes on, for the next who asks.
 */
bool sfs_verifier_cancel(struct verifier *v, struct verify_waiter *w);

/*
 * Ends it, for when nobody waits any more. False: a file is still being hashed
 * by a thread that cannot be stopped; then *v and the store must not be freed.
 */
bool sfs_verifier_stop(struct verifier *v);
