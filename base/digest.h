/*
 * SHA-256, plain and as fs-verity's Merkle tree over 4 KiB blocks.
 *
 * The fs-verity digest of a file is what the kernel's FS_IOC_MEASURE_VERITY and
 * `fsverity digest FILE` say of it: SHA-256, 4096-byte blocks, no salt. It
 * depends on the content alone, never on which blocks are holes.
 * Source: Documentation/filesystems/fsverity.rst, "Merkle tree" and "fs-verity
 * descriptor".
 *
 *   level n:    one block: hashes of the blocks of level n-1     <- root = its hash
 *   ...
 *   level 0:    128 hashes a block, each of one data block
 *   data:       4096-byte blocks, the last one padded with zeros
 *
 * This file and digest.c are the only users of libcrypto.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "io.h"

#define DIGEST_SIZE   32
#define DIGEST_BLOCK  4096
#define DIGEST_LEVELS 8 /* 128^8 blocks are more than 2^64 bytes */

/* Plain SHA-256 of len bytes. 0 or -ENOMEM. */
int digest_sha256(const void *buf, size_t len, uint8_t out[DIGEST_SIZE]);

/* Plain SHA-256 of the whole file fd, from offset 0. 0 or a negative errno. */
int digest_sha256_fd(int fd, uint8_t out[DIGEST_SIZE]);

/*
 * A Merkle tree in the making: fed block by block, in order, in constant
 * memory. One thread at a time.
 */
struct digest_tree {
	void *md, *ctx;	 /* libcrypto's, owned */
	uint64_t blocks; /* data blocks added */
	uint8_t zero_leaf[DIGEST_SIZE];
	struct {
		uint8_t hashes[DIGEST_BLOCK];
		size_t len;
	} level[DIGEST_LEVELS];
};

/* 0 or -ENOMEM. End it with digest_tree_finish() or digest_tree_free(). */
int digest_tree_start(struct digest_tree *t);
/* Adds one data block of len <= 4096 bytes; a short one may only be the last. 0 or negative. */
int digest_tree_add(struct digest_tree *t, const void *block, size_t len);
/* Adds n data blocks of zeros without hashing them. 0 or negative. */
int digest_tree_add_zeros(struct digest_tree *t, uint64_t n);
/* The digest of a file of `size` bytes, and frees what the tree holds. 0 or negative. */
int digest_tree_finish(struct digest_tree *t, uint64_t size, uint8_t out[DIGEST_SIZE]);
void digest_tree_free(struct digest_tree *t);

/* The fs-verity digest of len bytes in memory. 0 or a negative errno. */
int digest_verity(const void *buf, size_t len, uint8_t out[DIGEST_SIZE]);

/*
 * The fs-verity digest of the first `size` bytes of the file fd. Holes are not
 * read. `progress` may be NULL; a progress function is called every few MiB.
 * 0, -ENODATA where the file is shorter, or a negative errno.
 */
int digest_verity_fd(int fd, uint64_t size, struct io_progress *progress, uint8_t out[DIGEST_SIZE]);
