/*
 * fs-verity's Merkle tree of a file: SHA-256, 4096-byte blocks, no salt. Made by
 * all processors at once, kept in a file, and used to check single blocks.
 *
 *	level n		one block: hashes of the blocks of level n - 1	<- root = its hash
 *	...
 *	level 0		128 hashes a block, each of one data block
 *	data		4096-byte blocks, the last one padded with zeros
 *
 * The digest of the file is that of fs-verity's descriptor, which has the root and
 * the size: what FS_IOC_MEASURE_VERITY and `fsverity digest` say. It depends on the
 * content alone, never on which blocks are holes.
 *
 * A tree file has the levels one after the other, the topmost first, as
 * FS_IOC_READ_VERITY_METADATA gives them; with one shorthand, which keeps the tree
 * of a sparse file sparse: a block of zeros in level 0 or 1 stands for that
 * of data that is all zeros.
 *
 * Source: Documentation/filesystems/fsverity.rst, "Merkle tree", "fs-verity descriptor".
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "io.h"

#define MERKLE_LEVELS 8 /* 128^8 blocks are more than 2^64 bytes */

/* Where what lies in the tree of a file of `size` bytes. */
struct merkle {
	uint64_t size, blocks; /* of the data */
	uint64_t tree_size;    /* bytes; 0: a file of at most one block has none */
	unsigned nlevels;
	struct {
		uint64_t at;	 /* bytes, in the tree file */
		uint64_t blocks; /* how many */
	} level[MERKLE_LEVELS];
};

void merkle_layout(struct merkle *m, uint64_t size);

/*
 * The digest of the first `size` bytes of fd. Holes are not read. Its tree is written
 * to the empty file tree_fd (-1: it is not kept; the file's sync is the caller's).
 * By as many threads as there are processors, if the file is large; `progress` (may
 * be NULL) is called by one of them at a time, every 64 MiB; where it says `idle` they take
 * the time that nobody else wants.
 * 0, -ENODATA where the file is shorter, or a negative errno.
 */
int merkle_digest_fd(int fd, uint64_t size, int tree_fd, struct io_progress *progress,
		     uint8_t digest[DIGEST_SIZE]);

/* The digest of len bytes in memory. 0 or -ENOMEM. */
int merkle_digest(const void *buf, size_t len, uint8_t digest[DIGEST_SIZE]);

/*
 * Tells block n of level 0: the hashes of data blocks [128 n, 128 n + 128), of which only
 * those that there are count, into `hashes`. Or, where `hash` is not NULL, the hash of
 * that block alone. Called by several threads at a time, for each n once.
 */
enum merkle_told {
	MERKLE_HASHES, /* `hashes` has them */
	MERKLE_HASH,   /* `hash` has that of the whole block, `hashes` nothing */
	MERKLE_ZEROS,  /* all of the data are zeros, and `hashes` has nothing */
};
typedef int (*merkle_leaves_fn)(void *arg, uint64_t n, uint8_t hashes[DIGEST_BLOCK], uint8_t *hash);

/*
 * The digest of data of `size` bytes that nobody reads: what is known of it are the hashes
 * of its blocks, as they are told. tree_fd is as in merkle_digest_fd(); with one, hashes
 * of whole blocks are not enough. 0, what `told` returned below 0, or a negative errno;
 * -EINVAL for data of at most one block, which has no level 0.
 */
int merkle_compose(uint64_t size, merkle_leaves_fn told, void *arg, int tree_fd,
		   uint8_t digest[DIGEST_SIZE]);

/* The hash of a data block of zeros. 0 or -ENOMEM. */
int merkle_zero_leaf(uint8_t hash[DIGEST_SIZE]);

/* ---- checking blocks ---- */

/* What is known good of a tree. Any thread. */
struct merkle_reader;

/*
 * Opens the tree file tree_fd (taken over, also when this fails; -1 where tree_size is
 * 0) of a file of `size` bytes that has this digest. 0; -EUCLEAN: it is no tree
 * of such a file; or another negative errno. Constant in the size.
 */
int merkle_open(struct merkle_reader **r, int tree_fd, uint64_t size,
		const uint8_t digest[DIGEST_SIZE]);
void merkle_close(struct merkle_reader *r); /* NULL is fine */

/*
 * Whether the file's len bytes from `offset` on are these: whole blocks, but for
 * the end of the file. 0; -EBADMSG: block *bad is not; -EUCLEAN: the tree is damaged
 * there; or another negative errno.
 */
int merkle_check(struct merkle_reader *r, uint64_t offset, const void *data, size_t len,
		 uint64_t *bad);

/*
 * The hashes of data blocks [first, first + count) of the file, as far as the digest
 * vouches for them. 0; -EINVAL: there are no such, or the file has no tree; -EUCLEAN: the
 * tree is damaged there; or another negative errno.
 */
int merkle_leaves(struct merkle_reader *r, uint64_t first, size_t count, uint8_t *hashes);

/* The same of block n of level 0: the hash of the hashes of 128 data blocks. */
int merkle_leaf_block(struct merkle_reader *r, uint64_t n, uint8_t hash[DIGEST_SIZE]);
