/*
 * Verification: is every byte of a snapshot what its manifest says?
 * And stamps: the memory of having verified a file, so that it is not read
 * again while it is unchanged.
 *
 * A stamp is {file system uuid, inode, generation, size, mtime, ctime} and the
 * digest that the content was seen to have. It is granted only under a read
 * lease (F_SETLEASE, F_RDLCK) that was unbroken over the hashing: a writer, or
 * a shared writable mapping, breaks or refuses it.
 */
#pragma once

#include <stdbool.h>

#include "catalog/index.h"
#include "proto/snapdir.h"

/* True where fd's file carries a stamp for this digest and has not changed since. */
bool cat_stamp_holds(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE]);

/*
 * Hashes fd whole (its fs-verity digest, `size` bytes) and compares. Where it
 * is equal the file is stamped if it can be. Its tree goes into the new file
 * tree_fd, -1: nowhere. 0: equal; -EBADMSG: it differs;
 * another negative errno: it could not be read.
 */
int cat_stamp_verify(struct store *store, int fd, uint64_t size, const uint8_t digest[DIGEST_SIZE],
		     int tree_fd, struct io_progress *progress, struct err *e);

/*
 * Renews the stamp of fd's file after an own link() or unlink() of it changed
 * its ctime. `held`: cat_stamp_holds() just before. Nothing if it did not hold.
 */
void cat_stamp_follow(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE], bool held);

/*
 * Verifies one snapshot of the store whole: manifest, state, memory (its layers, their maps,
 * and the flat digest that comes of them), disks; the
 * last two anew even if they are stamped when `anew`. The outcome is kept in the index.
 * 0: valid; -EBADMSG: damaged, words say which file; -ESTALE: replaced; or
 * another negative errno.
 */
int cat_verify_snapshot(struct store *store, const char *name, bool anew,
			struct io_progress *progress, struct err *e);
