/*
 * virtio-net over a real tap, in a network namespace of the test's own. The other
 * end of the tap is a packet socket.
 */
#pragma once

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

UNUSED static void make_tap(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	auto_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
}

UNUSED static void set_up(const char *name, bool up)
{
	struct ifreq ifr = { 0 };
	auto_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
}

UNUSED static int in_shell(const char *fmt, const char *name)
{
	char line[128];

	snprintf(line, sizeof(line), fmt, name);
	return system(line);
}

/* A socket that sends and takes frames as if the network behind the tap did. */
UNUSED static int open_packet(const char *name)
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

UNUSED static void open_on(struct rig *r, const char *tap)
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

UNUSED static void close_on(struct rig *r)
{
	close(r->packet);
	driver_close(&r->d);
	if (if_nametoindex(r->config.tap))
		assert_int_equal(in_shell("ip link delete %s", r->config.tap), 0);
}

UNUSED static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	open_on(r, "t0");
	return 0;
}

UNUSED static int drop(void **state)
{
	close_on(*state);
	free(*state);
	return 0;
}

UNUSED static void give_buffers(struct rig *r, unsigned n, uint32_t len)
{
	while (n--) {
		const struct driver_buf buf = { driver_alloc(&r->d, len), len };

		r->at[driver_offer(&r->d.queue[RX], &buf, 0, 1)] = buf.address;
	}
	driver_kick(&r->d, RX);
	driver_run(&r->d);
}

/* The next packet that the driver got, with its header; 0: there is none. */
UNUSED static size_t take_packet(struct rig *r, uint8_t *to, size_t room)
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

UNUSED static size_t make_frame(const struct rig *r, uint8_t *to, size_t payload, uint32_t seed)
{
	const uint16_t type = htons(ETHERTYPE);

	memcpy(to, r->mac, 6);
	memset(to + 6, 0x02, 6);
	memcpy(to + 12, &type, 2);
	fill_random(to + 14, payload, seed);
	return 14 + payload;
}

/* A frame from the network. */
UNUSED static void send_frame(const struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t bytes[sizeof(struct virtio_net_hdr) + 14 + 1500] = { 0 };
	const size_t n = make_frame(r, bytes + sizeof(struct virtio_net_hdr), payload, seed) +
			 sizeof(struct virtio_net_hdr);

	assert_int_equal(send(r->packet, bytes, n, 0), n);
}

/* The driver has got this frame next, and whole. */
UNUSED static void assert_got(struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t got[HEADER + 14 + 1500], want[14 + 1500];
	const size_t n = make_frame(r, want, payload, seed);

	assert_int_equal(take_packet(r, got, sizeof(got)), HEADER + n);
	assert_memory_equal(got + HEADER, want, n);
}

/* Sums 16-bit words, for the TCP pseudo header. */
UNUSED static uint32_t sum_words(const uint8_t *p, size_t n)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	return sum;
}

UNUSED static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)(sum + (sum >> 16)));
}

/* A TCP segment of TSO bytes with its header for the kernel: to be cut by whoever must. */
UNUSED static size_t make_tso(const struct rig *r, uint8_t *to, uint32_t seed)
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

UNUSED static void send_tso(const struct rig *r, uint32_t seed)
{
	static uint8_t bytes[sizeof(struct virtio_net_hdr) + TSO_FRAME];
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	const size_t n = make_tso(r, bytes, seed);

	address.sll_ifindex = (int)if_nametoindex(r->config.tap);
	assert_int_equal(
		sendto(r->packet, bytes, n, 0, (struct sockaddr *)&address, sizeof(address)), n);
}

UNUSED static void assert_got_tso(struct rig *r, uint32_t seed)
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
UNUSED static void assert_sent(const struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t got[sizeof(struct virtio_net_hdr) + 14 + 1500 + 64], want[14 + 1500];
	const size_t n = make_frame(r, want, payload, seed);
	struct pollfd p = { .fd = r->packet, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(recv(r->packet, got, sizeof(got), 0), sizeof(struct virtio_net_hdr) + n);
	assert_memory_equal(got + sizeof(struct virtio_net_hdr), want, n);
}

UNUSED static void transmit(struct rig *r, size_t payload, uint32_t seed)
{
	uint8_t bytes[HEADER + 14 + 1500] = { 0 };
	const size_t n = HEADER + make_frame(r, bytes + HEADER, payload, seed);

	driver_request(&r->d, TX, bytes, (uint32_t)n, NULL, 0);
}

UNUSED static uint64_t errors(const struct rig *r)
{
	return __atomic_load_n(&r->d.v->errors, __ATOMIC_RELAXED);
}

/* ---- where the tests can run ---- */

UNUSED static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		printf("%s cannot be written\n", path);
	if (fd >= 0)
		close(fd);
}

UNUSED static bool can_run(void)
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
