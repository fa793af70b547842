/*
 * Guest RAM written to a file: see ram_out.h.
 *
 * A page can hold data for one of two reasons:
 *
 *	the file behind RAM has data there	lseek(SEEK_DATA, SEEK_HOLE)
 *	RAM_PRIVATE: it is the mapping's own,	/proc/self/pagemap
 *	made by a write
 *
 * Each may be unknown (a file system without holes, no /proc, a process whose
 * /proc is root's); then all pages in question are read. A page that is read
 * without need is a page of zeros, which is not written: only time is lost.
 *
 * Looking up a page costs some 20 ns, 5 ms a GiB; reading one of a hole of ext4
 * some 10 us. PAGEMAP_SCAN (Linux 6.7) would pass over what is not there at once.
 *
 * ram->written does not help: the guest's own writes are not in it. Nor does
 * mincore(): of a private mapping it tells the file's pages too.
 *
 * Source of pagemap's bits: Documentation/admin-guide/mm/pagemap.rst. They are
 * shown without privilege; only the page's number is not.
 */
#define _GNU_SOURCE
#include "ram_out.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "fault.h"

#define CHUNK	1048576ULL /* bytes copied at a time */
#define ENTRIES 4096ULL	   /* pages looked up at a time */

#define PAGE_PRESENT (1ULL << 63)
#define PAGE_SWAPPED (1ULL << 62)
#define PAGE_OF_FILE (1ULL << 61) /* or shared */

struct out {
	const struct ram *ram;
	int fd;		       /* where it is written to */
	struct pageset *found; /* not NULL: they are noted here instead */
	int pagemap;	       /* -1: it cannot be used */
	struct err *e;
	uint64_t entry[ENTRIES];
	uint8_t chunk[CHUNK];
};

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* ---- writing ---- */

/* Writes one chunk, page run by page run, leaving zeros out. */
static int write_chunk(int fd, const uint8_t *buf, uint64_t len, uint64_t offset)
{
	uint64_t start = 0;

	for (uint64_t at = 0; at <= len; at += RAM_PAGE) {
		int rc;

		if (at < len && !io_is_zero(buf + at, RAM_PAGE))
			continue;
		rc = at > start ? io_pwrite_full(fd, buf + start, at - start, offset + start) : 0;
		if (rc < 0)
			return rc;
		start = at + RAM_PAGE;
	}
	return 0;
}

/* Reads the pages of [from, to) and writes those that hold something. */
static int write_pages(struct out *o, uint64_t from, uint64_t to)
{
	if (o->found && from < to) {
		pageset_add_run(o->found, from / RAM_PAGE, (to - from) / RAM_PAGE);
		return 0;
	}
	for (uint64_t at = from; at < to; at += CHUNK) {
		const uint64_t len = min(to - at, CHUNK);
		int rc = fault_copy(o->chunk, o->ram->base + at, len);

		if (rc < 0)
			return err_env(o->e, EFAULT, "guest RAM near page %llu cannot be read",
				       (unsigned long long)(at / RAM_PAGE));
		rc = write_chunk(o->fd, o->chunk, len, at);
		if (rc < 0)
			return err_sys(o->e, -rc, "cannot write guest RAM out");
	}
	return 0;
}

/* ---- pages of the mapping's own ---- */

/* Anonymous, in memory or swapped out. (A file's page is never swapped out of a private mapping.)
 */
static bool is_own(uint64_t entry)
{
	return (entry & (PAGE_PRESENT | PAGE_SWAPPED)) && !(entry & PAGE_OF_FILE);
}

static int look_up(int pagemap, const void *address, uint64_t *entry, uint64_t n)
{
	return io_pread_full(pagemap, entry, n * sizeof(*entry),
			     (uintptr_t)address / RAM_PAGE * sizeof(*entry));
}

/*
 * Opens pagemap, and asks it for a page of which the answer is known: there are
 * stand-ins for Linux whose pagemap is there and empty. -1: it cannot be used.
 */
static int open_pagemap(struct out *o)
{
	auto_fd int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	o->chunk[0] = 1;
	if (fd < 0 || look_up(fd, o->chunk, o->entry, 1) < 0 || !is_own(o->entry[0]))
		return -1;
	return take_fd(&fd);
}

