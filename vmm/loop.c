/* An event loop: see loop.h. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int loop_init(struct loop *l)
{
	*l = (struct loop){ .fd = epoll_create1(EPOLL_CLOEXEC) };
	return l->fd < 0 ? -errno : 0;
}

void loop_destroy(struct loop *l)
{
	if (l->fd >= 0)
		close(l->fd);
	free(l->watch);
	*l = (struct loop){ .fd = -1 };
}

static struct loop_watch *find(const struct loop *l, int fd)
{
	if (fd < 0 || (unsigned)fd >= l->nwatch || !l->watch[fd].fn)
		return NULL;
	return &l->watch[fd];
}

/* Room for descriptor fd; twice what there was, so that growing is rare. */
static int grow(struct loop *l, int fd)
{
	unsigned n = l->nwatch ? l->nwatch : 64;
	struct loop_watch *watch;

	if ((unsigned)fd < l->nwatch)
		return 0;
	while (n <= (unsigned)fd)
		n *= 2;
	watch = realloc(l->watch, n * sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	memset(watch + l->nwatch, 0, (n - l->nwatch) * sizeof(*watch));
	l->watch = watch;
	l->nwatch = n;
	return 0;
}

int loop_add(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg)
{
	struct epoll_event event = { .events = events, .data.fd = fd };
	int rc = fd < 0 ? -EBADF : grow(l, fd);

	if (rc < 0)
		return rc;
	if (epoll_ctl(l->fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	l->watch[fd] = (struct loop_watch){ fn, arg };
	return 0;
}

int loop_change(struct loop *l, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	if (!find(l, fd))
		return -ENOENT;
	return epoll_ctl(l->fd, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

void loop_remove(struct loop *l, int fd)
{
	struct loop_watch *w = find(l, fd);

	if (!w)
		return;
	epoll_ctl(l->fd, EPOLL_CTL_DEL, fd, NULL);
	*w = (struct loop_watch){ 0 };
}

int loop_step(struct loop *l, int timeout_ms)
{
	/* One at a time: a callback may remove a watch that has an event too. */
	struct epoll_event event;
	int n = epoll_wait(l->fd, &event, 1, timeout_ms);
	const struct loop_watch *w;

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	w = n == 1 ? find(l, event.data.fd) : NULL;
	if (w)
		w->fn(w->arg, event.events);
	return 0;
}
