/*
 * virtio-net: a network interface whose other end is a tap of the host, made
 * beforehand by whoever runs the VM (`ip tuntap add dev NAME mode tap`).
 *
 * A packet is read from the tap into host memory and copied from there to the
 * guest's buffers, merged ones where it needs several. Reading straight into
 * the guest's buffers would spare a copy of what still is in the CPU's cache,
 * but the tap forgets a packet whose page cannot be had, and it does not say
 * beforehand how long the next one is. This way no packet is lost: it is read
 * only when the guest has a buffer, and when it needs more buffers than that, it
 * waits here, and in the saved state. Sent packets go straight from the guest's
 * buffers into the tap, one system call each.
 *
 * The tap is watched while the guest has buffers; else its packets wait in the
 * tap's own queue, until the guest kicks.
 *
 * Offloads are those of the tap: a driver that accepts them passes packets of up
 * to 64 KiB and leaves checksums undone, in both directions. A packet that needs
 * an offload that the driver did not accept, and came while the tap still had it
 * switched on, is dropped.
 *
 * A restored guest is asked to announce itself (gratuitous ARP), for switches
 * that knew it elsewhere.
 * Source: virtio 1.2, 5.1; the kernel's Documentation/networking/tuntap.rst.
 */
#define _GNU_SOURCE
#include "kinds.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "proto/bounded.h"
#include "tap.h"

enum { RX, TX, CONTROL, QUEUES };

#define QUEUE_SIZE 256
#define BATCH	   64 /* packets in one callback */
#define HEADER	   sizeof(struct virtio_net_hdr_v1)
/* With the header: 64 KiB of IP behind an Ethernet header with a VLAN tag. */
#define PACKET_MAX (HEADER + 18 + 65536)
#define PACKET_MIN (HEADER + ETH_HLEN)
#define MTU_MIN	   68 /* 5.1.4.1 */
#define MTU_MAX	   65535

struct net {
	struct virtio v;
	const char *tap; /* the configuration's */
	int fd;		 /* of the tap, owned */
	uint16_t tap_mtu;
	uint8_t mac[ETH_ALEN];
	bool watched; /* the iothread's: the tap is */
	/* under v.lock: */
	bool gone;	   /* the tap has been removed */
	bool announce;	   /* the driver shall announce itself, and has not yet */
	uint16_t mtu;	   /* as the driver was told */
	size_t packet_len; /* of what was read and not yet given, with its header */
	uint8_t packet[PACKET_MAX + 1];
	struct virtq_chain chain, more;
	struct virtq_used used[QUEUE_SIZE];
	struct iovec iov[VIRTQ_SIZE_MAX];
};

static struct net *of(struct virtio *v)
{
	return (struct net *)v;
}

/* A packet that could not go on. */
static void count_error(struct net *n)
{
	__atomic_fetch_add(&n->v.errors, 1, __ATOMIC_RELAXED);
}

/* ---- offloads ---- */

static const struct offload {
	unsigned guest, host; /* feature bits: the driver's to receive, and to send */
	unsigned tun;	      /* what the tap may pass on */
	uint8_t gso;	      /* the gso_type of a packet that needs it, 0: none */
} offloads[] = {
	{ VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM, TUN_F_CSUM, 0 },
	{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4, VIRTIO_NET_HDR_GSO_TCPV4 },
	{ VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6, VIRTIO_NET_HDR_GSO_TCPV6 },
};

#define NOFFLOADS (sizeof(offloads) / sizeof(*offloads))

/* The features that the tap can carry out: checksums first, the others need them. */
static uint64_t probe_offloads(int fd)
{
	uint64_t features = 0;
	unsigned flags = 0;

	for (size_t i = 0; i < NOFFLOADS; i++) {
		const struct offload *o = &offloads[i];

		if (ioctl(fd, TUNSETOFFLOAD, flags | o->tun) < 0)
			continue;
		flags |= o->tun;
		features |= VIRTIO_F(o->guest) | VIRTIO_F(o->host);
	}
	ioctl(fd, TUNSETOFFLOAD, 0);
	return features;
}

/* What the tap passes on is what the driver accepted. A nonsensical choice gets nothing. */
static void set_offloads(struct net *n, uint64_t accepted)
{
	unsigned flags = 0;

	for (size_t i = 0; i < NOFFLOADS; i++)
		if (accepted & VIRTIO_F(offloads[i].guest))
			flags |= offloads[i].tun;
	if (ioctl(n->fd, TUNSETOFFLOAD, flags) < 0)
		ioctl(n->fd, TUNSETOFFLOAD, 0);
}

