/*
 * The host's side of a vsock device: Unix sockets, in the form that other
 * monitors have too.
 *
 *	PATH	the device listens. A program connects, writes "CONNECT <port>\n", and
 *		reads "OK <host port>\n" once a program in the guest has accepted; the
 *		connection is closed when there is none. What follows is the stream.
 *	PATH_P	where a program of the host listens for the guest's connections to
 *		port P of the host (CID 2).
 *
 * It is handed packets of the guest's and asked for packets to the guest. It
 * knows nothing of queues. Connections that have something for the guest stand
 * in a line, and each gives one packet at a time.
 *
 * Bounds: VSOCK_CONNS connections, VSOCK_RSTS refusals that wait for the guest
 * (none is taken from it when they are full), VSOCK_BUFFER_SIZE a connection.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/err.h"
#include "vmm/loop.h"
#include "vmm/unix_socket.h"
#include "vsock_conn.h"

#define VSOCK_CONNS	1023
#define VSOCK_RSTS	256
#define VSOCK_BUCKETS	256
#define VSOCK_LINE_NS	30000000000LL /* to say CONNECT: a person may type it */
#define VSOCK_ACCEPT_NS 10000000000LL /* for the guest to accept */

/* Who has the device's lock, and moves packets. */
struct vsock_user {
	void *arg;
	/* Takes the lock; false where there is no driver: then connections end. */
	bool (*enter)(void *arg);
	/* Moves what there is to be moved, calls vsock_mux_settle(), gives the lock back. */
	void (*leave)(void *arg, bool there);
};

TAILQ_HEAD(vsock_conns, vsock_conn);

struct vsock_mux {
	struct vsock_user user;
	struct loop *loop; /* NULL before vsock_mux_attach() */
	struct unix_listener listener;
	uint64_t guest_cid;
	int timer_fd; /* timerfd, ticks every second while something waits for it */
	int poke_fd;  /* eventfd */
	bool stopped; /* no descriptors were left: nothing is accepted until a tick */

	/* under the user's lock: */
	unsigned nconns;
	uint32_t last_port;
	struct vsock_conns all, ready, dirty;
	LIST_HEAD(vsock_bucket, vsock_conn) bucket[VSOCK_BUCKETS];
	struct vsock_header rst[VSOCK_RSTS]; /* a ring */
	unsigned first_rst, nrst;
};

/* Listens at `path`. 0 or a negative errno with words. */
int vsock_mux_open(struct vsock_mux *m, const char *path, uint64_t guest_cid,
		   const struct vsock_user *user, struct err *e);
/* No thread runs any more. */
void vsock_mux_close(struct vsock_mux *m);
int vsock_mux_attach(struct vsock_mux *m, struct loop *loop, struct err *e);

/* All below with the lock held. */

/* False: nothing must be taken from the guest now. */
bool vsock_mux_has_room(const struct vsock_mux *m);
/* A packet of the guest's; payload is h->len bytes where the verdict is TAKE, else unused. */
void vsock_mux_receive(struct vsock_mux *m, const struct vsock_header *h,
		       enum vsock_verdict verdict, const uint8_t *payload);

/* True where vsock_mux_next() may have a packet. */
bool vsock_mux_has_packet(const struct vsock_mux *m);
/* The next packet to the guest, with at most `room` (> 0) bytes of payload. False: there is none.
 */
bool vsock_mux_next(struct vsock_mux *m, struct vsock_header *h, uint8_t *buf, uint32_t room);

/* Every connection ends but those that the guest has closed. Any thread. */
void vsock_mux_reset(struct vsock_mux *m);
/* iothread: user->leave() soon. Any thread. */
void vsock_mux_poke(const struct vsock_mux *m);
/* iothread, last: the loop watches for what is now waited for, what is dead is freed. */
void vsock_mux_settle(struct vsock_mux *m);
