/* The connections of a vsock device, and its sockets: see vsock_mux.h. */
#define _GNU_SOURCE
#include "vsock_mux.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define ACCEPTS	  16 /* connections accepted in one callback */
#define PORT_BASE (1U << 30)
#define PORT_MASK (PORT_BASE - 1) /* our own ports: well away from those programs choose */
#define PORT_TEXT 11		  /* "_4294967295" */

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* ---- the table ---- */

static unsigned bucket_of(uint32_t host_port, uint32_t guest_port)
{
	return (host_port * 31 + guest_port) % VSOCK_BUCKETS;
}

static struct vsock_conn *find(const struct vsock_mux *m, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c;

	LIST_FOREACH(c, &m->bucket[bucket_of(host_port, guest_port)], bucket)
	if (c->host_port == host_port && c->guest_port == guest_port)
		return c;
	return NULL;
}

static void know(struct vsock_mux *m, struct vsock_conn *c)
{
	LIST_INSERT_HEAD(&m->bucket[bucket_of(c->host_port, c->guest_port)], c, bucket);
	c->is_known = true;
}

/* Puts c into the lists that its state asks for. To be called after every change of it. */
static void place(struct vsock_mux *m, struct vsock_conn *c)
{
	const bool known = c->state == VSOCK_ASKED || c->state == VSOCK_OPEN;
	const bool ready = known && vsock_conn_is_ready(c);

	if (c->is_known && !known) {
		LIST_REMOVE(c, bucket);
		c->is_known = false;
	}
	if (c->is_ready && !ready)
		TAILQ_REMOVE(&m->ready, c, ready);
	else if (!c->is_ready && ready)
		TAILQ_INSERT_TAIL(&m->ready, c, ready);
	c->is_ready = ready;
	if (!c->is_dirty)
		TAILQ_INSERT_TAIL(&m->dirty, c, dirty);
	c->is_dirty = true;
}

static void end(struct vsock_mux *m, struct vsock_conn *c)
{
	c->state = VSOCK_DEAD;
	place(m, c);
}

/* The caller's fd, or NULL: too many, or no memory; fd stays the caller's. */
static struct vsock_conn *add(struct vsock_mux *m, int fd, enum vsock_state state)
{
	struct vsock_conn *c = m->nconns < VSOCK_CONNS ? vsock_conn_new(m, fd) : NULL;

	if (!c)
		return NULL;
	c->state = state;
	m->nconns++;
	TAILQ_INSERT_TAIL(&m->all, c, all);
	return c;
}

/* ---- packets ---- */

static void push_rst(struct vsock_mux *m, const struct vsock_header *rst)
{
	if (m->nrst < VSOCK_RSTS)
		m->rst[(m->first_rst + m->nrst++) % VSOCK_RSTS] = *rst;
}

bool vsock_mux_has_room(const struct vsock_mux *m)
{
	return m->nrst < VSOCK_RSTS;
}

/* No such connection, or no longer. */
static void refuse(struct vsock_mux *m, struct vsock_conn *c, const struct vsock_header *h)
{
	const struct vsock_header rst = vsock_header_rst(h);

	if (c)
		end(m, c);
	push_rst(m, &rst);
}

/* All of these: false where the guest is to be sent a RST. */

static bool on_request(struct vsock_mux *m, struct vsock_conn *c, const struct vsock_header *h)
{
	char path[sizeof(m->listener.path) + PORT_TEXT];
	int fd;

	if (c || m->nconns >= VSOCK_CONNS)
		return false;
	snprintf(path, sizeof(path), "%s_%u", m->listener.path, h->dst_port);
	fd = unix_connect(path);
	if (fd < 0)
		return false;
	c = add(m, fd, VSOCK_OPEN);
	if (!c) {
		close(fd);
		return false;
	}
	c->host_port = h->dst_port;
	c->guest_port = h->src_port;
	c->due = 1U << VSOCK_RESPONSE;
	know(m, c);
	place(m, c);
	if (vsock_conn_credit(c, h))
		return true;
	end(m, c);
	return false;
}

