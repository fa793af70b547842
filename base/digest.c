/* SHA-256 and fs-verity's tree: see digest.h. */
#define _GNU_SOURCE
#include "digest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
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

/* Hashes len bytes padded with zeros to one block. */
static int hash_block(struct digest_tree *t, const void *block, size_t len,
		      uint8_t out[DIGEST_SIZE])
{
	static const uint8_t zeros[DIGEST_BLOCK];

	if (EVP_DigestInit_ex(t->ctx, t->md, NULL) != 1 ||
	    EVP_DigestUpdate(t->ctx, block, len) != 1 ||
	    EVP_DigestUpdate(t->ctx, zeros, DIGEST_BLOCK - len) != 1 ||
	    EVP_DigestFinal_ex(t->ctx, out, NULL) != 1)
		return -ENOMEM;
	return 0;
}

int digest_tree_start(struct digest_tree *t)
{
	static const uint8_t zeros[DIGEST_BLOCK];

	memset(t, 0, sizeof(*t));
	/* Fetched once: looking it up for each block costs as much as hashing it. */
	t->md = EVP_MD_fetch(NULL, "SHA256", NULL);
	t->ctx = EVP_MD_CTX_new();
	if (!t->md || !t->ctx || hash_block(t, zeros, DIGEST_BLOCK, t->zero_leaf) < 0) {
		digest_tree_free(t);
		return -ENOMEM;
	}
	return 0;
}

void digest_tree_free(struct digest_tree *t)
{
	EVP_MD_CTX_free(t->ctx);
	EVP_MD_free(t->md);
	t->ctx = NULL;
	t->md = NULL;
}

/*
 * Puts a hash into level n. A full block of hashes is only folded into the
 * level above when one more comes: the top block must stay, whole, for the root.
 */
static int add_hash(struct digest_tree *t, int n, const uint8_t hash[DIGEST_SIZE])
{
	for (; n < DIGEST_LEVELS; n++) {
		uint8_t up[DIGEST_SIZE];
		bool full = t->level[n].len == DIGEST_BLOCK;

		if (full && hash_block(t, t->level[n].hashes, DIGEST_BLOCK, up) < 0)
			return -ENOMEM;
		if (full)
			t->level[n].len = 0;
		memcpy(t->level[n].hashes + t->level[n].len, hash, DIGEST_SIZE);
		t->level[n].len += DIGEST_SIZE;
		if (!full)
			return 0;
		/* What was full moves up one level as a single hash. */
		return add_hash(t, n + 1, up);
	}
	return -EFBIG;
}

int digest_tree_add(struct digest_tree *t, const void *block, size_t len)
{
	uint8_t hash[DIGEST_SIZE];
	int rc = hash_block(t, block, len, hash);

	if (rc < 0)
		return rc;
	t->blocks++;
	return add_hash(t, 0, hash);
}

int digest_tree_add_zeros(struct digest_tree *t, uint64_t n)
{
	for (; n; n--) {
		int rc = add_hash(t, 0, t->zero_leaf);

		if (rc < 0)
			return rc;
		t->blocks++;
	}
	return 0;
}

/* The root hash: all zeros of an empty file, the only leaf of a one-block file. */
static int root_hash(struct digest_tree *t, uint8_t out[DIGEST_SIZE])
{
	memset(out, 0, DIGEST_SIZE);
	for (int n = 0; n < DIGEST_LEVELS; n++) {
		bool top = n + 1 == DIGEST_LEVELS || t->level[n + 1].len == 0;
		uint8_t up[DIGEST_SIZE];
		int rc;

		if (t->level[n].len == 0)
			return 0;
		if (n == 0 && t->blocks == 1) {
			memcpy(out, t->level[0].hashes, DIGEST_SIZE);
			return 0;
		}
		rc = hash_block(t, t->level[n].hashes, t->level[n].len, up);
		if (rc < 0)
			return rc;
		memcpy(out, up, DIGEST_SIZE);
		if (top)
			return 0;
		rc = add_hash(t, n + 1, up);
		if (rc < 0)
			return rc;
	}
	return -EFBIG;
}

