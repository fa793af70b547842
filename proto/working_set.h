/*
 * working-set: the pages of RAM that a guest touched soon after it was restored, noted
 * beside the snapshot so that later restores have them read at once. It is advice: its
 * loss costs time alone, and a reader ignores one that is damaged. Numbers are
 * little-endian, 64 bits:
 *
 *	0	"snapwset"
 *	8	number of records
 *	16	id of the snapshot, 16 bytes
 *	32	records of 16 bytes, ascending, not touching:
 *		0	first page, counted in the flat RAM (offset in memory.bin / 4096)
 *		8	pages, at least 1
 *	end	SHA-256 of all before, 32 bytes
 *
 * Pure, but for reading a file of it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"

#define WORKING_SET_FILE     "working-set"
#define WORKING_SET_RUNS_MAX 65536U
#define WORKING_SET_MAX	     (64U + 16U * WORKING_SET_RUNS_MAX) /* bytes */

struct page_run {
	uint64_t page, count;
};

struct working_set {
	uint8_t id[UUID_SIZE];
	struct page_run *run; /* owned */
	size_t n;
};

/*
 * Adds a page behind those that are there. Where there are too many runs, gaps between
 * them are closed, small ones first. 0 or -ENOMEM.
 */
int proto_working_set_add(struct working_set *s, uint64_t page);

/* *buf is the caller's. 0 or -ENOMEM. */
int proto_working_set_encode(const struct working_set *s, uint8_t **buf, size_t *len);

/* Of a RAM of `pages`. 0, -EBADMSG or -ENOMEM. */
int proto_working_set_parse(const uint8_t *buf, size_t len, uint64_t pages, struct working_set *s);

/*
 * That of the snapshot `id` in its directory. 0; -ENOENT: it has none; -EBADMSG: one that
 * cannot be read, is damaged or another's; or -ENOMEM.
 */
int proto_working_set_read(int dirfd, const uint8_t id[UUID_SIZE], uint64_t pages,
			   struct working_set *s);

void proto_working_set_free(struct working_set *s);
