/*
 * virtio-rng: the host's getrandom(2) for the guest. It has no configuration
 * and no state: a restored guest asks again and gets other bytes, as two clones
 * of one snapshot must.
 *
 * A request gets as much as it has room for, at most REQUEST_MAX, and a
 * callback serves BATCH requests before the other devices of its thread.
 * Source: virtio 1.2, 5.4.
 */
#define _GNU_SOURCE
#include "kinds.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define QUEUE_SIZE  64
#define REQUEST_MAX (64U << 10) /* bytes */
#define BATCH	    8
#define PIECE	    4096 /* bytes drawn at once */

struct rng {
	struct virtio v;
	struct virtq_chain chain;
};

/* Fills buf. Once the host's pool is up, which it is when a VM starts, this does not wait. */
static int draw(uint8_t *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = getrandom(buf + done, len - done, 0);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

/* Writes len random bytes to the request's buffers. 0 or what virtq_write() says. */
static int fill(struct rng *r, uint32_t len)
{
	uint8_t piece[PIECE];
	int rc = 0;

	for (uint32_t done = 0; rc == 0 && done < len; done += PIECE) {
		const size_t n = len - done < PIECE ? len - done : PIECE;

		rc = draw(piece, n);
		if (rc == 0)
			rc = virtq_write(&r->chain, r->v.ram, done, piece, n);
	}
	explicit_bzero(piece, sizeof(piece));
	return rc;
}

/* One request. False: there is none, or no more can be served. */
static bool serve(struct rng *r, unsigned q)
{
	struct virtq_chain *c = &r->chain;
	uint32_t len;
	int rc;

	if (!virtio_pop(&r->v, q, c))
		return false;
	if (c->nout || !c->in_len) {
		virtio_broken(&r->v, "a request for random bytes has no room for them");
		return false;
	}
	len = c->in_len < REQUEST_MAX ? (uint32_t)c->in_len : REQUEST_MAX;
	rc = fill(r, len);
	if (rc < 0) {
		virtio_memory_failed(&r->v, q, rc);
		return false;
	}
	return virtio_push(&r->v, q, c, len);
}

static void rng_notify(struct virtio *v, unsigned q)
{
	unsigned n = 0;

	while (n < BATCH && serve((struct rng *)v, q))
		n++;
	if (n)
		virtio_signal(v, q);
	if (n == BATCH)
		virtio_kick(v, q);
}

static void rng_close(struct virtio *v)
{
	virtio_fini(v);
	free(v);
}

static int rng_open(const Device *config, struct virtio **out, struct err *e)
{
	struct rng *r = calloc(1, sizeof(*r));

	(void)config;
	if (!r)
		return err_sys(e, ENOMEM, "virtio-rng");
	virtio_init(&r->v, &virtio_rng_ops, 1, QUEUE_SIZE, 0, 0);
	*out = &r->v;
	return 0;
}

const struct virtio_ops virtio_rng_ops = {
	.kind = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.version = 1,
	.max = 1,
	.open = rng_open,
	.close = rng_close,
	.notify = rng_notify,
};
