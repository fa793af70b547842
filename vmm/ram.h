/*
 * Guest RAM: one flat run of bytes, mapped once, seen by the guest as one
 * region below the 32-bit hole and one above 4 GiB.
 *
 *	guest address	0 ........ 3 GiB        4 GiB ...........
 *	flat offset	0 ........ 3 GiB        3 GiB ...........   = offset in memory.bin
 *
 * The memory of a pmem device is such a run too: one region, above RAM.
 *
 * The flat run is a file mapped shared (a fresh machine: saving freezes it
 * without a copy), a file mapped privately (after a freeze or a restore: the
 * file is a snapshot and stays as it is), or a memfd (--private-memory).
 *
 * ram_read(), ram_write() and the like are the only way to guest memory outside
 * the vCPUs: they check the range, mark what is written, and survive a page that
 * cannot be had. ram_host() is for I/O by the kernel, which does the last for
 * itself. Nothing keeps a pointer into RAM: a freeze moves it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/io.h"
#include "proto/flat.h"

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
	bool read_only; /* pmem that nobody writes: neither the guest nor ram_write() */
	bool may_punch; /* RAM_SHARED: no space is reserved, ram_discard() may give some back */
	bool log_dirty; /* the guest's writes are to be logged by KVM: RAM alone (vm.h) */
	uint8_t *base;	/* the mapping of the flat run */
	int fd;		/* owned; read-only where RAM_PRIVATE; of layers the bottom one */
	struct ram_layers *layers; /* owned; NULL: all of it lies in fd */
	uint64_t *written;	   /* one bit a page: changed by ram_write() or ram_discard() */
};

/* RAM_PRIVATE memory that lies in several files: those above the bottom one. */
struct ram_layers {
	struct flat flat; /* where each page is (proto/flat.h) */
	unsigned n;	  /* files, the bottom one counted */
	int fd[];	  /* owned, of layer i; [0] is not used */
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

/*
 * As ram_map(), with all of it in one region at guest address `address`. What is
 * read_only is mapped so too, and is RAM_PRIVATE.
 */
int ram_map_at(struct ram *ram, enum ram_backing backing, int fd, uint64_t size, uint64_t address,
	       bool read_only, struct err *e);

/*
 * Maps layers privately, as RAM of `size` bytes: the bottom one over all of it, what
 * is above it in its place. Runs beyond RAM_RUNS_MAX, the small ones, are read in instead of
 * mapped. Takes over the descriptors fds[n], n > 1, which become -1, and *flat, also when
 * it fails. Time: some 4 us a run. 0 or a negative errno.
 */
#define RAM_RUNS_MAX 8192 /* each may be two mappings more, of 65,530 that a process has */
int ram_map_layers(struct ram *ram, int *fds, unsigned n, struct flat *flat, uint64_t size,
		   struct err *e);

/* RAM in a memfd of `size` bytes. 0 or a negative errno. */
int ram_map_memfd(struct ram *ram, uint64_t size, struct err *e);

void ram_unmap(struct ram *ram);

/* True where [address, address + len) is RAM, within one region. */
bool ram_contains(const struct ram *ram, uint64_t address, uint64_t len);

/* The guest address behind its last region: pmem lies above. */
uint64_t ram_end(const struct ram *ram);

/*
 * Copy len bytes from or to guest address `address`. 0; -EINVAL: not all of it
 * is RAM (nothing was copied); -EROFS: it is read_only; -EFAULT: a page could not
 * be had. The guest may write at the same time: copy once, check the copy, use the
 * copy.
 */
int ram_read(const struct ram *ram, uint64_t address, void *buf, uint64_t len);
int ram_write(struct ram *ram, uint64_t address, const void *buf, uint64_t len);

/*
 * Load or store 16 bits at an even guest address, whole, and in order with all
 * that the calling thread does before and after: an index of a ring, which says
 * what else may be read. 0, -EINVAL or -EFAULT, as above.
 */
int ram_load16(const struct ram *ram, uint64_t address, uint16_t *value);
int ram_store16(struct ram *ram, uint64_t address, uint16_t value);

/*
 * The host's memory behind [address, address + len), for system calls alone,
 * which fail with EFAULT where a page cannot be had. Where the kernel is going
 * to write there, it is marked as written, beforehand. Valid until the thread
 * that asked can be held. NULL: not all of it is RAM.
 */
void *ram_host(struct ram *ram, uint64_t address, uint64_t len, bool written);

/*
 * Adds the pages written since the last call to bits[], one bit a page, and forgets
 * them. Of what ram_host() has handed out that is right only while no I/O to it is
 * under way.
 */
void ram_take_written(struct ram *ram, uint64_t *bits);

/*
 * The guest address for which the calling thread was last given -EFAULT by one
 * of the functions above, and forgets it. UINT64_MAX: there is none.
 */
uint64_t ram_take_fault(const struct ram *ram);

/*
 * Gives the host back the memory behind whole pages that the guest does not use:
 * they read as zeros, or as what they once were, and are marked as written. No
 * mapping is made or split, whatever the guest asks for.
 *
 *	RAM_PRIVATE	the private pages go: the file's bytes show again
 *	RAM_MEMFD	a hole
 *	RAM_SHARED	a hole where may_punch; else nothing: its space is reserved
 *
 * 0; -EINVAL: not whole pages of one region; -EROFS; -EOPNOTSUPP: it stays, for
 * its space is reserved or the file system makes no holes; or a negative errno.
 */
int ram_discard(struct ram *ram, uint64_t address, uint64_t len);

/*
 * Freezing RAM_SHARED memory, in two steps. Prepare, while the guest runs: map
 * the same file privately (0 or a negative errno). Commit, with every vCPU and
 * device quiet: RAM is the private mapping from now on, and *old is what it
 * was, to be given to ram_release() at leisure. The file keeps what was in it, and
 * is locked shared: RAM is read from it on.
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
