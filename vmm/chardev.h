/*
 * Where a serial line ends on the host: standard output, a file, or nowhere.
 * Output never blocks the caller: what the host does not take now waits in a
 * buffer of 64 KiB, and when that is full the guest is told to wait. (A terminal
 * can take a write back half way: its descriptor has to be O_NONBLOCK.)
 *
 * Any thread may put; flushing is the main loop's.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHARDEV_BUFFER 65536

struct chardev {
	int fd; /* not owned where it is standard output; -1: nowhere */
	pthread_mutex_t lock;
	/* under lock: */
	size_t head, len; /* of what waits in the ring */
	bool told_full;	  /* somebody was told that there is no room, and waits */
	uint8_t ring[CHARDEV_BUFFER];
};

void chardev_init(struct chardev *c, int fd);

/* Writes one byte, now or later. False: there is no room, nothing was taken. */
bool chardev_put(struct chardev *c, uint8_t byte);
bool chardev_has_room(struct chardev *c);

/* True once when there is room again behind a chardev_has_room() that said no. */
bool chardev_take_drained(struct chardev *c);

/* Writes what waits as far as the host takes it. True if something still waits. */
bool chardev_flush(struct chardev *c);
