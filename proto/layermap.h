/*
 * layers/N.map: which pages of the RAM are in layers/N.ram. What it does not list is
 * as in the layers below. All numbers are little-endian, 64 bits:
 *
 *	0	"snapmap1"
 *	8	number of records
 *	16	records of 24 bytes, ascending by page, not overlapping:
 *		0	first page, counted in the flat RAM (offset in memory.bin / 4096)
 *		8	pages, at least 1
 *		16	where the first of them is in N.ram, in pages; all ones: they are zeros
 *
 * The file ends with the last record. Pure: no files here.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define LAYERMAP_RUNS_MAX (1U << 20)
#define LAYERMAP_MAX	  (16U + 24U * LAYERMAP_RUNS_MAX) /* bytes of the file */
#define LAYERMAP_ZEROS	  UINT64_MAX

/* Pages [page, page + count) of the RAM. */
struct layer_run {
	uint64_t page, count;
	uint64_t from; /* first page in the layer's file, or LAYERMAP_ZEROS */
};

struct layermap {
	struct layer_run *run; /* owned */
	size_t n;
};

/*
 * Parses the len bytes of a map over a RAM of ram_pages, whose layer has a file of
 * file_pages: every run lies within both. 0, -EBADMSG or -ENOMEM.
 */
int proto_layermap_parse(const uint8_t *buf, size_t len, uint64_t ram_pages, uint64_t file_pages,
			 struct layermap *map, struct err *e);

/* The reverse; *buf is the caller's. 0, -EFBIG (too many runs) or -ENOMEM. */
int proto_layermap_encode(const struct layermap *map, uint8_t **buf, size_t *len);

void proto_layermap_free(struct layermap *map);
