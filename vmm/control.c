/* The control socket: see control.h. */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

static void client_close(struct control_client *c)
{
	monitor_forget(c->control->monitor, c);
	loop_remove(c->control->loop, c->fd);
	close(c->fd);
	c->fd = -1;
}

static void run_lines(struct control_client *c);
static void on_client(void *arg, uint32_t events);

/* What comes behind a line whose answer takes time: closes, or reads on. */
static void go_on(struct control_client *c)
{
	run_lines(c);
	if (c->waiting)
		return;
	if (!c->ended && loop_add(c->control->loop, c->fd, EPOLLIN, on_client, c) < 0)
		c->ended = true;
	if (c->ended)
		client_close(c);
}

static void answer(void *arg, json_t *j)
{
	struct control_client *c = arg;
	auto_free char *text = json_dumps(j, JSON_COMPACT);
	struct iovec iov[2] = { { .iov_base = text },
				{ .iov_base = (char[]){ '\n' }, .iov_len = 1 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	json_decref(j);
	c->waiting = false;
	if (text)
		iov[0].iov_len = strlen(text);
	/* A client that does not read its answers loses them, not the machine its thread. */
	if (!text ||
	    sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(iov[0].iov_len + 1))
		c->ended = true;
	if (!c->running)
		go_on(c);
}

/* Runs the whole lines that have come, up to one whose answer comes later. */
static void run_lines(struct control_client *c)
{
	char *newline;

	c->running = true;
	while (!c->waiting && !c->ended && (newline = memchr(c->line, '\n', c->len))) {
		char line[CONTROL_LINE];
		size_t n = (size_t)(newline - c->line);

		memcpy(line, c->line, n);
		line[n] = '\0';
		/* A NUL would hide what stands behind it: no command has a question mark. */
		for (char *nul = line; (nul = memchr(nul, '\0', n - (size_t)(nul - line)));)
			*nul = '?';
		c->len -= n + 1;
		memmove(c->line, newline + 1, c->len);
		/* Set before: an answer that comes at once clears it again. */
		c->waiting = true;
		if (!monitor_run(c->control->monitor, line, answer, c))
			c->waiting = false;
	}
	c->running = false;
}

static void on_client(void *arg, uint32_t events)
{
	struct control_client *c = arg;
	ssize_t n = recv(c->fd, c->line + c->len, CONTROL_LINE - c->len, MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n > 0)
		c->len += (size_t)n;
	/* Out of the loop until all lines are answered: nothing more is read till then. */
	loop_remove(c->control->loop, c->fd);
	if (n <= 0)
		c->ended = true;
	if (c->len == CONTROL_LINE && !memchr(c->line, '\n', c->len)) {
		c->ended = true;
		c->running = true;
		answer(c, json_pack("{s:b, s:s}", "ok", 0, "error", "the line is too long"));
		c->running = false;
	}
	go_on(c);
}

static void on_connect(void *arg, uint32_t events)
{
	struct control *c = arg;
	int fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	for (int i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_client *client = &c->client[i];

		if (client->fd >= 0)
			continue;
		if (loop_add(c->loop, fd, EPOLLIN, on_client, client) < 0)
			break;
		client->control = c;
		client->fd = fd;
		client->len = 0;
		client->waiting = client->ended = client->running = false;
		return;
	}
	close(fd);
}

int control_open(struct control *c, const char *path, struct loop *loop, struct monitor *monitor,
		 struct err *e)
{
	int rc;

	*c = (struct control){ .loop = loop, .monitor = monitor };
	for (int i = 0; i < CONTROL_CLIENTS; i++)
		c->client[i].fd = -1;
	rc = unix_listen(&c->listener, "--control", path, e);
	if (rc < 0)
		return rc;
	rc = loop_add(loop, c->listener.fd, EPOLLIN, on_connect, c);
	if (rc < 0) {
		unix_listener_close(&c->listener);
		return err_sys(e, -rc, "--control %s", path);
	}
	return 0;
}

void control_close(struct control *c)
{
	for (int i = 0; i < CONTROL_CLIENTS; i++)
		if (c->client[i].fd >= 0)
			client_close(&c->client[i]);
	loop_remove(c->loop, c->listener.fd);
	unix_listener_close(&c->listener);
}
