/*
 * Guest RAM: one flat run of bytes, mapped once, seen by the guest as one
 * region below the 32-bit hole and one above 4 GiB.
 *
 *	guest address	0 ........ 3 GiB        4 GiB ...........
 *	flat offset	0 ........ 3 GiB        3 GiB ...........   = offset in memory.bin
 *
 * The flat run is a file mapped shared (a fresh machine: saving freezes it
 * without a copy), a file mapped privately (after a freeze or a restore: the
 * file is a snapshot and stays as it is), or a memfd (--private-memory).
 *
 * ram_read() and ram_write() are the only way to guest memory outside the
 * vCPUs: they check the range, mark what is written, and survive a page that
 * cannot be had. Nothing keeps a pointer into RAM: a freeze moves it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/io.h"

#define RAM_PAGE       4096ULL
#define RAM_HOLE_START (3ULL << 30) /* guest addresses of the 32-bit device hole */
#define RAM_HOLE_END   (4ULL << 30)
#define RAM_MIN	       (2ULL << 20)
#define RAM_REGIONS    2

enum ram_backing {
	RAM_SHARED,  /* writable file of this machine's own, mapped shared */
	RAM_PRIVATE, /* read-only file, mapped privately: changes are anonymous pages */
	RAM_MEMFD,   /* anonymous file */
};

struct ram_region {
	uint64_t guest_address, size, offset; /* bytes; offset in the flat run */
};

struct ram {
	uint64_t size; /* bytes */
	unsigned nregions;
	struct ram_region region[RAM_REGIONS];
	enum ram_backing backing;
	uint8_t *base;	   /* the mapping of the flat run */
	int fd;		   /* owned; read-only where RAM_PRIVATE */
	uint64_t *written; /* one bit a page: written by ram_write() */
};

/* A mapping that a freeze has taken out of use. */
struct ram_mapping {
	uint8_t *base;
	uint64_t size;
	int fd;
};

/* The regions of `size` bytes of RAM; returns how many. */
unsigned ram_layout(uint64_t size, struct ram_region region[RAM_REGIONS]);

/*
 * Maps `fd` as RAM of `size` bytes (a multiple of RAM_PAGE). Takes the
 * descriptor over, also when it fails. 0 or a negative errno.
 */
int ram_map(struct ram *ram, enum ram_backing backing, int fd, uint64_t size, struct err *e);

/* RAM in a memfd of `size` bytes. 0 or a negative errno. */
int ram_map_memfd(struct ram *ram, uint64_t size, struct err *e);

void ram_unmap(struct ram *ram);

/* True where [address, address + len) is RAM, within one region. */
bool ram_contains(const struct ram *ram, uint64_t address, uint64_t len);

/*
 * Copy len bytes from or to guest address `address`. 0; -EINVAL: not all of it
 * is RAM (nothing was copied); -EFAULT: a page could not be had. The guest may
 * write at the same time: copy once, check the copy, use the copy.
 */
int ram_read(const struct ram *ram, uint64_t address, void *buf, uint64_t len);
int ram_write(struct ram *ram, uint64_t address, const void *buf, uint64_t len);

/*
 * Freezing RAM_SHARED memory, in two steps. Prepare, while the guest runs: map
 * the same file privately (0 or a negative errno). Commit, with every vCPU and
 * device quiet: RAM is the private mapping from now on, and *old is what it
 * was, to be given to ram_release() at leisure. The file keeps what was in it.
 */
int ram_freeze_prepare(const struct ram *ram, struct ram *frozen, struct err *e);
void ram_freeze_commit(struct ram *ram, struct ram *frozen, struct ram_mapping *old);
void ram_release(struct ram_mapping *old);

/*
 * How much of RAM the host has in memory (resident), and how much of that are
 * pages of this machine's own, which no file gives back (own); bytes. Reads
 * /proc/self/smaps, whose time grows with what is resident. 0 or a negative errno.
 */
int ram_usage(const struct ram *ram, uint64_t *resident, uint64_t *own);

/*
 * Writes RAM as it is now to the empty file fd, flat; pages of zeros become
 * holes. Quiet vCPUs and devices. 0 or a negative errno.
 */
int ram_write_out(const struct ram *ram, int fd, struct err *e);
