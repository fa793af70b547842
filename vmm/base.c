/* The snapshot that a machine goes on from: see base.h. */
#define _GNU_SOURCE
#include "base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/merkle.h"

int base_encode_map(const struct layermap *map, struct base_map *out)
{
	int rc = proto_layermap_encode(map, &out->bytes, &out->len);

	if (rc < 0)
		return rc;
	rc = merkle_digest(out->bytes, out->len, out->digest);
	if (rc < 0)
		free(take_ptr(&out->bytes));
	return rc;
}

int base_add_map(struct base *b, const struct layermap *map)
{
	int rc = b->nmaps + 1 < MANIFEST_LAYERS_MAX ? base_encode_map(map, &b->map[b->nmaps])
						    : -E2BIG;

	b->nmaps += rc == 0;
	return rc;
}

void base_forget(struct base *b)
{
	for (unsigned i = 0; i < b->nfiles; i++)
		close(b->file[i]);
	for (unsigned i = 0; i < b->nmaps; i++)
		free(b->map[i].bytes);
	proto_manifest_free(b->manifest);
	*b = (struct base){ 0 };
}

/* ---- what the publisher has answered ---- */

static SnapshotManifest *read_manifest(int fd)
{
	auto_free uint8_t *buf = NULL;
	SnapshotManifest *m;
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size > MANIFEST_MAX)
		return NULL;
	buf = malloc((size_t)st.st_size + 1);
	if (!buf || io_pread_full(fd, buf, (size_t)st.st_size, 0) < 0)
		return NULL;
	return proto_manifest_decode(buf, (size_t)st.st_size, &m, NULL) < 0 ? NULL : m;
}

static bool is_of(const struct base_map *map, const Layer *l)
{
	return map && map->bytes && map->len == l->map_size &&
	       memcmp(map->digest, l->map_digest.data, DIGEST_SIZE) == 0;
}

static int copy_map(struct base *b, const struct base_map *from)
{
	struct base_map *to = &b->map[b->nmaps];

	*to = *from;
	to->bytes = malloc(from->len);
	if (!to->bytes)
		return -ENOMEM;
	memcpy(to->bytes, from->bytes, from->len);
	b->nmaps++;
	return 0;
}

/* The map of this layer, as it was passed on. */
static int read_map(struct base *b, const Layer *l, int fd, uint64_t at)
{
	struct base_map *to = &b->map[b->nmaps];
	int rc;

	to->len = l->map_size;
	to->bytes = malloc(to->len ? to->len : 1);
	rc = to->bytes ? io_pread_full(fd, to->bytes, to->len, at) : -ENOMEM;
	if (rc == 0)
		rc = merkle_digest(to->bytes, to->len, to->digest);
	if (rc == 0 && is_of(to, l)) {
		b->nmaps++;
		return 0;
	}
	free(take_ptr(&to->bytes));
	return rc < 0 ? rc : -EBADMSG;
}

/* The map of this layer among those that were sent. */
static int find_map(struct base *b, const Layer *l, const struct base *before,
		    const struct base_map *added)
{
	for (unsigned i = 0; i < before->nmaps; i++)
		if (is_of(&before->map[i], l))
			return copy_map(b, &before->map[i]);
	return is_of(added, l) ? copy_map(b, added) : -ENOENT;
}

static int find_maps(struct base *b, int maps_fd, const struct base *before,
		     const struct base_map *added)
{
	uint64_t at = 0;
	int rc = 0;

	for (size_t i = 1; rc == 0 && i < b->manifest->n_layer; i++) {
		const Layer *l = b->manifest->layer[i];

		rc = maps_fd >= 0 ? read_map(b, l, maps_fd, at) : find_map(b, l, before, added);
		at += l->map_size;
	}
	return rc;
}

/* Takes the descriptors of RAM's files out of fds[], if they are as many and as large as they
 * should be. */
static int take_files(struct base *b, int *fds, size_t n)
{
	const SnapshotManifest *m = b->manifest;
	const size_t want = m->n_layer ? m->n_layer : 1;

	if (n != want)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		const uint64_t size = m->n_layer ? m->layer[i]->size : m->memory_size_bytes;
		struct stat st;

		if (fstat(fds[i], &st) < 0 || (uint64_t)st.st_size != size)
			return -EBADMSG;
	}
	for (size_t i = 0; i < n; i++)
		b->file[b->nfiles++] = take_fd(&fds[i]);
	return 0;
}

static int learn(struct base *b, int *fds, size_t n, uint64_t ram_size, const struct base *before,
		 const struct base_map *added)
{
	size_t head = 1;
	int rc;

	b->manifest = n ? read_manifest(fds[0]) : NULL;
	if (!b->manifest || b->manifest->memory_size_bytes != ram_size)
		return -EBADMSG;
	if (b->manifest->n_layer && n == b->manifest->n_layer + 2)
		head = 2;
	rc = find_maps(b, head == 2 ? fds[1] : -1, before, added);
	return rc < 0 ? rc : take_files(b, fds + head, n - head);
}

void base_set(struct base *b, const uint8_t id[UUID_SIZE], int *fds, size_t n, uint64_t ram_size,
	      const struct base_map *added)
{
	struct base next = { 0 };

	if (learn(&next, fds, n, ram_size, b, added) < 0)
		base_forget(&next);
	for (size_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(take_fd(&fds[i]));
	next.exists = true;
	memcpy(next.id, id, UUID_SIZE);
	base_forget(b);
	*b = next;
}