/* Whether the driver accepted what the packet's header asks for. 5.1.6.4.1. */
static bool accepts(const struct net *n, const struct virtio_net_hdr_v1 *h)
{
	const uint8_t gso = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;

	if ((h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !virtio_has(&n->v, VIRTIO_NET_F_GUEST_CSUM))
		return false;
	if (gso == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	for (size_t i = 0; i < NOFFLOADS; i++)
		if (offloads[i].gso == gso)
			return h->gso_type == gso && virtio_has(&n->v, offloads[i].guest);
	return false;
}

/* ---- receiving ---- */

/* On the iothread. */
static void watch_tap(struct net *n, bool on)
{
	if (n->gone || on == n->watched)
		return;
	loop_change(&n->v.io->loop, n->fd, on ? EPOLLIN : 0);
	n->watched = on;
}

/*
 * Reads the next packet that the driver can take into n->packet. True if there is
 * one. What is left out is bounded by the batch that `left` counts down.
 */
static bool fetch(struct net *n, unsigned *left)
{
	struct virtio_net_hdr_v1 h;

	for (; *left; --*left, count_error(n)) {
		ssize_t len = read(n->fd, n->packet, sizeof(n->packet));

		if (len < 0 && (errno == EAGAIN || errno == EINTR || errno == EBADFD))
			return false;
		if (len < (ssize_t)PACKET_MIN || len > (ssize_t)PACKET_MAX)
			continue;
		memcpy(&h, n->packet, HEADER);
		if (!accepts(n, &h))
			continue;
		if (!virtio_has(&n->v, VIRTIO_NET_F_GUEST_CSUM))
			h.flags = 0;
		h.num_buffers = 1;
		memcpy(n->packet, &h, HEADER);
		n->packet_len = (size_t)len;
		return true;
	}
	return false;
}

/* Gives buffers back to the queue, for this packet to be tried again or dropped. */
static void put_back(struct net *n, unsigned count)
{
	while (count--)
		virtq_unpop(&n->v.queue[RX]);
}

/* Copies as much of the packet, from `done` on, as buffer c takes. Bytes; negative: no more. */
static ssize_t spread(struct net *n, const struct virtq_chain *c, size_t done)
{
	size_t part = n->packet_len - done;
	int rc;

	/* 5.1.6.3.1: a header's length is the least. */
	if (c->nout || c->in_len < HEADER) {
		virtio_broken(&n->v, "a receive buffer is too short or for reading");
		return -EPROTO;
	}
	if (part > c->in_len)
		part = (size_t)c->in_len;
	rc = virtq_write(c, n->v.ram, 0, n->packet + done, part);
	return rc < 0 ? rc : (ssize_t)part;
}

/* Makes the `count` buffers that hold the packet the driver's. */
static bool hand_over(struct net *n, unsigned count)
{
	const uint16_t total = (uint16_t)count;
	int rc = 0;

	/* One is what the header says already. */
	if (count > 1)
		rc = virtq_write(&n->chain, n->v.ram,
				 offsetof(struct virtio_net_hdr_v1, num_buffers), &total,
				 sizeof(total));
	if (rc < 0) {
		put_back(n, count - 1);
		virtio_memory_failed(&n->v, RX, rc);
		return false;
	}
	if (!virtio_push_many(&n->v, RX, n->used, count))
		return false;
	n->packet_len = 0;
	return true;
}

/*
 * Gives the packet to the driver, n->chain being the first buffer: all buffers at
 * once or none. True when the packet is done with, false where it waits or the
 * queue cannot be used.
 */
static bool deliver(struct net *n)
{
	const unsigned most = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF) ? n->v.queue[RX].size : 1;
	struct virtq_chain *c = &n->chain;
	size_t done = 0;

	for (unsigned count = 0;; c = &n->more) {
		const ssize_t part = spread(n, c, done);

		if (part < 0) {
			put_back(n, count);
			if (part != -EPROTO)
				virtio_memory_failed(&n->v, RX, (int)part);
			return false;
		}
		n->used[count++] = (struct virtq_used){ c->head, (uint32_t)part };
		done += (size_t)part;
		if (done == n->packet_len)
			return hand_over(n, count);
		/* More than there will ever be: such a packet must not block those behind it. */
		if (count == most) {
			put_back(n, count);
			n->packet_len = 0;
			count_error(n);
			return true;
		}
		if (!virtio_pop(&n->v, RX, &n->more)) {
			put_back(n, count);
			return false;
		}
	}
}

/* Packets from the tap to the guest, a batch at most. */
static void receive(struct net *n)
{
	const uint16_t before = n->v.queue[RX].next_used;
	unsigned left = BATCH;
	bool buffers = true;

	while (left && buffers) {
		if (!virtio_pop(&n->v, RX, &n->chain)) {
			buffers = false;
			break;
		}
		if (!n->packet_len && !fetch(n, &left)) {
			virtq_unpop(&n->v.queue[RX]);
			break;
		}
		buffers = deliver(n);
		if (left)
			left--;
	}
	if (n->v.queue[RX].next_used != before)
		virtio_signal(&n->v, RX);
	watch_tap(n, buffers);
}

/* The tap was removed under us: the link is down, and stays it. On the iothread, without lock. */
static void lose_tap(struct net *n)
{
	loop_remove(&n->v.io->loop, n->fd);
	log_warn("%s: the tap %s has been removed: the link is down", n->v.dev.name, n->tap);
	pthread_mutex_lock(&n->v.lock);
	n->gone = true;
	pthread_mutex_unlock(&n->v.lock);
	if (!virtio_enter(&n->v))
		return;
	virtio_config_changed(&n->v);
	virtio_leave(&n->v);
}

static void on_tap(void *arg, uint32_t events)
{
	struct net *n = arg;

	if (events & EPOLLERR) {
		lose_tap(n);
		return;
	}
	if (!virtio_enter(&n->v)) {
		/* Until the driver's first kick. */
		watch_tap(n, false);
		return;
	}
	receive(n);
	virtio_leave(&n->v);
}

/* ---- sending ---- */

/* One packet. What the tap refuses (the link is down, nonsense) is dropped and counted. */
static bool transmit_one(struct net *n)
{
	struct virtq_chain *c = &n->chain;
	ssize_t sent;
	int count;

	if (!virtio_pop(&n->v, TX, c))
		return false;
	if (c->nin || c->out_len < HEADER) {
		virtio_broken(&n->v, "a packet to send has no header, or room to write");
		return false;
	}
	if (c->out_len > PACKET_MAX) {
		count_error(n);
		return virtio_push(&n->v, TX, c, 0);
	}
	count = virtq_iov(c, n->v.ram, false, 0, c->out_len, n->iov, VIRTQ_SIZE_MAX);
	if (count < 0) {
		virtio_memory_failed(&n->v, TX, count);
		return false;
	}
	do
		sent = writev(n->fd, n->iov, count);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno == EFAULT) {
		virtio_memory_failed(&n->v, TX, -EFAULT);
		return false;
	}
	if (sent < 0)
		count_error(n);
	return virtio_push(&n->v, TX, c, 0);
}

