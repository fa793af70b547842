/*
 * A 16550A UART. What the guest sends goes to a chardev at once; what it
 * receives waits in a queue of 4 KiB, which is saved with the machine.
 * Source: National Semiconductor PC16550D data sheet.
 */
#pragma once

#include <pthread.h>

#include "chardev.h"
#include "vdev.h"

#define SERIAL_QUEUE 4096

struct serial {
	struct vdev dev; /* first */
	struct chardev *out;
	pthread_mutex_t lock;
	/* under lock: */
	uint8_t ier, lcr, mcr, scr, dll, dlm, fcr;
	bool thr_empty_pending; /* the THRE interrupt stands */
	size_t head, len;	/* of the receive queue */
	uint8_t queue[SERIAL_QUEUE];
	/* counted for `status`, relaxed: what the guest has sent and been sent */
	uint64_t bytes_out, bytes_in;
};

extern const struct vdev_ops serial_ops;

/* Makes it ready, in its state after power-on. `out` is kept, not owned. */
void serial_init(struct serial *s, struct chardev *out);

/* Bytes from the host to the guest: takes as many as there is room for; returns how many. */
size_t serial_receive(struct serial *s, const uint8_t *bytes, size_t n);

/* How many bytes serial_receive() would take now. */
size_t serial_room(struct serial *s);

/* The chardev has room again: a guest that waits to send is told. */
void serial_output_drained(struct serial *s);
