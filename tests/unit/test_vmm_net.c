/*
 * virtio-net over a real tap, in a network namespace of the test's own: packets
 * both ways, offloads, merged buffers, the tap's troubles, and its state. The
 * other end of the tap is a packet socket.
 */
#include "virtio_driver.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vmm/fault.h"
#include "vmm/virtio/kinds.h"

enum { RX, TX, CONTROL };

#define HEADER	  sizeof(struct virtio_net_hdr_v1)
#define ETHERTYPE 0x88b5 /* for local experiments: nobody else sends such */
#define BUFFER	  2048
#define TSO	  8000 /* bytes of TCP payload in a packet that is too long for the wire */
#define TSO_FRAME (14 + 20 + 20 + TSO)
#define MSS	  1000

struct rig {
	struct driver d;
	Device config;
	uint8_t mac[6];
	int packet;		     /* a packet socket on the tap */
	uint64_t at[VIRTQ_SIZE_MAX]; /* of a receive buffer, by its head */
};

/* ---- taps ---- */

static void make_tap(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	auto_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
}

static void set_up(const char *name, bool up)
{
	struct ifreq ifr = { 0 };
	auto_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
}

static int in_shell(const char *fmt, const char *name)
{
	char line[128];

	snprintf(line, sizeof(line), fmt, name);
	return system(line);
}

/* A socket that sends and takes frames as if the network behind the tap did. */
static int open_packet(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETHERTYPE));
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE) };
	const int on = 1;

	assert_true(fd >= 0);
	address.sll_ifindex = (int)if_nametoindex(name);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	/* At once, whatever the queue of the interface is doing. */
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)), 0);
	return fd;
}

/* ---- a device on a tap ---- */

static void open_on(struct rig *r, const char *tap)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

	memcpy(r->mac, mac, sizeof(mac));
	r->config = (Device)DEVICE__INIT;
	r->config.tap = (char *)(uintptr_t)tap;
	r->config.mac = (ProtobufCBinaryData){ sizeof(r->mac), r->mac };
	make_tap(tap);
	set_up(tap, true);
	driver_open(&r->d, &virtio_net_ops, &r->config);
	r->packet = open_packet(tap);
}

static void close_on(struct rig *r)
{
	close(r->packet);
	driver_close(&r->d);
	if (if_nametoindex(r->config.tap))
		assert_int_equal(in_shell("ip link delete %s", r->config.tap), 0);
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	open_on(r, "t0");
	return 0;
}

static int drop(void **state)
{
	close_on(*state);
	free(*state);
	return 0;
}

static void give_buffers(struct rig *r, unsigned n, uint32_t len)
{
	while (n--) {
		const struct driver_buf buf = { driver_alloc(&r->d, len), len };

		r->at[driver_offer(&r->d.queue[RX], &buf, 0, 1)] = buf.address;
	}
	driver_kick(&r->d, RX);
	driver_run(&r->d);
}

/* The next packet that the driver got, with its header; 0: there is none. */
static size_t take_packet(struct rig *r, uint8_t *to, size_t room)
{
	struct virtio_net_hdr_v1 h = { .num_buffers = 1 };
	size_t all = 0;
	uint32_t len;

	for (unsigned i = 0; i < h.num_buffers; i++) {
		uint16_t head = driver_take(&r->d.queue[RX], &len);

		if (head == NO_HEAD && i == 0)
			return 0;
		assert_int_not_equal(head, NO_HEAD);
		assert_true(all + len <= room);
		guest_read(&r->d.ram, r->at[head], to + all, len);
		all += len;
		if (i == 0)
			memcpy(&h, to, HEADER);
	}
	return all;
}

static size_t make_frame(const struct rig *r, uint8_t *to, size_t payload, uint32_t seed)
{
	const uint16_t type = htons(ETHERTYPE);

	memcpy(to, r->mac, 6);
	memset(to + 6, 0x02, 6);
	memcpy(to + 12, &type, 2);
	fill_random(to + 14, payload, seed);
	return 14 + payload;
}

/* A frame from the network. */
static void send_frame(const struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t bytes[sizeof(struct virtio_net_hdr) + 14 + 1500] = { 0 };
	const size_t n = make_frame(r, bytes + sizeof(struct virtio_net_hdr), payload, seed) +
			 sizeof(struct virtio_net_hdr);

	assert_int_equal(send(r->packet, bytes, n, 0), n);
}

