/*
 * Checking blocks by a tree that somebody has changed. The input: which of the files
 * below, two bytes of what is done to the tree's length, and changes of six bytes
 * (where in the tree, what is put there), the last of which may be cut.
 *
 * Whatever the tree is: a block that is not the file's is never taken for it, and
 * one that is the file's is never called damaged, but that the tree is of no use.
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/merkle.h"

#define BLOCK	 DIGEST_BLOCK
#define FAN	 128ULL /* hashes in a block of the tree */
#define TREE_MAX (2U << 20)

/* Of no level, of one, of two, of three; the end is whole or within a block. */
static const uint64_t sizes[] = {
	0,
	1,
	BLOCK,
	BLOCK + 1,
	FAN *BLOCK,
	FAN *BLOCK + 100,
	FAN *FAN *BLOCK - BLOCK,
	FAN *FAN *BLOCK + 1,
	3 * FAN *FAN *BLOCK,
};
#define FILES (sizeof(sizes) / sizeof(sizes[0]))

struct sample {
	int fd;
	uint8_t digest[DIGEST_SIZE];
	uint8_t *tree;
	struct merkle m;
};

/* Sparse, as RAM is: here and there a block of data, and one of zeros that is no hole. */
static void make_file(struct sample *s, uint64_t size)
{
	uint8_t block[BLOCK];

	s->fd = memfd_create("file", MFD_CLOEXEC);
	MUST(s->fd >= 0 && ftruncate(s->fd, (off_t)size) == 0);
	for (uint64_t n = 0; n < s->m.blocks; n = n * 3 + 1) {
		const uint64_t left = size - n * BLOCK;

		memset(block, n == 4 ? 0 : (int)(n % 251 + 1), sizeof(block));
		MUST(io_pwrite_full(s->fd, block, left < BLOCK ? (size_t)left : BLOCK, n * BLOCK) ==
		     0);
	}
}

static const struct sample *sample(size_t which)
{
	static struct sample samples[FILES];
	struct sample *s = &samples[which];
	auto_fd int tree = -1;

	if (s->m.size || s->tree)
		return s;
	merkle_layout(&s->m, sizes[which]);
	make_file(s, sizes[which]);
	tree = memfd_create("tree", MFD_CLOEXEC);
	MUST(tree >= 0 && s->m.tree_size <= TREE_MAX);
	MUST(merkle_digest_fd(s->fd, s->m.size, tree, NULL, s->digest) == 0);
	s->tree = calloc(1, s->m.tree_size + 1);
	MUST(s->tree && io_pread_full(tree, s->tree, s->m.tree_size, 0) == 0);
	return s;
}

/* The block as it is, changed, and that of another place. */
static void check_block(struct merkle_reader *r, const struct sample *s, uint64_t n)
{
	const uint64_t left = s->m.size - n * BLOCK;
	const size_t len = left < BLOCK ? (size_t)left : BLOCK;
	uint8_t data[BLOCK] = { 0 };
	uint64_t bad = UINT64_MAX;
	int rc, other;

	MUST(len > 0 && io_pread_full(s->fd, data, len, n * BLOCK) == 0);
	rc = merkle_check(r, n * BLOCK, data, len, &bad);
	MUST(rc == 0 || rc == -EUCLEAN);
	data[n % len] ^= 0x10;
	other = merkle_check(r, n * BLOCK, data, len, &bad);
	MUST(other == (rc == 0 ? -EBADMSG : rc));
	MUST(bad == n);
	memset(data, 0xa5, len);
	MUST(merkle_check(r, n * BLOCK, data, len, &bad) < 0);
}

static void check_blocks(struct merkle_reader *r, const struct sample *s)
{
	uint8_t two[2 * BLOCK] = { 0 };
	uint64_t bad;

	for (uint64_t n = 0; n < s->m.blocks; n = n * 3 + 1)
		check_block(r, s, n);
	for (uint64_t n = 0; n < s->m.blocks; n += s->m.blocks / 50 + 1)
		check_block(r, s, n);
	if (s->m.blocks)
		check_block(r, s, s->m.blocks - 1);
	/* What no caller asks for. */
	MUST(merkle_check(r, 1, two, BLOCK, &bad) == -EINVAL);
	MUST(merkle_check(r, s->m.blocks * BLOCK, two, sizeof(two), &bad) < 0);
	MUST(merkle_check(r, UINT64_MAX - BLOCK + 1, two, sizeof(two), &bad) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct sample *s;
	auto_free uint8_t *tree = NULL;
	struct merkle_reader *r = NULL;
	auto_fd int fd = -1;
	uint64_t len;
	int rc;

	if (size < 3)
		return 0;
	s = sample(data[0] % FILES);
	len = s->m.tree_size;
	if (data[1] & 1) /* shorter, or longer */
		len = data[1] & 2 ? len + data[2] * 100ULL : len * data[2] / 256;
	tree = calloc(1, len + 1);
	fd = memfd_create("tree", MFD_CLOEXEC);
	MUST(tree && fd >= 0);
	memcpy(tree, s->tree, len < s->m.tree_size ? len : s->m.tree_size);
	for (size_t i = 3; len && i < size; i += 6) {
		uint32_t at = 0;

		memcpy(&at, data + i, size - i < 4 ? size - i : 4);
		for (size_t j = i + 4; j < size && j < i + 6; j++)
			tree[(at + j - i - 4) % len] = data[j];
	}
	MUST(io_pwrite_full(fd, tree, len, 0) == 0);
	rc = merkle_open(&r, take_fd(&fd), s->m.size, s->digest);
	MUST(rc == 0 || rc == -EUCLEAN);
	if (len == s->m.tree_size && memcmp(tree, s->tree, len) == 0)
		MUST(rc == 0);
	if (rc == 0)
		check_blocks(r, s);
	merkle_close(r);
	return 0;
}
