/*
 * Which guest RAM differs between two snapshots: told by the hashes that their trees have
 * of each page. RAM is read only where a tree is missing.
 */
#pragma once

#include "base/io.h"
#include "catalog/store.h"

struct diff_sum {
	uint64_t pages, changed; /* of all RAM, and of these */
};

/* Bytes [address, address + size) of guest memory differ. Nonzero ends it. */
typedef int (*cat_diff_fn)(void *arg, uint64_t address, uint64_t size);

/*
 * Compares the snapshots `a` and `b` of the store, which have to have the same RAM ranges;
 * tells each run of pages that differ, ascending. 0 or a negative errno.
 */
int cat_diff(struct store *store, const char *a, const char *b, cat_diff_fn fn, void *arg,
	     struct diff_sum *sum, struct io_progress *progress, struct err *e);
