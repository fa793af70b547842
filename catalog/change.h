/*
 * Changes to published snapshots by name: remove, rename, accept, index anew.
 */
#pragma once

#include "base/io.h"
#include "catalog/store.h"

/*
 * Removes a snapshot (or forgets a missing one). A crash anywhere leaves it
 * whole or gone. -EBUSY where another removal of it is going on. 0 or a negative errno.
 */
int cat_snapshot_remove(struct store *store, const char *name, struct err *e);

/* Renames it; its id stays. -EEXIST if `to` is taken. 0 or a negative errno. */
int cat_snapshot_rename(struct store *store, const char *from, const char *to, struct err *e);

/*
 * Reads every directory again. `accept` (may be NULL) names a replaced one that
 * is taken as it is now. 0 or a negative errno.
 */
int cat_store_reindex(struct store *store, const char *accept, struct err *e);

/* --- flatten.c --- */

/*
 * Makes a snapshot that is in layers one with a memory.bin: in a new directory, which
 * takes the old one's place at once; its id, labels and disks stay. 0; 1: it is flat
 * already; -EBADMSG: its layers are damaged; or another negative errno.
 */
int cat_snapshot_flatten(struct store *store, const char *name, struct io_progress *progress,
			 struct err *e);
