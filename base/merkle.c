/* fs-verity's tree, made: see merkle.h. Reading one is merkle_reader.c. */
#define _GNU_SOURCE
#include "merkle.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "le64.h"
#include "merkle_impl.h"

/* A group of blocks is one thread's work at a time: those below one block of level 1. */
#define GROUP	    ((uint64_t)MERKLE_FAN * MERKLE_FAN)
#define CHUNK	    ((size_t)MERKLE_FAN * DIGEST_BLOCK) /* below one block of level 0 */
#define THREADS_MAX 16

void merkle_layout(struct merkle *m, uint64_t size)
{
	uint64_t n = size / DIGEST_BLOCK + (size % DIGEST_BLOCK != 0);

	*m = (struct merkle){ .size = size, .blocks = n };
	while (n > 1) {
		n = (n + MERKLE_FAN - 1) / MERKLE_FAN;
		m->level[m->nlevels++].blocks = n;
	}
	for (unsigned i = m->nlevels; i-- > 0;) {
		m->level[i].at = m->tree_size;
		m->tree_size += m->level[i].blocks * DIGEST_BLOCK;
	}
}

int merkle_descriptor_digest(uint64_t size, const uint8_t root[DIGEST_SIZE],
			     uint8_t digest[DIGEST_SIZE])
{
	/* struct fsverity_descriptor: version, algorithm, log2 block size, ..., size, root */
	uint8_t descriptor[256] = { 1, 1, 12 };

	put_le64(descriptor + 8, size);
	memcpy(descriptor + 16, root, DIGEST_SIZE);
	return digest_sha256(descriptor, sizeof(descriptor), digest);
}

int merkle_zeros(struct digest_hasher *h, struct merkle_zeros *z)
{
	uint8_t block[DIGEST_BLOCK] = { 0 };
	int rc = digest_hash_block(h, block, DIGEST_BLOCK, z->hash[0]);

	for (unsigned level = 0; rc == 0 && level < MERKLE_ZERO_LEVELS; level++) {
		for (unsigned i = 0; i < MERKLE_FAN; i++)
			memcpy(block + (size_t)i * DIGEST_SIZE, z->hash[level], DIGEST_SIZE);
		rc = digest_hash_block(h, block, DIGEST_BLOCK, z->hash[level + 1]);
	}
	return rc;
}

/* ---- the work of all threads ---- */

struct build {
	struct merkle m;
	int fd, tree_fd;
	const uint8_t *memory; /* instead of fd */
	merkle_leaves_fn told; /* instead of any data: its hashes */
	void *told_arg;
	struct merkle_zeros zeros;
	struct io_progress *progress;
	uint8_t *top; /* for each group the hash of its uppermost block */
	uint64_t ngroups;

	pthread_mutex_t lock;
	/* under lock: */
	uint64_t next; /* group that nobody has begun */
	uint64_t done; /* bytes */
	int rc;
};

/* One thread's. */
struct worker {
	struct build *b;
	struct digest_hasher h;
	uint8_t *buf; /* CHUNK bytes */
	/* What is known of the file's extents: data in [data, hole), nothing before data. */
	uint64_t from, data, hole;
};

/* Asks for the extent at or after `off`. */
static int find_extent(struct worker *w, uint64_t off)
{
	const uint64_t size = w->b->m.size;
	off_t at;

	if (off >= w->from && off < w->hole)
		return 0;
	w->from = off;
	w->data = off;
	w->hole = size;
	if (w->b->memory)
		return 0;
	at = lseek(w->b->fd, (off_t)off, SEEK_DATA);
	/* ENXIO: nothing but a hole up to the end. */
	if (at < 0 && errno != ENXIO)
		return -errno;
	w->data = at < 0 || (uint64_t)at > size ? size : (uint64_t)at;
	at = w->data < size ? lseek(w->b->fd, (off_t)w->data, SEEK_HOLE) : -1;
	if (at >= 0 && (uint64_t)at > w->data && (uint64_t)at < size)
		w->hole = (uint64_t)at;
	return 0;
}

