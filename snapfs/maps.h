/*
 * The maps of a layered snapshot, put together: where each page of its RAM is. Read and
 * checked when they are first asked for, and kept with the view, for the manifest
 * has their digests: what is in memory stays right, whatever becomes of the files.
 */
#pragma once

#include "snap.h"

struct maps;

/* For a view of a layered snapshot; empty. NULL: out of memory. */
struct maps *sfs_maps_new(void);
void sfs_maps_free(struct maps *m); /* NULL is nothing */

/* Where the map of layer i > 0 is in the snapshot's directory. */
void sfs_maps_path(size_t i, char path[SNAPDIR_PATH_MAX]);

/*
 * The maps of the view, which is of a layered snapshot. *flat (may be NULL) lives as
 * long as the view is held. `name` is for messages.
 * 0; -EBADMSG: a map, as it is in the store now, is damaged, and the words say which; or
 * another negative errno. Reads nothing where the files are what they were. Any thread.
 */
int sfs_maps_get(const struct view *v, const char *name, const struct flat **flat, struct err *e);