/* The driver has got this frame next, and whole. */
static void assert_got(struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t got[HEADER + 14 + 1500], want[14 + 1500];
	const size_t n = make_frame(r, want, payload, seed);

	assert_int_equal(take_packet(r, got, sizeof(got)), HEADER + n);
	assert_memory_equal(got + HEADER, want, n);
}

/* Sums 16-bit words, for the TCP pseudo header. */
static uint32_t sum_words(const uint8_t *p, size_t n)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)(sum + (sum >> 16)));
}

/* A TCP segment of TSO bytes with its header for the kernel: to be cut by whoever must. */
static size_t make_tso(const struct rig *r, uint8_t *to, uint32_t seed)
{
	const struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					  .hdr_len = 54,
					  .gso_size = MSS,
					  .csum_start = 34,
					  .csum_offset = 16 };
	uint8_t *eth = to + sizeof(h), *ip = eth + 14, *tcp = ip + 20;
	const uint8_t pseudo[4] = { 0, 6, (20 + TSO) >> 8, (20 + TSO) & 0xff };
	const uint8_t addresses[8] = { 10, 0, 0, 1, 10, 0, 0, 2 };
	const uint16_t len = htons(20 + 20 + TSO);
	uint16_t sum;

	memset(to, 0, sizeof(h) + TSO_FRAME);
	memcpy(to, &h, sizeof(h));
	memcpy(eth, r->mac, 6);
	memset(eth + 6, 0x02, 6);
	eth[12] = 0x08;
	ip[0] = 0x45;
	memcpy(ip + 2, &len, 2);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, addresses, 8);
	sum = (uint16_t)~fold(sum_words(ip, 20));
	memcpy(ip + 10, &sum, 2);
	tcp[12] = 0x50;
	tcp[13] = 0x10;
	sum = fold(sum_words(addresses, 8) + sum_words(pseudo, 4));
	memcpy(tcp + 16, &sum, 2);
	fill_random(tcp + 20, TSO, seed);
	return sizeof(h) + TSO_FRAME;
}

static void send_tso(const struct rig *r, uint32_t seed)
{
	static uint8_t bytes[sizeof(struct virtio_net_hdr) + TSO_FRAME];
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	const size_t n = make_tso(r, bytes, seed);

	address.sll_ifindex = (int)if_nametoindex(r->config.tap);
	assert_int_equal(
		sendto(r->packet, bytes, n, 0, (struct sockaddr *)&address, sizeof(address)), n);
}

