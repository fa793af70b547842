/*
 * virtio-blk: see blk.h. A request is read, done and given back before the next
 * one is looked at: nothing is ever under way while the iothread is held, and
 * there is no state of its own to save.
 * Source: virtio 1.2, 5.2.
 */
#define _GNU_SOURCE
#include "blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"

#define QUEUE	  0
#define SECTOR	  512ULL
#define BLOCK	  4096U
#define SEG_MAX	  (VIRTQ_SIZE_MAX - 2) /* the header and the status have descriptors too */
#define SEG_BYTES (1U << 20)
/* What a driver that keeps to SEG_MAX and SIZE_MAX never goes beyond. */
#define DATA_MAX ((uint64_t)SEG_MAX * SEG_BYTES)

/* One range of a discard or of zeros; zeros may have to be written out. */
#define RANGES_MAX	16
#define DISCARD_SECTORS (1U << 21) /* 1 GiB */
#define ZEROES_SECTORS	(1U << 15) /* 16 MiB */
#define CONFIG_SIZE	60	   /* up to write_zeroes_may_unmap and its padding */

/* Then the iothread looks whether it shall hold, and comes back. */
#define BATCH_REQUESTS 64
#define BATCH_BYTES    (8ULL << 20)

#define WARN_EVERY_NS 1000000000LL

struct blk {
	struct virtio v; /* first */
	struct disk *disk;
	const Device *config;
	int64_t warned_ns;
};

static struct blk *blk_of(struct virtio *v)
{
	return (struct blk *)v;
}

/* ---- requests ---- */

/* A request, its header copied once. */
struct request {
	struct blk *b;
	const struct virtq_chain *c;
	struct virtio_blk_outhdr hdr;
	uint64_t filled; /* bytes of the in buffers, from the first on */
};

/* Where in the disk `len` bytes from a sector are: false where not all of it is there. */
static bool place(const struct blk *b, uint64_t sector, uint64_t len, uint64_t *offset)
{
	const uint64_t size = disk_size(b->disk);

	if (sector > size / SECTOR)
		return false;
	*offset = sector * SECTOR;
	return len <= size - *offset;
}

/* An I/O error as the guest sees it; guest memory that cannot be had is not one. */
static int status_of(struct blk *b, int rc, const char *what)
{
	struct timespec ts;
	int64_t now;

	if (rc == 0)
		return VIRTIO_BLK_S_OK;
	if (rc == -EFAULT)
		return rc;
	__atomic_fetch_add(&b->v.errors, 1, __ATOMIC_RELAXED);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = ts.tv_sec * 1000000000LL + ts.tv_nsec;
	if (rc != -EROFS && (!b->warned_ns || now - b->warned_ns >= WARN_EVERY_NS)) {
		b->warned_ns = now;
		log_warn("%s cannot %s: %s", b->v.dev.name, what, strerror(-rc));
	}
	return VIRTIO_BLK_S_IOERR;
}

/* The data of a read or write, at `from` of the in or out buffers. */
static int transfer(struct request *r, bool in, uint64_t from, uint64_t len)
{
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct blk *b = r->b;
	uint64_t offset;
	int n, rc;

	if (len % SECTOR || len > DATA_MAX || !place(b, r->hdr.sector, len, &offset))
		return VIRTIO_BLK_S_IOERR;
	n = virtq_iov(r->c, b->v.ram, in, from, len, iov, VIRTQ_SIZE_MAX);
	if (n < 0)
		return n;
	if (in)
		return status_of(b, disk_read(b->disk, iov, (unsigned)n, offset), "read");
	rc = disk_write(b->disk, iov, (unsigned)n, offset);
	/* A driver that does not know of flushes takes what is written for durable. */
	if (rc == 0 && !virtio_has(&b->v, VIRTIO_BLK_F_FLUSH))
		rc = disk_flush(b->disk);
	return status_of(b, rc, "write");
}

static int do_in(struct request *r)
{
	const uint64_t len = r->c->in_len - 1;
	int rc = transfer(r, true, 0, len);

	if (rc == VIRTIO_BLK_S_OK)
		r->filled = len;
	return rc;
}

static int do_out(struct request *r)
{
	return transfer(r, false, sizeof(r->hdr), r->c->out_len - sizeof(r->hdr));
}

static int do_flush(struct request *r)
{
	return status_of(r->b, disk_flush(r->b->disk), "flush");
}

static int do_get_id(struct request *r)
{
	char id[VIRTIO_BLK_ID_BYTES] = { 0 };
	uint64_t room = r->c->in_len - 1, len = room < sizeof(id) ? room : sizeof(id);
	int rc;

	memcpy(id, r->b->v.dev.name, strnlen(r->b->v.dev.name, sizeof(id)));
	rc = virtq_write(r->c, r->b->v.ram, 0, id, len);
	if (rc < 0)
		return rc;
	r->filled = len;
	return VIRTIO_BLK_S_OK;
}

