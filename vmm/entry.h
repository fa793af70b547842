/*
 * The entry to a guest: the processor's mode and tables for its first
 * instruction. In guest memory below 64 KiB:
 *
 *	0x00500	GDT
 *	0x08000	top of a small stack
 *	0x09000	page tables: PML4, PDPT, four page directories of 2 MiB pages
 *
 * Both set vCPU 0 of a fresh VM. 0 or a negative errno.
 */
#pragma once

#include <stdint.h>

#include "ram.h"
#include "vm.h"

/* 64-bit mode, the first 4 GiB mapped to themselves; interrupts off. */
int entry_set_64bit(struct ram *ram, struct vm *vm, uint64_t rip, uint64_t rsi);

/* 32-bit protected mode, flat segments, no paging; interrupts off. */
int entry_set_32bit(struct ram *ram, struct vm *vm, uint32_t eip, uint32_t ebx);
