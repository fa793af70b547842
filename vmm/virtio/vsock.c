/* virtio-vsock: its queues, configuration and state. See vsock.h. */
#include "vsock.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_config.h>

#include "proto/bounded.h"
#include "vsock_mux.h"

enum { RX, TX, EVENT, QUEUES }; /* rx: to the guest */

#define DEVICE_ID   19
#define F_STREAM    0
#define QUEUE_SIZE  128
#define BURST	    64 /* packets each way in one callback: then others have their turn */
#define EVENT_SIZE  4
#define LOAD_BUDGET 4096
#define CID_ANY	    UINT32_MAX

struct vsock {
	struct virtio v; /* first */
	struct vsock_mux mux;
	/* under v.lock: */
	bool restored;	    /* the event is due as soon as this machine runs */
	bool reset_pending; /* the event waits for a buffer of the driver's */
	/* To the guest: a packet that a page could not be had for stays here. */
	bool staged;
	struct vsock_header out;
	uint8_t out_payload[VSOCK_BUFFER_SIZE];
	/* From the guest. */
	uint8_t in_payload[VSOCK_BUFFER_SIZE];
	struct virtq_chain chain;
};

static struct vsock *vsock_of(struct virtio *v)
{
	return (struct vsock *)v;
}

/* ---- queues, under lock, on the iothread ---- */

/* One packet of the guest's. False: no more. */
static bool take_one(struct vsock *s)
{
	struct virtio *v = &s->v;
	uint8_t raw[VSOCK_HEADER_SIZE];
	enum vsock_verdict verdict = VSOCK_DROP;
	struct vsock_header h = { 0 };
	int rc;

	if (!virtio_pop(v, TX, &s->chain))
		return false;
	if (s->chain.out_len < VSOCK_HEADER_SIZE) {
		virtio_broken(v, "a packet shorter than its header");
		return false;
	}
	rc = virtq_read(&s->chain, v->ram, 0, raw, sizeof(raw));
	if (rc == 0) {
		vsock_header_decode(raw, &h);
		verdict = vsock_header_check(&h, s->mux.guest_cid,
					     s->chain.out_len - VSOCK_HEADER_SIZE);
		if (verdict == VSOCK_TAKE && h.op == VSOCK_RW)
			rc = virtq_read(&s->chain, v->ram, VSOCK_HEADER_SIZE, s->in_payload, h.len);
	}
	if (rc < 0) {
		virtio_memory_failed(v, TX, rc);
		return false;
	}
	/* Given back first: where that fails the packet comes again, and has not been used. */
	if (!virtio_push(v, TX, &s->chain, 0))
		return false;
	vsock_mux_receive(&s->mux, &h, verdict, s->in_payload);
	return true;
}

/* What the guest sends, as long as there is room for refusals. True: there is more. */
static bool take_packets(struct vsock *s)
{
	unsigned n = 0;

	while (n < BURST && vsock_mux_has_room(&s->mux) && take_one(s))
		n++;
	if (n > 0)
		virtio_signal(&s->v, TX);
	return n == BURST;
}

/* Writes the staged packet into the chain and gives that back. */
static bool write_packet(struct vsock *s)
{
	struct virtio *v = &s->v;
	const uint32_t len = VSOCK_HEADER_SIZE + s->out.len;
	uint8_t raw[VSOCK_HEADER_SIZE];
	int rc;

	vsock_header_encode(&s->out, raw);
	rc = virtq_write(&s->chain, v->ram, 0, raw, sizeof(raw));
	if (rc == 0 && s->out.len > 0)
		rc = virtq_write(&s->chain, v->ram, VSOCK_HEADER_SIZE, s->out_payload, s->out.len);
	if (rc < 0) {
		virtio_memory_failed(v, RX, rc);
		return false;
	}
	return virtio_push(v, RX, &s->chain, len);
}

/* One packet to the guest. False: no more. */
static bool send_one(struct vsock *s)
{
	struct virtio *v = &s->v;
	uint64_t room;

	if (!s->staged && !vsock_mux_has_packet(&s->mux))
		return false;
	if (!virtio_pop(v, RX, &s->chain))
		return false;
	if (s->chain.in_len <= VSOCK_HEADER_SIZE) {
		virtio_broken(v, "a receive buffer without room for a packet");
		return false;
	}
	room = s->chain.in_len - VSOCK_HEADER_SIZE;
	if (room > sizeof(s->out_payload))
		room = sizeof(s->out_payload);
	if (!s->staged)
		s->staged = vsock_mux_next(&s->mux, &s->out, s->out_payload, (uint32_t)room);
	if (!s->staged) {
		virtq_unpop(&v->queue[RX]);
		return false;
	}
	if (s->out.len > room) {
		virtio_broken(v, "a receive buffer that became shorter");
		return false;
	}
	s->staged = !write_packet(s);
	return !s->staged;
}

static bool send_packets(struct vsock *s)
{
	unsigned n = 0;

	while (n < BURST && send_one(s))
		n++;
	if (n > 0)
		virtio_signal(&s->v, RX);
	return n == BURST;
}