static bool on_response(struct vsock_conn *c)
{
	if (c->state != VSOCK_ASKED || c->due != 0 || vsock_conn_say_ok(c) < 0)
		return false;
	c->state = VSOCK_OPEN;
	return true;
}

/* A packet of an open connection. */
static bool on_stream(struct vsock_mux *m, struct vsock_conn *c, const struct vsock_header *h,
		      const uint8_t *payload)
{
	switch (h->op) {
	case VSOCK_SHUTDOWN:
		vsock_conn_shut(c, h->flags);
		if (c->guest_shut == VSOCK_SHUT_BOTH) { /* closed is confirmed by a RST */
			const struct vsock_header rst = vsock_header_rst(h);

			push_rst(m, &rst);
		}
		return true;
	case VSOCK_RW:
		return vsock_conn_give(c, payload, h->len);
	case VSOCK_CREDIT_REQUEST:
		c->due |= 1U << VSOCK_CREDIT_UPDATE;
		return true;
	default:
		return h->op == VSOCK_CREDIT_UPDATE;
	}
}

static bool on_packet(struct vsock_mux *m, struct vsock_conn *c, const struct vsock_header *h,
		      const uint8_t *payload)
{
	if (!c || !vsock_conn_credit(c, h))
		return false;
	if (h->op == VSOCK_RESPONSE)
		return on_response(c);
	return c->state == VSOCK_OPEN && on_stream(m, c, h, payload);
}

void vsock_mux_receive(struct vsock_mux *m, const struct vsock_header *h,
		       enum vsock_verdict verdict, const uint8_t *payload)
{
	struct vsock_conn *c = NULL;
	bool good;

	if (verdict == VSOCK_DROP)
		return;
	if (h->dst_cid == VSOCK_HOST_CID && h->type == VSOCK_TYPE_STREAM)
		c = find(m, h->dst_port, h->src_port);
	if (h->op == VSOCK_RST) {
		if (c)
			end(m, c);
		return;
	}
	if (verdict == VSOCK_REFUSE)
		good = false;
	else if (h->op == VSOCK_REQUEST)
		good = on_request(m, c, h);
	else
		good = on_packet(m, c, h, payload);
	if (!good)
		refuse(m, c, h);
	else if (c)
		place(m, c);
}

bool vsock_mux_has_packet(const struct vsock_mux *m)
{
	return m->nrst > 0 || !TAILQ_EMPTY(&m->ready);
}

bool vsock_mux_next(struct vsock_mux *m, struct vsock_header *h, uint8_t *buf, uint32_t room)
{
	struct vsock_conn *c;

	if (m->nrst > 0) {
		*h = m->rst[m->first_rst];
		m->first_rst = (m->first_rst + 1) % VSOCK_RSTS;
		m->nrst--;
		return true;
	}
	/* Each that has nothing after all leaves the line. */
	while ((c = TAILQ_FIRST(&m->ready))) {
		const bool got = vsock_conn_next(c, h, buf, room);

		/* To the end of the line, if it stays. */
		TAILQ_REMOVE(&m->ready, c, ready);
		c->is_ready = false;
		place(m, c);
		h->src_cid = VSOCK_HOST_CID;
		h->dst_cid = m->guest_cid;
		if (got)
			return true;
	}
	return false;
}

/* ---- the host's side ---- */

static void set_timer(const struct vsock_mux *m, bool on)
{
	const struct itimerspec t = { { on, 0 }, { on, 0 } };

	timerfd_settime(m->timer_fd, 0, &t, NULL);
}

/* A port of ours that makes a pair with guest_port that is not in use. */
static uint32_t new_port(struct vsock_mux *m, uint32_t guest_port)
{
	uint32_t port;

	do /* ends: there are more ports than connections */
		port = PORT_BASE | (++m->last_port & PORT_MASK);
	while (find(m, port, guest_port));
	return port;
}