static void assert_got_tso(struct rig *r, uint32_t seed)
{
	static uint8_t got[HEADER + TSO_FRAME], want[TSO];
	struct virtio_net_hdr_v1 h;

	assert_int_equal(take_packet(r, got, sizeof(got)), sizeof(got));
	memcpy(&h, got, HEADER);
	assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(h.gso_size, MSS);
	assert_true(h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	fill_random(want, TSO, seed);
	assert_memory_equal(got + HEADER + 54, want, TSO);
}

/* What the guest sent comes out at the network. */
static void assert_sent(const struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t got[sizeof(struct virtio_net_hdr) + 14 + 1500 + 64], want[14 + 1500];
	const size_t n = make_frame(r, want, payload, seed);
	struct pollfd p = { .fd = r->packet, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(recv(r->packet, got, sizeof(got), 0), sizeof(struct virtio_net_hdr) + n);
	assert_memory_equal(got + sizeof(struct virtio_net_hdr), want, n);
}

static void transmit(struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t bytes[HEADER + 14 + 1500] = { 0 };
	const size_t n = HEADER + make_frame(r, bytes + HEADER, payload, seed);

	driver_request(&r->d, TX, bytes, (uint32_t)n, NULL, 0);
}

static uint64_t errors(const struct rig *r)
{
	return __atomic_load_n(&r->d.v->errors, __ATOMIC_RELAXED);
}

/* ---- packets ---- */

static void net_offers_what_the_tap_can(void **state)
{
	struct rig *r = *state;
	const uint64_t offered = driver_offered(&r->d);
	struct virtio_net_config c = { 0 };

	for (unsigned bit = 0; bit < 2; bit++)
		assert_true(offered >> bit & 1); /* CSUM, GUEST_CSUM */
	assert_true(offered >> VIRTIO_NET_F_GUEST_TSO4 & 1);
	assert_true(offered >> VIRTIO_NET_F_HOST_TSO6 & 1);
	assert_true(offered >> VIRTIO_NET_F_MRG_RXBUF & 1);
	assert_true(offered >> VIRTIO_NET_F_MTU & 1);
	assert_false(offered >> VIRTIO_NET_F_MQ & 1);
	driver_get_config(&r->d, 0, &c, 12);
	assert_memory_equal(c.mac, r->mac, 6);
	assert_int_equal(c.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(c.mtu, 1500);
}

static void net_frames_to_the_guest_come_whole_and_in_order(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	for (unsigned round = 0; round < 10; round++) {
		const uint64_t before = r->d.next;

		give_buffers(r, 100, BUFFER);
		for (unsigned i = 0; i < 100; i++)
			send_frame(r, 46 + 14 * i, i);
		driver_run(&r->d);
		for (unsigned i = 0; i < 100; i++)
			assert_got(r, 46 + 14 * i, i);
		r->d.next = before;
	}
	assert_true(driver_interrupts(&r->d) > 0);
	assert_int_equal(errors(r), 0);
}

static void net_frames_of_the_guest_reach_the_tap(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	for (unsigned i = 0; i < 100; i++) {
		transmit(r, 46 + 14 * i, i);
		assert_sent(r, 46 + 14 * i, i);
	}
	assert_int_equal(errors(r), 0);
}

static void net_burst_of_the_guest_is_sent_whole(void **state)
{
	struct rig *r = *state;
	uint8_t bytes[HEADER + 14 + 100] = { 0 };
	const uint32_t n = (uint32_t)(HEADER + make_frame(r, bytes + HEADER, 100, 7));
	const struct driver_buf buf[2] = { { driver_alloc(&r->d, HEADER), HEADER },
					   { driver_alloc(&r->d, n), n - (uint32_t)HEADER } };
	unsigned done = 0;

	driver_start(&r->d, ALL_FEATURES);
	guest_write(&r->d.ram, buf[0].address, bytes, HEADER);
	guest_write(&r->d.ram, buf[1].address, bytes + HEADER, n - HEADER);
	/* More than one callback sends, each packet in two pieces. */
	for (unsigned i = 0; i < 128; i++)
		driver_offer(&r->d.queue[TX], buf, 2, 0);
	driver_kick(&r->d, TX);
	driver_run(&r->d);
	while (driver_take(&r->d.queue[TX], NULL) != NO_HEAD)
		done++;
	assert_int_equal(done, 128);
	for (unsigned i = 0; i < 128; i++)
		assert_sent(r, 100, 7);
}

static void net_frames_wait_in_the_tap_until_there_are_buffers(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	for (unsigned i = 0; i < 50; i++)
		send_frame(r, 100, i);
	/* Comes to an end: the tap, which is readable, is not watched. */
	driver_run(&r->d);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	give_buffers(r, 20, BUFFER);
	for (unsigned i = 0; i < 20; i++)
		assert_got(r, 100, i);
	give_buffers(r, 40, BUFFER);
	for (unsigned i = 20; i < 50; i++)
		assert_got(r, 100, i);
	send_frame(r, 100, 50);
	driver_run(&r->d);
	assert_got(r, 100, 50);
	assert_int_equal(errors(r), 0);
}

static void net_frames_before_the_driver_wait(void **state)
{
	struct rig *r = *state;

	send_frame(r, 100, 1);
	driver_run(&r->d);
	driver_start(&r->d, ALL_FEATURES);
	give_buffers(r, 1, BUFFER);
	assert_got(r, 100, 1);
}

/* ---- offloads, and packets over several buffers ---- */

static void net_long_packet_is_spread_over_merged_buffers(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	give_buffers(r, 20, 700);
	send_tso(r, 1);
	send_frame(r, 100, 2);
	driver_run(&r->d);
	assert_got_tso(r, 1);
	assert_got(r, 100, 2);
}

static void net_long_packet_waits_for_enough_buffers(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	send_tso(r, 1);
	send_frame(r, 100, 2);
	give_buffers(r, 5, 700);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	give_buffers(r, 5, 700);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	give_buffers(r, 10, 700);
	assert_got_tso(r, 1);
	assert_got(r, 100, 2);
	assert_int_equal(errors(r), 0);
}

static void net_long_packet_fits_one_large_buffer(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES & ~VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	give_buffers(r, 1, 65562);
	send_tso(r, 1);
	driver_run(&r->d);
	assert_got_tso(r, 1);
}

static void net_packet_that_can_never_fit_is_dropped(void **state)
{
	struct rig *r = *state;

	/* One buffer a packet, and it is too short. */
	driver_start(&r->d, ALL_FEATURES & ~VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	give_buffers(r, 2, 700);
	send_tso(r, 1);
	send_frame(r, 100, 2);
	driver_run(&r->d);
	assert_got(r, 100, 2);
	assert_int_equal(errors(r), 1);

	/* All buffers that a queue has. */
	driver_start(&r->d, ALL_FEATURES);
	give_buffers(r, 256, 16);
	send_tso(r, 1);
	driver_run(&r->d);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	assert_int_equal(errors(r), 2);
	send_frame(r, 100, 3);
	driver_run(&r->d);
	assert_got(r, 100, 3);
}

static void net_driver_without_offloads_gets_short_packets(void **state)
{
	static uint8_t got[HEADER + TSO_FRAME];
	struct rig *r = *state;
	struct pollfd tap = { .fd = r->d.io.loop.fd, .events = POLLIN };
	const int on = 1, off = 0;
	struct virtio_net_hdr_v1 h;
	size_t payload = 0, n;

	driver_start(&r->d, ALL_FEATURES & ~(VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4) |
					     VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM)));
	give_buffers(r, 20, BUFFER);
	/* The kernel cuts a packet on its way through the queue, which is not there at once. */
	assert_int_equal(setsockopt(r->packet, SOL_PACKET, PACKET_QDISC_BYPASS, &off, sizeof(off)),
			 0);
	for (int i = 0; poll(&tap, 1, 0) == 0 && i < 250; i++) {
		send_tso(r, 1);
		usleep(20000);
	}
	assert_int_equal(setsockopt(r->packet, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)),
			 0);
	driver_run(&r->d);
	while ((n = take_packet(r, got, sizeof(got)))) {
		memcpy(&h, got, HEADER);
		assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_NONE);
		assert_int_equal(h.flags, 0);
		payload += n - HEADER - 54;
	}
	assert_int_equal(payload, TSO);

	/* What came while they were on is not for the next driver, who did not accept it. */
	driver_start(&r->d, ALL_FEATURES);
	driver_run(&r->d);
	send_tso(r, 2);
	driver_start(&r->d, 0);
	send_frame(r, 100, 3);
	give_buffers(r, 2, BUFFER);
	assert_got(r, 100, 3);
	assert_int_equal(errors(r), 1);
}

