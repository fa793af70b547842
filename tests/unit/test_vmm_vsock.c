/* virtio-vsock: a driver of the test's own on one side, real Unix sockets on the other. */
#include "virtio_driver.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include "vmm/fault.h"
#include "vmm/unix_socket.h"
#include "vmm/virtio/vsock.h"
#include "vmm/virtio/vsock_mux.h"

enum { RX, TX, EVENT };

#define CID	  42
#define RX_BUFS	  64
#define RX_SIZE	  4096
#define GUEST_BUF (32U << 10) /* what the test's guest has room for, a connection */
#define BIG	  (5U << 20)

struct rig {
	struct folder *folder;
	char path[96];
	Device config;
	struct driver d;
	uint64_t rx_address[VIRTQ_SIZE_MAX]; /* by head */
	/* what the guest says of its credit */
	uint32_t alloc, forwarded;
	struct vsock_header got;
	uint8_t payload[RX_SIZE];
};

static void offer_rx(struct rig *r, uint64_t address)
{
	const struct driver_buf buf = { address, RX_SIZE };

	r->rx_address[driver_offer(&r->d.queue[RX], &buf, 0, 1)] = address;
}

static void fill_rx(struct rig *r, unsigned n)
{
	while (n-- > 0)
		offer_rx(r, driver_alloc(&r->d, RX_SIZE));
	driver_kick(&r->d, RX);
	driver_run(&r->d);
}

static int rig_make(void **state, unsigned rx_bufs)
{
	struct rig *r = calloc(1, sizeof(*r));
	void *folder;

	if (!r || folder_make(&folder) < 0)
		return -1;
	r->folder = folder;
	snprintf(r->path, sizeof(r->path), "%s/v", r->folder->path);
	r->config = (Device)DEVICE__INIT;
	r->config.path = r->path;
	r->config.guest_cid = CID;
	r->alloc = GUEST_BUF;
	driver_open(&r->d, &virtio_vsock_ops, &r->config);
	driver_start(&r->d, ALL_FEATURES);
	fill_rx(r, rx_bufs);
	*state = r;
	return 0;
}

static int make(void **state)
{
	return rig_make(state, RX_BUFS);
}

static int make_without_rx(void **state)
{
	return rig_make(state, 0);
}

static int drop(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	driver_close(&r->d);
	free(r);
	return folder_remove(&folder);
}

/* ---- the guest ---- */

static struct vsock_header header(const struct rig *r, uint16_t op, uint32_t host_port,
				  uint32_t guest_port)
{
	return (struct vsock_header){ .src_cid = CID,
				      .dst_cid = VSOCK_HOST_CID,
				      .src_port = guest_port,
				      .dst_port = host_port,
				      .type = VSOCK_TYPE_STREAM,
				      .op = op,
				      .buf_alloc = r->alloc,
				      .fwd_cnt = r->forwarded };
}

/* A packet with n bytes behind its header, whatever that says. */
static void send_raw(struct rig *r, const struct vsock_header *h, const void *payload, uint32_t n)
{
	static uint8_t packet[VSOCK_HEADER_SIZE + 2 * VSOCK_BUFFER_SIZE];

	vsock_header_encode(h, packet);
	if (n)
		memcpy(packet + VSOCK_HEADER_SIZE, payload, n);
	driver_request(&r->d, TX, packet, VSOCK_HEADER_SIZE + n, NULL, 0);
}

static void send_op(struct rig *r, uint16_t op, uint32_t host_port, uint32_t guest_port)
{
	const struct vsock_header h = header(r, op, host_port, guest_port);

	send_raw(r, &h, NULL, 0);
}

static void send_shutdown(struct rig *r, uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	struct vsock_header h = header(r, VSOCK_SHUTDOWN, host_port, guest_port);

	h.flags = flags;
	send_raw(r, &h, NULL, 0);
}

static void send_bytes(struct rig *r, uint32_t host_port, uint32_t guest_port, const void *bytes,
		       uint32_t n)
{
	struct vsock_header h = header(r, VSOCK_RW, host_port, guest_port);

	h.len = n;
	send_raw(r, &h, bytes, n);
}

/* The next packet to the guest, in r->got and r->payload. */
static bool receive(struct rig *r)
{
	uint8_t raw[VSOCK_HEADER_SIZE];
	uint64_t address;
	uint32_t len;
	uint16_t head;

	driver_run(&r->d);
	head = driver_take(&r->d.queue[RX], &len);
	if (head == NO_HEAD)
		return false;
	address = r->rx_address[head];
	assert_in_range(len, VSOCK_HEADER_SIZE, RX_SIZE);
	guest_read(&r->d.ram, address, raw, sizeof(raw));
	vsock_header_decode(raw, &r->got);
	assert_int_equal(r->got.len, len - VSOCK_HEADER_SIZE);
	guest_read(&r->d.ram, address + VSOCK_HEADER_SIZE, r->payload, r->got.len);
	offer_rx(r, address);
	if (driver_should_kick(&r->d.queue[RX]))
		driver_kick(&r->d, RX);
	return true;
}

static void expect(struct rig *r, uint16_t op, uint32_t host_port, uint32_t guest_port)
{
	assert_true(receive(r));
	assert_int_equal(r->got.op, op);
	assert_int_equal(r->got.src_port, host_port);
	assert_int_equal(r->got.dst_port, guest_port);
	assert_int_equal(r->got.dst_cid, CID);
}

static void expect_shutdown(struct rig *r, uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	expect(r, VSOCK_SHUTDOWN, host_port, guest_port);
	assert_int_equal(r->got.flags, flags);
}

