/*
 * A thread that runs devices' callbacks over a loop of its own. It can be held:
 * then it is outside every callback, so that nothing of its devices is under way.
 *
 * A disk, whose I/O blocks, has an iothread of its own; the other devices share one.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "base/err.h"
#include "loop.h"

struct iothread {
	struct loop loop; /* the thread's own; the main thread's while it is held or not started */
	pthread_t thread;
	bool started;
	int wake_fd; /* eventfd, owned */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock: */
	bool hold, pause, parked, quit;
};

/* Makes it, held, without a thread yet. 0 or a negative errno. */
int iothread_init(struct iothread *t, struct err *e);
/* Starts the thread; it stays held until iothread_release(). 0 or a negative errno. */
int iothread_start(struct iothread *t, struct err *e);
/* Ends the thread, if there is one, after the callback that runs. */
void iothread_destroy(struct iothread *t);

/* Asks it to hold, and does not wait. Any thread, its own too. */
void iothread_ask_hold(struct iothread *t);
/* Asks, and waits until it is outside every callback. Not its own thread. */
void iothread_hold(struct iothread *t);
void iothread_release(struct iothread *t);

/*
 * A moment's hold within a vCPU's thread, for what a guest does to a device:
 * between the two the loop is the caller's alone. Independent of hold and
 * release, and short. Not its own thread; no device's lock is held.
 */
void iothread_pause(struct iothread *t);
void iothread_unpause(struct iothread *t);
