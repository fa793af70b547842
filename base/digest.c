/* SHA-256: see digest.h. */
#define _GNU_SOURCE
#include "digest.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "cleanup.h"

#define READ_CHUNK (1U << 20)

int digest_sha256(const void *buf, size_t len, uint8_t out[DIGEST_SIZE])
{
	return EVP_Digest(buf, len, out, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

static int sha256_fd(EVP_MD_CTX *ctx, int fd, uint8_t out[DIGEST_SIZE])
{
	auto_free uint8_t *buf = malloc(READ_CHUNK);
	off_t off = 0;

	if (!buf || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	for (;;) {
		ssize_t r = pread(fd, buf, READ_CHUNK, off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		if (EVP_DigestUpdate(ctx, buf, (size_t)r) != 1)
			return -ENOMEM;
		off += r;
	}
	return EVP_DigestFinal_ex(ctx, out, NULL) == 1 ? 0 : -ENOMEM;
}

int digest_sha256_fd(int fd, uint8_t out[DIGEST_SIZE])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int rc = ctx ? sha256_fd(ctx, fd, out) : -ENOMEM;

	EVP_MD_CTX_free(ctx);
	return rc;
}

int digest_hasher_init(struct digest_hasher *h)
{
	/* Fetched once: looking it up for each block costs as much as hashing it. */
	h->md = EVP_MD_fetch(NULL, "SHA256", NULL);
	h->ctx = EVP_MD_CTX_new();
	return h->md && h->ctx ? 0 : -ENOMEM;
}

int digest_hasher_init_like(struct digest_hasher *h, const struct digest_hasher *from)
{
	h->md = EVP_MD_up_ref(from->md) == 1 ? from->md : NULL;
	h->ctx = EVP_MD_CTX_new();
	return h->md && h->ctx ? 0 : -ENOMEM;
}

void digest_hasher_free(struct digest_hasher *h)
{
	EVP_MD_CTX_free(h->ctx);
	EVP_MD_free(h->md);
	h->ctx = NULL;
	h->md = NULL;
}

int digest_hash_block(struct digest_hasher *h, const void *block, size_t len,
		      uint8_t out[DIGEST_SIZE])
{
	static const uint8_t zeros[DIGEST_BLOCK];

	if (EVP_DigestInit_ex(h->ctx, h->md, NULL) != 1 ||
	    EVP_DigestUpdate(h->ctx, block, len) != 1 ||
	    EVP_DigestUpdate(h->ctx, zeros, DIGEST_BLOCK - len) != 1 ||
	    EVP_DigestFinal_ex(h->ctx, out, NULL) != 1)
		return -ENOMEM;
	return 0;
}
