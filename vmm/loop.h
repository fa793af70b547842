/*
 * An event loop over epoll(7): the main thread's, and one of each iothread.
 * Callbacks run on the thread that runs the loop, which alone may add and remove
 * (or another one while that thread stands: see iothread.h). A callback may add
 * and remove whatever it likes, its own descriptor too.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

typedef void (*loop_fn)(void *arg, uint32_t events);

struct loop_watch {
	loop_fn fn; /* NULL: this descriptor is not watched */
	void *arg;
};

struct loop {
	int fd;			  /* epoll, owned */
	struct loop_watch *watch; /* by descriptor, owned: grows with the highest one */
	unsigned nwatch;
};

/* 0 or a negative errno. */
int loop_init(struct loop *l);
void loop_destroy(struct loop *l);

/*
 * Calls fn(arg, events) when `fd` (the caller's) has any of `events`: EPOLLIN,
 * EPOLLOUT, 0 for neither; hang-up and error always. To be removed before it is
 * closed. 0 or a negative errno (-EEXIST: it is watched already).
 */
int loop_add(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg);
int loop_change(struct loop *l, int fd, uint32_t events);
/* What is not watched, -1 too, is no harm. */
void loop_remove(struct loop *l, int fd);

/*
 * Waits for an event, at most timeout_ms (-1: for ever), and makes the one call
 * for it. 0 or a negative errno.
 */
int loop_step(struct loop *l, int timeout_ms);