/* The data of [off, end), within a chunk, into buf at its place; *any: not only a hole. */
static int read_chunk(struct worker *w, uint64_t off, uint64_t end, const uint8_t **data, bool *any)
{
	const uint64_t start = off;
	bool cleared = false;

	*any = false;
	if (w->b->memory) {
		*data = w->b->memory + off;
		*any = true;
		return 0;
	}
	*data = w->buf;
	while (off < end) {
		int rc = find_extent(w, off);
		uint64_t from, to;

		if (rc < 0)
			return rc;
		from = w->data > off ? w->data : off;
		to = w->hole < end ? w->hole : end;
		if (from >= end)
			break;
		if (!cleared && (from > start || to < end))
			memset(w->buf, 0, (size_t)(end - start));
		cleared = true;
		*any = true;
		rc = io_pread_full(w->b->fd, w->buf + (from - start), (size_t)(to - from), from);
		if (rc < 0)
			return rc;
		off = to;
	}
	return 0;
}

static int hash_data(struct worker *w, const uint8_t *data, size_t len, uint8_t out[DIGEST_SIZE])
{
	if (len == DIGEST_BLOCK && io_is_zero(data, len)) {
		memcpy(out, w->b->zeros.hash[0], DIGEST_SIZE);
		return 0;
	}
	return digest_hash_block(&w->h, data, len, out);
}

static int put_block(const struct build *b, unsigned level, uint64_t n, const uint8_t *block)
{
	if (b->tree_fd < 0)
		return 0;
	return io_pwrite_full(b->tree_fd, block, DIGEST_BLOCK,
			      b->m.level[level].at + n * DIGEST_BLOCK);
}

/* Puts block n of level 0, and hashes it. */
static int end_chunk(struct worker *w, uint64_t n, const uint8_t *block, uint8_t out[DIGEST_SIZE])
{
	int rc = put_block(w->b, 0, n, block);

	return rc < 0 ? rc : digest_hash_block(&w->h, block, DIGEST_BLOCK, out);
}

/* The same as do_chunk(), of hashes that are told. */
static int do_told(struct worker *w, uint64_t n, uint8_t out[DIGEST_SIZE], bool *zeros)
{
	struct build *b = w->b;
	const uint64_t left = b->m.blocks - n * MERKLE_FAN;
	const size_t count = left < MERKLE_FAN ? (size_t)left : MERKLE_FAN;
	uint8_t block[DIGEST_BLOCK];
	int rc = b->told(b->told_arg, n, block, b->tree_fd < 0 ? out : NULL);

	*zeros = rc == MERKLE_ZEROS && count == MERKLE_FAN;
	if (*zeros)
		memcpy(out, b->zeros.hash[1], DIGEST_SIZE);
	if (rc < 0 || *zeros || rc == MERKLE_HASH)
		return rc < 0 ? rc : 0;
	for (size_t i = 0; rc == MERKLE_ZEROS && i < count; i++)
		memcpy(block + i * DIGEST_SIZE, b->zeros.hash[0], DIGEST_SIZE);
	memset(block + count * DIGEST_SIZE, 0, DIGEST_BLOCK - count * DIGEST_SIZE);
	return end_chunk(w, n, block, out);
}

/* Block n of level 0, and its hash. *zeros: it is that of zeros alone, and stays a hole. */
static int do_chunk(struct worker *w, uint64_t n, uint8_t out[DIGEST_SIZE], bool *zeros)
{
	struct build *b = w->b;
	const uint64_t from = n * CHUNK;
	const uint64_t end = b->m.size - from < CHUNK ? b->m.size : from + CHUNK;
	uint8_t block[DIGEST_BLOCK] = { 0 };
	const uint8_t *data;
	bool any;
	int rc = read_chunk(w, from, end, &data, &any);

	*zeros = !any && end - from == CHUNK;
	if (rc == 0 && *zeros)
		memcpy(out, b->zeros.hash[1], DIGEST_SIZE);
	if (rc < 0 || *zeros)
		return rc;
	if (!any)
		memset(w->buf, 0, (size_t)(end - from));
	for (uint64_t at = 0; rc == 0 && at < end - from; at += DIGEST_BLOCK) {
		const uint64_t left = end - from - at;

		rc = hash_data(w, data + at, left < DIGEST_BLOCK ? (size_t)left : DIGEST_BLOCK,
			       block + at / DIGEST_BLOCK * DIGEST_SIZE);
	}
	return rc < 0 ? rc : end_chunk(w, n, block, out);
}

