/* The memory balloon: see balloon.h. */
#define _GNU_SOURCE
#include "balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include "base/text.h"
#include "proto/bounded.h"
#include "transport.h"

#define BALLOON_VERSION 1
#define QUEUES		5
#define QUEUE_SIZE	128
#define REQUESTS_A_CALL 16    /* then other devices of the iothread, and a save, have a turn */
#define PAGES_A_REQUEST 16384 /* Linux sends 256 */
#define PAGES_A_READ	256
#define INFLATE		0
#define DEFLATE		1

/* virtio 1.2, 5.5.4; little-endian, as the host is. What else it has comes with features. */
struct balloon_config {
	uint32_t num_pages, actual;
};

struct balloon {
	struct virtio v; /* first */
	/* under v.lock: */
	struct balloon_config config;
	uint64_t discarded, kept, ignored; /* as in struct balloon_status */
};

static struct balloon *balloon_of(struct virtio *v)
{
	return (struct balloon *)v;
}

static void discard(struct balloon *b, uint64_t address, uint64_t len)
{
	int rc = len ? ram_discard(b->v.ram, address, len) : 0;

	if (rc == 0)
		b->discarded += len;
	else if (rc == -EINVAL)
		b->ignored++;
	else
		b->kept += len;
}

/* ---- the queues: each handles one request; false: the callback ends ---- */

/* Pages in a row are one call; numbers are as the guest has them, in any order. */
static void discard_pages(struct balloon *b, const uint32_t *pfn, size_t n)
{
	size_t start = 0;

	for (size_t i = 1; i <= n; i++) {
		if (i < n && pfn[i] == (uint64_t)pfn[i - 1] + 1)
			continue;
		discard(b, pfn[start] * RAM_PAGE, (i - start) * RAM_PAGE);
		start = i;
	}
}

static bool inflate(struct balloon *b, unsigned q, const struct virtq_chain *c)
{
	uint32_t pfn[PAGES_A_READ];

	if (c->out_len % sizeof(*pfn) || c->out_len > PAGES_A_REQUEST * sizeof(*pfn)) {
		virtio_broken(&b->v, "a list of pages that is too long, or ends within a number");
		return false;
	}
	for (uint64_t at = 0; at < c->out_len; at += sizeof(pfn)) {
		const uint64_t left = c->out_len - at;
		const uint64_t len = left < sizeof(pfn) ? left : sizeof(pfn);
		int rc = virtq_read(c, b->v.ram, at, pfn, len);

		if (rc < 0) {
			virtio_memory_failed(&b->v, q, rc);
			return false;
		}
		discard_pages(b, pfn, len / sizeof(*pfn));
	}
	return true;
}

/* A page that is touched is there again: nothing is to be done before. */
static bool deflate(struct balloon *b, unsigned q, const struct virtq_chain *c)
{
	(void)b;
	(void)q;
	(void)c;
	return true;
}

static bool report(struct balloon *b, unsigned q, const struct virtq_chain *c)
{
	(void)q;
	if (!virtio_has(&b->v, VIRTIO_BALLOON_F_REPORTING)) {
		virtio_broken(&b->v, "a request on a queue that was not negotiated");
		return false;
	}
	if (c->in_len > b->v.ram->size) {
		virtio_broken(&b->v, "more free memory than there is memory");
		return false;
	}
	for (unsigned i = c->nout; i < c->nout + c->nin; i++) {
		const struct virtq_buf *buf = &c->buf[i];
		uint64_t start, end;

		/* Whole pages of it alone. */
		if (__builtin_add_overflow(buf->address, RAM_PAGE - 1, &start) ||
		    __builtin_add_overflow(buf->address, buf->len, &end)) {
			b->ignored++;
			continue;
		}
		start &= ~(RAM_PAGE - 1);
		end &= ~(RAM_PAGE - 1);
		discard(b, start, end > start ? end - start : 0);
	}
	return true;
}

