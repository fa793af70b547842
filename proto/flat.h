/*
 * Layers seen flat: where each page of the RAM is, among the files of all layers.
 * What restore maps, the mount reads, and the flat digest is composed by.
 *
 *	layer 2		        [==]			map 2
 *	layer 1		   [=====]       [==]		map 1
 *	layer 0		[=========================]	all of the RAM
 *	flat		[ 0 [1  [2 ][0  ][1 ][0   ]
 *
 * Pure: no files here.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "layermap.h"

/* Pages [page, page + count) of the RAM, in the file of `layer` from page `from` on. */
struct flat_run {
	uint64_t page, count;
	uint64_t from;	/* or LAYERMAP_ZEROS: they are zeros */
	unsigned layer; /* that says so */
};

/* Its runs are ascending and leave nothing out. */
struct flat {
	struct flat_run *run; /* owned */
	size_t n;
	uint64_t pages; /* of the RAM */
};

/* Starts with the bottom layer alone. 0 or -ENOMEM. */
int proto_flat_start(struct flat *f, uint64_t pages);

/* Puts the next layer, with its map, on top. 0 or -ENOMEM; then f is as it was. */
int proto_flat_add(struct flat *f, unsigned layer, const struct layermap *map);

/* The run that page `page`, which is below f->pages, is in. */
const struct flat_run *proto_flat_find(const struct flat *f, uint64_t page);

void proto_flat_free(struct flat *f);
