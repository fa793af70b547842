/*
 * virtio-console: one port (the guest's hvc0), which ends at a Unix socket of the
 * host: `--console path=SOCK`. The socket is listened on as long as the VM lives
 * (0600; a dead one is replaced), one client at a time is connected, and others
 * wait in line for it to go.
 *
 * It is a line, not a log: what the guest writes while nobody is connected is
 * gone, and its length is said to the next client's user in the log. While a
 * client is connected nothing is lost in either direction:
 *
 *	guest -> client	 Output stays in the guest's own queue until the socket has
 *			 taken it; output_done says how far its first request is.
 *	client -> guest	 At most INPUT_MAX bytes are read ahead of the guest's
 *			 buffers; the rest waits in the socket, and its sender.
 *
 * So those two are all that is saved. A restored VM has a socket of its own
 * without a client. What a client that has gone left unread in its socket still
 * comes to the guest, unless the next client comes first.
 * Source: virtio 1.2, 5.3.
 */
#define _GNU_SOURCE
#include "kinds.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "proto/bounded.h"
#include "vmm/unix_socket.h"

enum { RX, TX, QUEUES };

#define QUEUE_SIZE 64
#define INPUT_MAX  4096
#define PIECE	   4096	       /* bytes of output sent at once */
#define BATCH	   64	       /* requests in one callback */
#define BUDGET	   (64U << 10) /* bytes of output in one callback */

struct console {
	struct virtio v;
	struct unix_listener listener;
	/* the iothread's: */
	int client_fd;	  /* -1: nobody is connected */
	uint32_t watched; /* events of the client */
	bool ended;	  /* it sends no more */
	bool gone;	  /* it has hung up and is out of the loop; its input is not all read */
	/* under v.lock: */
	bool output_waits;    /* for room in the client's socket */
	uint64_t output_done; /* bytes of the first request that the client has */
	uint64_t dropped;     /* bytes, since the last client */
	size_t input_start, input_len;
	uint8_t input[INPUT_MAX];
	struct virtq_chain chain;
};

static struct console *of(struct virtio *v)
{
	return (struct console *)v;
}

/* ---- the client: on the iothread ---- */

static void on_client(void *arg, uint32_t events);

static bool is_connected(const struct console *c)
{
	return c->client_fd >= 0 && !c->gone;
}

/* Listens on: off while a client is connected, so that the next one waits in line. */
static void watch_listener(struct console *c)
{
	loop_change(&c->v.io->loop, c->listener.fd, is_connected(c) ? 0 : EPOLLIN);
}

static void watch_client(struct console *c, uint32_t events)
{
	if (!is_connected(c) || events == c->watched)
		return;
	loop_change(&c->v.io->loop, c->client_fd, events);
	c->watched = events;
}

static void close_client(struct console *c)
{
	if (!c->gone)
		loop_remove(&c->v.io->loop, c->client_fd);
	close(c->client_fd);
	c->client_fd = -1;
	c->gone = false;
	watch_listener(c);
	/* What waited for it is dropped now, not at the guest's next write. */
	virtio_kick(&c->v, TX);
}

static void on_connect(void *arg, uint32_t events)
{
	struct console *c = arg;
	int fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	if (c->client_fd >= 0)
		close_client(c);
	if (loop_add(&c->v.io->loop, fd, EPOLLIN, on_client, c) < 0) {
		close(fd);
		return;
	}
	c->client_fd = fd;
	c->watched = EPOLLIN;
	c->ended = false;
	watch_listener(c);
	pthread_mutex_lock(&c->v.lock);
	if (c->dropped)
		log_info("%s: %llu bytes of output were dropped while nobody was connected",
			 c->v.dev.name, (unsigned long long)c->dropped);
	c->dropped = 0;
	pthread_mutex_unlock(&c->v.lock);
}

/* ---- the queues: on the iothread, with the lock held ---- */