static void transmit(struct net *n)
{
	unsigned count = 0;

	while (count < BATCH && transmit_one(n))
		count++;
	if (count)
		virtio_signal(&n->v, TX);
	if (count == BATCH)
		virtio_kick(&n->v, TX);
}

/* ---- the control queue ---- */

/* One command: { class, command, data.. }, and a byte for the answer. 5.1.6.5. */
static bool control_one(struct net *n)
{
	struct virtq_chain *c = &n->chain;
	struct virtio_net_ctrl_hdr command;
	virtio_net_ctrl_ack ack = VIRTIO_NET_ERR;
	int rc;

	if (!virtio_pop(&n->v, CONTROL, c))
		return false;
	if (c->out_len < sizeof(command) || c->in_len < sizeof(ack)) {
		virtio_broken(&n->v, "a control command is too short");
		return false;
	}
	rc = virtq_read(c, n->v.ram, 0, &command, sizeof(command));
	if (rc == 0 && command.class == VIRTIO_NET_CTRL_ANNOUNCE &&
	    command.cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK) {
		n->announce = false;
		ack = VIRTIO_NET_OK;
	}
	if (rc == 0)
		rc = virtq_write(c, n->v.ram, 0, &ack, sizeof(ack));
	if (rc < 0) {
		virtio_memory_failed(&n->v, CONTROL, rc);
		return false;
	}
	return virtio_push(&n->v, CONTROL, c, sizeof(ack));
}

static void control(struct net *n)
{
	unsigned count = 0;

	while (count < BATCH && control_one(n))
		count++;
	if (count)
		virtio_signal(&n->v, CONTROL);
	if (count == BATCH)
		virtio_kick(&n->v, CONTROL);
}

/* ---- what the transport asks for ---- */

static void net_notify(struct virtio *v, unsigned q)
{
	static void (*const queues[QUEUES])(struct net *) = { receive, transmit, control };

	queues[q](of(v));
}

static void net_read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	const struct net *n = of(v);
	struct virtio_net_config config = { .max_virtqueue_pairs = 1, .mtu = n->mtu };

	memcpy(config.mac, n->mac, ETH_ALEN);
	if (!n->gone)
		config.status |= VIRTIO_NET_S_LINK_UP;
	if (n->announce)
		config.status |= VIRTIO_NET_S_ANNOUNCE;
	memcpy(buf, (const uint8_t *)&config + offset, len);
}

