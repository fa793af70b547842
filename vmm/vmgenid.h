/*
 * The VM generation ID: 16 random bytes in guest RAM that are others after a
 * restore, and an event that says so. A guest's kernel then makes new random
 * numbers, so that two machines out of one snapshot do not share them.
 *
 * The bytes lie in the ACPI area; the DSDT has them as a device (acpi.c), the
 * power device tells of the event.
 * Source: Microsoft, "Virtual Machine Generation ID".
 */
#pragma once

#include <stdint.h>

#include "acpi.h"
#include "power.h"
#include "ram.h"

#define VMGENID_AT   (ACPI_AT + 0x3000) /* behind the DSDT */
#define VMGENID_SIZE 16

/* Writes the ID, for a guest that has not run. 0 or a negative errno of ram_write(). */
int vmgenid_write(struct ram *ram, const uint8_t id[VMGENID_SIZE]);

/*
 * Writes the ID of a guest that has run, and tells it: an interrupt, so KVM's
 * state is to be loaded before. 0 or a negative errno of ram_write().
 */
int vmgenid_renew(struct ram *ram, struct power *p, const uint8_t id[VMGENID_SIZE]);