static void expect_bytes(struct rig *r, const char *text)
{
	assert_true(receive(r));
	assert_int_equal(r->got.op, VSOCK_RW);
	assert_int_equal(r->got.len, strlen(text));
	assert_memory_equal(r->payload, text, strlen(text));
	r->forwarded += r->got.len;
}

static void expect_nothing(struct rig *r)
{
	if (receive(r))
		fail_msg("a packet with op %u", r->got.op);
}

/* ---- the host ---- */

static void put(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void expect_text(struct rig *r, int fd, const char *text)
{
	char buf[256];
	ssize_t n;

	driver_run(&r->d);
	n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

static void expect_end(struct rig *r, int fd)
{
	char byte;

	driver_run(&r->d);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

static void expect_silence(struct rig *r, int fd)
{
	char byte;

	driver_run(&r->d);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static int dial(struct rig *r)
{
	int fd = unix_connect(r->path);

	/* Where the device has a thread, that may be behind with accepting. */
	for (int ms = 0; fd == -EAGAIN && r->d.io.started && ms < 5000; ms++) {
		usleep(1000);
		fd = unix_connect(r->path);
	}
	if (fd < 0)
		fail_msg("connect: %s", strerror(-fd));
	return fd;
}

/* A connection that a program of the host has made; its port. */
static uint32_t open_by_host(struct rig *r, uint32_t guest_port, int *fd)
{
	char text[64];
	uint32_t port;

	*fd = dial(r);
	snprintf(text, sizeof(text), "CONNECT %u\n", guest_port);
	put(*fd, text);
	assert_true(receive(r));
	assert_int_equal(r->got.op, VSOCK_REQUEST);
	assert_int_equal(r->got.dst_port, guest_port);
	port = r->got.src_port;
	r->forwarded = 0;
	send_op(r, VSOCK_RESPONSE, port, guest_port);
	snprintf(text, sizeof(text), "OK %u\n", port);
	expect_text(r, *fd, text);
	return port;
}

static void listen_on(struct rig *r, uint32_t port, struct unix_listener *l)
{
	char path[112];

	snprintf(path, sizeof(path), "%s_%u", r->path, port);
	assert_int_equal(unix_listen(l, "test", path, NULL), 0);
}

/* ---- connecting ---- */

static void host_connect_accepted_streams_both_ways(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	port = open_by_host(r, 1024, &fd);
	put(fd, "ping");
	expect_bytes(r, "ping");
	send_bytes(r, port, 1024, "pong", 4);
	expect_text(r, fd, "pong");
	expect_nothing(r);
	close(fd);
}

static void host_connect_in_pieces_is_understood(void **state)
{
	static const char *const piece[] = { "C", "ONNE", "CT ", "10", "24", "\n" };
	struct rig *r = *state;
	auto_fd int fd = dial(r);

	for (size_t i = 0; i < sizeof(piece) / sizeof(*piece); i++) {
		expect_nothing(r);
		put(fd, piece[i]);
	}
	assert_true(receive(r));
	assert_int_equal(r->got.op, VSOCK_REQUEST);
	assert_int_equal(r->got.dst_port, 1024);
}

static void host_bytes_behind_the_line_are_kept(void **state)
{
	struct rig *r = *state;
	auto_fd int fd = dial(r);

	put(fd, "connect 7\r\nhello");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_true(receive(r));
	assert_int_equal(r->got.dst_port, 7);
	send_op(r, VSOCK_RESPONSE, r->got.src_port, 7);
	expect_bytes(r, "hello");
	expect_shutdown(r, r->got.src_port, 7, VSOCK_SHUT_SEND);
}

static void host_line_that_is_none_is_closed(void **state)
{
	static const char *const line[] = {
		"HELLO\n",
		"\n",
		"CONNECT\n",
		"CONNECT \n",
		"CONNECT 4294967295\n",
		"CONNECT 99999999999\n",
		"CONNECT -1\n",
		"CONNECT 1 2\n",
		"CONNECT 0x10\n",
		"CONNECT 1                            ",
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(line) / sizeof(*line); i++) {
		auto_fd int fd = dial(r);
		char byte;

		put(fd, line[i]);
		expect_nothing(r);
		/* ECONNRESET where some of it was not read */
		assert_true(recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
	}
}

static void host_connect_refused_by_the_guest_is_closed(void **state)
{
	struct rig *r = *state;
	auto_fd int fd = dial(r);

	put(fd, "CONNECT 9\n");
	assert_true(receive(r));
	send_op(r, VSOCK_RST, r->got.src_port, 9);
	expect_end(r, fd);
	expect_nothing(r);
}

static void host_that_leaves_before_the_answer_is_forgotten(void **state)
{
	struct rig *r = *state;
	int fd = dial(r);

	put(fd, "CONNECT 9\n");
	assert_true(receive(r));
	close(fd);
	expect_nothing(r);
	send_op(r, VSOCK_RESPONSE, r->got.src_port, 9);
	expect(r, VSOCK_RST, r->got.src_port, 9);
}

static void host_connect_without_driver_is_closed(void **state)
{
	struct rig *r = *state;
	int fd;

	driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
	fd = dial(r);
	put(fd, "CONNECT 9\n");
	driver_run(&r->d);
	assert_true(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) <= 0);
	assert_int_not_equal(errno, EAGAIN);
	close(fd);
}

static void guest_connect_reaches_the_socket_of_its_port(void **state)
{
	struct rig *r = *state;
	struct unix_listener l;
	int fd;

	listen_on(r, 52, &l);
	send_op(r, VSOCK_REQUEST, 52, 2000);
	expect(r, VSOCK_RESPONSE, 52, 2000);
	assert_int_equal(r->got.src_cid, VSOCK_HOST_CID);
	assert_int_equal(r->got.buf_alloc, VSOCK_BUFFER_SIZE);
	fd = accept(l.fd, NULL, NULL);
	assert_true(fd >= 0);
	send_bytes(r, 52, 2000, "question", 8);
	expect_text(r, fd, "question");
	put(fd, "answer");
	expect_bytes(r, "answer");
	/* The same pair again: both ends are told that it is over. */
	send_op(r, VSOCK_REQUEST, 52, 2000);
	expect(r, VSOCK_RST, 52, 2000);
	expect_end(r, fd);
	close(fd);
	unix_listener_close(&l);
}

static void guest_connect_to_nobody_is_refused(void **state)
{
	struct rig *r = *state;

	send_op(r, VSOCK_REQUEST, 53, 2000);
	expect(r, VSOCK_RST, 53, 2000);
	send_op(r, VSOCK_REQUEST, UINT32_MAX, UINT32_MAX);
	expect(r, VSOCK_RST, UINT32_MAX, UINT32_MAX);
}

/* ---- what a guest ought not to do ---- */

static void unknown_connection_is_answered_with_rst(void **state)
{
	struct rig *r = *state;

	for (uint16_t op = VSOCK_RESPONSE; op < (uint16_t)VSOCK_OPS; op++) {
		send_op(r, op, 1, 2);
		if (op != VSOCK_RST)
			expect(r, VSOCK_RST, 1, 2);
		expect_nothing(r);
	}
}

static void header_that_is_wrong_is_refused_or_dropped(void **state)
{
	struct rig *r = *state;
	struct vsock_header h = header(r, VSOCK_REQUEST, 1, 2);

	h.src_cid = CID + 1;
	send_raw(r, &h, NULL, 0);
	expect_nothing(r);
	h = header(r, VSOCK_REQUEST, 1, 2);
	h.dst_cid = 77;
	send_raw(r, &h, NULL, 0);
	expect(r, VSOCK_RST, 1, 2);
	assert_int_equal(r->got.src_cid, 77);
	h = header(r, VSOCK_REQUEST, 1, 2);
	h.type = 2;
	send_raw(r, &h, NULL, 0);
	expect(r, VSOCK_RST, 1, 2);
	assert_int_equal(r->got.type, 2);
	h.op = VSOCK_RST;
	send_raw(r, &h, NULL, 0);
	expect_nothing(r);
	for (unsigned op = 0; op < 3; op++) {
		static const uint16_t wrong[] = { 0, VSOCK_OPS, UINT16_MAX };

		h = header(r, wrong[op], 1, 2);
		send_raw(r, &h, NULL, 0);
		expect(r, VSOCK_RST, 1, 2);
	}
	assert_false(driver_needs_reset(&r->d));
}

static void len_beyond_the_chain_ends_the_connection(void **state)
{
	struct rig *r = *state;
	struct vsock_header h;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	h = header(r, VSOCK_RW, port, 5);
	h.len = 5;
	send_raw(r, &h, "four", 4);
	expect(r, VSOCK_RST, port, 5);
	expect_end(r, fd);
	close(fd);
	port = open_by_host(r, 5, &fd);
	h = header(r, VSOCK_RW, port, 5);
	h.len = UINT32_MAX;
	send_raw(r, &h, "four", 4);
	expect(r, VSOCK_RST, port, 5);
	expect_end(r, fd);
	close(fd);
}

static void chain_too_short_breaks_the_device(void **state)
{
	struct rig *r = *state;
	uint64_t address = driver_alloc(&r->d, 64);
	const struct driver_buf buf = { address, VSOCK_HEADER_SIZE - 1 };

	driver_offer(&r->d.queue[TX], &buf, 1, 0);
	driver_kick(&r->d, TX);
	driver_run(&r->d);
	assert_true(driver_needs_reset(&r->d));
}

static void rx_buffer_without_room_breaks_the_device_and_ends_connections(void **state)
{
	struct rig *r = *state;
	uint64_t address = driver_alloc(&r->d, 64);
	const struct driver_buf buf = { address, VSOCK_HEADER_SIZE };
	auto_fd int fd = dial(r);

	driver_offer(&r->d.queue[RX], &buf, 0, 1);
	put(fd, "CONNECT 1\n");
	driver_run(&r->d);
	assert_true(driver_needs_reset(&r->d));
	/* What then happens on the host does not keep the thread busy: driver_run() ends. */
	put(fd, "bytes");
	shutdown(fd, SHUT_RDWR);
	driver_run(&r->d);
}

static void credit_overdrawn_ends_the_connection(void **state)
{
	static uint8_t bytes[VSOCK_BUFFER_SIZE];
	struct rig *r = *state;
	unsigned packets = 0;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	/* The host does not read: its socket fills, then the buffer, then it is too much. */
	do {
		assert_true(packets++ < 64);
		send_bytes(r, port, 5, bytes, sizeof(bytes));
	} while (!receive(r) || r->got.op == VSOCK_CREDIT_UPDATE);
	assert_int_equal(r->got.op, VSOCK_RST);
	expect_nothing(r);
	close(fd);
}

static void credit_that_lies_ends_the_connection(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	r->forwarded = 1; /* nothing was sent */
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	expect(r, VSOCK_RST, port, 5);
	expect_end(r, fd);
	close(fd);
	port = open_by_host(r, 5, &fd);
	put(fd, "abc");
	expect_bytes(r, "abc");
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	expect_nothing(r);
	r->forwarded = 2; /* taken back */
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	expect(r, VSOCK_RST, port, 5);
	close(fd);
	r->forwarded = 1;
	send_op(r, VSOCK_REQUEST, 99, 5);
	expect(r, VSOCK_RST, 99, 5);
}

static void refusals_that_nobody_takes_stop_the_guest(void **state)
{
	struct rig *r = *state;
	struct driver_queue *tx = &r->d.queue[TX];
	uint64_t address = driver_alloc(&r->d, VSOCK_HEADER_SIZE);
	const struct vsock_header h = header(r, VSOCK_RW, 1, 2);
	const struct driver_buf buf = { address, VSOCK_HEADER_SIZE };
	uint8_t raw[VSOCK_HEADER_SIZE];
	unsigned sent = 0, taken = 0, answers = 0;

	vsock_header_encode(&h, raw);
	guest_write(&r->d.ram, address, raw, sizeof(raw));
	for (unsigned round = 0; round < 10; round++) {
		while (tx->nfree > 0 && sent < 500) {
			driver_offer(tx, &buf, 1, 0);
			sent++;
		}
		driver_kick(&r->d, TX);
		driver_run(&r->d);
		while (driver_take(tx, NULL) != NO_HEAD)
			taken++;
	}
	assert_int_equal(taken, VSOCK_RSTS);
	/* The guest takes them: everything goes on, nothing is lost. */
	fill_rx(r, RX_BUFS);
	for (unsigned round = 0; round < 100; round++) {
		while (receive(r))
			answers++;
		while (driver_take(tx, NULL) != NO_HEAD)
			taken++;
		while (tx->nfree > 0 && sent < 500) {
			driver_offer(tx, &buf, 1, 0);
			sent++;
		}
		if (driver_should_kick(tx))
			driver_kick(&r->d, TX);
	}
	assert_int_equal(sent, 500);
	assert_int_equal(taken, 500);
	assert_int_equal(answers, 500);
}

/* ---- much ---- */

static void host_sends_much_and_the_guest_gets_it_in_its_own_time(void **state)
{
	auto_free uint8_t *bytes = malloc(BIG), *seen = malloc(BIG);
	struct rig *r = *state;
	uint32_t port, at = 0, got = 0;
	unsigned asked = 0;
	int fd;

	fill_random(bytes, BIG, 1);
	port = open_by_host(r, 5, &fd);
	while (got < BIG) {
		uint32_t before = got;
		ssize_t n = send(fd, bytes + at, BIG - at, MSG_DONTWAIT | MSG_NOSIGNAL);

		at += n > 0 ? (uint32_t)n : 0;
		while (receive(r)) {
			if (r->got.op == VSOCK_CREDIT_REQUEST) {
				asked++;
				continue;
			}
			assert_int_equal(r->got.op, VSOCK_RW);
			assert_true(got + r->got.len <= BIG);
			memcpy(seen + got, r->payload, r->got.len);
			got += r->got.len;
		}
		/* Never more on the way than the guest said that it has room for. */
		assert_in_range(got - r->forwarded, got > before ? 1 : 0, GUEST_BUF);
		r->forwarded = got;
		send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	}
	assert_true(asked > 0);
	assert_int_equal(at, BIG);
	assert_memory_equal(bytes, seen, BIG);
	close(fd);
	expect_shutdown(r, port, 5, VSOCK_SHUT_BOTH);
	send_op(r, VSOCK_RST, port, 5);
	expect_nothing(r);
}

static void guest_sends_much_and_the_host_gets_it_in_its_own_time(void **state)
{
	auto_free uint8_t *bytes = malloc(BIG), *seen = malloc(BIG);
	struct rig *r = *state;
	uint32_t port, at = 0, got = 0, forwarded = 0;
	unsigned stalls = 0;
	int fd;

	fill_random(bytes, BIG, 2);
	port = open_by_host(r, 5, &fd);
	while (got < BIG) {
		uint32_t room = VSOCK_BUFFER_SIZE - (at - forwarded);
		uint32_t n = room < BIG - at ? room : BIG - at;
		ssize_t k;

		if (n > 0)
			send_bytes(r, port, 5, bytes + at, n);
		at += n;
		while (receive(r)) {
			assert_int_equal(r->got.op, VSOCK_CREDIT_UPDATE);
			forwarded = r->got.fwd_cnt;
		}
		assert_in_range(at - forwarded, 0, VSOCK_BUFFER_SIZE);
		if (at - forwarded < VSOCK_BUFFER_SIZE && at < BIG)
			continue;
		stalls++;
		k = recv(fd, seen + got, 50000 < BIG - got ? 50000 : BIG - got, MSG_DONTWAIT);
		assert_true(k > 0);
		got += (uint32_t)k;
	}
	assert_true(stalls > 10);
	assert_memory_equal(bytes, seen, BIG);
	send_op(r, VSOCK_CREDIT_REQUEST, port, 5);
	expect(r, VSOCK_CREDIT_UPDATE, port, 5);
	assert_int_equal(r->got.fwd_cnt, BIG);
	close(fd);
}

static void no_credit_is_asked_for_once_and_waited_for(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	r->alloc = 3;
	port = open_by_host(r, 5, &fd);
	put(fd, "abcde");
	expect_bytes(r, "abc");
	expect(r, VSOCK_CREDIT_REQUEST, port, 5);
	r->forwarded = 0;
	for (int i = 0; i < 10; i++) { /* the guest's program does not read */
		send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
		expect_nothing(r);
	}
	r->forwarded = 3;
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	expect_bytes(r, "de");
	close(fd);
}

static void raise_descriptor_limit(void)
{
	struct rlimit l;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
	l.rlim_cur = l.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
	assert_true(l.rlim_max > 2 * VSOCK_CONNS + 100);
}

static void connections_up_to_the_limit_all_stream(void **state)
{
	static int fd[VSOCK_CONNS];
	struct rig *r = *state;
	struct unix_listener l;
	uint32_t seen = 0;

	raise_descriptor_limit();
	listen_on(r, 52, &l);
	for (uint32_t i = 0; i < VSOCK_CONNS; i++) {
		send_op(r, VSOCK_REQUEST, 52, 1000 + i);
		expect(r, VSOCK_RESPONSE, 52, 1000 + i);
		fd[i] = accept(l.fd, NULL, NULL);
		assert_true(fd[i] >= 0);
	}
	send_op(r, VSOCK_REQUEST, 52, 1000 + VSOCK_CONNS);
	expect(r, VSOCK_RST, 52, 1000 + VSOCK_CONNS);
	for (uint32_t i = 0; i < VSOCK_CONNS; i++)
		assert_int_equal(send(fd[i], &i, sizeof(i), 0), sizeof(i));
	while (receive(r)) {
		uint32_t value;

		assert_int_equal(r->got.len, sizeof(value));
		memcpy(&value, r->payload, sizeof(value));
		assert_int_equal(r->got.dst_port, 1000 + value);
		seen++;
	}
	assert_int_equal(seen, VSOCK_CONNS);
	for (uint32_t i = 0; i < VSOCK_CONNS; i++)
		close(fd[i]);
	while (receive(r)) {
		assert_int_equal(r->got.op, VSOCK_SHUTDOWN);
		seen--;
		send_op(r, VSOCK_RST, 52, r->got.dst_port);
	}
	assert_int_equal(seen, 0);
	send_op(r, VSOCK_REQUEST, 52, 1000); /* there is room again */
	expect(r, VSOCK_RESPONSE, 52, 1000);
	unix_listener_close(&l);
}

static void a_busy_connection_leaves_the_others_their_turn(void **state)
{
	static uint8_t bytes[16 << 10];
	struct rig *r = *state;
	uint32_t busy, quiet;
	unsigned before = 0;
	int a, b;

	busy = open_by_host(r, 5, &a);
	quiet = open_by_host(r, 6, &b);
	assert_int_equal(send(a, bytes, sizeof(bytes), MSG_DONTWAIT), sizeof(bytes));
	put(b, "small");
	while (receive(r) && r->got.src_port != quiet) {
		assert_int_equal(r->got.src_port, busy);
		before++;
	}
	assert_int_equal(r->got.src_port, quiet);
	/* Its bytes came in one packet; the busy one needs five. */
	assert_int_equal(r->got.len, 5);
	assert_in_range(before, 0, 5);
	close(a);
	close(b);
}

/* ---- ends ---- */

static void guest_shutdown_of_sending_ends_the_hosts_reading_only(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	send_bytes(r, port, 5, "last", 4);
	send_shutdown(r, port, 5, VSOCK_SHUT_SEND);
	expect_text(r, fd, "last");
	expect_end(r, fd);
	put(fd, "late answer");
	expect_bytes(r, "late answer");
	send_bytes(r, port, 5, "more", 4); /* against its word */
	expect(r, VSOCK_RST, port, 5);
	close(fd);
}

static void guest_shutdown_of_receiving_ends_the_hosts_writing_only(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	send_shutdown(r, port, 5, VSOCK_SHUT_RECEIVE);
	driver_run(&r->d);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	send_bytes(r, port, 5, "still", 5);
	expect_text(r, fd, "still");
	close(fd);
}

static void guest_close_is_confirmed_and_the_host_reads_all(void **state)
{
	static uint8_t bytes[VSOCK_BUFFER_SIZE], in[VSOCK_BUFFER_SIZE];
	struct rig *r = *state;
	uint32_t port, sent = 0, got = 0;
	ssize_t n;
	int fd;

	port = open_by_host(r, 5, &fd);
	fill_random(bytes, sizeof(bytes), 3);
	/* Until bytes wait in the device's own buffer, too. */
	for (uint32_t known = 0; sent - known < 40000;) {
		send_bytes(r, port, 5, bytes, 20000);
		sent += 20000;
		send_op(r, VSOCK_CREDIT_REQUEST, port, 5);
		expect(r, VSOCK_CREDIT_UPDATE, port, 5);
		known = r->got.fwd_cnt;
	}
	send_shutdown(r, port, 5, VSOCK_SHUT_BOTH);
	expect(r, VSOCK_RST, port, 5);
	/* Even over a reset: the guest has closed in good order. */
	driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
	while (driver_run(&r->d), (n = recv(fd, in, 20000, MSG_DONTWAIT)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(in[i], bytes[(got + (uint32_t)i) % 20000]);
		got += (uint32_t)n;
	}
	assert_int_equal(n, 0);
	assert_int_equal(got, sent);
	close(fd);
}

static void host_end_of_sending_then_close_are_told_apart(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	port = open_by_host(r, 5, &fd);
	put(fd, "all");
	shutdown(fd, SHUT_WR);
	expect_bytes(r, "all");
	expect_shutdown(r, port, 5, VSOCK_SHUT_SEND);
	send_bytes(r, port, 5, "reply", 5);
	expect_text(r, fd, "reply");
	close(fd);
	expect_shutdown(r, port, 5, VSOCK_SHUT_BOTH);
	send_bytes(r, port, 5, "lost", 4); /* was on its way: no harm */
	expect_nothing(r);
	send_shutdown(r, port, 5, VSOCK_SHUT_BOTH);
	expect(r, VSOCK_RST, port, 5);
	expect_nothing(r);
}

static void host_that_closes_loses_nothing_it_sent(void **state)
{
	struct rig *r = *state;
	uint32_t port;
	int fd;

	r->alloc = 4;
	port = open_by_host(r, 5, &fd);
	put(fd, "12345678");
	close(fd);
	send_bytes(r, port, 5, "x", 1); /* finds the host gone */
	expect_bytes(r, "1234");
	expect(r, VSOCK_CREDIT_REQUEST, port, 5);
	expect_shutdown(r, port, 5, VSOCK_SHUT_RECEIVE);
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	expect_bytes(r, "5678");
	send_op(r, VSOCK_CREDIT_UPDATE, port, 5);
	while (receive(r) && r->got.op == VSOCK_CREDIT_REQUEST)
		;
	assert_int_equal(r->got.op, VSOCK_SHUTDOWN);
	assert_int_equal(r->got.flags, VSOCK_SHUT_BOTH);
}

static void device_reset_ends_all_connections(void **state)
{
	struct rig *r = *state;
	unsigned before = open_descriptors();
	auto_fd int line = dial(r), asked = dial(r);
	int fd;

	open_by_host(r, 5, &fd);
	put(asked, "CONNECT 6\n");
	driver_run(&r->d);
	driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
	expect_end(r, fd);
	expect_end(r, line);
	expect_end(r, asked);
	close(fd);
	assert_int_equal(open_descriptors(), before + 2);
}

static void device_reset_again_and_again_beside_a_busy_thread_is_clean(void **state)
{
	struct rig *r = *state;
	const uint64_t before = r->d.next;
	unsigned descriptors = open_descriptors();

	assert_int_equal(iothread_start(&r->d.io, NULL), 0);
	iothread_release(&r->d.io);
	for (int i = 0; i < 100; i++) {
		int fd[4];

		for (int k = 0; k < 4; k++) {
			fd[k] = dial(r);
			(void)!send(fd[k], "CONNECT 5\nbytes", 15, MSG_NOSIGNAL);
		}
		driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
		r->d.next = before;
		driver_start(&r->d, ALL_FEATURES);
		for (unsigned k = 0; k < RX_BUFS; k++)
			offer_rx(r, driver_alloc(&r->d, RX_SIZE));
		driver_kick(&r->d, RX);
		for (int k = 0; k < 4; k++)
			close(fd[k]);
	}
	driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
	iothread_hold(&r->d.io);
	driver_run(&r->d);
	assert_int_equal(open_descriptors(), descriptors);
}

static void memory_that_cannot_be_had_loses_and_doubles_nothing(void **state)
{
	struct rig *r = *state;
	uint64_t size = r->d.ram.size, address = size - 2 * RX_SIZE;
	const struct driver_buf buf = { address, RX_SIZE };
	uint32_t port;
	int fd;

	assert_int_equal(fault_install(), 0);
	r->alloc = UINT32_MAX;
	port = open_by_host(r, 5, &fd);
	for (unsigned i = 0; i < RX_BUFS; i++) { /* the one beyond them all is next */
		assert_int_equal(send(fd, "x", 1, 0), 1);
		driver_run(&r->d);
		assert_int_not_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	}
	r->rx_address[driver_offer(&r->d.queue[RX], &buf, 0, 1)] = address;
	assert_int_equal(ftruncate(r->d.ram.fd, (off_t)address), 0);
	put(fd, "precious");
	driver_kick(&r->d, RX);
	driver_run(&r->d);
	assert_true(r->d.faults > 0);
	assert_in_range(r->d.fault, address, address + RX_SIZE);
	assert_int_equal(driver_take(&r->d.queue[RX], NULL), NO_HEAD);
	assert_int_equal(ftruncate(r->d.ram.fd, (off_t)size), 0);
	virtio_kick_all(r->d.v);
	expect_bytes(r, "precious");
	assert_int_equal(r->got.src_port, port);
	expect_nothing(r);
	close(fd);
}

/* ---- save and restore ---- */

struct saved {
	uint8_t *buf;
	size_t len;
};

static struct saved save(struct virtio *v)
{
	struct saved s;

	assert_int_equal(v->dev.ops->save(&v->dev, &s.buf, &s.len), 0);
	return s;
}

/* The machine is restored: another device, over the same memory. The old one goes on. */
static struct virtio *restore(struct rig *r, Device *config, const struct saved *s)
{
	const struct vdev_host host = { .arg = &r->d,
					.set_irq = driver_set_irq,
					.report_fault = driver_on_fault };
	struct virtio *old = r->d.v, *v;
	struct err e = { 0 };

	config->name = (char *)(uintptr_t) "device0";
	config->kind = (char *)(uintptr_t) "virtio-vsock";
	assert_int_equal(
		virtio_open(config, DRIVER_ADDRESS, DRIVER_IRQ, &r->d.ram, &r->d.io, &host, &v, &e),
		0);
	if (v->dev.ops->load(&v->dev, s->buf, s->len, &e) < 0)
		fail_msg("%s", e.text);
	v->ops->restored(v);
	assert_int_equal(virtio_bind(v, NULL, NULL), 0);
	r->d.v = v;
	return old;
}

static void offer_event(struct rig *r, uint64_t *address)
{
	struct driver_buf buf = { driver_alloc(&r->d, 8), 8 };

	*address = buf.address;
	guest_write(&r->d.ram, buf.address, "\xff\xff\xff\xff", 4);
	driver_offer(&r->d.queue[EVENT], &buf, 0, 1);
	driver_kick(&r->d, EVENT);
}

static void expect_event(struct rig *r, uint64_t address)
{
	uint32_t len, id;

	assert_int_not_equal(driver_take(&r->d.queue[EVENT], &len), NO_HEAD);
	assert_int_equal(len, 4);
	guest_read(&r->d.ram, address, &id, sizeof(id));
	assert_int_equal(id, 0);
	assert_int_equal(driver_take(&r->d.queue[EVENT], NULL), NO_HEAD);
}

static void restored_guest_is_told_and_finds_its_new_cid(void **state)
{
	Device config = DEVICE__INIT;
	char path[112];
	struct rig *r = *state;
	struct virtio *old;
	struct saved s, again;
	uint64_t address, cid;
	uint32_t port;
	int fd;

	offer_event(r, &address);
	port = open_by_host(r, 5, &fd);
	s = save(r->d.v);
	snprintf(path, sizeof(path), "%s2", r->path);
	config.path = path;
	config.guest_cid = 77;
	old = restore(r, &config, &s);
	/* As long as it does not run it is what was saved. */
	again = save(r->d.v);
	assert_int_equal(s.len, again.len);
	assert_memory_equal(s.buf, again.buf, s.len);
	virtio_kick_all(r->d.v);
	driver_run(&r->d);
	expect_event(r, address);
	assert_true(driver_interrupts(&r->d) > 0);
	driver_get_config(&r->d, 0, &cid, sizeof(cid));
	assert_int_equal(cid, 77);
	/* What it still sends on a connection that is gone, as its old or its new self. */
	send_bytes(r, port, 5, "old", 3);
	expect_nothing(r);
	virtio_close(r->d.v);
	assert_int_equal(access(path, F_OK), -1);
	/* The machine that was saved has kept its connection. */
	r->d.v = old;
	expect_silence(r, fd);
	close(fd);
	free(s.buf);
	free(again.buf);
}

static void reset_event_waits_for_a_buffer_and_is_saved(void **state)
{
	Device config[2] = { DEVICE__INIT, DEVICE__INIT };
	char path[2][112];
	struct rig *r = *state;
	struct virtio *old[2];
	struct saved s[2];
	uint64_t address;

	for (int i = 0; i < 2; i++) {
		s[i] = save(r->d.v);
		snprintf(path[i], sizeof(path[i]), "%s.%d", r->path, i);
		config[i].path = path[i];
		config[i].guest_cid = CID;
		old[i] = restore(r, &config[i], &s[i]);
		virtio_kick_all(r->d.v);
		driver_run(&r->d);
		assert_int_equal(driver_take(&r->d.queue[EVENT], NULL), NO_HEAD);
	}
	/* It has run and could not say it: that is state. */
	assert_true(s[1].len > s[0].len);
	offer_event(r, &address);
	driver_run(&r->d);
	expect_event(r, address);
	offer_event(r, &address); /* it is said once */
	driver_run(&r->d);
	assert_int_equal(driver_take(&r->d.queue[EVENT], NULL), NO_HEAD);
	for (int i = 1; i >= 0; i--) {
		virtio_close(r->d.v);
		r->d.v = old[i];
		free(s[i].buf);
	}
}

static void restored_device_without_driver_has_nothing_to_tell(void **state)
{
	Device config = DEVICE__INIT;
	char path[112];
	struct rig *r = *state;
	struct virtio *old;
	struct saved s;
	uint64_t address;

	driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
	s = save(r->d.v);
	snprintf(path, sizeof(path), "%s2", r->path);
	config.path = path;
	config.guest_cid = CID;
	old = restore(r, &config, &s);
	driver_start(&r->d, ALL_FEATURES);
	offer_event(r, &address);
	driver_run(&r->d);
	assert_int_equal(driver_take(&r->d.queue[EVENT], NULL), NO_HEAD);
	virtio_close(r->d.v);
	r->d.v = old;
	free(s.buf);
}

static void garbage_for_state_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	assert_int_equal(virtio_vsock_ops.load(r->d.v, 1, (const uint8_t *)"\xff", 1, &e), -EINVAL);
	assert_says(&e, "cannot be parsed");
	assert_int_equal(virtio_vsock_ops.load(r->d.v, 1, NULL, 0, &e), 0);
}

/* ---- the path ---- */

static void socket_path_is_private_and_removed(void **state)
{
	struct rig *r = *state;
	const struct vdev_host host = r->d.v->dev.host;
	struct unix_listener l;
	struct stat st;

	assert_int_equal(stat(r->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* Another's socket in its place is not removed. */
	assert_int_equal(unlink(r->path), 0);
	assert_int_equal(unix_listen(&l, "test", r->path, NULL), 0);
	virtio_close(r->d.v);
	assert_int_equal(stat(r->path, &st), 0);
	unix_listener_close(&l);
	assert_int_equal(stat(r->path, &st), -1);
	/* For drop(), which closes one. */
	assert_int_equal(virtio_open(&r->config, DRIVER_ADDRESS, DRIVER_IRQ, &r->d.ram, &r->d.io,
				     &host, &r->d.v, NULL),
			 0);
}

static void socket_path_in_use_is_refused_a_stale_one_replaced(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	struct driver d;
	Device config = DEVICE__INIT;
	char path[112];
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd;

	config.guest_cid = CID;
	config.path = r->path;
	assert_int_equal(driver_try_open(&d, &virtio_vsock_ops, &config, &e), -EADDRINUSE);
	assert_says(&e, "in use");
	snprintf(path, sizeof(path), "%s/file", r->folder->path);
	config.path = path;
	folder_put(r->folder, "file", "x", 1);
	assert_int_equal(driver_try_open(&d, &virtio_vsock_ops, &config, &e), -EADDRINUSE);
	assert_int_equal(unlink(path), 0);
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	close(fd);
	driver_open(&d, &virtio_vsock_ops, &config);
	driver_close(&d);
	assert_int_equal(access(path, F_OK), -1);
}

static void configuration_out_of_range_is_refused(void **state)
{
	static const uint64_t cid[] = { 0, 1, 2, UINT32_MAX, 1ULL << 32 };
	char path[128] = "/tmp/";
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct driver d;

	(void)state;
	config.path = path;
	for (size_t i = 0; i < sizeof(cid) / sizeof(*cid); i++) {
		config.guest_cid = cid[i];
		assert_int_equal(driver_try_open(&d, &virtio_vsock_ops, &config, &e), -EINVAL);
		assert_says(&e, "CID");
	}
	config.guest_cid = 3;
	memset(path + 5, 'x', 92); /* 97 bytes: _PORT would not fit */
	assert_int_equal(driver_try_open(&d, &virtio_vsock_ops, &config, &e), -ENAMETOOLONG);
	assert_says(&e, "1 to 96 bytes");
	*path = '\0';
	assert_int_equal(driver_try_open(&d, &virtio_vsock_ops, &config, &e), -ENAMETOOLONG);
}

/* ---- without a device: time ---- */

static bool always(void *arg)
{
	(void)arg;
	return true;
}

static void settle(void *arg, bool there)
{
	(void)there;
	vsock_mux_settle(arg);
}

static void half_done_connect_times_out(void **state)
{
	struct folder *f = *state;
	struct vsock_mux m;
	const struct vsock_user user = { &m, always, settle };
	struct vsock_header h;
	uint8_t buf[64];
	struct loop loop;
	char path[96];
	int fd[2];

	snprintf(path, sizeof(path), "%s/v", f->path);
	assert_int_equal(loop_init(&loop), 0);
	assert_int_equal(vsock_mux_open(&m, path, CID, &user, NULL), 0);
	assert_int_equal(vsock_mux_attach(&m, &loop, NULL), 0);
	for (int i = 0; i < 2; i++)
		assert_true((fd[i] = unix_connect(path)) >= 0);
	put(fd[0], "CONN");
	put(fd[1], "CONNECT 1\n");
	while (!vsock_mux_has_packet(&m))
		assert_int_equal(loop_step(&loop, 1000), 0);
	assert_true(vsock_mux_next(&m, &h, buf, sizeof(buf)));
	assert_int_equal(h.op, VSOCK_REQUEST);
	assert_int_equal(m.nconns, 2);
	TAILQ_FIRST(&m.all)->deadline_ns -= VSOCK_LINE_NS;
	TAILQ_LAST(&m.all, vsock_conns)->deadline_ns -= VSOCK_LINE_NS;
	while (m.nconns > 0)
		assert_int_equal(loop_step(&loop, 5000), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(recv(fd[i], buf, 1, MSG_DONTWAIT), 0);
		close(fd[i]);
	}
	vsock_mux_close(&m);
	loop_destroy(&loop);
}

#define ON_RIG(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_RIG(host_connect_accepted_streams_both_ways),
		ON_RIG(host_connect_in_pieces_is_understood),
		ON_RIG(host_bytes_behind_the_line_are_kept),
		ON_RIG(host_line_that_is_none_is_closed),
		ON_RIG(host_connect_refused_by_the_guest_is_closed),
		ON_RIG(host_that_leaves_before_the_answer_is_forgotten),
		ON_RIG(host_connect_without_driver_is_closed),
		ON_RIG(guest_connect_reaches_the_socket_of_its_port),
		ON_RIG(guest_connect_to_nobody_is_refused),
		ON_RIG(unknown_connection_is_answered_with_rst),
		ON_RIG(header_that_is_wrong_is_refused_or_dropped),
		ON_RIG(len_beyond_the_chain_ends_the_connection),
		ON_RIG(chain_too_short_breaks_the_device),
		cmocka_unit_test_setup_teardown(
			rx_buffer_without_room_breaks_the_device_and_ends_connections,
			make_without_rx, drop),
		ON_RIG(credit_overdrawn_ends_the_connection),
		ON_RIG(credit_that_lies_ends_the_connection),
		cmocka_unit_test_setup_teardown(refusals_that_nobody_takes_stop_the_guest,
						make_without_rx, drop),
		ON_RIG(host_sends_much_and_the_guest_gets_it_in_its_own_time),
		ON_RIG(guest_sends_much_and_the_host_gets_it_in_its_own_time),
		ON_RIG(no_credit_is_asked_for_once_and_waited_for),
		ON_RIG(connections_up_to_the_limit_all_stream),
		ON_RIG(a_busy_connection_leaves_the_others_their_turn),
		ON_RIG(guest_shutdown_of_sending_ends_the_hosts_reading_only),
		ON_RIG(guest_shutdown_of_receiving_ends_the_hosts_writing_only),
		ON_RIG(guest_close_is_confirmed_and_the_host_reads_all),
		ON_RIG(host_end_of_sending_then_close_are_told_apart),
		ON_RIG(host_that_closes_loses_nothing_it_sent),
		ON_RIG(device_reset_ends_all_connections),
		ON_RIG(device_reset_again_and_again_beside_a_busy_thread_is_clean),
		ON_RIG(memory_that_cannot_be_had_loses_and_doubles_nothing),
		ON_RIG(restored_guest_is_told_and_finds_its_new_cid),
		ON_RIG(reset_event_waits_for_a_buffer_and_is_saved),
		ON_RIG(restored_device_without_driver_has_nothing_to_tell),
		ON_RIG(garbage_for_state_is_refused),
		ON_RIG(socket_path_is_private_and_removed),
		ON_RIG(socket_path_in_use_is_refused_a_stale_one_replaced),
		cmocka_unit_test(configuration_out_of_range_is_refused),
		cmocka_unit_test_setup_teardown(half_done_connect_times_out, folder_make,
						folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
