/* A split virtqueue: see virtq.h. */
#include "virtq.h"

#include <errno.h>
#include <string.h>
#include <linux/virtio_ring.h>

/* Bytes of the areas, and where things are in them. */
#define DESC_SIZE	    sizeof(struct vring_desc)
#define AVAIL_IDX(q)	    ((q)->avail + 2)
#define AVAIL_RING(q, i)    ((q)->avail + 4 + 2ULL * ((i) % (q)->size))
#define AVAIL_USED_EVENT(q) ((q)->avail + 4 + 2ULL * (q)->size)
#define USED_IDX(q)	    ((q)->used + 2)
#define USED_RING(q, i)	    ((q)->used + 4 + 8ULL * ((i) % (q)->size))
#define USED_AVAIL_EVENT(q) ((q)->used + 4 + 8ULL * (q)->size)
#define AVAIL_SIZE(n)	    (6 + 2ULL * (n))
#define USED_SIZE(n)	    (6 + 8ULL * (n))

static bool is_size(const struct virtq *q, uint32_t size)
{
	return size > 0 && size <= q->size_max && (size & (size - 1)) == 0;
}

bool virtq_is_sane(const struct virtq *q, const struct ram *ram)
{
	return is_size(q, q->size) && q->desc % 16 == 0 && q->avail % 2 == 0 && q->used % 4 == 0 &&
	       ram_contains(ram, q->desc, DESC_SIZE * q->size) &&
	       ram_contains(ram, q->avail, AVAIL_SIZE(q->size)) &&
	       ram_contains(ram, q->used, USED_SIZE(q->size));
}

void virtq_reset(struct virtq *q)
{
	*q = (struct virtq){ .size_max = q->size_max };
}

/* What a failed access to the rings means: they lay in RAM when the queue was made ready. */
static int ring_error(int rc)
{
	return rc == -EFAULT ? rc : -EPROTO;
}

/* ---- taking requests ---- */

/* A chain on its way: a table of descriptors, and where in it the next one is. */
struct walk {
	const struct virtq *q;
	const struct ram *ram;
	uint64_t table;
	uint32_t n;    /* descriptors of the table */
	uint32_t next; /* to be read, n or more: out of the table */
	uint32_t seen; /* descriptors of all tables, the ones of indirect tables not */
	bool indirect;
	const char **why;
};

static int broken(struct walk *w, const char *why)
{
	*w->why = why;
	return -EPROTO;
}

/* Goes on in the indirect table that d tells. */
static int enter_indirect(struct walk *w, const struct vring_desc *d)
{
	if (!w->q->indirect)
		return broken(w, "an indirect descriptor, which was not negotiated");
	if (w->indirect)
		return broken(w, "an indirect descriptor in an indirect table");
	if (d->flags & VRING_DESC_F_NEXT)
		return broken(w, "an indirect descriptor with a next one");
	if (d->len == 0 || d->len % DESC_SIZE)
		return broken(w, "an indirect table that is not of whole descriptors");
	if (d->len / DESC_SIZE > w->q->size)
		return broken(w, "an indirect table longer than the queue");
	w->table = d->addr;
	w->n = (uint32_t)(d->len / DESC_SIZE);
	w->next = 0;
	w->indirect = true;
	return 0;
}

static int add_buffer(struct walk *w, struct virtq_chain *c, const struct vring_desc *d)
{
	const bool in = d->flags & VRING_DESC_F_WRITE;

	if (w->seen++ == w->q->size)
		return broken(w, "a chain longer than the queue");
	if (!in && c->nin)
		return broken(w, "a buffer to be read after one to be written");
	c->buf[c->nout + c->nin] = (struct virtq_buf){ d->addr, d->len };
	if (in) {
		c->nin++;
		c->in_len += d->len;
	} else {
		c->nout++;
		c->out_len += d->len;
	}
	return 0;
}

static int read_desc(struct walk *w, struct vring_desc *d)
{
	int rc;

	if (w->next >= w->n)
		return broken(w, "a descriptor outside its table");
	rc = ram_read(w->ram, w->table + w->next * DESC_SIZE, d, sizeof(*d));
	return rc == -EINVAL ? broken(w, "a table of descriptors that is not in RAM") : rc;
}