/* One buffer's worth of input. False: no input, no buffer, or no more can be done. */
static bool give_one(struct console *c)
{
	struct virtq_chain *chain = &c->chain;
	size_t n;
	int rc;

	if (!c->input_len || !virtio_pop(&c->v, RX, chain))
		return false;
	if (chain->nout || !chain->in_len) {
		virtio_broken(&c->v, "a buffer for input has no room");
		return false;
	}
	n = chain->in_len < c->input_len ? (size_t)chain->in_len : c->input_len;
	rc = virtq_write(chain, c->v.ram, 0, c->input + c->input_start, n);
	if (rc < 0) {
		virtio_memory_failed(&c->v, RX, rc);
		return false;
	}
	if (!virtio_push(&c->v, RX, chain, (uint32_t)n))
		return false;
	c->input_start += n;
	c->input_len -= n;
	return true;
}

static void give_input(struct console *c)
{
	bool given = false;

	while (give_one(c))
		given = true;
	if (given)
		virtio_signal(&c->v, RX);
}

/* Reads ahead, once what was read before has been given. */
static void read_input(struct console *c)
{
	ssize_t n;

	if (c->input_len || c->ended || c->client_fd < 0)
		return;
	n = recv(c->client_fd, c->input, INPUT_MAX, MSG_DONTWAIT);
	if (n > 0) {
		c->input_start = 0;
		c->input_len = (size_t)n;
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		c->ended = true;
	}
}

static void receive(struct console *c)
{
	give_input(c);
	read_input(c);
	give_input(c);
	if (c->gone && c->ended)
		close_client(c);
	/* What is gone is not in the loop: it comes by again as long as there are buffers. */
	else if (c->gone && !c->input_len)
		virtio_kick(&c->v, RX);
}

/*
 * Sends what is left of the request, at most *budget bytes. 1: it is done with;
 * 0: the rest is for later; negative: as virtq_read().
 */
static int send_out(struct console *c, uint64_t *budget)
{
	uint8_t piece[PIECE];

	while (c->output_done < c->chain.out_len) {
		const uint64_t left = c->chain.out_len - c->output_done;
		const size_t n = left < PIECE ? (size_t)left : PIECE;
		ssize_t sent;
		int rc;

		if (*budget < n)
			return 0;
		rc = virtq_read(&c->chain, c->v.ram, c->output_done, piece, n);
		if (rc < 0)
			return rc;
		sent = send(c->client_fd, piece, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN) {
			c->output_waits = true;
			return 0;
		}
		if (sent < 0) /* it has hung up, or reads no more */
			break;
		c->output_done += (uint64_t)sent;
		*budget -= (uint64_t)sent;
	}
	return 1;
}

/* One request of output. False: there is none, or no more can be done now. */
static bool transmit_one(struct console *c, uint64_t *budget)
{
	int rc = 1;

	if (!virtio_pop(&c->v, TX, &c->chain))
		return false;
	if (c->chain.nin) {
		virtio_broken(&c->v, "a request for output has room for input");
		return false;
	}
	if (is_connected(c))
		rc = send_out(c, budget);
	if (rc < 0)
		virtio_memory_failed(&c->v, TX, rc);
	if (rc == 0)
		virtq_unpop(&c->v.queue[TX]);
	if (rc <= 0)
		return false;
	if (c->output_done < c->chain.out_len)
		c->dropped += c->chain.out_len - c->output_done;
	c->output_done = 0;
	return virtio_push(&c->v, TX, &c->chain, 0);
}

static void transmit(struct console *c)
{
	uint64_t budget = BUDGET;
	unsigned n = 0;

	c->output_waits = false;
	while (n < BATCH && transmit_one(c, &budget))
		n++;
	if (n)
		virtio_signal(&c->v, TX);
	if (!c->output_waits && (n == BATCH || budget < PIECE))
		virtio_kick(&c->v, TX);
}

