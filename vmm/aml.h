/*
 * A writer of AML, ACPI's byte code, as far as the machine's DSDT needs it.
 * Everything is appended to a buffer; what has a length is opened with a
 * aml_begin_...() and closed with aml_end(). Overflow is remembered, not done.
 * Source: ACPI 6.4, chapter 20.2 (grammar) and 6.4 (resource data types).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_ROOM   7936 /* bytes; a package's length has 20 bits here */
#define AML_LOCAL0 0x60

struct aml {
	uint8_t bytes[AML_ROOM];
	size_t len;
	bool overflow;
};

/* Names have four letters, "COM1", or more parts: "\\_SB_". */
size_t aml_begin_scope(struct aml *a, const char *name);
size_t aml_begin_device(struct aml *a, const char *name);
size_t aml_begin_method(struct aml *a, const char *name, uint8_t flags);
/* If Local0 & mask. */
size_t aml_begin_if_local0(struct aml *a, uint8_t mask);
void aml_end(struct aml *a, size_t begun);

/* Name (name, value) of each kind. */
void aml_name_integer(struct aml *a, const char *name, uint8_t value);
void aml_name_string(struct aml *a, const char *name, const char *value);
void aml_name_eisa(struct aml *a, const char *name, const char *id);
/* A package of small integers. */
void aml_name_package(struct aml *a, const char *name, const uint8_t *values, uint8_t n);

/* A package of two integers: the low and the high half of an address. */
void aml_name_address(struct aml *a, const char *name, uint64_t address);

/* A range of I/O ports. */
struct aml_ports {
	uint16_t first;
	uint8_t count;
};

/* What a device takes; what is 0 it has not. */
struct aml_resources {
	const struct aml_ports *ports;
	size_t nports;
	uint32_t address, size; /* a window of guest addresses, for reads and writes */
	uint32_t interrupt;	/* edge-triggered, active high, nobody else's */
};

/* _CRS: a resource template of them; at most 16 ranges of ports. */
void aml_resources(struct aml *a, const struct aml_resources *r);

/* A one-byte register on an I/O port, to be read and written under `field`. */
void aml_port_register(struct aml *a, const char *region, const char *field, uint16_t port);

void aml_load_local0(struct aml *a, const char *from);
void aml_notify(struct aml *a, const char *object, uint8_t value);
