/*
 * The main thread's event loop, over epoll(7). Callbacks run on the thread that
 * runs the loop, which alone may add and remove.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LOOP_WATCHES 32

typedef void (*loop_fn)(void *arg, uint32_t events);

struct loop {
	int fd; /* epoll, owned */
	struct {
		int fd; /* -1: free */
		loop_fn fn;
		void *arg;
	} watch[LOOP_WATCHES];
};

/* 0 or a negative errno. */
int loop_init(struct loop *l);
void loop_destroy(struct loop *l);

/* Calls fn(arg, events) when `fd` (the caller's) has any of EPOLLIN, EPOLLOUT. 0 or negative. */
int loop_add(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg);
int loop_change(struct loop *l, int fd, uint32_t events);
void loop_remove(struct loop *l, int fd);

/* Waits for events, at most timeout_ms (-1: for ever), and calls. 0 or a negative errno. */
int loop_step(struct loop *l, int timeout_ms);