static int do_group(struct worker *w, uint64_t g)
{
	struct build *b = w->b;
	const uint64_t first = g * MERKLE_FAN, all = b->m.level[0].blocks;
	const uint64_t n = all - first < MERKLE_FAN ? all - first : MERKLE_FAN;
	uint8_t block[DIGEST_BLOCK] = { 0 }, *out = b->top + g * DIGEST_SIZE;
	bool only_zeros = n == MERKLE_FAN;

	for (uint64_t i = 0; i < n; i++) {
		bool zeros;
		uint8_t *hash = block + i * DIGEST_SIZE;
		int rc = b->told ? do_told(w, first + i, hash, &zeros)
				 : do_chunk(w, first + i, hash, &zeros);

		if (rc < 0)
			return rc;
		only_zeros = only_zeros && zeros;
	}
	if (b->m.nlevels == 1) {
		memcpy(out, block, DIGEST_SIZE);
		return 0;
	}
	if (!only_zeros) {
		int rc = put_block(b, 1, g, block);

		return rc < 0 ? rc : digest_hash_block(&w->h, block, DIGEST_BLOCK, out);
	}
	memcpy(out, b->zeros.hash[2], DIGEST_SIZE);
	return 0;
}

/* The next group to do; false: there is none, or a thread has failed. */
static bool take_group(struct build *b, uint64_t *g)
{
	bool got;

	pthread_mutex_lock(&b->lock);
	got = b->rc == 0 && b->next < b->ngroups;
	*g = b->next;
	b->next += got;
	pthread_mutex_unlock(&b->lock);
	return got;
}

static void end_group(struct build *b, uint64_t g, int rc)
{
	const uint64_t from = g * GROUP * DIGEST_BLOCK;
	const uint64_t left = b->m.size - from;

	pthread_mutex_lock(&b->lock);
	b->done += left < GROUP * DIGEST_BLOCK ? left : GROUP * DIGEST_BLOCK;
	if (rc < 0 && b->rc == 0)
		b->rc = rc;
	if (b->rc == 0 && b->progress && b->progress->fn)
		b->rc = b->progress->fn(b->progress->arg, b->done, b->m.size);
	pthread_mutex_unlock(&b->lock);
}

static void *work(void *arg)
{
	struct worker w = { .b = arg };
	const bool reads = !w.b->memory && !w.b->told;
	auto_free uint8_t *buf = reads ? malloc(CHUNK) : NULL;
	int rc = digest_hasher_init(&w.h);
	uint64_t g;

	w.buf = buf;
	if (!buf && reads)
		rc = -ENOMEM;
	while (take_group(w.b, &g))
		end_group(w.b, g, rc == 0 ? do_group(&w, g) : rc);
	digest_hasher_free(&w.h);
	return NULL;
}

static void *work_idle(void *arg)
{
	const struct sched_param none = { 0 };

	pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
	return work(arg);
}

/*
 * All groups, by this thread and, where that pays, by others; in idle time by others alone,
 * for not everybody may leave that again.
 */
static int do_groups(struct build *b)
{
	const bool idle = b->progress && b->progress->idle;
	const unsigned own = idle ? 0 : 1;
	/* Asking reads a file: not for what is small. */
	const long online = b->ngroups > 1 ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
	const unsigned processors = online > 1 ? (unsigned)online : 1;
	pthread_t thread[THREADS_MAX];
	unsigned started = 0;

	while (started + own < b->ngroups && started + own < THREADS_MAX &&
	       started + own < processors &&
	       pthread_create(&thread[started], NULL, idle ? work_idle : work, b) == 0)
		started++;
	if (!idle || !started)
		work(b);
	while (started)
		pthread_join(thread[--started], NULL);
	return b->rc;
}

