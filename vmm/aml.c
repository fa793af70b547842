/* A writer of AML: see aml.h. */
#include "aml.h"

#include <string.h>

#define OP_NAME	    0x08
#define OP_BYTE	    0x0a
#define OP_WORD	    0x0b
#define OP_DWORD    0x0c
#define OP_STRING   0x0d
#define OP_SCOPE    0x10
#define OP_BUFFER   0x11
#define OP_PACKAGE  0x12
#define OP_METHOD   0x14
#define OP_EXTENDED 0x5b
#define OP_STORE    0x70
#define OP_AND	    0x7b
#define OP_NOTIFY   0x86
#define OP_IF	    0xa0
#define EXT_REGION  0x80
#define EXT_FIELD   0x81
#define EXT_DEVICE  0x82

#define SPACE_SYSTEM_IO	   1
#define FIELD_BYTE_ACCESS  1
#define RESOURCE_IO	   0x47
#define RESOURCE_MEMORY32  0x86
#define RESOURCE_INTERRUPT 0x89
#define RESOURCE_END	   0x79
#define INTERRUPT_EDGE	   0x03 /* consumer, edge-triggered, active high, exclusive */

static void put(struct aml *a, const void *bytes, size_t n)
{
	if (n > AML_ROOM - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->bytes + a->len, bytes, n);
	a->len += n;
}

static void put8(struct aml *a, unsigned value)
{
	const uint8_t byte = (uint8_t)value;

	put(a, &byte, 1);
}

static void put16(struct aml *a, unsigned value)
{
	put8(a, value);
	put8(a, value >> 8);
}

static void put32(struct aml *a, uint32_t value)
{
	put16(a, value);
	put16(a, value >> 16);
}

static void put_name(struct aml *a, const char *name)
{
	put(a, name, strlen(name));
}

static void put_integer(struct aml *a, uint8_t value)
{
	put8(a, OP_BYTE);
	put8(a, value);
}

#define LENGTH_BYTES 3

/* A package length of three bytes, filled in by aml_end(): low nibble, then the rest. */
static size_t begin(struct aml *a)
{
	const size_t at = a->len;

	put(a, "\0\0", LENGTH_BYTES);
	return at;
}

void aml_end(struct aml *a, size_t begun)
{
	const size_t len = a->len - begun; /* its own bytes count */

	if (a->overflow)
		return;
	a->bytes[begun] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (len & 0xf));
	a->bytes[begun + 1] = (uint8_t)(len >> 4);
	a->bytes[begun + 2] = (uint8_t)(len >> 12);
}

size_t aml_begin_scope(struct aml *a, const char *name)
{
	size_t at;

	put8(a, OP_SCOPE);
	at = begin(a);
	put_name(a, name);
	return at;
}

size_t aml_begin_device(struct aml *a, const char *name)
{
	size_t at;

	put8(a, OP_EXTENDED);
	put8(a, EXT_DEVICE);
	at = begin(a);
	put_name(a, name);
	return at;
}

size_t aml_begin_method(struct aml *a, const char *name, uint8_t flags)
{
	size_t at;

	put8(a, OP_METHOD);
	at = begin(a);
	put_name(a, name);
	put8(a, flags);
	return at;
}

size_t aml_begin_if_local0(struct aml *a, uint8_t mask)
{
	size_t at;

	put8(a, OP_IF);
	at = begin(a);
	put8(a, OP_AND);
	put8(a, AML_LOCAL0);
	put_integer(a, mask);
	put8(a, 0); /* no target */
	return at;
}

static void begin_name(struct aml *a, const char *name)
{
	put8(a, OP_NAME);
	put_name(a, name);
}

void aml_name_integer(struct aml *a, const char *name, uint8_t value)
{
	begin_name(a, name);
	put_integer(a, value);
}

void aml_name_string(struct aml *a, const char *name, const char *value)
{
	begin_name(a, name);
	put8(a, OP_STRING);
	put(a, value, strlen(value) + 1);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits and four hexadecimal digits, most significant byte first. */
void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
	const unsigned letters =
		(unsigned)((id[0] - '@') << 10 | (id[1] - '@') << 5 | (id[2] - '@'));

	begin_name(a, name);
	put8(a, OP_DWORD);
	put8(a, letters >> 8);
	put8(a, letters);
	put8(a, hex_digit(id[3]) << 4 | hex_digit(id[4]));
	put8(a, hex_digit(id[5]) << 4 | hex_digit(id[6]));
}

void aml_name_package(struct aml *a, const char *name, const uint8_t *values, uint8_t n)
{
	size_t at;

	begin_name(a, name);
	put8(a, OP_PACKAGE);
	at = begin(a);
	put8(a, n);
	for (uint8_t i = 0; i < n; i++)
		put_integer(a, values[i]);
	aml_end(a, at);
}

void aml_name_address(struct aml *a, const char *name, uint64_t address)
{
	size_t at;

	begin_name(a, name);
	put8(a, OP_PACKAGE);
	at = begin(a);
	put8(a, 2);
	put8(a, OP_DWORD);
	put32(a, (uint32_t)address);
	put8(a, OP_DWORD);
	put32(a, (uint32_t)(address >> 32));
	aml_end(a, at);
}

static void put_ports(struct aml *a, const struct aml_ports *p)
{
	put8(a, RESOURCE_IO);
	put8(a, 1); /* all 16 address bits are decoded */
	put16(a, p->first);
	put16(a, p->first);
	put8(a, 1);
	put8(a, p->count);
}

static void put_window(struct aml *a, uint32_t address, uint32_t size)
{
	put8(a, RESOURCE_MEMORY32);
	put16(a, 9);
	put8(a, 1); /* writable */
	put32(a, address);
	put32(a, size);
}

static void put_interrupt(struct aml *a, uint32_t interrupt)
{
	put8(a, RESOURCE_INTERRUPT);
	put16(a, 6);
	put8(a, INTERRUPT_EDGE);
	put8(a, 1);
	put32(a, interrupt);
}

void aml_resources(struct aml *a, const struct aml_resources *r)
{
	const size_t size = r->nports * 8 + (r->size ? 12 : 0) + (r->interrupt ? 9 : 0) + 2;
	size_t at;

	begin_name(a, "_CRS");
	put8(a, OP_BUFFER);
	at = begin(a);
	put_integer(a, (uint8_t)size);
	for (size_t i = 0; i < r->nports; i++)
		put_ports(a, &r->ports[i]);
	if (r->size)
		put_window(a, r->address, r->size);
	if (r->interrupt)
		put_interrupt(a, r->interrupt);
	put8(a, RESOURCE_END);
	put8(a, 0);
	aml_end(a, at);
}

void aml_port_register(struct aml *a, const char *region, const char *field, uint16_t port)
{
	size_t at;

	put8(a, OP_EXTENDED);
	put8(a, EXT_REGION);
	put_name(a, region);
	put8(a, SPACE_SYSTEM_IO);
	put8(a, OP_WORD);
	put16(a, port);
	put_integer(a, 1);

	put8(a, OP_EXTENDED);
	put8(a, EXT_FIELD);
	at = begin(a);
	put_name(a, region);
	put8(a, FIELD_BYTE_ACCESS);
	put_name(a, field);
	put8(a, 8); /* bits */
	aml_end(a, at);
}

void aml_load_local0(struct aml *a, const char *from)
{
	put8(a, OP_STORE);
	put_name(a, from);
	put8(a, AML_LOCAL0);
}

void aml_notify(struct aml *a, const char *object, uint8_t value)
{
	put8(a, OP_NOTIFY);
	put_name(a, object);
	put_integer(a, value);
}
