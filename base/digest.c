/*
 * SHA-256: see digest.h. By libcrypto's own functions of that name, not by EVP: that
 * would look for providers and read openssl.cnf first, half a millisecond at the start
 * of a restore, and cost as much again as hashing for each small block. Linked
 * statically they bring with them nothing but themselves.
 */
#define _GNU_SOURCE
#include "digest.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define OPENSSL_API_COMPAT 10101 /* not deprecated there */
#include <openssl/sha.h>

#include "cleanup.h"

#define READ_CHUNK (1U << 20)

int digest_sha256(const void *buf, size_t len, uint8_t out[DIGEST_SIZE])
{
	SHA256_CTX ctx;

	SHA256_Init(&ctx);
	SHA256_Update(&ctx, buf, len);
	SHA256_Final(out, &ctx);
	return 0;
}

int digest_sha256_fd(int fd, uint8_t out[DIGEST_SIZE])
{
	auto_free uint8_t *buf = malloc(READ_CHUNK);
	SHA256_CTX ctx;
	off_t off = 0;
	ssize_t r;

	if (!buf)
		return -ENOMEM;
	SHA256_Init(&ctx);
	while ((r = pread(fd, buf, READ_CHUNK, off)) != 0) {
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		SHA256_Update(&ctx, buf, (size_t)r);
		off += r;
	}
	SHA256_Final(out, &ctx);
	return 0;
}

int digest_hasher_init(struct digest_hasher *h)
{
	(void)h;
	return 0;
}

int digest_hasher_init_like(struct digest_hasher *h, const struct digest_hasher *from)
{
	(void)h, (void)from;
	return 0;
}

void digest_hasher_free(struct digest_hasher *h)
{
	(void)h;
}

int digest_hash_block(struct digest_hasher *h, const void *block, size_t len,
		      uint8_t out[DIGEST_SIZE])
{
	static const uint8_t zeros[DIGEST_BLOCK];
	SHA256_CTX ctx;

	(void)h;
	SHA256_Init(&ctx);
	SHA256_Update(&ctx, block, len);
	SHA256_Update(&ctx, zeros, DIGEST_BLOCK - len);
	SHA256_Final(out, &ctx);
	return 0;
}
