/* Which guest RAM differs: see diff.h. */
#define _GNU_SOURCE
#include "catalog/diff.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/compose.h"
#include "catalog/internal.h"

#define PAGE  MANIFEST_PAGE_SIZE
#define CHUNK 1024 /* pages compared at a time */

struct side {
	struct snapdir d;
	struct flat flat;
	struct ram_sources ram;
	char name[CAT_NAME_MAX + 1];
};

struct diff {
	struct side a, b;
	cat_diff_fn fn;
	void *arg;
	struct diff_sum *sum;
	uint64_t address, size; /* what differs and was not told yet */
};

static int open_side(struct side *s, struct store *store, const char *name,
		     struct io_progress *progress, struct err *e)
{
	struct cat_row row;
	int rc = cat_index_find(store, name, &row, e);
	int fd;

	if (rc < 0)
		return rc;
	memcpy(s->name, row.name, sizeof(s->name));
	fd = openat(store->snapshots, row.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "cannot open snapshot %s", row.name);
	rc = proto_snapdir_open_fd(&s->d, fd, s->name, e);
	if (rc == 0)
		rc = proto_manifest_check(s->d.manifest, e);
	if (rc == 0)
		rc = proto_snapdir_read_flat(&s->d, s->name, &s->flat, e);
	return rc < 0 ? rc : cat_sources_open(&s->ram, &s->d, s->name, store->staging, progress, e);
}

static void close_side(struct side *s)
{
	cat_sources_close(&s->ram);
	proto_flat_free(&s->flat);
	proto_snapdir_close(&s->d);
}

static int check_ranges(const struct diff *d, struct err *e)
{
	const SnapshotManifest *a = d->a.d.manifest, *b = d->b.d.manifest;
	bool same = a->n_ram == b->n_ram;

	for (size_t i = 0; same && i < a->n_ram; i++)
		same = a->ram[i]->guest_address == b->ram[i]->guest_address &&
		       a->ram[i]->size == b->ram[i]->size;
	if (same)
		return 0;
	return err_refuse(e, EINVAL, "%s and %s are of machines with different RAM", d->a.name,
			  d->b.name);
}

static int tell(struct diff *d)
{
	const uint64_t size = d->size;

	d->size = 0;
	return size ? d->fn(d->arg, d->address, size) : 0;
}

static int add_page(struct diff *d, uint64_t address)
{
	int rc = 0;

	d->sum->changed++;
	if (d->size && d->address + d->size != address)
		rc = tell(d);
	if (d->size == 0)
		d->address = address;
	d->size += PAGE;
	return rc;
}

static const uint8_t *digest_of(const struct side *s, unsigned layer)
{
	struct snapdir_file f;

	proto_snapdir_file(s->d.manifest, s->d.layered, layer, &f);
	return f.digest;
}

/* How many pages from `page` on are in both the same of the same file; 0: not known. */
static uint64_t shared(const struct diff *d, uint64_t page)
{
	const struct flat_run *x = proto_flat_find(&d->a.flat, page);
	const struct flat_run *y = proto_flat_find(&d->b.flat, page);
	const uint64_t left_x = x->page + x->count - page, left_y = y->page + y->count - page;
	const bool zeros = x->from == LAYERMAP_ZEROS || y->from == LAYERMAP_ZEROS;

	if (zeros ? x->from != y->from
		  : x->from + (page - x->page) != y->from + (page - y->page) ||
			    memcmp(digest_of(&d->a, x->layer), digest_of(&d->b, y->layer),
				   DIGEST_SIZE) != 0)
		return 0;
	return left_x < left_y ? left_x : left_y;
}

static int compare(struct diff *d, uint64_t page, size_t n, uint64_t address)
{
	static const size_t room = CHUNK * DIGEST_SIZE;
	auto_free uint8_t *x = malloc(2 * room);
	int rc = x ? cat_compose_leaves(&d->a.flat, d->a.ram.v, page, n, x) : -ENOMEM;

	if (rc == 0)
		rc = cat_compose_leaves(&d->b.flat, d->b.ram.v, page, n, x + room);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (memcmp(x + i * DIGEST_SIZE, x + room + i * DIGEST_SIZE, DIGEST_SIZE) != 0)
			rc = add_page(d, address + i * PAGE);
	return rc;
}

static int compare_range(struct diff *d, const RamRange *r)
{
	uint64_t page = r->file_offset / PAGE;
	const uint64_t end = page + r->size / PAGE, shift = r->guest_address - r->file_offset;
	int rc = 0;

	while (rc == 0 && page < end) {
		const uint64_t same = shared(d, page), left = end - page;
		const size_t n = left < CHUNK ? (size_t)left : CHUNK;

		if (!same)
			rc = compare(d, page, n, page * PAGE + shift);
		page += same ? same : n;
	}
	return rc;
}

static int run(struct diff *d, struct err *e)
{
	const SnapshotManifest *m = d->a.d.manifest;
	int rc = check_ranges(d, e);

	if (rc < 0)
		return rc;
	d->sum->pages = m->memory_size_bytes / PAGE;
	for (size_t i = 0; rc == 0 && i < m->n_ram; i++)
		rc = compare_range(d, m->ram[i]);
	if (rc == 0)
		rc = tell(d);
	return rc < 0 ? err_sys(e, -rc, "cannot compare %s and %s", d->a.name, d->b.name) : rc;
}

int cat_diff(struct store *store, const char *a, const char *b, cat_diff_fn fn, void *arg,
	     struct diff_sum *sum, struct io_progress *progress, struct err *e)
{
	struct diff d = { .fn = fn, .arg = arg, .sum = sum };
	int rc;

	*sum = (struct diff_sum){ 0 };
	d.a.d.dirfd = d.b.d.dirfd = -1;
	rc = open_side(&d.a, store, a, progress, e);
	if (rc == 0)
		rc = open_side(&d.b, store, b, progress, e);
	if (rc == 0)
		rc = run(&d, e);
	close_side(&d.a);
	close_side(&d.b);
	return rc;
}
