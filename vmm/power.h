/*
 * The machine's power device: what a hardware-reduced ACPI machine has instead
 * of a chipset. Four ports of a byte each:
 *
 *	POWER_SLEEP	sleep control register: SLP_EN with SLP_TYP 5 powers off
 *	POWER_STATUS	sleep status register: always 0
 *	POWER_RESET	1 resets the machine
 *	POWER_EVENTS	events since it was last read; reading clears it
 *
 * Source: ACPI 6.4, 4.8.3.7 (sleep registers), 4.8.3.6 (reset register), 5.6.9
 * (generic event device).
 */
#pragma once

#include <pthread.h>

#include "vdev.h"

#define POWER_PORT   0x600
#define POWER_PORTS  4
#define POWER_SLEEP  0
#define POWER_STATUS 1
#define POWER_RESET  2
#define POWER_EVENTS 3

#define POWER_IRQ	       10
#define POWER_EVENT_BUTTON     0x01
#define POWER_EVENT_GENERATION 0x02 /* the VM generation ID is another (vmgenid.h) */
#define POWER_SLP_TYP_OFF      5
#define POWER_RESET_VALUE      1

struct power {
	struct vdev dev; /* first */
	pthread_mutex_t lock;
	/* under lock: */
	uint8_t events;
};

extern const struct vdev_ops power_ops;

void power_init(struct power *p);

/*
 * Adds to the events and interrupts the guest. Any thread. The guest shuts down
 * on a POWER_EVENT_BUTTON, if it wants to.
 */
void power_raise(struct power *p, uint8_t event);