static void net_long_packet_of_the_guest_is_cut_by_the_host(void **state)
{
	static uint8_t bytes[HEADER + TSO_FRAME];
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	make_tso(r, bytes + 2, 5);
	memmove(bytes, bytes + 2, sizeof(struct virtio_net_hdr));
	memset(bytes + sizeof(struct virtio_net_hdr), 0, 2);
	driver_request(&r->d, TX, bytes, sizeof(bytes), NULL, 0);
	assert_int_equal(errors(r), 0);
}

/* ---- the control queue ---- */

static void net_unknown_command_is_refused(void **state)
{
	struct rig *r = *state;
	uint8_t ack = 7;

	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(driver_request(&r->d, CONTROL, (uint8_t[3]){ 0, 0, 1 }, 3, &ack, 1), 1);
	assert_int_equal(ack, VIRTIO_NET_ERR);
}

static uint16_t status_of(struct driver *d)
{
	uint16_t status;

	driver_get_config(d, 6, &status, 2);
	return status;
}

static void net_restored_asks_to_announce_once(void **state)
{
	const uint8_t done[2] = { VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK };
	struct rig *r = *state;
	uint8_t ack = 7;

	driver_start(&r->d, ALL_FEATURES);
	driver_interrupts(&r->d);
	virtio_net_ops.restored(r->d.v);
	assert_int_equal(status_of(&r->d), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(driver_interrupts(&r->d), 1);
	assert_int_equal(driver_get(&r->d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	driver_request(&r->d, CONTROL, done, sizeof(done), &ack, 1);
	assert_int_equal(ack, VIRTIO_NET_OK);
	assert_int_equal(status_of(&r->d), VIRTIO_NET_S_LINK_UP);

	/* Not one that does not know how. */
	driver_start(&r->d, 0);
	virtio_net_ops.restored(r->d.v);
	assert_int_equal(status_of(&r->d), VIRTIO_NET_S_LINK_UP);
}

/* ---- state ---- */

static void net_saved_with_a_packet_half_way_loses_none(void **state)
{
	struct rig *r = *state;
	auto_free struct rig *to = calloc(1, sizeof(*to));

	assert_non_null(to);
	driver_start(&r->d, ALL_FEATURES);
	send_tso(r, 1);
	give_buffers(r, 5, 700);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);

	open_on(to, "t1");
	assert_int_equal(driver_move(&to->d, &r->d, NULL), 0);
	memcpy(to->at, r->at, sizeof(to->at));
	assert_int_equal(driver_take(&to->d.queue[RX], NULL), NO_HEAD);
	send_tso(to, 2);
	give_buffers(to, 20, 700);
	assert_got_tso(to, 1);
	assert_got_tso(to, 2);
	assert_int_equal(driver_take(&to->d.queue[RX], NULL), NO_HEAD);
	assert_int_equal(status_of(&to->d), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	transmit(to, 100, 3);
	assert_sent(to, 100, 3);
	close_on(to);

	/* The saved one goes on. */
	give_buffers(r, 10, 700);
	assert_got_tso(r, 1);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
}

static void net_mtu_stays_what_the_driver_was_told(void **state)
{
	struct rig *r = *state;
	auto_free struct rig *to = calloc(1, sizeof(*to));
	uint16_t mtu;

	assert_non_null(to);
	driver_start(&r->d, ALL_FEATURES);
	make_tap("t1");
	assert_int_equal(in_shell("ip link set %s mtu 9000", "t1"), 0);
	open_on(to, "t1");
	assert_int_equal(driver_move(&to->d, &r->d, NULL), 0);
	driver_get_config(&to->d, 10, &mtu, 2);
	assert_int_equal(mtu, 1500);
	driver_start(&to->d, ALL_FEATURES);
	driver_get_config(&to->d, 10, &mtu, 2);
	assert_int_equal(mtu, 9000);
	close_on(to);
}

static int load_private(struct driver *d, const NetState *m, struct err *e)
{
	const size_t len = net_state__get_packed_size(m);
	auto_free uint8_t *buf = malloc(len + 1);

	assert_non_null(buf);
	net_state__pack(m, buf);
	return d->v->ops->load(d->v, 1, buf, len, e);
}

static void net_state_out_of_bounds_is_refused(void **state)
{
	static uint8_t packet[70000];
	const size_t bad[] = { 1, HEADER + 13, HEADER + 18 + 65536 + 1, sizeof(packet) };
	struct rig *r = *state;
	NetState m = NET_STATE__INIT;
	struct err e = { 0 };

	assert_int_equal(load_private(&r->d, &m, &e), -EINVAL);
	assert_says(&e, "MTU of 0");
	m.mtu = 65536;
	assert_int_equal(load_private(&r->d, &m, NULL), -EINVAL);
	m.mtu = 1500;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		m.received = (ProtobufCBinaryData){ bad[i], packet };
		e = (struct err){ 0 };
		assert_int_equal(load_private(&r->d, &m, &e), -EINVAL);
		assert_says(&e, "packet of");
	}
	assert_int_equal(r->d.v->ops->load(r->d.v, 1, (const uint8_t *)"\x08", 1, NULL), -EINVAL);
}

/* ---- trouble ---- */

static void net_link_that_is_down_drops_and_counts(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	set_up("t0", false);
	transmit(r, 100, 1);
	assert_int_equal(errors(r), 1);
	set_up("t0", true);
	transmit(r, 100, 2);
	assert_int_equal(errors(r), 1);
}

static void net_tap_that_is_removed_takes_the_link_down(void **state)
{
	struct rig *r = *state;

	driver_start(&r->d, ALL_FEATURES);
	give_buffers(r, 5, BUFFER);
	driver_interrupts(&r->d);
	assert_int_equal(in_shell("ip link delete %s", "t0"), 0);
	/* Comes to an end, too. */
	driver_run(&r->d);
	assert_int_equal(status_of(&r->d), 0);
	assert_int_equal(driver_interrupts(&r->d), 1);
	transmit(r, 100, 1);
	assert_int_equal(errors(r), 1);
	give_buffers(r, 5, BUFFER);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
}

static void net_lost_page_loses_no_packet(void **state)
{
	struct rig *r = *state;
	const uint64_t page = DRIVER_RAM - RAM_PAGE;
	const struct driver_buf buf = { page, BUFFER };
	uint8_t bytes[HEADER + 14 + 100] = { 0 };
	const struct driver_buf out = { page, sizeof(bytes) };

	assert_int_equal(fault_install(), 0);
	driver_start(&r->d, ALL_FEATURES);
	r->at[driver_offer(&r->d.queue[RX], &buf, 0, 1)] = page;
	assert_int_equal(ftruncate(r->d.ram.fd, (off_t)page), 0);
	driver_kick(&r->d, RX);
	driver_run(&r->d);
	send_frame(r, 100, 1);
	driver_run(&r->d);
	assert_int_equal(r->d.faults, 1);
	driver_offer(&r->d.queue[TX], &out, 1, 0);
	driver_kick(&r->d, TX);
	driver_run(&r->d);
	assert_int_equal(r->d.faults, 2);
	assert_int_equal(driver_take(&r->d.queue[TX], NULL), NO_HEAD);

	assert_int_equal(ftruncate(r->d.ram.fd, DRIVER_RAM), 0);
	virtio_kick_all(r->d.v);
	driver_run(&r->d);
	assert_got(r, 100, 1);
	assert_int_not_equal(driver_take(&r->d.queue[TX], NULL), NO_HEAD);
}

static void assert_refused(struct rig *r, unsigned q, struct driver_buf buf, unsigned nout,
			   unsigned nin)
{
	struct driver *d = &r->d;

	driver_start(d, 0);
	driver_offer(&d->queue[q], &buf, nout, nin);
	driver_kick(d, q);
	driver_run(d);
	if (q == RX) {
		send_frame(r, 100, 1);
		driver_run(d);
	}
	assert_true(driver_needs_reset(d));
	assert_int_equal(driver_take(&d->queue[q], NULL), NO_HEAD);
}

static void net_senseless_request_needs_a_reset(void **state)
{
	struct rig *r = *state;
	const uint64_t at = driver_alloc(&r->d, 256);

	assert_refused(r, TX, (struct driver_buf){ at, 11 }, 1, 0);
	assert_refused(r, TX, (struct driver_buf){ at, 100 }, 0, 1);
	assert_refused(r, TX, (struct driver_buf){ DRIVER_RAM - 50, 100 }, 1, 0);
	assert_refused(r, RX, (struct driver_buf){ at, 11 }, 0, 1);
	assert_refused(r, RX, (struct driver_buf){ at, 100 }, 1, 0);
	assert_refused(r, RX, (struct driver_buf){ UINT64_MAX - 5, 200 }, 0, 1);
	assert_refused(r, CONTROL, (struct driver_buf){ at, 2 }, 1, 0);
	assert_refused(r, CONTROL, (struct driver_buf){ at, 1 }, 0, 1);
	driver_start(&r->d, ALL_FEATURES);
	transmit(r, 100, 9);
	assert_sent(r, 100, 9);
}

static void net_senseless_packet_is_dropped(void **state)
{
	struct rig *r = *state;
	static uint8_t bytes[70000];
	struct driver_buf buf[4] = { { 0, 0 } };

	driver_start(&r->d, ALL_FEATURES);
	/* No frame at all, a longer one than there is, a header that is nonsense. */
	driver_request(&r->d, TX, bytes, HEADER, NULL, 0);
	assert_int_equal(errors(r), 1);
	driver_request(&r->d, TX, bytes, sizeof(bytes), NULL, 0);
	assert_int_equal(errors(r), 2);
	memset(bytes, 0xff, 100);
	driver_request(&r->d, TX, bytes, 100, NULL, 0);
	assert_int_equal(errors(r), 3);
	/* More bytes than the RAM has, without one of them being looked at. */
	for (int i = 0; i < 4; i++)
		buf[i] = (struct driver_buf){ 0, UINT32_MAX };
	driver_offer(&r->d.queue[TX], buf, 4, 0);
	driver_kick(&r->d, TX);
	driver_run(&r->d);
	assert_int_not_equal(driver_take(&r->d.queue[TX], NULL), NO_HEAD);
	assert_int_equal(errors(r), 4);
}

/* ---- opening ---- */

static void assert_cannot_open(struct rig *r, const char *tap, size_t mac_len, const char *words)
{
	Device config = r->config;
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	struct driver d;

	config.tap = (char *)(uintptr_t)tap;
	config.mac.len = mac_len;
	assert_true(driver_try_open(&d, &virtio_net_ops, &config, &e) < 0);
	assert_says(&e, words);
	assert_int_equal(open_descriptors(), before);
}

static void net_tap_that_cannot_be_had_is_refused(void **state)
{
	struct rig *r = *state;

	assert_cannot_open(r, "nosuch", 6, "there is no such interface");
	assert_int_equal(if_nametoindex("nosuch"), 0);
	assert_cannot_open(r, "tap%d", 6, "there is no such interface");
	assert_cannot_open(r, "", 6, "1 to 15 bytes");
	assert_cannot_open(r, "a-name-that-is-too-long", 6, "1 to 15 bytes");
	assert_cannot_open(r, "t0", 6, "another program uses it");
	assert_cannot_open(r, "lo", 6, "this is no tap");
	assert_int_equal(in_shell("ip tuntap add dev %s mode tap multi_queue", "t2"), 0);
	assert_cannot_open(r, "t2", 6, "several queues");
	assert_int_equal(in_shell("ip link delete %s", "t2"), 0);
	assert_cannot_open(r, "t0", 5, "MAC address");
	r->mac[0] |= 1;
	assert_cannot_open(r, "t0", 6, "MAC address");
}

/* ---- where the tests can run ---- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		printf("%s cannot be written\n", path);
	if (fd >= 0)
		close(fd);
}

static bool can_run(void)
{
	auto_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		printf("skipped: /dev/net/tun: %s\n", strerror(errno));
		return false;
	}
	if (unshare(CLONE_NEWNET) < 0) {
		printf("skipped: no network namespace of its own: %s\n", strerror(errno));
		return false;
	}
	if (system("ip link show lo >/dev/null 2>&1") != 0) {
		printf("skipped: no ip(8), of iproute2\n");
		return false;
	}
	/* In the new namespace: the kernel shall send nothing of its own. */
	write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	return true;
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(net_offers_what_the_tap_can),
		T(net_frames_to_the_guest_come_whole_and_in_order),
		T(net_frames_of_the_guest_reach_the_tap),
		T(net_burst_of_the_guest_is_sent_whole),
		T(net_frames_wait_in_the_tap_until_there_are_buffers),
		T(net_frames_before_the_driver_wait),
		T(net_long_packet_is_spread_over_merged_buffers),
		T(net_long_packet_waits_for_enough_buffers),
		T(net_long_packet_fits_one_large_buffer),
		T(net_packet_that_can_never_fit_is_dropped),
		T(net_driver_without_offloads_gets_short_packets),
		T(net_long_packet_of_the_guest_is_cut_by_the_host),
		T(net_unknown_command_is_refused),
		T(net_restored_asks_to_announce_once),
		T(net_saved_with_a_packet_half_way_loses_none),
		T(net_mtu_stays_what_the_driver_was_told),
		T(net_state_out_of_bounds_is_refused),
		T(net_link_that_is_down_drops_and_counts),
		T(net_tap_that_is_removed_takes_the_link_down),
		T(net_lost_page_loses_no_packet),
		T(net_senseless_request_needs_a_reset),
		T(net_senseless_packet_is_dropped),
		T(net_tap_that_cannot_be_had_is_refused),
	};

	if (!can_run())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