/* Ends: each turn adds a buffer, of which there are `size`, or is the one into a table. */
static int walk_chain(struct walk *w, struct virtq_chain *c)
{
	for (;;) {
		struct vring_desc d;
		int rc = read_desc(w, &d);

		if (rc < 0)
			return rc;
		if (d.flags & VRING_DESC_F_INDIRECT)
			rc = enter_indirect(w, &d);
		else
			rc = add_buffer(w, c, &d);
		if (rc < 0)
			return rc;
		if (d.flags & VRING_DESC_F_INDIRECT)
			continue;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		w->next = d.next;
	}
}

/* The head of the next request: 1; 0: there is none; or an error. */
static int next_head(const struct virtq *q, const struct ram *ram, uint16_t *head, const char **why)
{
	uint16_t idx, waiting;
	int rc = ram_load16(ram, AVAIL_IDX(q), &idx);

	if (rc == 0) {
		waiting = (uint16_t)(idx - q->next_avail);
		if (waiting == 0)
			return 0;
		*why = "more requests offered than the queue is long";
		if (waiting > q->size)
			return -EPROTO;
		*why = "more requests under way than the queue is long";
		if ((uint16_t)(q->next_avail - q->next_used) >= q->size)
			return -EPROTO;
		rc = ram_read(ram, AVAIL_RING(q, q->next_avail), head, sizeof(*head));
	}
	*why = "a driver area that is not in RAM";
	return rc < 0 ? ring_error(rc) : 1;
}

int virtq_pop(struct virtq *q, struct ram *ram, struct virtq_chain *c, const char **why)
{
	struct walk w = {
		.q = q, .ram = ram, .table = q->desc, .n = q->size, .why = why, .next = 0
	};
	int rc;

	if (!q->ready)
		return 0;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	rc = next_head(q, ram, &c->head, why);
	if (rc <= 0)
		return rc;
	w.next = c->head;
	rc = walk_chain(&w, c);
	if (rc < 0)
		return rc;
	q->next_avail++;
	return 1;
}

void virtq_unpop(struct virtq *q)
{
	q->next_avail--;
}

/* ---- giving requests back ---- */

int virtq_push_many(struct virtq *q, struct ram *ram, const struct virtq_used *used, unsigned count)
{
	const uint16_t first = q->next_used;
	int rc = 0;

	_Static_assert(sizeof(*used) == sizeof(struct vring_used_elem), "an entry as it lies");
	if (!q->ready)
		return -EPROTO;
	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = ram_write(ram, USED_RING(q, first + i), &used[i], sizeof(used[i]));
	if (rc == 0)
		rc = ram_store16(ram, USED_IDX(q), (uint16_t)(first + count));
	if (rc < 0)
		return ring_error(rc);
	q->next_used = (uint16_t)(first + count);
	return 0;
}

int virtq_push(struct virtq *q, struct ram *ram, uint16_t head, uint32_t len)
{
	const struct virtq_used used = { head, len };

	return virtq_push_many(q, ram, &used, 1);
}

int virtq_needs_interrupt(struct virtq *q, struct ram *ram)
{
	const uint16_t now = q->next_used, before = q->signalled_used;
	const bool valid = q->signalled_valid;
	uint16_t word;
	int rc;

	if (!q->ready)
		return -EPROTO;
	/* After the new index was stored, in that order: the driver does it the other way round. */
	rc = ram_load16(ram, q->event_idx ? AVAIL_USED_EVENT(q) : q->avail, &word);
	if (rc < 0)
		return ring_error(rc);
	q->signalled_used = now;
	q->signalled_valid = true;
	if (!q->event_idx)
		return !(word & VRING_AVAIL_F_NO_INTERRUPT);
	return !valid || vring_need_event(word, now, before);
}

int virtq_want_kicks(struct virtq *q, struct ram *ram, bool on)
{
	int rc = 0;

	if (!q->ready)
		return -EPROTO;
	/* By event index, kicks stop by themselves: the one asked for has come. */
	if (!q->event_idx)
		rc = ram_store16(ram, q->used, on ? 0 : VRING_USED_F_NO_NOTIFY);
	else if (on)
		rc = ram_store16(ram, USED_AVAIL_EVENT(q), q->next_avail);
	return rc < 0 ? ring_error(rc) : 0;
}

/* ---- the buffers ---- */

/* The bytes [offset, offset + len) of some buffers, piece by piece. */
struct span {
	const struct virtq_buf *buf, *end;
	uint64_t offset, len; /* offset in *buf */
};

