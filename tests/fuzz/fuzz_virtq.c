/*
 * A virtqueue whose guest writes what it likes: the queue's registers and the
 * content of RAM come from the input. Every walk ends, and what it gives is
 * within its bounds.
 *
 * Input: struct header below, then the rings' page and what lies behind it.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "vmm/virtio/virtq.h"

#define RAM_BYTES (64ULL << 10)
#define RINGS_AT  0x1000
#define ROUNDS	  600 /* requests taken of one input: more than the longest queue has */

struct header {
	uint8_t size_shift; /* of the queue's size, and above: bad ones */
	uint8_t flags;	    /* bit 0: event index, 1: indirect, 2: rings as the helper lays them */
	uint16_t next_avail, next_used, signalled;
	uint32_t desc, avail, used; /* the upper bit of each: far away */
	uint32_t seed;		    /* of offsets and lengths */
};

static uint64_t place(uint32_t value)
{
	return value >> 31 ? (uint64_t)value << 32 | value : value % (2 * RAM_BYTES);
}

static struct virtq make_queue(const struct header *h)
{
	struct virtq q = {
		.size_max = VIRTQ_SIZE_MAX,
		.size = (uint16_t)(h->size_shift < 9 ? 1U << h->size_shift : h->size_shift),
		.ready = true,
		.next_avail = h->next_avail,
		.next_used = h->next_used,
		.signalled_used = h->signalled,
		.signalled_valid = h->signalled & 1,
		.event_idx = h->flags & 1,
		.indirect = h->flags & 2,
		.desc = place(h->desc),
		.avail = place(h->avail),
		.used = place(h->used),
	};

	if (h->flags & 4) {
		q.desc = RINGS_AT;
		q.avail = q.desc + 16ULL * q.size;
		q.used = (q.avail + 6 + 2ULL * q.size + 3) & ~3ULL;
	}
	return q;
}

static void check_chain(const struct virtq *q, const struct virtq_chain *c)
{
	uint64_t out = 0, in = 0;

	MUST(c->head < q->size);
	MUST(c->nout + c->nin >= 1 && c->nout + c->nin <= q->size);
	for (unsigned i = 0; i < c->nout; i++)
		out += c->buf[i].len;
	for (unsigned i = 0; i < c->nin; i++)
		in += c->buf[c->nout + i].len;
	MUST(out == c->out_len && in == c->in_len);
}

static void use_chain(struct ram *ram, const struct virtq_chain *c, uint32_t seed)
{
	struct iovec iov[8];
	uint8_t bytes[300];
	const uint64_t offset = seed % 700, len = seed / 700 % sizeof(bytes);
	int rc = virtq_read(c, ram, offset, bytes, len);

	MUST(rc == 0 || rc == -EINVAL);
	MUST(rc < 0 || offset + len <= c->out_len);
	rc = virtq_write(c, ram, offset, bytes, seed & 1 ? len : 0);
	MUST(rc == 0 || rc == -EINVAL);
	for (int in = 0; in < 2; in++) {
		uint64_t sum = 0;

		rc = virtq_iov(c, ram, in, offset, len, iov, 8);
		MUST(rc == -EINVAL || rc == -E2BIG || (rc >= 0 && rc <= 8));
		for (int i = 0; i < rc; i++) {
			const uint8_t *base = iov[i].iov_base;

			MUST(base >= ram->base && iov[i].iov_len <= ram->size);
			MUST(base + iov[i].iov_len <= ram->base + ram->size);
			sum += iov[i].iov_len;
		}
		MUST(rc < 0 || sum == len);
	}
	/* All of it, where it is anything: only looked up. */
	virtq_iov(c, ram, true, 0, c->in_len, iov, 8);
}

static void run(struct virtq *q, struct ram *ram, uint32_t seed)
{
	static struct virtq_chain c;
	const char *why = NULL;

	for (int i = 0; i < ROUNDS; i++) {
		int rc = virtq_pop(q, ram, &c, &why);

		MUST(rc == 1 || rc == 0 || rc == -EPROTO);
		MUST(rc != -EPROTO || why);
		if (rc != 1)
			break;
		check_chain(q, &c);
		seed = seed * 1664525 + 1013904223;
		use_chain(ram, &c, seed >> 4);
		if (seed >> 28 == 0)
			virtq_unpop(q);
		else if (seed >> 28 > 2)
			MUST(virtq_push(q, ram, c.head, seed) == 0);
		rc = virtq_needs_interrupt(q, ram);
		MUST(rc == 0 || rc == 1);
		MUST(virtq_want_kicks(q, ram, seed & 1) == 0);
	}
}

/* What the queue is now is taken as a saved state, or is no state that it can have had. */
static void save_and_load(const struct virtq *q, const struct ram *ram)
{
	struct virtq again = { .size_max = q->size_max };
	struct err e = { 0 };
	VirtqState s;
	int rc;

	virtq_save(q, &s);
	rc = virtq_load(&again, &s, ram, "device0", &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	MUST((rc == 0) ==
	     (virtq_is_sane(q, ram) && (uint16_t)(q->next_avail - q->next_used) <= q->size));
	again.event_idx = q->event_idx;
	again.indirect = q->indirect;
	MUST(rc < 0 || (again.desc == q->desc && again.next_used == q->next_used));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ram ram;
	struct header h;
	struct virtq q;

	if (size < sizeof(h) || (!ram.base && ram_map_memfd(&ram, RAM_BYTES, NULL) < 0))
		return 0;
	memcpy(&h, data, sizeof(h));
	data += sizeof(h);
	size -= sizeof(h);
	memset(ram.base, 0, RAM_BYTES);
	memcpy(ram.base + RINGS_AT, data,
	       size < RAM_BYTES - RINGS_AT ? size : RAM_BYTES - RINGS_AT);
	q = make_queue(&h);
	save_and_load(&q, &ram);
	if (!virtq_is_sane(&q, &ram))
		return 0;
	run(&q, &ram, h.seed);
	save_and_load(&q, &ram);
	return 0;
}
