/*
 * Checking single blocks by a tree: see merkle.h.
 *
 * A block of the tree is believed when its hash is where the block above it has
 * it, up to the root, which is the digest's. Those that were believed lately are
 * kept, so that a block costs one hash, and one more for every 128.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "merkle_impl.h"

#define SLOTS 512 /* blocks that are kept: 2 MiB, for 256 MiB of data */

struct slot {
	unsigned level;
	uint64_t n;
	uint8_t block[DIGEST_BLOCK];
};

struct merkle_reader {
	struct merkle m;
	int tree_fd;
	uint8_t digest[DIGEST_SIZE], root[DIGEST_SIZE];
	struct merkle_zeros zeros;
	struct digest_hasher h; /* used under the lock, shared by all */

	pthread_mutex_t lock;
	/* under lock: */
	struct slot *slot[SLOTS];
	uint8_t (*path)[DIGEST_BLOCK]; /* one block of each level */
};

/* The shorthand of a block of zeros, where all that is below it is there. */
static void expand_zeros(const struct merkle_reader *r, unsigned level, uint64_t n, uint8_t *block)
{
	const uint64_t below = level ? r->m.level[level - 1].blocks : r->m.blocks;

	if (level >= MERKLE_ZERO_LEVELS || below / MERKLE_FAN <= n ||
	    !io_is_zero(block, DIGEST_BLOCK))
		return;
	for (unsigned i = 0; i < MERKLE_FAN; i++)
		memcpy(block + (size_t)i * DIGEST_SIZE, r->zeros.hash[level], DIGEST_SIZE);
}

/* Reads a block of the tree and compares it with what the one above says. */
static int read_block(struct merkle_reader *r, unsigned level, uint64_t n,
		      const uint8_t want[DIGEST_SIZE], uint8_t *block)
{
	uint8_t hash[DIGEST_SIZE];
	int rc = io_pread_full(r->tree_fd, block, DIGEST_BLOCK,
			       r->m.level[level].at + n * DIGEST_BLOCK);

	if (rc == -ENODATA)
		return -EUCLEAN;
	if (rc < 0)
		return rc;
	expand_zeros(r, level, n, block);
	rc = digest_hash_block(&r->h, block, DIGEST_BLOCK, hash);
	if (rc < 0)
		return rc;
	return memcmp(hash, want, DIGEST_SIZE) == 0 ? 0 : -EUCLEAN;
}

static struct slot **slot_of(struct merkle_reader *r, unsigned level, uint64_t n)
{
	/* Neighbours of level 0 lie side by side, the few above have their own places. */
	return &r->slot[(n + level * 61ULL) % SLOTS];
}

static const uint8_t *find_kept(struct merkle_reader *r, unsigned level, uint64_t n)
{
	const struct slot *s = *slot_of(r, level, n);

	return s && s->level == level && s->n == n ? s->block : NULL;
}

static void keep_block(struct merkle_reader *r, unsigned level, uint64_t n, const uint8_t *block)
{
	struct slot **s = slot_of(r, level, n);

	if (!*s)
		*s = malloc(sizeof(**s));
	if (!*s)
		return;
	(*s)->level = level;
	(*s)->n = n;
	memcpy((*s)->block, block, DIGEST_BLOCK);
}

/*
 * The hash that the tree has of data block `n`, or, with `low` above 0, of block `n` of
 * level low - 1. From the lowest block that is known, or the root, downwards. Under
 * the lock.
 */
