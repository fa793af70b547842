/*
 * The real-time clock of a PC: tells the host's time (UTC) and keeps 114 bytes
 * of memory. It has no alarm and no periodic interrupt; setting it is ignored.
 * Source: Motorola MC146818A data sheet.
 */
#pragma once

#include <pthread.h>

#include "vdev.h"

#define RTC_REGISTERS 128

struct rtc {
	struct vdev dev; /* first */
	pthread_mutex_t lock;
	/* under lock: */
	uint8_t selected; /* register that the data port reaches */
	uint8_t reg[RTC_REGISTERS];
};

extern const struct vdev_ops rtc_ops;

void rtc_init(struct rtc *r);
