/* RAM in layers, seen flat: see compose.h. */
#define _GNU_SOURCE
#include "catalog/compose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PAGE	MANIFEST_PAGE_SIZE
#define TREE_OF 128 /* hashes in a block of a tree's lowest level */

struct composed {
	const struct flat *flat;
	const struct ram_source *source;
	uint8_t zero[DIGEST_SIZE]; /* hash of a page of zeros */
};

/* The hash of the only page of a file that has no tree. */
static int hash_page(const struct ram_source *s, uint8_t hash[DIGEST_SIZE])
{
	uint8_t page[PAGE];
	uint64_t bad;
	int rc = io_pread_full(s->fd, page, sizeof(page), 0);

	if (rc == 0)
		rc = merkle_check(s->tree, 0, page, sizeof(page), &bad);
	return rc < 0 ? rc : digest_sha256(page, sizeof(page), hash);
}

static int source_leaves(const struct ram_source *s, uint64_t from, size_t count, uint8_t *hashes)
{
	return s->size <= PAGE ? hash_page(s, hashes) : merkle_leaves(s->tree, from, count, hashes);
}

static int leaves(const struct composed *c, uint64_t page, size_t count, uint8_t *hashes)
{
	const struct flat_run *r = proto_flat_find(c->flat, page);
	int rc = 0;

	for (; rc == 0 && count; r++) {
		const uint64_t skip = page - r->page, left = r->count - skip;
		const size_t n = left < count ? (size_t)left : count;

		if (r->from != LAYERMAP_ZEROS)
			rc = source_leaves(&c->source[r->layer], r->from + skip, n, hashes);
		for (size_t i = 0; r->from == LAYERMAP_ZEROS && i < n; i++)
			memcpy(hashes + i * DIGEST_SIZE, c->zero, DIGEST_SIZE);
		page += n;
		count -= n;
		hashes += n * DIGEST_SIZE;
	}
	return rc;
}

/* Where a block lies within one run it may be one of a layer's tree, and is taken over. */
static int tell(void *arg, uint64_t n, uint8_t hashes[DIGEST_BLOCK], uint8_t *hash)
{
	const struct composed *c = arg;
	const uint64_t page = n * TREE_OF, left = c->flat->pages - page;
	const size_t count = left < TREE_OF ? (size_t)left : TREE_OF;
	const struct flat_run *r = proto_flat_find(c->flat, page);
	const bool is_one = r->page + r->count - page >= count;
	uint64_t from;
	int rc;

	if (is_one && r->from == LAYERMAP_ZEROS)
		return MERKLE_ZEROS;
	from = r->from + (page - r->page);
	if (is_one && hash && count == TREE_OF && from % TREE_OF == 0) {
		rc = merkle_leaf_block(c->source[r->layer].tree, from / TREE_OF, hash);
		return rc < 0 ? rc : MERKLE_HASH;
	}
	rc = leaves(c, page, count, hashes);
	return rc < 0 ? rc : MERKLE_HASHES;
}

/* RAM of one page has no tree either. */
static int digest_page(const struct composed *c, uint8_t digest[DIGEST_SIZE])
{
	const struct flat_run *r = &c->flat->run[0];
	uint8_t page[PAGE] = { 0 }, want[DIGEST_SIZE], got[DIGEST_SIZE];
	int rc = leaves(c, 0, 1, want);

	if (rc == 0 && r->from != LAYERMAP_ZEROS)
		rc = io_pread_full(c->source[r->layer].fd, page, sizeof(page), r->from * PAGE);
	if (rc == 0)
		rc = digest_sha256(page, sizeof(page), got);
	if (rc == 0 && memcmp(got, want, DIGEST_SIZE) != 0)
		rc = -EBADMSG;
	return rc < 0 ? rc : merkle_digest(page, sizeof(page), digest);
}

int cat_compose_digest(const struct flat *f, const struct ram_source *s,
		       uint8_t digest[DIGEST_SIZE])
{
	struct composed c = { f, s, { 0 } };
	int rc = merkle_zero_leaf(c.zero);

	if (rc < 0)
		return rc;
	if (f->pages == 0)
		return merkle_digest("", 0, digest);
	return f->pages == 1 ? digest_page(&c, digest)
			     : merkle_compose(f->pages * PAGE, tell, &c, -1, digest);
}