/* After the queues were looked at: what of the client is to be waited for. */
static void watch_both(struct console *c)
{
	uint32_t events = c->output_waits ? EPOLLOUT : 0;

	if (!c->input_len && !c->ended)
		events |= EPOLLIN;
	watch_client(c, events);
}

static void console_notify(struct virtio *v, unsigned q)
{
	struct console *c = of(v);

	if (q == TX)
		transmit(c);
	else
		receive(c);
	watch_both(c);
}

/* It has hung up: events that cannot be switched off. What it sent may still be unread. */
static void hang_up(struct console *c)
{
	loop_remove(&c->v.io->loop, c->client_fd);
	c->gone = true;
	watch_listener(c);
	virtio_kick(&c->v, TX);
	receive(c);
}

static void on_client(void *arg, uint32_t events)
{
	struct console *c = arg;
	const bool hung_up = events & (EPOLLHUP | EPOLLERR);

	if (!virtio_enter(&c->v)) {
		/* Without a driver there is no line. Its first kick brings the events back. */
		if (hung_up)
			close_client(c);
		else
			watch_client(c, 0);
		return;
	}
	if (hung_up) {
		hang_up(c);
	} else {
		if (events & EPOLLOUT)
			transmit(c);
		receive(c);
		watch_both(c);
	}
	virtio_leave(&c->v);
}

/* ---- state ---- */

static void console_reset(struct virtio *v)
{
	struct console *c = of(v);

	c->input_len = 0;
	c->output_done = 0;
	c->output_waits = false;
}

static int console_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	struct console *c = of(v);
	ConsoleState m = CONSOLE_STATE__INIT;

	m.input = (ProtobufCBinaryData){ c->input_len, c->input + c->input_start };
	m.output_done = c->output_done;
	*len = console_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	console_state__pack(&m, *buf);
	return 0;
}

static int console_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
			struct err *e)
{
	struct console *c = of(v);
	ConsoleState *m = (ConsoleState *)proto_unpack_bounded(&console_state__descriptor, buf, len,
							       4 * INPUT_MAX);
	size_t n = m ? m->input.len : 0;

	(void)version;
	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", v->dev.name);
	if (n <= INPUT_MAX) {
		if (n)
			memcpy(c->input, m->input.data, n);
		c->input_start = 0;
		c->input_len = n;
		c->output_done = m->output_done;
	}
	console_state__free_unpacked(m, NULL);
	if (n > INPUT_MAX)
		return err_refuse(e, EINVAL, "the saved state of %s has too much input",
				  v->dev.name);
	return 0;
}

/* ---- opening ---- */

static int console_attach(struct virtio *v, struct err *e)
{
	struct console *c = of(v);
	int rc = loop_add(&v->io->loop, c->listener.fd, EPOLLIN, on_connect, c);

	return rc < 0 ? err_sys(e, -rc, "--console %s", c->listener.path) : 0;
}

static void console_close(struct virtio *v)
{
	struct console *c = of(v);

	loop_remove(&v->io->loop, c->client_fd);
	if (c->client_fd >= 0)
		close(c->client_fd);
	loop_remove(&v->io->loop, c->listener.fd);
	unix_listener_close(&c->listener);
	virtio_fini(v);
	free(c);
}

static int console_open(const Device *config, struct virtio **out, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_sys(e, ENOMEM, "virtio-console");
	rc = unix_listen(&c->listener, "--console path", config->path, e);
	if (rc < 0) {
		free(c);
		return rc;
	}
	virtio_init(&c->v, &virtio_console_ops, QUEUES, QUEUE_SIZE, 0, 0);
	c->client_fd = -1;
	*out = &c->v;
	return 0;
}

const struct virtio_ops virtio_console_ops = {
	.kind = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.version = 1,
	.max = 1,
	.open = console_open,
	.close = console_close,
	.attach = console_attach,
	.reset = console_reset,
	.notify = console_notify,
	.save = console_save,
	.load = console_load,
};
