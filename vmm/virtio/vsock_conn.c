/* One vsock connection: see vsock_conn.h. */
#define _GNU_SOURCE
#include "vsock_conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define DUE(op) (1U << (op))

struct vsock_conn *vsock_conn_new(struct vsock_mux *m, int fd)
{
	struct vsock_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->mux = m;
	c->fd = fd;
	return c;
}

void vsock_conn_free(struct vsock_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->buffer);
	free(c);
}

/* ---- to the guest ---- */

/* Bytes that the guest has room for. */
static uint32_t credit(const struct vsock_conn *c)
{
	const uint32_t on_the_way = c->sent - c->guest_forwarded;

	return on_the_way < c->guest_alloc ? c->guest_alloc - on_the_way : 0;
}

/* True while bytes of the host's are to be read and passed on. */
static bool reads(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN && c->fd >= 0 && !c->host_ended &&
	       !(c->guest_shut & VSOCK_SHUT_RECEIVE);
}

static bool can_stream(const struct vsock_conn *c)
{
	return reads(c) && c->readable && credit(c) > 0;
}

uint32_t vsock_conn_events(const struct vsock_conn *c)
{
	uint32_t events = 0;

	if (c->state == VSOCK_LINE || (reads(c) && !c->readable))
		events |= EPOLLIN;
	if (c->used > 0)
		events |= EPOLLOUT;
	/* A hang-up is always told: once is enough where nothing else is waited for. */
	return events ? events : EPOLLET;
}

bool vsock_conn_is_ready(const struct vsock_conn *c)
{
	return c->due != 0 || can_stream(c);
}

/* The guest is told; once both halves have ended it answers with a RST or closes. */
static void end_host(struct vsock_conn *c, bool ended, bool deaf)
{
	const bool news = (ended && !c->host_ended) || (deaf && !c->host_deaf);

	c->host_ended |= ended;
	c->host_deaf |= deaf;
	if (c->host_deaf) {
		c->used = 0;
		free(c->buffer);
		c->buffer = NULL;
	}
	if (c->state == VSOCK_LINGERING && c->host_deaf)
		c->state = VSOCK_DEAD;
	if (news && c->state == VSOCK_OPEN)
		c->due |= DUE(VSOCK_SHUTDOWN);
}

/* Whether the other end has closed, and not only said that it sends no more. */
static bool is_hung_up(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

/* Reads the host's bytes: how many, 0 for none now. */
static uint32_t take(struct vsock_conn *c, uint8_t *buf, uint32_t room)
{
	const uint32_t most = credit(c) < room ? credit(c) : room;
	ssize_t n =
		recv(c->fd, buf, most < VSOCK_BUFFER_SIZE ? most : VSOCK_BUFFER_SIZE, MSG_DONTWAIT);

	if (n > 0) {
		c->sent += (uint32_t)n;
		c->credit_asked = false;
		return (uint32_t)n;
	}
	if (n < 0 && errno == EINTR)
		return 0;
	c->readable = false;
	if (n == 0 || errno != EAGAIN)
		end_host(c, true, n < 0 || is_hung_up(c->fd));
	return 0;
}

/* Without credit the guest is asked for it, once: its answer may be that it has none. */
static void ask_for_credit(struct vsock_conn *c)
{
	if (!reads(c) || !c->readable || credit(c) > 0 || c->credit_asked)
		return;
	c->credit_asked = true;
	c->due |= DUE(VSOCK_CREDIT_REQUEST);
}

/* What is to be sent, bytes aside; 0: nothing. An end comes after all bytes. */
static uint16_t next_due(const struct vsock_conn *c)
{
	static const uint16_t order[] = { VSOCK_REQUEST, VSOCK_RESPONSE, VSOCK_CREDIT_REQUEST,
					  VSOCK_SHUTDOWN, VSOCK_CREDIT_UPDATE };

	for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++)
		if (c->due & DUE(order[i]))
			return order[i];
	return 0;
}

bool vsock_conn_next(struct vsock_conn *c, struct vsock_header *h, uint8_t *buf, uint32_t room)
{
	*h = (struct vsock_header){ .src_port = c->host_port,
				    .dst_port = c->guest_port,
				    .type = VSOCK_TYPE_STREAM,
				    .buf_alloc = VSOCK_BUFFER_SIZE };
	if (can_stream(c) && !(c->due & DUE(VSOCK_RESPONSE)))
		h->len = take(c, buf, room);
	ask_for_credit(c);
	h->op = h->len > 0 ? VSOCK_RW : next_due(c);
	if (h->op == 0)
		return false;
	/* News of credit goes with any packet. */
	c->due &= ~(DUE(h->op) | DUE(VSOCK_CREDIT_UPDATE));
	if (h->op == VSOCK_SHUTDOWN)
		h->flags = (c->host_ended ? VSOCK_SHUT_SEND : 0) |
			   (c->host_deaf ? VSOCK_SHUT_RECEIVE : 0);
	c->told = h->fwd_cnt = c->received - c->used;
	return true;
}

/* ---- the line ---- */

