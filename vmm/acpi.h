/*
 * The ACPI tables of the machine: hardware-reduced, so that there is one small
 * power device (power.h) instead of a chipset. A kernel learns from them its
 * processors, its interrupt controllers, the devices on ports, and how to power
 * off and reset.
 *
 * They lie at guest address ACPI_AT: RSDP, XSDT, FADT, MADT, DSDT,
 * and the VM generation ID.
 * Source: ACPI 6.4, chapters 4.1 (hardware-reduced), 5.2 (tables), 20 (AML).
 */
#pragma once

#include <stdint.h>

#include "ram.h"

#define ACPI_AT	  0xe0000 /* where a BIOS has the RSDP, too */
#define ACPI_ROOM 0x4000

#define ACPI_WINDOWS_MAX 32

/* A virtio-mmio device: its window of guest addresses below 4 GiB, and its GSI. */
struct acpi_window {
	uint32_t address, size; /* bytes */
	uint32_t irq;
};

/* What the tables tell of. */
struct acpi_config {
	unsigned ncpus;
	const struct acpi_window *windows;
	unsigned nwindows;	   /* at most ACPI_WINDOWS_MAX */
	const uint8_t *generation; /* VM generation ID (vmgenid.h) */
};

/* Writes the tables. 0 or a negative errno of ram_write(). */
int acpi_write_tables(struct ram *ram, const struct acpi_config *c);
