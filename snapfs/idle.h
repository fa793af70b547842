/*
 * Verification in idle time: what nobody has verified yet, and what was verified so long
 * ago that the disk may have rotted since, by a thread that runs when nothing else wants
 * the processor or the disk. Knows nothing of FUSE; the outcome is kept by catalog.
 */
#pragma once

#include "catalog/store.h"

struct idle;

/*
 * Begins `after` seconds from now, and looks again as often. The store must outlive it.
 * 0 or a negative errno.
 */
int sfs_idle_start(struct idle **out, struct store *store, unsigned after);

/* Stops it, within the time of reading a few megabytes, and frees. NULL is nothing. */
void sfs_idle_stop(struct idle *i);
