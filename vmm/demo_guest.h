/*
 * The demo guest: a bare 64-bit program, copied to guest address DEMO_GUEST_AT.
 * It prints "boot NONCE" once and then "tick N NONCE" every 10 ms, with N and
 * NONCE kept in guest RAM only. An edge on DEMO_GUEST_IRQ (raised by a restore)
 * makes it print the next tick at once.
 */
#pragma once

#include <stdint.h>

#define DEMO_GUEST_AT  0x100000
#define DEMO_GUEST_IRQ 9

extern const uint8_t demo_guest_start[], demo_guest_end[];
/* 16 hexadecimal digits that the loader fills in. */
extern const uint8_t demo_guest_nonce[];
