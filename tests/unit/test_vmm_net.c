/*
 * virtio-net over a real tap: packets both ways, offloads, merged buffers, the
 * tap's troubles, and the device's state.
 */
#include "net_rig.h"

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
