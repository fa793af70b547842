/*
 * SHA-256, of whole things and of blocks. The tree over the blocks of a file is in
 * merkle.h. This file and digest.c are the only users of libcrypto.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define DIGEST_SIZE  32
#define DIGEST_BLOCK 4096

/* Plain SHA-256 of len bytes. 0 or -ENOMEM. */
int digest_sha256(const void *buf, size_t len, uint8_t out[DIGEST_SIZE]);

/* Plain SHA-256 of the whole file fd, from offset 0. 0 or a negative errno. */
int digest_sha256_fd(int fd, uint8_t out[DIGEST_SIZE]);

/*
 * What hashes many blocks, one after the other. One thread at a time. All zeros is
 * one that holds nothing.
 */
struct digest_hasher {
	void *md, *ctx; /* libcrypto's, owned */
};

/* 0 or -ENOMEM: then, too, it may be freed. */
int digest_hasher_init(struct digest_hasher *h);
/* As init, and cheaper: another one, for another thread. */
int digest_hasher_init_like(struct digest_hasher *h, const struct digest_hasher *from);
void digest_hasher_free(struct digest_hasher *h);

/* SHA-256 of len <= 4096 bytes, padded with zeros to 4096. 0 or -ENOMEM. */
int digest_hash_block(struct digest_hasher *h, const void *block, size_t len,
		      uint8_t out[DIGEST_SIZE]);
