/*
 * What disk.c (I/O), disk_chain.c (which files) and disk_freeze.c share, and
 * nobody else sees.
 */
#pragma once

#include "disk.h"

struct disk_layer {
	bool is_overlay;
	int raw_fd;	  /* owned, where it is none */
	struct overlay o; /* where it is one */
};

struct disk {
	char *what; /* for words: the path, or the device's name */
	/* The file that the next overlay is named after; -1 and NULL: the top has no name. */
	int dir;
	char *stem;
	unsigned next; /* that overlay's number; the top's is one less, 0: stem itself */

	bool read_only;
	bool unflushed; /* written since the last flush, or not known */
	int failed;	/* as in struct overlay, of a raw top */
	uint64_t size;

	unsigned nlayers;
	struct disk_layer layer[DISK_LAYERS_MAX];

	/* between disk_freeze_prepare() and disk_freeze() or disk_freeze_abort() */
	bool prepared;
	struct overlay new_top;
	int frozen_fd; /* the top again, read-only; owned */
};

static inline struct disk_layer *disk_top(struct disk *d)
{
	return &d->layer[d->nlayers - 1];
}

static inline int disk_layer_fd(const struct disk_layer *l)
{
	return l->is_overlay ? l->o.fd : l->raw_fd;
}

/* The name of overlay n of the stem, of the stem itself for 0, into leaf[NAME_MAX + 1]. */
void disk_leaf_name(const char *stem, unsigned n, char *leaf);

/* The stem's overlay n, over the top as it is: made, locked, opened as *o. */
int disk_make_overlay(struct disk *d, unsigned n, struct overlay *o, struct err *e);

/* fd, an empty file that it takes over, as *o, an overlay over the top as it is. */
int disk_open_nameless(struct disk *d, int fd, struct overlay *o, struct err *e);