/* One range; *status is what the guest is told of it. */
static int do_range(struct request *r, const struct virtio_blk_discard_write_zeroes *range,
		    bool zeroes)
{
	const uint64_t len = range->num_sectors * SECTOR;
	const bool unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	struct blk *b = r->b;
	uint64_t offset;

	if ((range->flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) || (unmap && !zeroes))
		return VIRTIO_BLK_S_UNSUPP;
	if (range->num_sectors > (zeroes ? ZEROES_SECTORS : DISCARD_SECTORS) ||
	    !place(b, range->sector, len, &offset))
		return VIRTIO_BLK_S_IOERR;
	if (zeroes)
		return status_of(b, disk_write_zeroes(b->disk, offset, len, unmap), "write zeros");
	return status_of(b, disk_discard(b->disk, offset, len), "discard");
}

static int do_ranges(struct request *r)
{
	const bool zeroes = r->hdr.type == VIRTIO_BLK_T_WRITE_ZEROES;
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	const uint64_t len = r->c->out_len - sizeof(r->hdr), n = len / sizeof(range[0]);
	int rc;

	if (len % sizeof(range[0]) || n == 0 || n > RANGES_MAX)
		return VIRTIO_BLK_S_IOERR;
	if (disk_is_read_only(r->b->disk))
		return VIRTIO_BLK_S_IOERR;
	rc = virtq_read(r->c, r->b->v.ram, sizeof(r->hdr), range, len);
	for (uint64_t i = 0; rc == 0 && i < n; i++)
		rc = do_range(r, &range[i], zeroes);
	if (rc == 0 && !virtio_has(&r->b->v, VIRTIO_BLK_F_FLUSH))
		rc = do_flush(r);
	return rc;
}

static const struct {
	uint32_t type;
	int feature; /* without it the type does not exist; -1: none */
	int (*run)(struct request *r);
} types[] = {
	{ VIRTIO_BLK_T_IN, -1, do_in },
	{ VIRTIO_BLK_T_OUT, -1, do_out },
	{ VIRTIO_BLK_T_FLUSH, -1, do_flush },
	{ VIRTIO_BLK_T_GET_ID, -1, do_get_id },
	{ VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_F_DISCARD, do_ranges },
	{ VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_F_WRITE_ZEROES, do_ranges },
};

static int run(struct request *r)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (types[i].type != r->hdr.type)
			continue;
		if (types[i].feature >= 0 && !virtio_has(&r->b->v, (unsigned)types[i].feature))
			return VIRTIO_BLK_S_UNSUPP;
		return r->b->disk ? types[i].run(r) : VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_UNSUPP;
}

/*
 * Does a request: how many bytes of its in buffers are written from the first on,
 * or what a function of virtq.h said.
 */
static int do_request(struct blk *b, const struct virtq_chain *c)
{
	struct request r = { .b = b, .c = c };
	uint8_t status;
	int rc = virtq_read(c, b->v.ram, 0, &r.hdr, sizeof(r.hdr));

	if (rc < 0)
		return rc;
	rc = run(&r);
	if (rc < 0)
		return rc;
	status = (uint8_t)rc;
	rc = virtq_write(c, b->v.ram, c->in_len - 1, &status, 1);
	if (rc < 0)
		return rc;
	/* What the driver may rely on: the status only where nothing before it is missing. */
	return (int)(r.filled == c->in_len - 1 ? c->in_len : r.filled);
}

/* False where the callback is to end. */
static bool take_request(struct blk *b, const struct virtq_chain *c)
{
	int rc;

	if (c->out_len < sizeof(struct virtio_blk_outhdr) || c->in_len == 0) {
		virtio_broken(&b->v, "a request without header or status");
		return false;
	}
	rc = do_request(b, c);
	if (rc < 0) {
		virtio_memory_failed(&b->v, QUEUE, rc);
		return false;
	}
	return virtio_push(&b->v, QUEUE, c, (uint32_t)rc);
}

static void notify(struct virtio *v, unsigned q)
{
	struct virtq_chain c;
	uint64_t bytes = 0;
	unsigned done = 0;
	bool more = true;

	while (done < BATCH_REQUESTS && bytes < BATCH_BYTES) {
		more = virtio_pop(v, q, &c) && take_request(blk_of(v), &c);
		if (!more)
			break;
		done++;
		bytes += c.in_len + c.out_len;
	}
	if (done)
		virtio_signal(v, q);
	if (more)
		eventfd_write(v->kick_fd[q], 1);
}