static void on_line(struct vsock_mux *m, struct vsock_conn *c)
{
	uint32_t port;
	int rc = vsock_conn_read_line(c, &port);

	if (rc < 0)
		end(m, c);
	if (rc <= 0)
		return;
	c->guest_port = port;
	c->host_port = new_port(m, port);
	c->state = VSOCK_ASKED;
	c->deadline_ns = now_ns() + VSOCK_ACCEPT_NS;
	c->due = 1U << VSOCK_REQUEST;
	know(m, c);
}

static void on_events(struct vsock_mux *m, struct vsock_conn *c, uint32_t events)
{
	if (c->state == VSOCK_LINE) {
		on_line(m, c);
		return;
	}
	if (events & EPOLLIN)
		c->readable = true;
	if (events & (EPOLLHUP | EPOLLERR)) {
		if (c->state == VSOCK_ASKED)
			end(m, c);
		else
			vsock_conn_hang_up(c);
	} else if (events & EPOLLOUT) {
		vsock_conn_flush(c);
	}
}

static void on_conn(void *arg, uint32_t events)
{
	struct vsock_conn *c = arg;
	struct vsock_mux *m = c->mux;
	const bool there = m->user.enter(m->user.arg);

	if (!there && c->state != VSOCK_LINGERING)
		end(m, c);
	if (c->state != VSOCK_DEAD)
		on_events(m, c, events);
	place(m, c);
	m->user.leave(m->user.arg, there);
}

/* One program of the host; false: no more for now. */
static bool accept_one(struct vsock_mux *m, bool there)
{
	int fd = accept4(m->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct vsock_conn *c;

	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return false;
		/* The listener would tell of it for ever. */
		m->stopped = loop_change(m->loop, m->listener.fd, EPOLLET) == 0;
		set_timer(m, true);
		return false;
	}
	c = there ? add(m, fd, VSOCK_LINE) : NULL;
	if (!c) {
		close(fd);
		return true;
	}
	c->deadline_ns = now_ns() + VSOCK_LINE_NS;
	set_timer(m, true);
	place(m, c);
	return true;
}

static void on_listener(void *arg, uint32_t events)
{
	struct vsock_mux *m = arg;
	const bool there = m->user.enter(m->user.arg);

	(void)events;
	for (int i = 0; i < ACCEPTS && accept_one(m, there); i++)
		;
	m->user.leave(m->user.arg, there);
}

static void on_timer(void *arg, uint32_t events)
{
	struct vsock_mux *m = arg;
	const bool there = m->user.enter(m->user.arg);
	const int64_t now = now_ns();
	bool waits = false;
	struct vsock_conn *c;
	uint64_t ticks;

	(void)events;
	(void)!read(m->timer_fd, &ticks, sizeof(ticks));
	if (m->stopped && loop_change(m->loop, m->listener.fd, EPOLLIN) == 0)
		m->stopped = false;
	TAILQ_FOREACH(c, &m->all, all)
	{
		if (c->state != VSOCK_LINE && c->state != VSOCK_ASKED)
			continue;
		if (now >= c->deadline_ns)
			end(m, c);
		else
			waits = true;
	}
	set_timer(m, waits || m->stopped);
	m->user.leave(m->user.arg, there);
}

static void on_poke(void *arg, uint32_t events)
{
	struct vsock_mux *m = arg;
	const bool there = m->user.enter(m->user.arg);
	uint64_t n;

	(void)events;
	(void)!read(m->poke_fd, &n, sizeof(n));
	m->user.leave(m->user.arg, there);
}