/* Writes the pages that the entries of [from, from + n pages) say are own ones. */
static int write_own_runs(struct out *o, uint64_t from, uint64_t n)
{
	uint64_t start = 0;
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i <= n; i++) {
		if (i < n && is_own(o->entry[i]))
			continue;
		rc = write_pages(o, from + start * RAM_PAGE, from + i * RAM_PAGE);
		start = i + 1;
	}
	return rc;
}

/* Where the file has a hole. */
static int write_hole(struct out *o, uint64_t from, uint64_t to)
{
	if (o->ram->backing != RAM_PRIVATE)
		return 0;
	while (from < to) {
		const uint64_t n = min((to - from) / RAM_PAGE, ENTRIES);
		const uint64_t end = from + n * RAM_PAGE;
		const bool known = o->pagemap >= 0 &&
				   look_up(o->pagemap, o->ram->base + from, o->entry, n) == 0;
		int rc = known ? write_own_runs(o, from, n) : write_pages(o, from, end);

		if (rc < 0)
			return rc;
		from = end;
	}
	return 0;
}

/* ---- data of the file ---- */

static uint64_t page_above(uint64_t offset)
{
	return (offset + RAM_PAGE - 1) & ~(RAM_PAGE - 1);
}

/*
 * The first pages [*from, *to) at or behind `at` where the file may have data.
 * What lies behind the end of a file that has become shorter counts as data:
 * reading it finds that it is lost.
 */
static void find_file_data(const struct ram *ram, uint64_t at, uint64_t *from, uint64_t *to)
{
	const off_t data = lseek(ram->fd, (off_t)at, SEEK_DATA);
	off_t hole;
	struct stat st;

	*from = at;
	*to = ram->size;
	if (data < 0) {
		if (errno == ENXIO && fstat(ram->fd, &st) == 0 && (uint64_t)st.st_size > at)
			*from = min(page_above((uint64_t)st.st_size), ram->size);
		return;
	}
	if ((uint64_t)data < at) /* a FUSE server may answer anything */
		return;
	/* Blocks may be smaller than pages. */
	*from = min((uint64_t)data & ~(RAM_PAGE - 1), ram->size);
	hole = lseek(ram->fd, data, SEEK_HOLE);
	if (hole > data)
		*to = min(page_above((uint64_t)hole), ram->size);
}

/* The same, in the run of layers that `at` is in. What a layer has above the bottom is data. */
static void find_data(const struct ram *ram, uint64_t at, uint64_t *from, uint64_t *to)
{
	const struct flat_run *r;
	uint64_t end;

	if (!ram->layers) {
		find_file_data(ram, at, from, to);
		return;
	}
	r = proto_flat_find(&ram->layers->flat, at / RAM_PAGE);
	end = (r->page + r->count) * RAM_PAGE;
	*from = r->from == LAYERMAP_ZEROS ? end : at;
	*to = end;
	if (r->layer == 0)
		find_file_data(ram, at, from, to);
	*from = min(*from, end);
	*to = min(*to, end);
}

static int visit(struct out *o, const struct ram *ram, struct err *e)
{
	auto_fd int pagemap = -1;
	uint64_t from, to;
	int rc = 0;

	o->ram = ram;
	o->e = e;
	if (ram->backing == RAM_PRIVATE)
		pagemap = open_pagemap(o);
	o->pagemap = pagemap;
	for (uint64_t at = 0; rc == 0 && at < ram->size; at = to) {
		find_data(ram, at, &from, &to);
		rc = write_hole(o, at, from);
		if (rc == 0)
			rc = write_pages(o, from, to);
	}
	return rc;
}

int ram_write_out(const struct ram *ram, int fd, struct err *e)
{
	auto_free struct out *o = malloc(sizeof(*o));

	if (!o)
		return err_sys(e, ENOMEM, "cannot write guest RAM out");
	/* The last pages may be zeros, which are not written. */
	if (ftruncate(fd, (off_t)ram->size) < 0)
		return err_sys(e, errno, "cannot write guest RAM out");
	o->fd = fd;
	o->found = NULL;
	return visit(o, ram, e);
}

int ram_find_data(const struct ram *ram, struct pageset *found, struct err *e)
{
	auto_free struct out *o = malloc(sizeof(*o));

	if (!o)
		return err_sys(e, ENOMEM, "cannot look for what guest RAM holds");
	o->found = found;
	return visit(o, ram, e);
}