static void net_activate(struct virtio *v)
{
	set_offloads(of(v), v->driver_features);
}

static void net_reset(struct virtio *v)
{
	struct net *n = of(v);

	n->announce = false;
	n->packet_len = 0;
	n->mtu = n->tap_mtu;
	set_offloads(n, 0);
}

/* ---- state ---- */

static int net_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	struct net *n = of(v);
	NetState m = NET_STATE__INIT;

	m.mtu = n->mtu;
	m.announce = n->announce;
	m.received = (ProtobufCBinaryData){ n->packet_len, n->packet };
	*len = net_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	net_state__pack(&m, *buf);
	return 0;
}

static int take(struct net *n, const NetState *m, struct err *e)
{
	const size_t len = m->received.len;

	if (m->mtu < MTU_MIN || m->mtu > MTU_MAX)
		return err_refuse(e, EINVAL, "the saved state of %s has an MTU of %u",
				  n->v.dev.name, m->mtu);
	if (len && (len < PACKET_MIN || len > PACKET_MAX))
		return err_refuse(e, EINVAL, "the saved state of %s has a packet of %zu bytes",
				  n->v.dev.name, len);
	n->mtu = (uint16_t)m->mtu;
	n->announce = m->announce;
	n->packet_len = len;
	if (len)
		memcpy(n->packet, m->received.data, len);
	set_offloads(n, n->v.driver_features);
	return 0;
}

static int net_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		    struct err *e)
{
	NetState *m =
		(NetState *)proto_unpack_bounded(&net_state__descriptor, buf, len, 2 * PACKET_MAX);
	int rc;

	(void)version;
	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", v->dev.name);
	rc = take(of(v), m, e);
	net_state__free_unpacked(m, NULL);
	return rc;
}

static void net_restored(struct virtio *v)
{
	if (!virtio_has(v, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return;
	of(v)->announce = true;
	virtio_config_changed(v);
}

/* ---- opening ---- */

static int net_attach(struct virtio *v, struct err *e)
{
	struct net *n = of(v);
	int rc = loop_add(&v->io->loop, n->fd, EPOLLIN, on_tap, n);

	n->watched = true;
	return rc < 0 ? err_sys(e, -rc, "--net tap=%s", n->tap) : 0;
}

static void net_close(struct virtio *v)
{
	struct net *n = of(v);

	loop_remove(&v->io->loop, n->fd);
	close(n->fd);
	virtio_fini(v);
	free(n);
}

/* As a driver may be told it. */
static uint16_t bounded_mtu(unsigned mtu)
{
	if (mtu < MTU_MIN)
		return MTU_MIN;
	return mtu > MTU_MAX ? MTU_MAX : (uint16_t)mtu;
}

static int net_open(const Device *config, struct virtio **out, struct err *e)
{
	auto_fd int fd = -1;
	uint64_t features;
	struct net *n;

	/* A group address (bit 0 of the first byte) is nobody's own. */
	if (config->mac.len != ETH_ALEN || (config->mac.data[0] & 1))
		return err_refuse(e, EINVAL, "--net tap=%s: its MAC address is not one",
				  config->tap);
	fd = tap_open(config->tap, HEADER, e);
	if (fd < 0)
		return fd;
	n = calloc(1, sizeof(*n));
	if (!n)
		return err_sys(e, ENOMEM, "virtio-net");
	features = probe_offloads(fd) | VIRTIO_F(VIRTIO_NET_F_MAC) | VIRTIO_F(VIRTIO_NET_F_STATUS) |
		   VIRTIO_F(VIRTIO_NET_F_MTU) | VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF) |
		   VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_GUEST_ANNOUNCE);
	virtio_init(&n->v, &virtio_net_ops, QUEUES, QUEUE_SIZE, features,
		    offsetof(struct virtio_net_config, speed));
	n->tap = config->tap;
	n->mtu = n->tap_mtu = bounded_mtu(tap_mtu(config->tap));
	memcpy(n->mac, config->mac.data, ETH_ALEN);
	n->fd = take_fd(&fd);
	*out = &n->v;
	return 0;
}

const struct virtio_ops virtio_net_ops = {
	.kind = "virtio-net",
	.id = VIRTIO_ID_NET,
	.version = 1,
	.max = 4,
	.open = net_open,
	.close = net_close,
	.attach = net_attach,
	.read_config = net_read_config,
	.activate = net_activate,
	.reset = net_reset,
	.notify = net_notify,
	.save = net_save,
	.load = net_load,
	.restored = net_restored,
};
