/* Where a serial line ends on the host: see chardev.h. */
#include "chardev.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

void chardev_init(struct chardev *c, int fd)
{
	c->fd = fd;
	c->head = 0;
	c->len = 0;
	c->told_full = false;
	pthread_mutex_init(&c->lock, NULL);
}

/*
 * Whether a write would be taken at once. Asked by poll(2) rather than by
 * O_NONBLOCK: standard output is shared with the shell that started us.
 */
static bool writable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLOUT | POLLERR | POLLHUP | POLLNVAL));
}

/* With the lock held: writes from the ring while the host takes it. */
static void drain(struct chardev *c)
{
	while (c->len && writable(c->fd)) {
		size_t run = CHARDEV_BUFFER - c->head;
		ssize_t n;

		if (run > c->len)
			run = c->len;
		/* No more than a pipe surely takes without blocking. */
		if (run > 512)
			run = 512;
		n = write(c->fd, c->ring + c->head, run);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		/* A reader that has gone, a full disk: the guest must not stall for ever. */
		if (n < 0)
			n = (ssize_t)run;
		c->head = (c->head + (size_t)n) % CHARDEV_BUFFER;
		c->len -= (size_t)n;
	}
}

bool chardev_put(struct chardev *c, uint8_t byte)
{
	bool taken = true;

	if (c->fd < 0)
		return true;
	pthread_mutex_lock(&c->lock);
	if (c->len == CHARDEV_BUFFER) {
		taken = false;
	} else {
		c->ring[(c->head + c->len) % CHARDEV_BUFFER] = byte;
		c->len++;
		drain(c);
	}
	pthread_mutex_unlock(&c->lock);
	return taken;
}

bool chardev_has_room(struct chardev *c)
{
	bool room;

	pthread_mutex_lock(&c->lock);
	room = c->len < CHARDEV_BUFFER;
	c->told_full |= !room;
	pthread_mutex_unlock(&c->lock);
	return room;
}

bool chardev_take_drained(struct chardev *c)
{
	bool drained;

	pthread_mutex_lock(&c->lock);
	drained = c->told_full && c->len < CHARDEV_BUFFER;
	if (drained)
		c->told_full = false;
	pthread_mutex_unlock(&c->lock);
	return drained;
}

bool chardev_flush(struct chardev *c)
{
	bool waits;

	if (c->fd < 0)
		return false;
	pthread_mutex_lock(&c->lock);
	drain(c);
	waits = c->len > 0;
	pthread_mutex_unlock(&c->lock);
	return waits;
}