static int find_hash(struct merkle_reader *r, unsigned low, uint64_t n, uint8_t out[DIGEST_SIZE])
{
	uint64_t index[MERKLE_LEVELS + 1];
	unsigned level = low;

	memcpy(out, r->root, DIGEST_SIZE);
	index[low] = n;
	for (unsigned i = low; i < r->m.nlevels; i++)
		index[i + 1] = index[i] / MERKLE_FAN;
	for (; level < r->m.nlevels; level++) {
		const uint8_t *known = find_kept(r, level, index[level + 1]);

		if (!known)
			continue;
		memcpy(out, known + index[level] % MERKLE_FAN * DIGEST_SIZE, DIGEST_SIZE);
		break;
	}
	while (level-- > low) {
		uint8_t *block = r->path[level];
		int rc = read_block(r, level, index[level + 1], out, block);

		if (rc < 0)
			return rc;
		keep_block(r, level, index[level + 1], block);
		memcpy(out, block + index[level] % MERKLE_FAN * DIGEST_SIZE, DIGEST_SIZE);
	}
	return 0;
}

/* One block, whose hash is the root and so in the digest alone. */
static int check_small(const struct merkle_reader *r, const uint8_t hash[DIGEST_SIZE])
{
	uint8_t got[DIGEST_SIZE];
	int rc = merkle_descriptor_digest(r->m.size, hash, got);

	if (rc < 0)
		return rc;
	return memcmp(got, r->digest, DIGEST_SIZE) == 0 ? 0 : -EBADMSG;
}

