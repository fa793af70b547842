/*
 * RAM in layers, as it is saved: its maps, its flat digest, and when it is made flat.
 *
 * A restore maps each extent, for some 4 us, and a process has room for no more than 32,753
 * that alternate; a snapshot has at most MANIFEST_LAYERS_MAX layers. What would have
 * more is published flat, from the layers that are in the place by then, so that the
 * next save begins anew with one layer over it. The guest runs on meanwhile.
 *
 *	too many layers			flat
 *	above 1,024 extents		flat where the layers over the bottom one hold a
 *					quarter of what that holds: else the writing of
 *					all would cost more than its mapping ever does
 *	above 16,384 extents		flat
 *
 * Merging the upper layers into one was left out: with pages changed here and there it
 * leaves about as many extents as there were, and reading them is what costs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/compose.h"
#include "catalog/internal.h"
#include "catalog/parts.h"

#define EXTENTS_MANY 1024
#define EXTENTS_MAX  16384

/* --- maps --- */

/* One map, of `at` on in the file that was passed. */
static int put_map(struct parts *w, size_t i, uint64_t at, struct layermap *map, struct err *e)
{
	static const uint8_t none[DIGEST_SIZE];
	const SnapshotManifest *m = w->draft;
	Layer *l = m->layer[i];
	auto_free uint8_t *buf = malloc(l->map_size ? l->map_size : 1);
	uint8_t digest[DIGEST_SIZE];
	char path[SNAPDIR_PATH_MAX];
	int rc = buf ? io_pread_full(w->maps, buf, l->map_size, at) : -ENOMEM;

	if (rc == 0)
		rc = merkle_digest(buf, l->map_size, digest);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read the map of layer %zu", i);
	if (memcmp(l->map_digest.data, none, DIGEST_SIZE) != 0 &&
	    memcmp(l->map_digest.data, digest, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "the map of layer %zu is not what it was: it is damaged", i);
	memcpy(l->map_digest.data, digest, DIGEST_SIZE);
	rc = proto_layermap_parse(buf, l->map_size, m->memory_size_bytes / MANIFEST_PAGE_SIZE,
				  l->size / MANIFEST_PAGE_SIZE, map, e);
	if (rc < 0)
		return err_prefix(e, rc, "the map of layer %zu", i);
	snprintf(path, sizeof(path), SNAPDIR_LAYERS "/%zu.map", i);
	return io_write_file(w->save->place->dir, path, buf, l->map_size, STORE_FILE_MODE, e);
}

static int check_maps_size(const struct parts *w, struct err *e)
{
	uint64_t sum = 0;
	struct stat st;

	/* Each is bounded by now. */
	for (size_t i = 1; i < w->n_ram; i++)
		sum += w->draft->layer[i]->map_size;
	if (fstat(w->maps, &st) < 0 || !S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "the maps are not passed as a regular file");
	if ((uint64_t)st.st_size != sum)
		return err_refuse(e, EINVAL, "the maps have %lld bytes, the manifest says %llu",
				  (long long)st.st_size, (unsigned long long)sum);
	return 0;
}

/* Checks and writes them all, and sees the layers flat. *f is the caller's, also on failure. */
static int put_maps(struct parts *w, struct flat *f, struct err *e)
{
	uint64_t at = 0;
	int rc = check_maps_size(w, e);

	if (rc < 0)
		return rc;
	rc = proto_flat_start(f, w->draft->memory_size_bytes / MANIFEST_PAGE_SIZE);
	if (rc < 0)
		return err_sys(e, -rc, "cannot save %s", w->save->place->path);
	for (size_t i = 1; rc == 0 && i < w->n_ram; i++) {
		struct layermap map = { 0 };

		rc = put_map(w, i, at, &map, e);
		if (rc == 0 && proto_flat_add(f, (unsigned)i, &map) < 0)
			rc = err_sys(e, ENOMEM, "cannot save %s", w->save->place->path);
		proto_layermap_free(&map);
		at += w->draft->layer[i]->map_size;
	}
	return rc;
}

/* --- the flat digest --- */

static int open_trees(const struct parts *w, struct ram_source *s, struct err *e)
{
	const struct snapdir place = { .dirfd = w->save->place->dir };

	for (size_t i = 0; i < w->n_ram; i++) {
		struct part *p = &w->part[i];
		struct snapdir_file f = p->file;
		int rc = 0;

		f.digest = p->digest;
		s[i] = (struct ram_source){ p->fd, proto_snapdir_open_tree(&place, &f), f.size };
		if (!s[i].tree)
			rc = cat_parts_make_tree(w, p, e);
		if (rc == 0 && !s[i].tree)
			s[i].tree = proto_snapdir_open_tree(&place, &f);
		if (rc < 0)
			return rc;
		if (!s[i].tree)
			return err_env(e, EIO, "cannot read %s of %s", f.tree,
				       w->save->place->path);
	}
	return 0;
}

static void close_trees(const struct parts *w, struct ram_source *s)
{
	for (size_t i = 0; i < w->n_ram; i++) {
		merkle_close(s[i].tree);
		s[i].tree = NULL;
	}
}

/* A tree of the parent's that is damaged is made anew, as one that is missing. */
static int compose(struct parts *w, const struct flat *f, struct ram_source *s, struct err *e)
{
	int rc = open_trees(w, s, e);

	if (rc < 0)
		return rc;
	rc = cat_compose_digest(f, s, w->memory_digest);
	if (rc == -EUCLEAN) {
		close_trees(w, s);
		for (size_t i = 0; i < w->n_ram; i++) {
			rc = cat_parts_make_tree(w, &w->part[i], e);
			if (rc < 0)
				return rc;
		}
		rc = open_trees(w, s, e);
		if (rc < 0)
			return rc;
		rc = cat_compose_digest(f, s, w->memory_digest);
	}
	return rc < 0 ? err_sys(e, -rc, "cannot digest the RAM of %s", w->save->place->path) : 0;
}

/* --- made flat --- */

static bool is_to_be_flat(const struct parts *w, const struct flat *f)
{
	uint64_t upper = 0;
	struct stat st;

	for (size_t i = 1; i < w->n_ram; i++)
		upper += w->part[i].file.size;
	if (w->n_ram > MANIFEST_LAYERS_MAX || f->n > EXTENTS_MAX)
		return true;
	return f->n > EXTENTS_MANY && fstat(w->part[0].fd, &st) == 0 &&
	       (uint64_t)st.st_blocks * 512 / 4 <= upper;
}

static int write_flat(const struct parts *w, const struct flat *f, const struct ram_source *s,
		      struct part *out, struct err *e)
{
	const int dir = w->save->place->dir;
	auto_fd int fd = openat(dir, SNAPDIR_MEMORY,
				O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc = fd < 0 ? -errno : cat_compose_file(f, s, fd, w->save->progress);

	if (rc == 0 && (fsync(fd) < 0 || fchmod(fd, STORE_FILE_MODE) < 0))
		rc = -errno;
	if (rc < 0)
		return err_sys(e, -rc, "cannot make the layers of %s flat", w->save->place->path);
	out->fd = openat(dir, SNAPDIR_MEMORY, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (out->fd < 0)
		return err_sys(e, errno, "cannot open %s", SNAPDIR_MEMORY);
	close(take_fd(&fd));
	out->lease = cat_lease_take(out->fd);
	return 0;
}

/* What the layers were, out of the place: their stamps follow. */
static void drop_layers(struct parts *w)
{
	const int dir = w->save->place->dir;

	for (size_t i = 0; i < w->n_ram; i++) {
		struct part *p = &w->part[i];

		cat_lease_drop(&p->lease);
		cat_parts_drop(w, p);
		if (p->fd >= 0)
			close(p->fd);
		p->fd = -1;
	}
	cat_tree_remove(dir, SNAPDIR_LAYERS);
	for (size_t i = 0; i < w->draft->n_layer; i++)
		layer__free_unpacked(w->draft->layer[i], NULL);
	w->draft->n_layer = 0;
}

static int make_flat(struct parts *w, const struct flat *f, const struct ram_source *s,
		     struct err *e)
{
	struct part out = { .what = "RAM", .promised = true, .fd = -1, .from = -1 };
	const size_t n = w->n_ram;
	int rc;

	out.lease.fd = -1;
	proto_snapdir_file(w->draft, false, 0, &out.file);
	/* What was copied has to be what the layers' digests say. */
	memcpy(out.promise, w->memory_digest, DIGEST_SIZE);
	rc = write_flat(w, f, s, &out, e);
	if (rc == 0)
		rc = cat_parts_digest_one(w, &out, w->save->progress, e);
	if (rc < 0) {
		cat_lease_drop(&out.lease);
		if (out.fd >= 0)
			close(out.fd);
		return rc;
	}
	cat_save_notice(w->save, "the RAM was made flat: it was in %zu layers and %zu extents", n,
			f->n);
	drop_layers(w);
	w->part[0] = out;
	memmove(w->part + 1, w->part + n, (w->n - n) * sizeof(*w->part));
	w->n -= n - 1;
	w->n_ram = 1;
	w->layered = false;
	return 0;
}

int cat_layers_settle(struct parts *w, struct err *e)
{
	struct ram_source s[MANIFEST_LAYERS_MAX + 1] = { 0 };
	struct flat f = { 0 };
	const size_t n = w->n_ram;
	int rc;

	if (!w->layered)
		return 0;
	rc = put_maps(w, &f, e);
	if (rc == 0)
		rc = compose(w, &f, s, e);
	if (rc == 0 && is_to_be_flat(w, &f))
		rc = make_flat(w, &f, s, e);
	for (size_t i = 0; i < n; i++)
		merkle_close(s[i].tree);
	proto_flat_free(&f);
	return rc;
}
