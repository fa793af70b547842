/* The pages of a save, written to a file: see layer_out.h. */
#define _GNU_SOURCE
#include "layer_out.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "ram.h"

#define CHUNK 256ULL /* pages copied at a time */

int layer_out_init(struct layer_out *o, uint64_t pages, int fd, bool packed, layer_read_fn read,
		   void *arg)
{
	*o = (struct layer_out){ .fd = fd, .packed = packed, .read = read, .arg = arg };
	if (pages > LAYER_OUT_PAGES_MAX)
		return -EFBIG;
	o->place = calloc(pages ? pages : 1, sizeof(*o->place));
	o->chunk = malloc(CHUNK * RAM_PAGE);
	if (o->place && o->chunk && pageset_init(&o->taken, pages) == 0)
		return 0;
	layer_out_free(o);
	return -ENOMEM;
}

void layer_out_free(struct layer_out *o)
{
	free(o->place);
	free(o->chunk);
	pageset_free(&o->taken);
	*o = (struct layer_out){ .fd = -1 };
}

/* Where this page goes, 1 + its place; 0: it is of zeros and goes nowhere. */
static uint32_t place_of(struct layer_out *o, uint64_t page, const uint8_t *content)
{
	uint32_t *place = &o->place[page];

	if (!*place && !io_is_zero(content, RAM_PAGE))
		*place = (uint32_t)(o->packed ? ++o->used : page + 1);
	return *place;
}

/* Writes n pages of the chunk, run by run of those that lie side by side in the file. */
static int write_chunk(struct layer_out *o, uint64_t page, uint64_t n)
{
	uint64_t i = 0;

	while (i < n) {
		const uint64_t start = i;
		const uint32_t at = place_of(o, page + i, o->chunk + i * RAM_PAGE);
		int rc;

		i++;
		if (!at)
			continue;
		while (i < n && place_of(o, page + i, o->chunk + i * RAM_PAGE) == at + (i - start))
			i++;
		rc = io_pwrite_full(o->fd, o->chunk + start * RAM_PAGE, (i - start) * RAM_PAGE,
				    (at - 1) * RAM_PAGE);
		if (rc < 0)
			return rc;
		o->written += (i - start) * RAM_PAGE;
	}
	return 0;
}

static int copy_run(struct layer_out *o, uint64_t page, uint64_t count, struct err *e)
{
	for (uint64_t done = 0; done < count; done += CHUNK) {
		const uint64_t n = count - done < CHUNK ? count - done : CHUNK;
		int rc = o->read(o->arg, page + done, n, o->chunk, e);

		if (rc < 0)
			return rc;
		rc = write_chunk(o, page + done, n);
		if (rc < 0)
			return err_sys(e, -rc, "cannot write what has changed of guest RAM");
	}
	pageset_add_run(&o->taken, page, count);
	return 0;
}

int layer_out_copy(struct layer_out *o, const struct pageset *pages, struct err *e)
{
	uint64_t page, count;
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && pageset_next(pages, at, LAYER_OUT_GAP, &page, &count);
	     at = page + count)
		rc = copy_run(o, page, count, e);
	return rc;
}

/* Pages [page, ...) up to `end` that are one run; 0 places are zeros. */
static struct layer_run next_run(const struct layer_out *o, uint64_t page, uint64_t end)
{
	const uint32_t at = o->place[page];
	uint64_t n = 1;

	while (page + n < end && (at ? o->place[page + n] == at + n : o->place[page + n] == 0))
		n++;
	return (struct layer_run){ page, n, at ? at - 1 : LAYERMAP_ZEROS };
}

/* Fills map->run[], or counts, where it is NULL. */
static void list_runs(const struct layer_out *o, struct layermap *map)
{
	uint64_t page, count;

	map->n = 0;
	for (uint64_t at = 0; pageset_next(&o->taken, at, 0, &page, &count); at = page + count)
		for (uint64_t p = page; p < page + count;) {
			const struct layer_run r = next_run(o, p, page + count);

			if (map->run)
				map->run[map->n] = r;
			map->n++;
			p += r.count;
		}
}

int layer_out_finish(struct layer_out *o, struct layermap *map, struct err *e)
{
	const uint64_t pages = o->packed ? o->used : o->taken.pages;

	*map = (struct layermap){ 0 };
	/* Zeros may be at its end, which are not written. */
	if (ftruncate(o->fd, (off_t)(pages * RAM_PAGE)) < 0)
		return err_sys(e, errno, "cannot write what has changed of guest RAM");
	if (!o->packed)
		return 0;
	list_runs(o, map);
	map->run = calloc(map->n ? map->n : 1, sizeof(*map->run));
	if (!map->run)
		return err_sys(e, ENOMEM, "cannot say what has changed of guest RAM");
	list_runs(o, map);
	return 0;
}