void vsock_mux_poke(const struct vsock_mux *m)
{
	(void)!write(m->poke_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

static void unwatch(struct vsock_mux *m, struct vsock_conn *c)
{
	if (c->watched)
		loop_remove(m->loop, c->fd);
	c->watched = false;
}

static int watch(struct vsock_mux *m, struct vsock_conn *c)
{
	const uint32_t events = vsock_conn_events(c);
	int rc = 0;

	if (!c->watched)
		rc = loop_add(m->loop, c->fd, events, on_conn, c);
	else if (events != c->events)
		rc = loop_change(m->loop, c->fd, events);
	if (rc < 0)
		return rc;
	c->watched = true;
	c->events = events;
	return 0;
}

static void bury(struct vsock_mux *m, struct vsock_conn *c)
{
	unwatch(m, c);
	TAILQ_REMOVE(&m->all, c, all);
	m->nconns--;
	vsock_conn_free(c);
}

/* The host's kernel cannot watch one more. */
static void give_up(struct vsock_mux *m, struct vsock_conn *c)
{
	const struct vsock_header rst = {
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = m->guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.type = VSOCK_TYPE_STREAM,
		.op = VSOCK_RST,
	};

	log_warn("a vsock connection is given up: it cannot be watched");
	if (c->is_known)
		push_rst(m, &rst);
	end(m, c);
	vsock_mux_poke(m);
}

void vsock_mux_settle(struct vsock_mux *m)
{
	struct vsock_conn *c;

	while ((c = TAILQ_FIRST(&m->dirty))) {
		TAILQ_REMOVE(&m->dirty, c, dirty);
		c->is_dirty = false;
		if (c->state == VSOCK_DEAD) {
			bury(m, c);
		} else if (c->host_ended && c->host_deaf && c->fd >= 0) {
			unwatch(m, c);
			close(c->fd);
			c->fd = -1;
		} else if (c->fd >= 0 && watch(m, c) < 0) {
			give_up(m, c);
		}
	}
}

void vsock_mux_reset(struct vsock_mux *m)
{
	struct vsock_conn *c;

	TAILQ_FOREACH(c, &m->all, all)
	if (c->state != VSOCK_LINGERING)
		end(m, c);
	m->nrst = 0;
	vsock_mux_poke(m);
}

/* ---- from open to close ---- */

int vsock_mux_open(struct vsock_mux *m, const char *path, uint64_t guest_cid,
		   const struct vsock_user *user, struct err *e)
{
	int rc;

	memset(m, 0, sizeof(*m));
	m->user = *user;
	m->guest_cid = guest_cid;
	m->listener.fd = m->timer_fd = m->poke_fd = -1;
	TAILQ_INIT(&m->all);
	TAILQ_INIT(&m->ready);
	TAILQ_INIT(&m->dirty);
	/* Not where another run began: a guest may remember the pairs of ports of that. */
	(void)!getrandom(&m->last_port, sizeof(m->last_port), GRND_NONBLOCK);
	if (strlen(path) > UNIX_PATH_MAX - PORT_TEXT)
		return err_refuse(e, ENAMETOOLONG,
				  "vsock %s: the path must have 1 to %zu bytes, so that _PORT fits",
				  path, UNIX_PATH_MAX - PORT_TEXT);
	rc = unix_listen(&m->listener, "vsock", path, e);
	if (rc < 0)
		return rc;
	m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	m->poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->timer_fd < 0 || m->poke_fd < 0) {
		rc = err_sys(e, errno, "vsock %s: cannot make a timer", path);
		vsock_mux_close(m);
	}
	return rc;
}

static void close_watched(struct vsock_mux *m, int *fd)
{
	if (m->loop)
		loop_remove(m->loop, *fd);
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void vsock_mux_close(struct vsock_mux *m)
{
	struct vsock_conn *c;

	while ((c = TAILQ_FIRST(&m->all)))
		bury(m, c);
	close_watched(m, &m->timer_fd);
	close_watched(m, &m->poke_fd);
	if (m->loop)
		loop_remove(m->loop, m->listener.fd);
	unix_listener_close(&m->listener);
}

int vsock_mux_attach(struct vsock_mux *m, struct loop *loop, struct err *e)
{
	int rc;

	m->loop = loop;
	rc = loop_add(loop, m->listener.fd, EPOLLIN, on_listener, m);
	if (rc == 0)
		rc = loop_add(loop, m->timer_fd, EPOLLIN, on_timer, m);
	if (rc == 0)
		rc = loop_add(loop, m->poke_fd, EPOLLIN, on_poke, m);
	return rc < 0 ? err_sys(e, -rc, "vsock %s", m->listener.path) : 0;
}
