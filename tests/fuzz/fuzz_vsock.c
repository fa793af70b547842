/*
 * vsock: a guest that sends what it likes, between programs of the host that come
 * and go. Input: records of a byte that says what happens, and its bytes.
 *
 *	0..3  a packet of few bytes, mostly sensible: op, ports, flags, credit, length
 *	4     a raw header and the payload that is said to be behind it
 *	5     a program connects and writes up to 47 bytes: a line, or none
 *	6     the guest takes up to 15 packets
 *	7     a program writes, reads, ends its writing, or leaves
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/loop.h"
#include "vmm/unix_socket.h"
#include "vmm/virtio/vsock_mux.h"

#define CID	 3
#define PROGRAMS 8
#define ROOM	 512

struct host {
	char folder[32], path[48];
	struct loop loop;
	struct vsock_mux mux;
	struct unix_listener listener; /* for the guest's connections to port 1 */
	int fd[PROGRAMS];	       /* -1: none */
	unsigned next;
	uint32_t last_port; /* of the host, as the guest has seen it last */
};

struct input {
	const uint8_t *at;
	size_t left;
};

static uint8_t byte(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->at++;
}

static bool enter(void *arg)
{
	(void)arg;
	return true;
}

static void leave(void *arg, bool there)
{
	(void)there;
	vsock_mux_settle(&((struct host *)arg)->mux);
}

static void run(struct host *h)
{
	vsock_mux_settle(&h->mux);
	for (int i = 0; i < 8; i++)
		MUST(loop_step(&h->loop, 0) == 0);
}

static void keep(struct host *h, int fd)
{
	int *place = &h->fd[h->next++ % PROGRAMS];

	if (*place >= 0)
		close(*place);
	*place = fd;
}

static void receive(struct host *h, const uint8_t raw[VSOCK_HEADER_SIZE], uint64_t payload)
{
	static const uint8_t bytes[VSOCK_BUFFER_SIZE];
	uint8_t again[VSOCK_HEADER_SIZE];
	struct vsock_header p;
	enum vsock_verdict verdict;

	if (!vsock_mux_has_room(&h->mux))
		return;
	vsock_header_decode(raw, &p);
	vsock_header_encode(&p, again);
	MUST(memcmp(raw, again, sizeof(again)) == 0);
	verdict = vsock_header_check(&p, CID, payload);
	if (verdict == VSOCK_TAKE && p.op != VSOCK_RST)
		MUST(p.len <= payload && p.len <= sizeof(bytes) && p.op < VSOCK_OPS);
	vsock_mux_receive(&h->mux, &p, verdict, bytes);
}

static void small_packet(struct host *h, struct input *in)
{
	const uint8_t op = byte(in), port = byte(in);
	const struct vsock_header p = {
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.type = VSOCK_TYPE_STREAM,
		.op = op % (VSOCK_OPS + 1),
		.dst_port = port & 0x80 ? h->last_port : port & 3,
		.src_port = port >> 2 & 3,
		.flags = byte(in) & 3U,
		.buf_alloc = byte(in) * 64U,
		.fwd_cnt = byte(in),
		.len = byte(in) * 257U,
	};
	uint8_t raw[VSOCK_HEADER_SIZE];

	vsock_header_encode(&p, raw);
	receive(h, raw, VSOCK_BUFFER_SIZE);
}

static void raw_packet(struct host *h, struct input *in)
{
	uint8_t raw[VSOCK_HEADER_SIZE];

	for (size_t i = 0; i < sizeof(raw); i++)
		raw[i] = byte(in);
	receive(h, raw, byte(in) * 1024U);
}

static void take(struct host *h, unsigned n)
{
	uint8_t buf[ROOM];
	struct vsock_header p;

	while (n-- > 0 && vsock_mux_next(&h->mux, &p, buf, sizeof(buf))) {
		MUST(p.len <= sizeof(buf) && (p.len == 0) == (p.op != VSOCK_RW));
		MUST(p.op > 0 && p.op < VSOCK_OPS);
		if (p.op != VSOCK_RST)
			MUST(p.src_cid == VSOCK_HOST_CID && p.dst_cid == CID);
		h->last_port = p.src_port;
	}
}

static void dial(struct host *h, struct input *in)
{
	const unsigned n = byte(in) % 48;
	char text[48];
	int fd = unix_connect(h->path);

	if (fd < 0)
		return;
	for (unsigned i = 0; i < n; i++)
		text[i] = (char)byte(in);
	(void)!send(fd, text, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	keep(h, fd);
}

static void act(struct host *h, uint8_t how)
{
	static char bytes[20000];
	int *fd = &h->fd[how % PROGRAMS], got;

	while ((got = accept4(h->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		keep(h, got);
	if (*fd < 0)
		return;
	switch (how / PROGRAMS % 4) {
	case 0:
		(void)!send(*fd, bytes, how * 70U, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	case 1:
		(void)!recv(*fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		return;
	case 2:
		shutdown(*fd, SHUT_WR);
		return;
	default:
		close(*fd);
		*fd = -1;
	}
}

static void start(struct host *h)
{
	const struct vsock_user user = { h, enter, leave };
	char path[64];

	strcpy(h->folder, "/tmp/snapfs-fuzz-XXXXXX");
	MUST(mkdtemp(h->folder) != NULL);
	snprintf(h->path, sizeof(h->path), "%s/v", h->folder);
	snprintf(path, sizeof(path), "%s_1", h->path);
	MUST(loop_init(&h->loop) == 0);
	MUST(vsock_mux_open(&h->mux, h->path, CID, &user, NULL) == 0);
	MUST(vsock_mux_attach(&h->mux, &h->loop, NULL) == 0);
	MUST(unix_listen(&h->listener, "fuzz", path, NULL) == 0);
	for (int i = 0; i < PROGRAMS; i++)
		h->fd[i] = -1;
}

static void stop(struct host *h)
{
	act(h, 8); /* takes those that wait */
	for (int i = 0; i < PROGRAMS; i++)
		if (h->fd[i] >= 0)
			close(h->fd[i]);
	vsock_mux_reset(&h->mux);
	/* Those that were closed with bytes left find nobody to take them. */
	for (int i = 0; i < 4 * VSOCK_CONNS && h->mux.nconns > 0; i++)
		run(h);
	MUST(h->mux.nconns == 0);
	vsock_mux_close(&h->mux);
	unix_listener_close(&h->listener);
	loop_destroy(&h->loop);
	MUST(rmdir(h->folder) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static struct host h;
	uint32_t port;

	if (vsock_parse_connect((const char *)data, size, &port) == 0)
		MUST(port < UINT32_MAX && size >= 9);
	memset(&h, 0, sizeof(h));
	start(&h);
	while (in.left > 0) {
		const uint8_t what = byte(&in);

		if (what % 8 < 4)
			small_packet(&h, &in);
		else if (what % 8 == 4)
			raw_packet(&h, &in);
		else if (what % 8 == 5)
			dial(&h, &in);
		else if (what % 8 == 6)
			take(&h, what >> 4);
		else
			act(&h, byte(&in));
		run(&h);
	}
	stop(&h);
	return 0;
}
