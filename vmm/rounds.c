/* RAM, saved in rounds: see rounds.h. */
#include "rounds.h"

#include <errno.h>
#include <stdlib.h>

#include "dirty.h"
#include "fault.h"
#include "ram_out.h"

/* A map of more runs would be slow to use and may become too long: better all of the RAM. */
#define RUNS_MAX (LAYERMAP_RUNS_MAX / 4)

static uint64_t count_runs(const struct pageset *s)
{
	uint64_t page, count, n = 0;

	for (uint64_t at = 0; pageset_next(s, at, LAYER_OUT_GAP, &page, &count); at = page + count)
		n++;
	return n;
}

int rounds_want_layer(struct machine *m, struct err *e)
{
	int rc = m->base.nfiles ? dirty_collect(m, e) : 0;

	if (rc < 0 || !m->base.nfiles)
		return rc;
	/* Nothing was ever collected: nothing has changed. */
	return !m->dirty.bits || count_runs(&m->dirty) <= RUNS_MAX;
}

static int read_ram(void *arg, uint64_t page, uint64_t n, uint8_t *buf, struct err *e)
{
	const struct machine *m = arg;

	if (fault_copy(buf, m->ram.base + page * RAM_PAGE, n * RAM_PAGE) == 0)
		return 0;
	return err_env(e, EFAULT, "guest RAM near page %llu cannot be read",
		       (unsigned long long)page);
}

/* What has changed is to do, and is not among what has changed any more. */
static int take_changed(struct rounds *r, struct err *e)
{
	struct machine *m = r->machine;
	int rc = dirty_collect(m, e);

	if (rc < 0)
		return rc;
	pageset_add_all(&r->todo, &m->dirty);
	pageset_clear(&m->dirty);
	return 0;
}

static int copy(struct rounds *r, struct err *e)
{
	int rc = layer_out_copy(&r->out, &r->todo, e);

	/* What failed half-way counts as taken: rounds_fail() gives it back. */
	if (rc < 0)
		pageset_add_all(&r->out.taken, &r->todo);
	pageset_clear(&r->todo);
	return rc;
}

static int go_round(struct rounds *r, struct err *e)
{
	int rc = take_changed(r, e);

	if (rc == 0 && !r->layer)
		rc = ram_find_data(&r->machine->ram, &r->todo, e);
	r->changed = pageset_count(&r->todo);
	while (rc == 0) {
		r->n++;
		rc = copy(r, e);
		if (rc == 0)
			rc = take_changed(r, e);
		if (r->n == ROUNDS_MAX || pageset_count(&r->todo) * RAM_PAGE <= ROUNDS_LEFT)
			break;
	}
	return rc;
}

int rounds_begin(struct rounds **out, struct machine *m, int fd, bool layer, struct err *e)
{
	const uint64_t pages = m->ram.size / RAM_PAGE;
	struct rounds *r = calloc(1, sizeof(*r));
	int rc = r ? dirty_start(m, e) : err_sys(e, ENOMEM, "cannot save guest RAM");

	if (rc < 0) {
		free(r);
		return rc;
	}
	r->machine = m;
	r->layer = layer;
	rc = layer_out_init(&r->out, pages, fd, layer, read_ram, m);
	if (rc == 0)
		rc = pageset_init(&r->todo, pages);
	if (rc < 0) {
		rounds_free(r);
		return err_sys(e, -rc, "cannot save guest RAM");
	}
	*out = r;
	return go_round(r, e);
}

int rounds_rest(struct rounds *r, struct err *e)
{
	int rc = take_changed(r, e);

	r->left = pageset_count(&r->todo);
	return rc < 0 ? rc : copy(r, e);
}

int rounds_finish(struct rounds *r, struct err *e)
{
	struct layermap map;
	int rc = layer_out_finish(&r->out, &map, e);

	if (rc == 0 && r->layer) {
		rc = base_encode_map(&map, &r->map);
		if (rc < 0)
			err_sys(e, -rc, "cannot say what has changed of guest RAM");
	}
	proto_layermap_free(&map);
	return rc;
}

void rounds_fail(struct rounds *r)
{
	if (!r)
		return;
	pageset_add_all(&r->machine->dirty, &r->out.taken);
	pageset_add_all(&r->machine->dirty, &r->todo);
	rounds_free(r);
}

void rounds_free(struct rounds *r)
{
	if (!r)
		return;
	layer_out_free(&r->out);
	pageset_free(&r->todo);
	free(r->map.bytes);
	free(r);
}