int cat_compose_leaves(const struct flat *f, const struct ram_source *s, uint64_t page,
		       size_t count, uint8_t *hashes)
{
	struct composed c = { f, s, { 0 } };
	int rc = merkle_zero_leaf(c.zero);

	return rc < 0 ? rc : leaves(&c, page, count, hashes);
}

int cat_compose_file(const struct flat *f, const struct ram_source *s, int to,
		     struct io_progress *progress)
{
	const uint64_t total = f->pages * PAGE;
	int rc = ftruncate(to, (off_t)total) < 0 ? -errno : 0;

	for (size_t i = 0; rc == 0 && i < f->n; i++) {
		const struct flat_run *r = &f->run[i];

		if (r->from != LAYERMAP_ZEROS)
			rc = io_copy_range(s[r->layer].fd, r->from * PAGE, to, r->page * PAGE,
					   r->count * PAGE);
		if (rc == 0 && progress && progress->fn)
			rc = progress->fn(progress->arg, (r->page + r->count) * PAGE, total);
	}
	return rc;
}

/* --- the sources of an open snapshot --- */

static int make_tree(struct ram_source *s, const struct snapdir_file *f, int scratch,
		     struct io_progress *progress)
{
	auto_fd int tree = -1;
	uint8_t digest[DIGEST_SIZE];
	int rc;

	if (scratch >= 0)
		tree = openat(scratch, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (tree < 0)
		tree = memfd_create("tree", MFD_CLOEXEC);
	if (tree < 0)
		return -errno;
	rc = merkle_digest_fd(s->fd, f->size, tree, progress, digest);
	if (rc == 0 && memcmp(digest, f->digest, DIGEST_SIZE) != 0)
		rc = -EBADMSG;
	return rc < 0 ? rc : merkle_open(&s->tree, take_fd(&tree), f->size, f->digest);
}

/* Whether all of the tree can be believed: one look at each of its lowest blocks. */
static bool is_whole(const struct ram_source *s)
{
	const uint64_t blocks = s->size / PAGE;
	uint8_t hash[DIGEST_SIZE];
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && s->size > PAGE && at < blocks; at += TREE_OF)
		rc = merkle_leaves(s->tree, at, 1, hash);
	return rc == 0;
}

static int open_source(struct ram_source *s, const struct snapdir *d, const struct snapdir_file *f,
		       const char *label, int scratch, struct io_progress *progress, struct err *e)
{
	int rc;

	s->size = f->size;
	s->fd = proto_snapdir_open_file(d, f, label, e);
	if (s->fd < 0)
		return s->fd;
	s->tree = proto_snapdir_open_tree(d, f);
	if (s->tree && is_whole(s))
		return 0;
	merkle_close(s->tree);
	s->tree = NULL;
	rc = make_tree(s, f, scratch, progress);
	if (rc == -EBADMSG)
		return err_refuse(e, EBADMSG,
				  "snapshot %s is damaged: %s does not have the manifest's digest",
				  label, f->path);
	return rc < 0 ? err_sys(e, -rc, "cannot read %s of snapshot %s", f->path, label) : 0;
}

int cat_sources_open(struct ram_sources *s, const struct snapdir *d, const char *label, int scratch,
		     struct io_progress *progress, struct err *e)
{
	const size_t n = proto_snapdir_ram_files(d->manifest, d->layered);
	int rc = 0;

	*s = (struct ram_sources){ .v = calloc(n, sizeof(*s->v)) };
	if (!s->v)
		return err_sys(e, ENOMEM, "cannot read snapshot %s", label);
	for (; rc == 0 && s->n < n; s->n++) {
		struct snapdir_file f;

		s->v[s->n].fd = -1;
		proto_snapdir_file(d->manifest, d->layered, s->n, &f);
		rc = open_source(&s->v[s->n], d, &f, label, scratch, progress, e);
	}
	return rc;
}

void cat_sources_close(struct ram_sources *s)
{
	for (size_t i = 0; i < s->n; i++) {
		merkle_close(s->v[i].tree);
		if (s->v[i].fd >= 0)
			close(s->v[i].fd);
	}
	free(s->v);
	*s = (struct ram_sources){ 0 };
}
