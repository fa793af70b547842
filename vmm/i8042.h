/*
 * The keyboard controller, as far as a PC needs one to be reset: it answers the
 * driver's probing, has no keyboard, and pulls the reset line when it is told.
 * Source: Intel 8042 / IBM PC AT technical reference, keyboard controller.
 */
#pragma once

#include <pthread.h>

#include "vdev.h"

struct i8042 {
	struct vdev dev; /* first */
	pthread_mutex_t lock;
	/* under lock: */
	uint8_t command; /* waits for its data byte, 0: none */
	uint8_t control, output;
	bool output_full;
};

extern const struct vdev_ops i8042_ops;

void i8042_init(struct i8042 *k);