/* The levels above the groups, from b->top, which they use up; the last hash is the root. */
static int do_top(struct build *b, uint8_t root[DIGEST_SIZE])
{
	struct digest_hasher h;
	uint64_t n = b->ngroups;
	int rc = digest_hasher_init(&h);

	for (unsigned level = 2; rc == 0 && level < b->m.nlevels; level++) {
		const uint64_t up = b->m.level[level].blocks;

		for (uint64_t i = 0; rc == 0 && i < up; i++) {
			const uint64_t left = n - i * MERKLE_FAN;
			uint8_t block[DIGEST_BLOCK] = { 0 };

			memcpy(block, b->top + i * DIGEST_BLOCK,
			       (left < MERKLE_FAN ? (size_t)left : MERKLE_FAN) * DIGEST_SIZE);
			rc = put_block(b, level, i, block);
			if (rc == 0)
				rc = digest_hash_block(&h, block, DIGEST_BLOCK,
						       b->top + i * DIGEST_SIZE);
		}
		n = up;
	}
	digest_hasher_free(&h);
	if (rc == 0)
		memcpy(root, b->top, DIGEST_SIZE);
	return rc;
}

/* A file of at most one block: its hash is the root, zeros are that of an empty one. */
static int do_small(struct build *b, uint8_t root[DIGEST_SIZE])
{
	uint8_t block[DIGEST_BLOCK];
	const size_t len = (size_t)b->m.size;
	struct digest_hasher h;
	int rc = 0;

	memset(root, 0, DIGEST_SIZE);
	if (len == 0)
		return 0;
	if (b->memory)
		memcpy(block, b->memory, len);
	else
		rc = io_pread_full(b->fd, block, len, 0);
	if (rc == 0)
		rc = digest_hasher_init(&h);
	if (rc < 0)
		return rc;
	rc = digest_hash_block(&h, block, len, root);
	digest_hasher_free(&h);
	return rc;
}

static int make_zeros(struct build *b)
{
	struct digest_hasher h;
	int rc = digest_hasher_init(&h);

	if (rc == 0)
		rc = merkle_zeros(&h, &b->zeros);
	digest_hasher_free(&h);
	return rc;
}

static int do_large(struct build *b, uint8_t root[DIGEST_SIZE])
{
	auto_free uint8_t *top = NULL;
	int rc = make_zeros(b);

	b->ngroups = (b->m.blocks + GROUP - 1) / GROUP;
	top = calloc(b->ngroups, DIGEST_SIZE);
	b->top = top;
	if (!top)
		rc = -ENOMEM;
	/* Zeros are not written, so the file has its length from here. */
	if (rc == 0 && b->tree_fd >= 0 && ftruncate(b->tree_fd, (off_t)b->m.tree_size) < 0)
		rc = -errno;
	if (rc == 0)
		rc = do_groups(b);
	return rc < 0 ? rc : do_top(b, root);
}

static int build(struct build *b, uint64_t size, uint8_t digest[DIGEST_SIZE])
{
	uint8_t root[DIGEST_SIZE];
	int rc;

	merkle_layout(&b->m, size);
	pthread_mutex_init(&b->lock, NULL);
	rc = b->m.nlevels ? do_large(b, root) : do_small(b, root);
	pthread_mutex_destroy(&b->lock);
	return rc < 0 ? rc : merkle_descriptor_digest(size, root, digest);
}

int merkle_digest_fd(int fd, uint64_t size, int tree_fd, struct io_progress *progress,
		     uint8_t digest[DIGEST_SIZE])
{
	struct build b = { .fd = fd, .tree_fd = tree_fd, .progress = progress };
	off_t length = lseek(fd, 0, SEEK_END);

	if (length < 0)
		return -errno;
	/* Without this a file that is too short would read as one that ends in a hole. */
	return (uint64_t)length < size ? -ENODATA : build(&b, size, digest);
}

int merkle_digest(const void *buf, size_t len, uint8_t digest[DIGEST_SIZE])
{
	struct build b = { .fd = -1, .tree_fd = -1, .memory = buf };

	return build(&b, len, digest);
}

int merkle_compose(uint64_t size, merkle_leaves_fn told, void *arg, int tree_fd,
		   uint8_t digest[DIGEST_SIZE])
{
	struct build b = { .fd = -1, .tree_fd = tree_fd, .told = told, .told_arg = arg };

	return size <= DIGEST_BLOCK ? -EINVAL : build(&b, size, digest);
}

int merkle_zero_leaf(uint8_t hash[DIGEST_SIZE])
{
	static const uint8_t zeros[DIGEST_BLOCK];

	return digest_sha256(zeros, sizeof(zeros), hash);
}
