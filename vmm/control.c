/* The control socket: see control.h. */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
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
	int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);

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

/* True where a socket is at `path` whose server has gone. */
static bool is_dead_socket(const struct sockaddr_un *address)
{
	/* A server that is there and stuck must not be waited for. */
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (fd < 0 || lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
	       errno == ECONNREFUSED;
}

static int listen_at(int fd, const struct sockaddr_un *address)
{
	mode_t before = umask(0177);
	int rc = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;

	umask(before);
	if (rc == 0 && listen(fd, 8) < 0)
		rc = -errno;
	return rc;
}

int control_open(struct control *c, const char *path, struct loop *loop, struct monitor *monitor,
		 struct err *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	auto_fd int fd = -1;
	int rc;

	*c = (struct control){ .fd = -1, .loop = loop, .monitor = monitor };
	for (int i = 0; i < CONTROL_CLIENTS; i++)
		c->client[i].fd = -1;
	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return err_usage(e, ENAMETOOLONG, "--control %s: the path must have 1 to %zu bytes",
				 path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, errno, "cannot make a socket");
	rc = listen_at(fd, &address);
	if (rc == -EADDRINUSE && is_dead_socket(&address) && unlink(path) == 0)
		rc = listen_at(fd, &address);
	if (rc == -EADDRINUSE)
		return err_refuse(e, EADDRINUSE, "--control %s: it exists and is in use", path);
	if (rc < 0)
		return err_sys(e, -rc, "--control %s", path);
	strcpy(c->path, path);
	rc = loop_add(loop, fd, EPOLLIN, on_connect, c);
	if (rc < 0)
		return err_sys(e, -rc, "--control %s", path);
	c->fd = take_fd(&fd);
	return 0;
}

void control_close(struct control *c)
{
	for (int i = 0; i < CONTROL_CLIENTS; i++)
		if (c->client[i].fd >= 0)
			client_close(&c->client[i]);
	if (c->fd < 0)
		return;
	loop_remove(c->loop, c->fd);
	close(c->fd);
	unlink(c->path);
	c->fd = -1;
}
