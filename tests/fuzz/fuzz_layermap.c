/*
 * A layer's map: each input is one, of a RAM and a file whose sizes are its first two
 * bytes; what is taken lies within both, is written again as it was, and is seen flat.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "proto/flat.h"

/* Every page is in one run, and where the map has it. */
static void check_flat(const struct layermap *map, uint64_t pages)
{
	struct flat f;
	uint64_t next = 0;

	if (proto_flat_start(&f, pages) < 0)
		return;
	if (proto_flat_add(&f, 1, map) == 0) {
		for (size_t i = 0; i < f.n; i++) {
			MUST(f.run[i].page == next && f.run[i].count > 0);
			next += f.run[i].count;
		}
		MUST(next == pages);
		for (size_t i = 0; i < map->n; i++) {
			const struct flat_run *r = proto_flat_find(&f, map->run[i].page);

			MUST(r->layer == 1 && r->page <= map->run[i].page);
			MUST(map->run[i].from == LAYERMAP_ZEROS
				     ? r->from == LAYERMAP_ZEROS
				     : r->from + (map->run[i].page - r->page) == map->run[i].from);
		}
	}
	proto_flat_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct layermap map;
	uint64_t pages, file_pages;
	uint8_t *buf;
	size_t len;

	if (size < 2)
		return 0;
	pages = data[0] == 255 ? UINT64_MAX >> 12 : data[0] * 16ULL;
	file_pages = data[1] == 255 ? UINT64_MAX >> 12 : data[1] * 16ULL;
	data += 2;
	size -= 2;
	if (proto_layermap_parse(data, size, pages, file_pages, &map, NULL) < 0)
		return 0;
	for (size_t i = 0; i < map.n; i++) {
		const struct layer_run *r = &map.run[i];

		MUST(r->count > 0 && r->page + r->count <= pages);
		MUST(r->from == LAYERMAP_ZEROS || r->from + r->count <= file_pages);
	}
	check_flat(&map, pages);
	if (proto_layermap_encode(&map, &buf, &len) == 0) {
		MUST(len == size && memcmp(buf, data, len) == 0);
		free(buf);
	}
	proto_layermap_free(&map);
	return 0;
}