static int span_init(struct span *s, const struct virtq_chain *c, bool in, uint64_t offset,
		     uint64_t len)
{
	const uint64_t all = in ? c->in_len : c->out_len;

	s->buf = c->buf + (in ? c->nout : 0);
	s->end = s->buf + (in ? c->nin : c->nout);
	s->offset = offset;
	s->len = len;
	return offset > all || len > all - offset ? -EINVAL : 0;
}

/* The next piece that is not empty; false: that was all. */
static bool span_next(struct span *s, struct virtq_buf *piece)
{
	while (s->len && s->buf < s->end) {
		const struct virtq_buf *b = s->buf++;
		const uint64_t skip = s->offset;

		if (skip >= b->len) {
			s->offset -= b->len;
			continue;
		}
		/* An address that wraps is no RAM; one that wraps by `skip` must not become some.
		 */
		piece->address = b->address > UINT64_MAX - b->len ? UINT64_MAX : b->address + skip;
		piece->len = (uint32_t)(b->len - skip < s->len ? b->len - skip : s->len);
		s->offset = 0;
		s->len -= piece->len;
		return true;
	}
	return false;
}

int virtq_read(const struct virtq_chain *c, const struct ram *ram, uint64_t offset, void *buf,
	       uint64_t len)
{
	struct virtq_buf piece;
	uint8_t *to = buf;
	struct span s;
	int rc = span_init(&s, c, false, offset, len);

	for (; rc == 0 && span_next(&s, &piece); to += piece.len)
		rc = ram_read(ram, piece.address, to, piece.len);
	return rc;
}

int virtq_write(const struct virtq_chain *c, struct ram *ram, uint64_t offset, const void *buf,
		uint64_t len)
{
	const uint8_t *from = buf;
	struct virtq_buf piece;
	struct span s;
	int rc = span_init(&s, c, true, offset, len);

	for (; rc == 0 && span_next(&s, &piece); from += piece.len)
		rc = ram_write(ram, piece.address, from, piece.len);
	return rc;
}

int virtq_iov(const struct virtq_chain *c, struct ram *ram, bool in, uint64_t offset, uint64_t len,
	      struct iovec *iov, unsigned room)
{
	struct virtq_buf piece;
	unsigned n = 0;
	struct span s;
	int rc = span_init(&s, c, in, offset, len);

	if (rc < 0)
		return rc;
	for (; span_next(&s, &piece); n++) {
		if (n == room)
			return -E2BIG;
		iov[n].iov_base = ram_host(ram, piece.address, piece.len, in);
		iov[n].iov_len = piece.len;
		if (!iov[n].iov_base)
			return -EINVAL;
	}
	return (int)n;
}

/* ---- state ---- */

void virtq_save(const struct virtq *q, VirtqState *s)
{
	virtq_state__init(s);
	s->size = q->size;
	s->ready = q->ready;
	s->desc = q->desc;
	s->avail = q->avail;
	s->used = q->used;
	s->next_avail = q->next_avail;
	s->next_used = q->next_used;
	s->signalled_used = q->signalled_used;
	s->signalled_valid = q->signalled_valid;
}

int virtq_load(struct virtq *q, const VirtqState *s, const struct ram *ram, const char *what,
	       struct err *e)
{
	struct virtq in = { .size_max = q->size_max,
			    .size = (uint16_t)s->size,
			    .ready = s->ready,
			    .desc = s->desc,
			    .avail = s->avail,
			    .used = s->used,
			    .next_avail = (uint16_t)s->next_avail,
			    .next_used = (uint16_t)s->next_used,
			    .signalled_used = (uint16_t)s->signalled_used,
			    .signalled_valid = s->signalled_valid };

	/* Until it is ready it may be of a bad size, that is what the driver wrote. */
	if (s->size > q->size_max || (s->ready && !is_size(q, s->size)))
		return err_refuse(e, EINVAL, "the saved state of %s has a queue of size %u", what,
				  s->size);
	if (s->next_avail > UINT16_MAX || s->next_used > UINT16_MAX ||
	    s->signalled_used > UINT16_MAX)
		return err_refuse(e, EINVAL,
				  "the saved state of %s has a queue index that is out of range",
				  what);
	if (s->ready && !virtq_is_sane(&in, ram))
		return err_refuse(e, EINVAL, "the saved state of %s has a queue outside RAM", what);
	if (s->ready && (uint16_t)(in.next_avail - in.next_used) > in.size)
		return err_refuse(
			e, EINVAL,
			"the saved state of %s has queue indices further apart than the queue is "
			"long",
			what);
	*q = in;
	return 0;
}
