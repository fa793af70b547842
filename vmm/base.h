/*
 * The snapshot that a machine goes on from: the one it was restored from, or was last
 * saved as. A next save writes the pages that have changed since (dirty.h), as one
 * more layer over its files.
 *
 * Its files stay open: a snapshot that is removed in the meantime can be gone on from.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/text.h"
#include "proto/layermap.h"
#include "proto/manifest.h"

/* The bytes of a layer's map. */
struct base_map {
	uint8_t *bytes; /* owned */
	size_t len;
	uint8_t digest[DIGEST_SIZE];
};

struct base {
	bool exists; /* there is such a snapshot, whether its files are known or not */
	uint8_t id[UUID_SIZE];
	SnapshotManifest *manifest;    /* owned, where nfiles */
	unsigned nfiles;	       /* of RAM; 0: they are not known, a save is whole */
	int file[MANIFEST_LAYERS_MAX]; /* owned, read-only: memory.bin, or the layers */
	unsigned nmaps;		       /* one less than files */
	struct base_map map[MANIFEST_LAYERS_MAX]; /* of layer 1 + i */
};

/* Adds the map of the next layer. 0, -E2BIG or -ENOMEM. */
int base_add_map(struct base *b, const struct layermap *map);

/* The bytes of a map and their digest, the caller's to free. 0 or a negative errno. */
int base_encode_map(const struct layermap *map, struct base_map *out);

/*
 * What was just published under `id` is the base from now on. fds[n] (taken over, also where
 * they are of no use) are what the publisher answered with: the manifest, the maps, where it
 * has layers, if the publisher passes them on, and the files of RAM. A map that was not
 * passed on is one of those before, or `added`, that of the new layer (NULL: none), whose
 * bytes are copied. What does not fit together leaves a base without files.
 */
void base_set(struct base *b, const uint8_t id[UUID_SIZE], int *fds, size_t n, uint64_t ram_size,
	      const struct base_map *added);

void base_forget(struct base *b);
