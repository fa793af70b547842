/*
 * What RAM in layers is when it is seen flat: its digest, from the trees of the layers,
 * and a file of it, copied from them. No RAM is read for the digest.
 */
#pragma once

#include "base/io.h"
#include "base/merkle.h"
#include "proto/flat.h"
#include "proto/snapdir.h"

/* A file of the RAM, as struct flat counts them. */
struct ram_source {
	int fd;			    /* read-only */
	struct merkle_reader *tree; /* of it */
	uint64_t size;		    /* bytes */
};

/*
 * The fs-verity digest of the flat RAM. 0; -EUCLEAN: a tree is damaged; -EBADMSG: a
 * file of one page is; or another negative errno.
 */
int cat_compose_digest(const struct flat *f, const struct ram_source *s,
		       uint8_t digest[DIGEST_SIZE]);

/* The hashes of pages [page, page + count) of the RAM, with errors as above. Any thread. */
int cat_compose_leaves(const struct flat *f, const struct ram_source *s, uint64_t page,
		       size_t count, uint8_t *hashes);

/*
 * Writes the flat RAM into the empty file `to`, run by run: by reflink where the file
 * system can, and what is a hole or zeros in a layer is a hole. 0 or a negative errno.
 */
int cat_compose_file(const struct flat *f, const struct ram_source *s, int to,
		     struct io_progress *progress);

/* The sources of a snapshot that is open: its files and their trees. */
struct ram_sources {
	struct ram_source *v; /* owned, with what is in them */
	size_t n;
};

/*
 * Opens the files of the RAM, and their trees: where one is missing, or of no use,
 * one is made, in a file without a name in `scratch` (-1: in memory) by reading the
 * file, and -EBADMSG says that this is not what the manifest says. 0 or a negative errno.
 * Afterwards cat_sources_close(), also when this fails.
 */
int cat_sources_open(struct ram_sources *s, const struct snapdir *d, const char *label, int scratch,
		     struct io_progress *progress, struct err *e);
void cat_sources_close(struct ram_sources *s);