/* ---- configuration ---- */

static void read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	const struct blk *b = blk_of(v);
	struct virtio_blk_config c = {
		.capacity = b->disk ? disk_size(b->disk) / SECTOR : 0,
		.size_max = SEG_BYTES,
		.seg_max = SEG_MAX,
		.blk_size = SECTOR,
		/* A part of 4096 bytes costs a copy: the driver had better align. */
		.physical_block_exp = 3,
		.min_io_size = BLOCK / SECTOR,
		.wce = 1,
		.num_queues = 1,
		.max_discard_sectors = DISCARD_SECTORS,
		.max_discard_seg = RANGES_MAX,
		.discard_sector_alignment = BLOCK / SECTOR,
		.max_write_zeroes_sectors = ZEROES_SECTORS,
		.max_write_zeroes_seg = RANGES_MAX,
		.write_zeroes_may_unmap = 1,
	};

	memcpy(buf, (const uint8_t *)&c + offset, len);
}

/* ---- life ---- */

static uint64_t features_of(const Device *config)
{
	uint64_t f = VIRTIO_F(VIRTIO_BLK_F_SIZE_MAX) | VIRTIO_F(VIRTIO_BLK_F_SEG_MAX) |
		     VIRTIO_F(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_F(VIRTIO_BLK_F_TOPOLOGY) |
		     VIRTIO_F(VIRTIO_BLK_F_FLUSH);

	if (config->read_only)
		return f | VIRTIO_F(VIRTIO_BLK_F_RO);
	return f | VIRTIO_F(VIRTIO_BLK_F_DISCARD) | VIRTIO_F(VIRTIO_BLK_F_WRITE_ZEROES);
}

struct disk *virtio_blk_disk(struct virtio *v)
{
	return blk_of(v)->disk;
}

static int check_size(const Device *config, uint64_t size, struct err *e)
{
	if (config->size == 0 || config->size == size)
		return 0;
	return err_refuse(e, EINVAL, "disk %s has %llu bytes, the machine's has %llu",
			  config->path && *config->path ? config->path : config->name,
			  (unsigned long long)size, (unsigned long long)config->size);
}

int virtio_blk_set_disk(struct virtio *v, struct disk *d, struct err *e)
{
	struct blk *b = blk_of(v);
	const Device *config = b->config;
	int rc = check_size(config, disk_size(d), e);

	if (rc < 0)
		return rc;
	if (disk_is_read_only(d) != !!config->read_only)
		return err_refuse(e, EINVAL, "disk %s is %s, the machine's is not", config->name,
				  disk_is_read_only(d) ? "read-only" : "writable");
	disk_close(b->disk);
	b->disk = d;
	return 0;
}

static void blk_close(struct virtio *v)
{
	disk_close(blk_of(v)->disk);
	virtio_fini(v);
	free(v);
}

/* The disk of the configuration. What cannot be right is found before anything is made. */
static int open_disk(struct blk *b, const Device *config, struct err *e)
{
	struct disk_identity id;
	struct disk *d = NULL;
	int rc = disk_probe(config->path, config->overlay, config->read_only, &id, e);

	if (rc == 0)
		rc = check_size(config, id.size, e);
	if (rc == 0)
		rc = disk_open(config->path, config->overlay, config->read_only, &d, e);
	if (rc < 0)
		return rc;
	rc = virtio_blk_set_disk(&b->v, d, e);
	if (rc < 0)
		disk_close(d);
	return rc;
}

static int blk_open(const Device *config, struct virtio **out, struct err *e)
{
	struct blk *b = calloc(1, sizeof(*b));
	int rc = 0;

	if (!b)
		return err_sys(e, ENOMEM, "cannot make the disk %s", config->name);
	virtio_init(&b->v, &virtio_blk_ops, 1, VIRTQ_SIZE_MAX, features_of(config), CONFIG_SIZE);
	b->config = config;
	if (config->path && *config->path)
		rc = open_disk(b, config, e);
	if (rc < 0) {
		blk_close(&b->v);
		return rc;
	}
	*out = &b->v;
	return 0;
}

/* While the guest runs on, so that the flush at the freeze has nothing left to do. */
static int quiesce(struct virtio *v, struct err *e)
{
	struct disk *d = blk_of(v)->disk;
	int rc = d ? disk_flush(d) : 0;

	return rc < 0 ? err_sys(e, -rc, "cannot flush disk %s", v->dev.name) : 0;
}

const struct virtio_ops virtio_blk_ops = {
	.kind = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.version = 1,
	.max = 16,
	.blocks = true,
	.open = blk_open,
	.close = blk_close,
	.read_config = read_config,
	.notify = notify,
	.quiesce = quiesce,
};
