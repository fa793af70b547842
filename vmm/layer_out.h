/*
 * The pages of a save, written to a file, some of them over and over while the guest
 * runs: packed densely, as a layer (proto/layermap.h), or at their own offsets, as
 * the whole of the RAM. Where the pages come from is the caller's to say: the tests
 * have no guest.
 *
 * A page gets its place when it is first copied, and is written there again later. Pages
 * of zeros get none, unless they have one.
 */
#pragma once

#include "base/err.h"
#include "pageset.h"
#include "proto/layermap.h"

#define LAYER_OUT_GAP 3 /* so many unchanged pages are taken along rather than make one run two */

/* Copies n pages from `page` on to buf: 0, or a negative errno with words. */
typedef int (*layer_read_fn)(void *arg, uint64_t page, uint64_t n, uint8_t *buf, struct err *e);

struct layer_out {
	int fd;		      /* the caller's, empty at first */
	bool packed;	      /* else each page is at its own offset */
	uint64_t used;	      /* pages that have a place in the packed file */
	uint32_t *place;      /* owned, of each page: 1 + where it is in the file; 0: not there */
	struct pageset taken; /* pages that were copied, zeros among them */
	uint64_t written;     /* bytes */
	uint8_t *chunk;	      /* owned */
	layer_read_fn read;
	void *arg;
};

#define LAYER_OUT_PAGES_MAX UINT32_MAX /* 16 TiB */

/* For a RAM of so many pages. 0, -EFBIG or -ENOMEM. */
int layer_out_init(struct layer_out *o, uint64_t pages, int fd, bool packed, layer_read_fn read,
		   void *arg);
void layer_out_free(struct layer_out *o);

/* Copies these pages, as they are now. 0 or a negative errno with words. */
int layer_out_copy(struct layer_out *o, const struct pageset *pages, struct err *e);

/*
 * Gives the file its length, and says where its pages are; map->run is the caller's, of a file that
 * is not packed there is none. 0 or a negative errno with words.
 */
int layer_out_finish(struct layer_out *o, struct layermap *map, struct err *e);