static void notify(struct virtio *v, unsigned q)
{
	static bool (*const handle[QUEUES])(struct balloon * b, unsigned q,
					    const struct virtq_chain *c) = {
		[INFLATE] = inflate, [DEFLATE] = deflate, report, report, report,
	};
	struct virtq_chain c;
	unsigned n = 0;

	while (n < REQUESTS_A_CALL && virtio_pop(v, q, &c) && handle[q](balloon_of(v), q, &c) &&
	       virtio_push(v, q, &c, 0))
		n++;
	if (n)
		virtio_signal(v, q);
	if (n == REQUESTS_A_CALL)
		virtio_kick(v, q);
}

/* ---- the device ---- */

static int open_balloon(const Device *config, struct virtio **out, struct err *e)
{
	struct balloon *b = calloc(1, sizeof(*b));

	if (!b)
		return err_sys(e, ENOMEM, "cannot make %s", config->name);
	virtio_init(&b->v, &virtio_balloon_ops, QUEUES, QUEUE_SIZE,
		    VIRTIO_F(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
			    VIRTIO_F(VIRTIO_BALLOON_F_REPORTING),
		    sizeof(struct balloon_config));
	*out = &b->v;
	return 0;
}

static void close_balloon(struct virtio *v)
{
	virtio_fini(v);
	free(v);
}

static void read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	memcpy(buf, (const uint8_t *)&balloon_of(v)->config + offset, len);
}

/* `actual` is the driver's to write; the rest is not. */
static void write_config(struct virtio *v, uint32_t offset, const void *buf, uint32_t len)
{
	struct balloon *b = balloon_of(v);
	struct balloon_config config = b->config;

	memcpy((uint8_t *)&config + offset, buf, len);
	b->config.actual = config.actual;
}

/* A driver that begins has given nothing; what is asked of it stays. */
static void reset(struct virtio *v)
{
	balloon_of(v)->config.actual = 0;
}

int virtio_balloon_set_target(struct virtio *v, uint64_t bytes, struct err *e)
{
	char have[TEXT_SIZE_MAX];

	if (bytes > v->ram->size)
		return err_refuse(e, EINVAL, "a balloon is no larger than the guest's RAM of %s",
				  text_format_size(v->ram->size, have));
	pthread_mutex_lock(&v->lock);
	balloon_of(v)->config.num_pages = (uint32_t)(bytes / RAM_PAGE);
	virtio_config_changed(v);
	pthread_mutex_unlock(&v->lock);
	return 0;
}

void virtio_balloon_get_status(struct virtio *v, struct balloon_status *s)
{
	const struct balloon *b = balloon_of(v);

	pthread_mutex_lock(&v->lock);
	*s = (struct balloon_status){
		.target = b->config.num_pages * RAM_PAGE,
		.actual = b->config.actual * RAM_PAGE,
		.discarded = b->discarded,
		.kept = b->kept,
		.ignored = b->ignored,
	};
	pthread_mutex_unlock(&v->lock);
}

/* ---- state ---- */

static int save(struct virtio *v, uint8_t **buf, size_t *len)
{
	const struct balloon_config *config = &balloon_of(v)->config;
	BalloonState s = BALLOON_STATE__INIT;

	s.target = config->num_pages;
	s.actual = config->actual;
	/* An empty message is none to malloc(), which may give NULL for it. */
	*buf = malloc(balloon_state__get_packed_size(&s) + 1);
	if (!*buf)
		return -ENOMEM;
	*len = balloon_state__pack(&s, *buf);
	return 0;
}

static int load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len, struct err *e)
{
	BalloonState *s =
		(BalloonState *)proto_unpack_bounded(&balloon_state__descriptor, buf, len, 4096);
	struct balloon_config config;

	(void)version;
	if (!s)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", v->dev.name);
	config = (struct balloon_config){ s->target, s->actual };
	balloon_state__free_unpacked(s, NULL);
	if (config.num_pages > v->ram->size / RAM_PAGE)
		return err_refuse(e, EINVAL,
				  "the saved state of %s asks for more memory than the machine has",
				  v->dev.name);
	balloon_of(v)->config = config;
	return 0;
}

const struct virtio_ops virtio_balloon_ops = {
	.kind = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.version = BALLOON_VERSION,
	.max = 1,
	.open = open_balloon,
	.close = close_balloon,
	.read_config = read_config,
	.write_config = write_config,
	.reset = reset,
	.notify = notify,
	.save = save,
	.load = load,
};