/* The guest of a machine that was restored is told that its connections have ended. */
static void send_reset(struct vsock *s)
{
	static const uint8_t event[EVENT_SIZE]; /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0 */
	struct virtio *v = &s->v;
	int rc;

	s->reset_pending |= s->restored;
	s->restored = false;
	if (!s->reset_pending || !virtio_pop(v, EVENT, &s->chain))
		return;
	if (s->chain.in_len < EVENT_SIZE) {
		virtio_broken(v, "an event buffer shorter than an event");
		return;
	}
	rc = virtq_write(&s->chain, v->ram, 0, event, sizeof(event));
	if (rc < 0) {
		virtio_memory_failed(v, EVENT, rc);
		return;
	}
	if (!virtio_push(v, EVENT, &s->chain, EVENT_SIZE))
		return;
	s->reset_pending = false;
	virtio_signal(v, EVENT);
}

/* All that can be done now, or a burst of it. */
static void pump(struct vsock *s)
{
	bool more, full;

	send_reset(s);
	more = take_packets(s);
	full = !vsock_mux_has_room(&s->mux);
	more |= send_packets(s);
	if (more || (full && vsock_mux_has_room(&s->mux)))
		vsock_mux_poke(&s->mux);
}

static bool enter(void *arg)
{
	struct vsock *s = arg;

	if (virtio_enter(&s->v))
		return true;
	/* Connections end without a driver too. */
	pthread_mutex_lock(&s->v.lock);
	return false;
}

static void leave(void *arg, bool there)
{
	struct vsock *s = arg;

	if (there)
		pump(s);
	vsock_mux_settle(&s->mux);
	virtio_leave(&s->v);
}

static void vsock_notify(struct virtio *v, unsigned q)
{
	struct vsock *s = vsock_of(v);

	(void)q;
	pump(s);
	vsock_mux_settle(&s->mux);
}

/* ---- the rest ---- */

static void vsock_read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	const uint64_t cid = htole64(vsock_of(v)->mux.guest_cid);

	memcpy(buf, (const uint8_t *)&cid + offset, len);
}

static void vsock_reset(struct virtio *v)
{
	struct vsock *s = vsock_of(v);

	s->restored = s->reset_pending = s->staged = false;
	vsock_mux_reset(&s->mux);
}

static void vsock_restored(struct virtio *v)
{
	/* A driver that has not begun has no connections, and asks for the CID itself. */
	vsock_of(v)->restored = v->status & VIRTIO_CONFIG_S_DRIVER_OK;
}

static int vsock_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	VsockState m = VSOCK_STATE__INIT;

	/* Not `restored`: that is so again wherever this state is loaded. */
	m.reset_pending = vsock_of(v)->reset_pending;
	*len = vsock_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	vsock_state__pack(&m, *buf);
	return 0;
}

static int vsock_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		      struct err *e)
{
	VsockState *m =
		(VsockState *)proto_unpack_bounded(&vsock_state__descriptor, buf, len, LOAD_BUDGET);

	(void)version;
	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", v->dev.name);
	vsock_of(v)->reset_pending = m->reset_pending;
	vsock_state__free_unpacked(m, NULL);
	return 0;
}

static int vsock_open(const Device *config, struct virtio **out, struct err *e)
{
	const struct vsock_user user = { .enter = enter, .leave = leave };
	struct vsock *s;
	int rc;

	if (config->guest_cid < VSOCK_CID_MIN || config->guest_cid >= CID_ANY)
		return err_refuse(e, EINVAL, "vsock cid=%llu: the CID of a guest is 3 to %u",
				  (unsigned long long)config->guest_cid, CID_ANY - 1);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_sys(e, ENOMEM, "vsock %s", config->path);
	virtio_init(&s->v, &virtio_vsock_ops, QUEUES, QUEUE_SIZE, VIRTIO_F(F_STREAM),
		    sizeof(uint64_t));
	rc = vsock_mux_open(&s->mux, config->path, config->guest_cid, &user, e);
	if (rc < 0) {
		virtio_fini(&s->v);
		free(s);
		return rc;
	}
	s->mux.user.arg = s;
	*out = &s->v;
	return 0;
}

static void vsock_close(struct virtio *v)
{
	struct vsock *s = vsock_of(v);

	vsock_mux_close(&s->mux);
	virtio_fini(v);
	free(s);
}

static int vsock_attach(struct virtio *v, struct err *e)
{
	return vsock_mux_attach(&vsock_of(v)->mux, &v->io->loop, e);
}

const struct virtio_ops virtio_vsock_ops = {
	.kind = "virtio-vsock",
	.id = DEVICE_ID,
	.version = 1,
	.max = 1,
	.open = vsock_open,
	.close = vsock_close,
	.attach = vsock_attach,
	.read_config = vsock_read_config,
	.reset = vsock_reset,
	.notify = vsock_notify,
	.save = vsock_save,
	.load = vsock_load,
	.restored = vsock_restored,
};
