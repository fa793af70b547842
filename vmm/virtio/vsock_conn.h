/*
 * One connection between a port of the guest and a Unix socket of the host: its
 * credit in both directions, its halves, and the bytes that the host has not
 * taken yet. It knows nothing of queues, and its table (vsock_mux.h) nothing of
 * bytes.
 *
 *	guest --RW--> buffer (at most VSOCK_BUFFER_SIZE, mostly empty) --> socket
 *	guest <--RW-- socket (its own buffer is the only one)
 *
 * What the guest may send is what the buffer has room for; what it can take is
 * what it said last. Who has no credit waits: nothing is lost, nothing grows.
 * Source: virtio 1.2, 5.10.6.3 (credit).
 *
 * Functions run on the iothread and change `state` and `due`; vsock_mux.c draws
 * the consequences.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "vsock_packet.h"

enum vsock_state {
	VSOCK_LINE,	 /* the host's program has not yet said CONNECT */
	VSOCK_ASKED,	 /* the guest has not yet answered */
	VSOCK_OPEN,	 /* both ends are there */
	VSOCK_LINGERING, /* the guest has closed, the host has not yet read all */
	VSOCK_DEAD,	 /* to be freed by the iothread */
};

struct vsock_mux;

struct vsock_conn {
	struct vsock_mux *mux;
	TAILQ_ENTRY(vsock_conn) all, ready, dirty;
	LIST_ENTRY(vsock_conn) bucket;
	bool is_ready, is_dirty, is_known; /* in that list; in a bucket */
	enum vsock_state state;
	uint32_t host_port, guest_port;
	int64_t deadline_ns; /* of LINE and ASKED */
	unsigned due;	     /* 1 << enum vsock_op: to be sent to the guest */

	int fd;		     /* owned; -1: the host has closed too */
	bool watched;	     /* it is in the loop, for: */
	uint32_t events;     /* EPOLLIN, EPOLLOUT */
	bool readable;	     /* the socket may have bytes: not watched for them now */
	bool host_ended;     /* the host sends no more */
	bool host_deaf;	     /* the host receives no more */
	unsigned guest_shut; /* VSOCK_SHUT_*: what the guest does no more */

	/* from the guest */
	uint32_t received; /* bytes, modulo 2^32 */
	uint32_t told;	   /* fwd_cnt as the guest knows it */
	uint8_t *buffer;   /* a ring of VSOCK_BUFFER_SIZE; NULL while it is empty */
	uint32_t first, used;

	/* to the guest */
	uint32_t sent, guest_alloc, guest_forwarded;
	bool credit_asked; /* since the credit ran out */

	char line[VSOCK_LINE_MAX];
	unsigned line_len;
};

/* Takes fd over. NULL: no memory, fd stays the caller's. */
struct vsock_conn *vsock_conn_new(struct vsock_mux *m, int fd);
/* It is in no list and not in the loop. */
void vsock_conn_free(struct vsock_conn *c);

/* What the loop shall watch for; EPOLLET alone: for a hang-up only, told once. */
uint32_t vsock_conn_events(const struct vsock_conn *c);

/* True where vsock_conn_next() may have a packet. */
bool vsock_conn_is_ready(const struct vsock_conn *c);

/*
 * The next packet to the guest, with at most `room` (> 0) bytes of payload in
 * buf. Sets all of *h but the CIDs. False: there is none after all.
 */
bool vsock_conn_next(struct vsock_conn *c, struct vsock_header *h, uint8_t *buf, uint32_t room);

/*
 * Reads the CONNECT line as far as it has come, and nothing behind it: 1 and
 * *port; 0: it is not complete; negative: there is none.
 */
int vsock_conn_read_line(struct vsock_conn *c, uint32_t *port);

/* The guest has accepted: tells the host's program. 0 or negative. */
int vsock_conn_say_ok(struct vsock_conn *c);

/* The credit in a header of the guest's. False: it is a lie. */
bool vsock_conn_credit(struct vsock_conn *c, const struct vsock_header *h);

/* Payload of the guest. False: it has not kept to its credit, or had said that it is done. */
bool vsock_conn_give(struct vsock_conn *c, const uint8_t *data, uint32_t len);

/* Passes on to the host what it takes now. */
void vsock_conn_flush(struct vsock_conn *c);

/* The guest has said SHUTDOWN. */
void vsock_conn_shut(struct vsock_conn *c, unsigned flags);

/* The host has hung up: it receives no more. */
void vsock_conn_hang_up(struct vsock_conn *c);