static void put_le64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

int digest_tree_finish(struct digest_tree *t, uint64_t size, uint8_t out[DIGEST_SIZE])
{
	/* struct fsverity_descriptor: version, algorithm, log2 block size, ..., size, root */
	uint8_t descriptor[256] = { 1, 1, 12 };
	int rc = root_hash(t, descriptor + 16);

	put_le64(descriptor + 8, size);
	if (rc == 0)
		rc = digest_sha256(descriptor, sizeof(descriptor), out);
	digest_tree_free(t);
	return rc;
}

int digest_verity(const void *buf, size_t len, uint8_t out[DIGEST_SIZE])
{
	struct digest_tree t;
	int rc = digest_tree_start(&t);

	for (size_t off = 0; rc == 0 && off < len; off += DIGEST_BLOCK) {
		size_t n = len - off < DIGEST_BLOCK ? len - off : DIGEST_BLOCK;

		rc = digest_tree_add(&t, (const uint8_t *)buf + off, n);
	}
	if (rc < 0) {
		digest_tree_free(&t);
		return rc;
	}
	return digest_tree_finish(&t, len, out);
}

/* Adds the blocks of [off, end), which hold data; off is at a block's start. */
static int add_data(struct digest_tree *t, int fd, uint64_t off, uint64_t end, uint8_t *buf,
		    struct io_progress *progress, uint64_t size)
{
	while (off < end) {
		size_t want = end - off < READ_CHUNK ? (size_t)(end - off) : READ_CHUNK;
		int rc = io_pread_full(fd, buf, want, off);

		for (size_t i = 0; rc == 0 && i < want; i += DIGEST_BLOCK)
			rc = digest_tree_add(t, buf + i,
					     want - i < DIGEST_BLOCK ? want - i : DIGEST_BLOCK);
		if (rc < 0)
			return rc;
		off += want;
		if (progress && progress->fn)
			progress->fn(progress->arg, off, size);
	}
	return 0;
}

static int add_file(struct digest_tree *t, int fd, uint64_t size, struct io_progress *progress)
{
	auto_free uint8_t *buf = malloc(READ_CHUNK);
	const uint64_t whole = size & ~(uint64_t)(DIGEST_BLOCK - 1);
	uint64_t off = 0;

	if (!buf)
		return -ENOMEM;
	while (off < size) {
		off_t at = lseek(fd, (off_t)off, SEEK_DATA);
		uint64_t data, end;
		off_t hole;
		int rc;

		/* ENXIO: nothing but a hole up to the end, or the file ended. */
		if (at < 0 && errno != ENXIO)
			return -errno;
		data = at < 0 || (uint64_t)at > whole ? whole : (uint64_t)at & ~(uint64_t)4095;
		if (data > off) {
			rc = digest_tree_add_zeros(t, (data - off) / DIGEST_BLOCK);
			if (rc < 0)
				return rc;
			off = data;
		}
		if (off == size)
			break;
		hole = lseek(fd, (off_t)off, SEEK_HOLE);
		/* The last, short block, or a place beyond the end: read it and see. */
		end = hole < 0 ? size : ((uint64_t)hole + 4095) & ~(uint64_t)4095;
		if (end <= off || end > size)
			end = size;
		rc = add_data(t, fd, off, end, buf, progress, size);
		if (rc < 0)
			return rc;
		off = end;
	}
	return 0;
}

int digest_verity_fd(int fd, uint64_t size, struct io_progress *progress, uint8_t out[DIGEST_SIZE])
{
	off_t length = lseek(fd, 0, SEEK_END);
	struct digest_tree t;
	int rc;

	if (length < 0)
		return -errno;
	/* Without this a file that is too short would read as one that ends in a hole. */
	if ((uint64_t)length < size)
		return -ENODATA;
	rc = digest_tree_start(&t);
	if (rc == 0)
		rc = add_file(&t, fd, size, progress);
	if (rc < 0) {
		digest_tree_free(&t);
		return rc;
	}
	return digest_tree_finish(&t, size, out);
}
