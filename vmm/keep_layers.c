/* RAM that is kept as one more layer over the machine's base: see keep.h. */
#define _GNU_SOURCE
#include "keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

static int set_digest(ProtobufCBinaryData *b, const uint8_t digest[DIGEST_SIZE])
{
	b->data = malloc(DIGEST_SIZE);
	if (!b->data)
		return -ENOMEM;
	memcpy(b->data, digest, DIGEST_SIZE);
	b->len = DIGEST_SIZE;
	return 0;
}

static int add_layer(SnapshotManifest *m, uint64_t size, const uint8_t *digest,
		     const struct base_map *map)
{
	Layer *l = malloc(sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	layer__init(l);
	m->layer[m->n_layer++] = l;
	l->size = size;
	rc = set_digest(&l->digest, digest);
	if (rc < 0 || !map)
		return rc;
	l->map_size = map->len;
	return set_digest(&l->map_digest, map->digest);
}

int keep_describe_layers(const struct keep *k, SnapshotManifest *m)
{
	/* The publisher computes it. */
	static const uint8_t not_known[DIGEST_SIZE];
	const struct kept *it = &k->item[0];
	const struct base *b = &k->machine->base;
	const SnapshotManifest *was = b->manifest;
	int rc;

	if (!it->rounds || !it->rounds->layer)
		return 0;
	m->layer = calloc(b->nfiles + 1, sizeof(*m->layer));
	if (!m->layer)
		return -ENOMEM;
	rc = b->nfiles == 1 ? add_layer(m, was->memory_size_bytes, was->memory_digest.data, NULL)
			    : add_layer(m, was->layer[0]->size, was->layer[0]->digest.data, NULL);
	for (unsigned i = 1; rc == 0 && i < b->nfiles; i++)
		rc = add_layer(m, was->layer[i]->size, was->layer[i]->digest.data, &b->map[i - 1]);
	return rc < 0 ? rc : add_layer(m, it->file[0].size, not_known, &it->rounds->map);
}

/* All maps, the new layer's the last, one after the other in a file in memory. */
static int make_maps(const struct base *b, const struct base_map *added, struct err *e)
{
	auto_fd int fd = memfd_create("maps", MFD_CLOEXEC);
	int rc = fd < 0 ? -errno : 0;

	for (unsigned i = 0; rc == 0 && i < b->nmaps; i++)
		rc = io_write_full(fd, b->map[i].bytes, b->map[i].len);
	if (rc == 0)
		rc = io_write_full(fd, added->bytes, added->len);
	return rc < 0 ? err_sys(e, -rc, "cannot pass on what has changed of RAM") : take_fd(&fd);
}

int keep_list_ram(const struct keep *k, int fds[], size_t *n, int *maps_fd, struct err *e)
{
	const struct kept *it = &k->item[0];
	const struct base *b = &k->machine->base;

	*n = 0;
	if (it->rounds && it->rounds->layer) {
		*maps_fd = make_maps(b, &it->rounds->map, e);
		if (*maps_fd < 0)
			return *maps_fd;
		fds[(*n)++] = *maps_fd;
		for (unsigned i = 0; i < b->nfiles; i++)
			fds[(*n)++] = b->file[i];
	}
	fds[(*n)++] = it->file[0].fd;
	return 0;
}
