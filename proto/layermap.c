/* layers/N.map: see layermap.h. */
#include "layermap.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/le64.h"

#define HEAD   16
#define RECORD 24

static const char magic[8] = { 's', 'n', 'a', 'p', 'm', 'a', 'p', '1' };

/* The run lies within [0, pages), overflow or not. */
static bool is_within(uint64_t first, uint64_t count, uint64_t pages)
{
	return first <= pages && count <= pages - first;
}

static int get_runs(const uint8_t *buf, uint64_t ram_pages, uint64_t file_pages,
		    struct layermap *map)
{
	uint64_t next = 0;

	for (size_t i = 0; i < map->n; i++, buf += RECORD) {
		const struct layer_run r = { get_le64(buf), get_le64(buf + 8), get_le64(buf + 16) };

		if (r.count == 0 || r.page < next || !is_within(r.page, r.count, ram_pages))
			return -EBADMSG;
		if (r.from != LAYERMAP_ZEROS && !is_within(r.from, r.count, file_pages))
			return -EBADMSG;
		map->run[i] = r;
		next = r.page + r.count;
	}
	return 0;
}

int proto_layermap_parse(const uint8_t *buf, size_t len, uint64_t ram_pages, uint64_t file_pages,
			 struct layermap *map, struct err *e)
{
	uint64_t n;

	*map = (struct layermap){ 0 };
	if (len < HEAD || memcmp(buf, magic, sizeof(magic)) != 0)
		return err_refuse(e, EBADMSG, "it is no map of a layer");
	n = get_le64(buf + 8);
	if (n > LAYERMAP_RUNS_MAX || len != HEAD + n * RECORD)
		return err_refuse(e, EBADMSG, "its length is not that of its records");
	map->n = (size_t)n;
	map->run = calloc(map->n ? map->n : 1, sizeof(*map->run));
	if (!map->run)
		return err_sys(e, ENOMEM, "cannot read the map of a layer");
	if (get_runs(buf + HEAD, ram_pages, file_pages, map) == 0)
		return 0;
	proto_layermap_free(map);
	return err_refuse(e, EBADMSG, "a record is out of order or out of bounds");
}

int proto_layermap_encode(const struct layermap *map, uint8_t **buf, size_t *len)
{
	const size_t n = HEAD + map->n * RECORD;
	uint8_t *p;

	if (map->n > LAYERMAP_RUNS_MAX)
		return -EFBIG;
	*buf = p = malloc(n);
	if (!p)
		return -ENOMEM;
	*len = n;
	memcpy(p, magic, sizeof(magic));
	put_le64(p + 8, map->n);
	p += HEAD;
	for (size_t i = 0; i < map->n; i++, p += RECORD) {
		put_le64(p, map->run[i].page);
		put_le64(p + 8, map->run[i].count);
		put_le64(p + 16, map->run[i].from);
	}
	return 0;
}

void proto_layermap_free(struct layermap *map)
{
	free(map->run);
	*map = (struct layermap){ 0 };
}