/* The hashes of data blocks [first, first + count), which one block of level 0 has. */
static int copy_leaves(struct merkle_reader *r, uint64_t first, size_t count, uint8_t *hashes)
{
	const uint8_t *block;
	int rc;

	pthread_mutex_lock(&r->lock);
	rc = find_hash(r, 0, first, hashes);
	/* Which has read it, if there is no memory to keep it. */
	block = find_kept(r, 0, first / MERKLE_FAN);
	if (!block)
		block = r->path[0];
	if (rc == 0)
		memcpy(hashes, block + first % MERKLE_FAN * DIGEST_SIZE, count * DIGEST_SIZE);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

static int hash_data(const struct merkle_reader *r, struct digest_hasher *h, const uint8_t *data,
		     size_t len, uint8_t out[DIGEST_SIZE])
{
	/* Of guests' RAM much is zeros, whose hash is known. */
	if (len == DIGEST_BLOCK && io_is_zero(data, len)) {
		memcpy(out, r->zeros.hash[0], DIGEST_SIZE);
		return 0;
	}
	return digest_hash_block(h, data, len, out);
}

static int check_block(const struct merkle_reader *r, struct digest_hasher *h, const uint8_t *data,
		       size_t len, const uint8_t *want)
{
	uint8_t hash[DIGEST_SIZE];
	int rc = hash_data(r, h, data, len, hash);

	if (rc < 0 || r->m.nlevels == 0)
		return rc < 0 ? rc : check_small(r, hash);
	return memcmp(hash, want, DIGEST_SIZE) == 0 ? 0 : -EBADMSG;
}

/*
 * As merkle_check(), of blocks that one block of level 0 has the hashes of. The lock is
 * taken once for all of them, and not while they are hashed: that is where the time goes.
 */
static int check_run(struct merkle_reader *r, struct digest_hasher *h, const uint8_t *data,
		     size_t len, uint64_t *bad)
{
	const size_t count = (len + DIGEST_BLOCK - 1) / DIGEST_BLOCK;
	uint8_t want[DIGEST_BLOCK] = { 0 };
	int rc = r->m.nlevels ? copy_leaves(r, *bad, count, want) : 0;

	for (size_t i = 0; rc == 0 && i < count; i++) {
		const size_t left = len - i * DIGEST_BLOCK;

		rc = check_block(r, h, data + i * DIGEST_BLOCK,
				 left < DIGEST_BLOCK ? left : DIGEST_BLOCK, want + i * DIGEST_SIZE);
		if (rc < 0)
			*bad += i;
	}
	return rc;
}

int merkle_check(struct merkle_reader *r, uint64_t offset, const void *data, size_t len,
		 uint64_t *bad)
{
	const size_t most = (size_t)MERKLE_FAN * DIGEST_BLOCK;
	struct digest_hasher h;
	size_t n;
	int rc;

	if (offset % DIGEST_BLOCK || offset > r->m.size || len > r->m.size - offset ||
	    (len % DIGEST_BLOCK && offset + len != r->m.size))
		return -EINVAL;
	rc = digest_hasher_init_like(&h, &r->h);
	for (size_t at = 0; rc == 0 && at < len; at += n) {
		const size_t room = most - (size_t)((offset + at) % most);

		n = len - at < room ? len - at : room;
		*bad = (offset + at) / DIGEST_BLOCK;
		rc = check_run(r, &h, (const uint8_t *)data + at, n, bad);
	}
	digest_hasher_free(&h);
	return rc;
}

int merkle_leaves(struct merkle_reader *r, uint64_t first, size_t count, uint8_t *hashes)
{
	if (r->m.nlevels == 0 || first > r->m.blocks || count > r->m.blocks - first)
		return -EINVAL;
	while (count) {
		const size_t room = MERKLE_FAN - (size_t)(first % MERKLE_FAN);
		const size_t n = count < room ? count : room;
		int rc = copy_leaves(r, first, n, hashes);

		if (rc < 0)
			return rc;
		first += n;
		count -= n;
		hashes += n * DIGEST_SIZE;
	}
	return 0;
}

int merkle_leaf_block(struct merkle_reader *r, uint64_t n, uint8_t hash[DIGEST_SIZE])
{
	int rc;

	if (r->m.nlevels == 0 || n >= r->m.level[0].blocks)
		return -EINVAL;
	pthread_mutex_lock(&r->lock);
	rc = find_hash(r, 1, n, hash);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

/* An empty file has a root of zeros, that of one block is found when it is checked. */
static int check_empty(const struct merkle_reader *r)
{
	static const uint8_t zeros[DIGEST_SIZE];

	return r->m.size == 0 && check_small(r, zeros) < 0 ? -EUCLEAN : 0;
}

/* The root is not in the digest, but is the hash of the topmost block. */
static int find_root(struct merkle_reader *r)
{
	const unsigned top = r->m.nlevels - 1;
	uint8_t block[DIGEST_BLOCK], got[DIGEST_SIZE];
	int rc = io_pread_full(r->tree_fd, block, DIGEST_BLOCK, r->m.level[top].at);

	if (rc == -ENODATA)
		return -EUCLEAN;
	if (rc < 0)
		return rc;
	expand_zeros(r, top, 0, block);
	rc = digest_hash_block(&r->h, block, DIGEST_BLOCK, r->root);
	if (rc == 0)
		rc = merkle_descriptor_digest(r->m.size, r->root, got);
	if (rc < 0)
		return rc;
	return memcmp(got, r->digest, DIGEST_SIZE) == 0 ? 0 : -EUCLEAN;
}

int merkle_open(struct merkle_reader **out, int tree_fd, uint64_t size,
		const uint8_t digest[DIGEST_SIZE])
{
	struct merkle_reader *r = calloc(1, sizeof(*r));
	int rc = 0;

	if (!r) {
		if (tree_fd >= 0)
			close(tree_fd);
		return -ENOMEM;
	}
	pthread_mutex_init(&r->lock, NULL);
	r->tree_fd = tree_fd;
	merkle_layout(&r->m, size);
	memcpy(r->digest, digest, DIGEST_SIZE);
	r->path = calloc(MERKLE_LEVELS, sizeof(*r->path));
	rc = r->path ? digest_hasher_init(&r->h) : -ENOMEM;
	if (rc == 0)
		rc = merkle_zeros(&r->h, &r->zeros);
	if (rc == 0)
		rc = r->m.nlevels ? find_root(r) : check_empty(r);
	if (rc < 0) {
		merkle_close(r);
		return rc;
	}
	*out = r;
	return 0;
}

void merkle_close(struct merkle_reader *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		free(r->slot[i]);
	digest_hasher_free(&r->h);
	free(r->path);
	if (r->tree_fd >= 0)
		close(r->tree_fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
