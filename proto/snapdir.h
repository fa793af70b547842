/*
 * A snapshot directory, read. The directory is the truth: what restore, the
 * mount, verify and the index know of a snapshot they learn from here, whether
 * it lies in the store, in the mount, or on a stick.
 *
 *	manifest.bin	read and checked whole when the directory is opened
 *	state.bin	read and checked whole when asked for
 *	memory.bin	opened, its size checked; its digest is the caller's
 *			to have verified (that may take seconds)
 *	layers/		in the place of memory.bin, where the RAM is in layers: the files
 *			as memory.bin; the maps are read and checked whole
 *	disks/		the files of disks that are kept with it: as memory.bin
 *
 * A snapdir is bound to the directory it opened, never looked up by name again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/io.h"
#include "base/merkle.h"
#include "proto/flat.h"
#include "proto/manifest.h"
#include "proto/state.h"

#define SNAPDIR_MANIFEST    "manifest.bin"
#define SNAPDIR_STATE	    "state.bin"
#define SNAPDIR_MEMORY	    "memory.bin"
#define SNAPDIR_MEMORY_TREE "memory.tree"
#define SNAPDIR_LAYERS	    "layers"
#define SNAPDIR_DISKS	    "disks"

struct snapdir {
	int dirfd;		    /* owned, O_RDONLY | O_DIRECTORY */
	struct stat stat;	    /* of the directory, when it was opened */
	SnapshotManifest *manifest; /* owned */
	/*
	 * The RAM is what the manifest's layers say, and layers/ has it. A copy may have
	 * memory.bin instead, flat, which is as good.
	 */
	bool layered;
	uint8_t manifest_digest[DIGEST_SIZE]; /* plain SHA-256 of the whole manifest.bin */
	size_t manifest_size;		      /* bytes */
};

/*
 * Opens the directory `name` in `at` (AT_FDCWD and a path will do) and reads
 * its manifest. `label` names it in messages. 0, -ENOENT, -ENOTDIR, -EBADMSG
 * (damaged), or another negative errno. Close with proto_snapdir_close().
 */
int proto_snapdir_open(struct snapdir *d, int at, const char *name, const char *label,
		       struct err *e);

/* As proto_snapdir_open(), of an open directory, whose descriptor it takes over. */
int proto_snapdir_open_fd(struct snapdir *d, int dirfd, const char *label, struct err *e);

void proto_snapdir_close(struct snapdir *d);

/*
 * The bytes of state.bin, checked against size and digest of the manifest.
 * *buf is the caller's. 0, -EBADMSG (damaged) or another negative errno.
 */
int proto_snapdir_read_state(const struct snapdir *d, const char *label, uint8_t **buf, size_t *len,
			     struct err *e);

/*
 * A file of a snapshot that is too large to be read whole: memory.bin, one in
 * layers/, or one in disks/. It points into the manifest.
 */
#define SNAPDIR_PATH_MAX 160
struct snapdir_file {
	char path[SNAPDIR_PATH_MAX]; /* in the snapshot's directory */
	char tree[SNAPDIR_PATH_MAX]; /* there, too: its tree (base/merkle.h), which may be missing
				      */
	uint64_t size;		     /* bytes */
	const uint8_t *digest;	     /* fs-verity digest, the manifest's */
};

/*
 * How many there are, where the RAM is layered, or flat. Those of the RAM are the first:
 * proto_snapdir_ram_files() of them, memory.bin or the layers from the bottom.
 */
size_t proto_snapdir_files(const SnapshotManifest *m, bool layered);
size_t proto_snapdir_ram_files(const SnapshotManifest *m, bool layered);
void proto_snapdir_file(const SnapshotManifest *m, bool layered, size_t i, struct snapdir_file *f);

/*
 * The map of layer i > 0, read and checked whole: its size and digest are the
 * manifest's, its runs within bounds. *map is the caller's. 0, -EBADMSG or another
 * negative errno.
 */
int proto_snapdir_read_map(const struct snapdir *d, size_t i, const char *label,
			   struct layermap *map, struct err *e);

/*
 * Where each page of the RAM is, in the files of proto_snapdir_file(): of a flat one
 * in file 0. *f is the caller's. 0, -EBADMSG or another negative errno.
 */
int proto_snapdir_read_flat(const struct snapdir *d, const char *label, struct flat *f,
			    struct err *e);

/*
 * Opens one of them read-only, following no link, and checks that it is a regular
 * file of the manifest's size. The descriptor (caller's), -EBADMSG or another errno.
 */
int proto_snapdir_open_file(const struct snapdir *d, const struct snapdir_file *f,
			    const char *label, struct err *e);

/*
 * Computes the digest of one of them and compares it with the manifest's.
 * 0, -EBADMSG (it differs), or another negative errno.
 */
int proto_snapdir_verify_file(const struct snapdir *d, const struct snapdir_file *f, int fd,
			      const char *label, struct io_progress *progress, struct err *e);

/*
 * Opens the tree of one of them, for checking its blocks: the caller's, or NULL
 * where there is none that fits.
 */
struct merkle_reader *proto_snapdir_open_tree(const struct snapdir *d,
					      const struct snapdir_file *f);

/*
 * Words for a file (open as fd) that has not the manifest's digest: its path and,
 * where its tree can tell, which block is wrong. Reads the file whole.
 */
#define SNAPDIR_DAMAGE_MAX 320
void proto_snapdir_tell_damage(const struct snapdir *d, const struct snapdir_file *f, int fd,
			       char text[SNAPDIR_DAMAGE_MAX]);

/* The two of them for memory.bin. */
int proto_snapdir_open_memory(const struct snapdir *d, const char *label, struct err *e);
int proto_snapdir_verify_memory(const struct snapdir *d, int memory_fd, const char *label,
				struct io_progress *progress, struct err *e);
