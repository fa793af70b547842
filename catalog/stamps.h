/*
 * What the rest of catalog asks of stamps beyond verify.h.
 */
#pragma once

#include <sys/stat.h>

#include "catalog/verify.h"

/* When fd's file was verified to have this digest; 0 if its stamp does not hold. */
int64_t cat_stamp_time(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE]);

/* The digest that fd's file is stamped with; false: it has no stamp that holds. */
bool cat_stamp_find(struct store *store, int fd, uint8_t digest[DIGEST_SIZE]);

/* --- lease.c: a read lease over the time that a file is hashed --- */

/*
 * Held on a descriptor of its own. While it lives and lease_unbroken() is true,
 * nobody had the file open for writing, nor mapped shared and writable.
 * The signal of a break is one that is ignored; who breaks it waits for us at
 * most until the next lease_check().
 */
struct lease {
	int fd;		/* -1: not granted */
	int refused;	/* why not: an errno, 0 if it was */
	struct stat st; /* of the file, when it was granted */
};

struct lease cat_lease_take(int fd);
/* Gives the lease back if somebody waits for that. */
void cat_lease_check(struct lease *l);
/* True where it was granted, never broken, and the file is as it was. */
bool cat_lease_unbroken(struct lease *l);
void cat_lease_drop(struct lease *l);

/*
 * Computes the fs-verity digest of `size` bytes under the lease, which is
 * checked on the way, and writes the tree to tree_fd (-1: it does not). 0 or a
 * negative errno.
 */
int cat_lease_digest(struct lease *l, int fd, uint64_t size, int tree_fd,
		     struct io_progress *progress, uint8_t digest[DIGEST_SIZE]);

/* The progress of several files, one after the other, as that of one. */
struct progress_sum {
	struct io_progress *whole; /* may be NULL */
	uint64_t before, total;	   /* bytes: of the files that are done, of all */
};

/* For one of the files after the other; *sum outlives it. */
struct io_progress cat_progress_part(struct progress_sum *sum);

/*
 * Stamps fd's file with the digest that was computed under the lease, if it is
 * unbroken and the kernel's clock can tell a later change. -EAGAIN: only so
 * many nanoseconds later (*wait_ns), with the lease kept that long.
 */
int cat_stamp_grant(struct store *store, struct lease *l, const uint8_t digest[DIGEST_SIZE],
		    int64_t *wait_ns);

/* "" or why STORE/stamps.db is ignored, and the command that mends it: for `check`. */
void cat_stamp_problem(struct store *store, struct err *e);
