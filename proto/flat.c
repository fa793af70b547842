/* Layers seen flat: see flat.h. */
#include "flat.h"

#include <errno.h>
#include <stdlib.h>

int proto_flat_start(struct flat *f, uint64_t pages)
{
	*f = (struct flat){ .pages = pages };
	f->run = malloc(sizeof(*f->run));
	if (!f->run)
		return -ENOMEM;
	f->run[0] = (struct flat_run){ .count = pages };
	f->n = pages > 0;
	return 0;
}

/* The part [from, to) of a run. */
static struct flat_run cut(const struct flat_run *r, uint64_t from, uint64_t to)
{
	struct flat_run part = { from, to - from, r->from, r->layer };

	if (part.from != LAYERMAP_ZEROS)
		part.from += from - r->page;
	return part;
}

static void append(struct flat *f, struct flat_run r)
{
	struct flat_run *last = f->n ? &f->run[f->n - 1] : NULL;

	if (r.count == 0)
		return;
	if (last && last->layer == r.layer &&
	    (r.from == LAYERMAP_ZEROS
		     ? last->from == LAYERMAP_ZEROS
		     : last->from != LAYERMAP_ZEROS && last->from + last->count == r.from))
		last->count += r.count;
	else
		f->run[f->n++] = r;
}

/* What lies below [from, to), from run *at on, which is left at the run that `to` is in. */
static void append_below(struct flat *f, const struct flat *below, size_t *at, uint64_t from,
			 uint64_t to)
{
	while (from < to) {
		const struct flat_run *r = &below->run[*at];
		const uint64_t end = r->page + r->count;

		if (end <= from) {
			++*at;
			continue;
		}
		append(f, cut(r, from, end < to ? end : to));
		from = end < to ? end : to;
	}
}

int proto_flat_add(struct flat *f, unsigned layer, const struct layermap *map)
{
	/* Each run of the map cuts one below in two at most. */
	struct flat out = { .pages = f->pages };
	uint64_t next = 0;
	size_t at = 0;

	out.run = malloc((f->n + 2 * map->n + 1) * sizeof(*out.run));
	if (!out.run)
		return -ENOMEM;
	for (size_t i = 0; i < map->n; i++) {
		const struct layer_run *r = &map->run[i];

		append_below(&out, f, &at, next, r->page);
		append(&out, (struct flat_run){ r->page, r->count, r->from, layer });
		next = r->page + r->count;
	}
	append_below(&out, f, &at, next, f->pages);
	free(f->run);
	*f = out;
	return 0;
}

const struct flat_run *proto_flat_find(const struct flat *f, uint64_t page)
{
	size_t low = 0, high = f->n;

	while (high - low > 1) {
		const size_t mid = low + (high - low) / 2;

		if (f->run[mid].page <= page)
			low = mid;
		else
			high = mid;
	}
	return &f->run[low];
}

void proto_flat_free(struct flat *f)
{
	free(f->run);
	*f = (struct flat){ 0 };
}
