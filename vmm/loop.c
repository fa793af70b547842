/* The main thread's event loop: see loop.h. */
#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

int loop_init(struct loop *l)
{
	memset(l, 0, sizeof(*l));
	for (int i = 0; i < LOOP_WATCHES; i++)
		l->watch[i].fd = -1;
	l->fd = epoll_create1(EPOLL_CLOEXEC);
	return l->fd < 0 ? -errno : 0;
}

void loop_destroy(struct loop *l)
{
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

static int find(const struct loop *l, int fd)
{
	for (int i = 0; i < LOOP_WATCHES; i++)
		if (l->watch[i].fd == fd)
			return i;
	return -1;
}

int loop_add(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg)
{
	int i = find(l, -1);
	struct epoll_event event = { .events = events, .data.u32 = (uint32_t)i };

	if (i < 0)
		return -ENOSPC;
	if (epoll_ctl(l->fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	l->watch[i].fd = fd;
	l->watch[i].fn = fn;
	l->watch[i].arg = arg;
	return 0;
}

int loop_change(struct loop *l, int fd, uint32_t events)
{
	int i = find(l, fd);
	struct epoll_event event = { .events = events, .data.u32 = (uint32_t)i };

	if (i < 0)
		return -ENOENT;
	return epoll_ctl(l->fd, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

void loop_remove(struct loop *l, int fd)
{
	int i = fd < 0 ? -1 : find(l, fd);

	if (i < 0)
		return;
	epoll_ctl(l->fd, EPOLL_CTL_DEL, fd, NULL);
	l->watch[i].fd = -1;
}

int loop_step(struct loop *l, int timeout_ms)
{
	/* One at a time: a callback may remove a watch that has an event too. */
	struct epoll_event event;
	int n = epoll_wait(l->fd, &event, 1, timeout_ms);
	uint32_t i = event.data.u32;

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 1 && i < LOOP_WATCHES && l->watch[i].fd >= 0)
		l->watch[i].fn(l->watch[i].arg, event.events);
	return 0;
}