int vsock_conn_read_line(struct vsock_conn *c, uint32_t *port)
{
	char *at = c->line + c->line_len;
	const size_t room = sizeof(c->line) - c->line_len;
	ssize_t n = recv(c->fd, at, room, MSG_DONTWAIT | MSG_PEEK);
	char *newline;
	size_t len;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	newline = memchr(at, '\n', (size_t)n);
	len = newline ? (size_t)(newline - at) + 1 : (size_t)n;
	/* Taken now, so that the loop does not tell of it again; what follows stays. */
	if (recv(c->fd, at, len, MSG_DONTWAIT) != (ssize_t)len)
		return -EIO;
	c->line_len += (unsigned)len;
	if (newline)
		return vsock_parse_connect(c->line, c->line_len - 1, port) < 0 ? -EINVAL : 1;
	return c->line_len == sizeof(c->line) ? -EINVAL : 0;
}

int vsock_conn_say_ok(struct vsock_conn *c)
{
	char text[VSOCK_LINE_MAX];
	int n = snprintf(text, sizeof(text), "OK %u\n", c->host_port);

	/* Nothing was sent before on this socket: it has room. */
	return send(c->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n ? 0 : -EPIPE;
}

/* ---- from the guest ---- */

bool vsock_conn_credit(struct vsock_conn *c, const struct vsock_header *h)
{
	/* It cannot have passed on more than was sent, nor take back what it has said. */
	if (h->fwd_cnt - c->guest_forwarded > c->sent - c->guest_forwarded)
		return false;
	c->guest_forwarded = h->fwd_cnt;
	c->guest_alloc = h->buf_alloc;
	return true;
}

/* Where the guest knows of less than half the room there is, it is told. */
static void news_of_credit(struct vsock_conn *c)
{
	const uint32_t forwarded = c->received - c->used;

	if (c->state == VSOCK_OPEN && forwarded != c->told &&
	    c->received - c->told > VSOCK_BUFFER_SIZE / 2)
		c->due |= DUE(VSOCK_CREDIT_UPDATE);
}

/* What comes when the host has all that the guest sent. */
static void drained(struct vsock_conn *c)
{
	free(c->buffer);
	c->buffer = NULL;
	if (c->state == VSOCK_LINGERING)
		c->state = VSOCK_DEAD;
	else if (c->guest_shut & VSOCK_SHUT_SEND && c->fd >= 0)
		shutdown(c->fd, SHUT_WR);
}

/* Sends to the host: how many bytes, 0 where it takes none now or never. */
static size_t pass_on(struct vsock_conn *c, const struct iovec *iov, size_t n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent >= 0)
		return (size_t)sent;
	if (errno != EAGAIN && errno != EINTR)
		end_host(c, false, true); /* what it had sent is still to be read */
	return 0;
}

/* Appends to the ring; the credit says that there is room. */
static bool keep(struct vsock_conn *c, const uint8_t *data, uint32_t len)
{
	uint32_t at, n;

	if (!c->buffer) {
		c->first = 0;
		c->buffer = malloc(VSOCK_BUFFER_SIZE);
	}
	if (!c->buffer)
		return false;
	at = (c->first + c->used) % VSOCK_BUFFER_SIZE;
	n = len < VSOCK_BUFFER_SIZE - at ? len : VSOCK_BUFFER_SIZE - at;
	memcpy(c->buffer + at, data, n);
	memcpy(c->buffer, data + n, len - n);
	c->used += len;
	return true;
}

bool vsock_conn_give(struct vsock_conn *c, const uint8_t *data, uint32_t len)
{
	uint32_t done = 0;

	if (c->guest_shut & VSOCK_SHUT_SEND || len > VSOCK_BUFFER_SIZE - c->used)
		return false;
	c->received += len;
	if (c->used == 0 && len > 0 && !c->host_deaf) {
		const struct iovec iov = { (void *)data, len };

		done = (uint32_t)pass_on(c, &iov, 1);
	}
	if (!c->host_deaf && done < len && !keep(c, data + done, len - done))
		return false;
	news_of_credit(c);
	return true;
}

void vsock_conn_flush(struct vsock_conn *c)
{
	const uint32_t to_end = VSOCK_BUFFER_SIZE - c->first;
	struct iovec iov[2];
	uint32_t sent;

	if (c->used == 0 || c->fd < 0)
		return;
	iov[0] = (struct iovec){ c->buffer + c->first, c->used < to_end ? c->used : to_end };
	iov[1] = (struct iovec){ c->buffer, c->used - iov[0].iov_len };
	sent = (uint32_t)pass_on(c, iov, 2);
	if (c->used > 0) { /* not given up */
		c->first = (c->first + sent) % VSOCK_BUFFER_SIZE;
		c->used -= sent;
	}
	if (c->used == 0)
		drained(c);
	news_of_credit(c);
}

void vsock_conn_shut(struct vsock_conn *c, unsigned flags)
{
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->guest_shut & VSOCK_SHUT_RECEIVE && c->fd >= 0)
		shutdown(c->fd, SHUT_RD); /* a host's program that writes is told */
	if (c->guest_shut == VSOCK_SHUT_BOTH) {
		/* It has closed. The host gets what is there, then the end. */
		c->due = 0;
		c->state = VSOCK_LINGERING;
	}
	if (c->used == 0)
		drained(c);
}

void vsock_conn_hang_up(struct vsock_conn *c)
{
	/* Bytes that it sent before are read first: the reading finds the end. */
	end_host(c, !reads(c), true);
}
