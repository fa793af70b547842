/*
 * The large files of a snapshot that is being saved: memory.bin, or the layers of the
 * RAM, and the files of disks. Linked or copied into the place, digested, and stamped once all is
 * published. See publish.h for the order.
 */
#pragma once

#include "catalog/publish.h"
#include "catalog/stamps.h"
#include "proto/snapdir.h"

/* One of them. */
struct part {
	struct snapdir_file file; /* path and size */
	const char *what;	  /* it is, for people: its device's name, or "RAM" */
	bool promised;		  /* the manifest said its digest: it is another snapshot's file */
	uint8_t promise[DIGEST_SIZE];
	bool stamped; /* its digest is known by its stamp, it is not hashed again */
	bool sealed;  /* or by its seal */
	uint8_t digest[DIGEST_SIZE];
	int from; /* as it was passed, the caller's */
	int fd;	  /* in the place, read-only, owned */
	struct lease lease;
	bool linked;
	mode_t was_mode; /* of the file that was passed */
};

struct parts {
	struct save *save;	 /* what is saved */
	SnapshotManifest *draft; /* the manifest as far as it is known */
	struct part *part;	 /* owned, as proto_snapdir_file() counts them */
	size_t n;
	bool layered;	  /* the first n_ram of them are layers, else one is memory.bin */
	const int *ram;	  /* as passed: n_ram of the RAM */
	const int *disks; /* and n_disks of disks */
	size_t n_ram, n_disks;
	int maps;			    /* of the layers, as passed; -1: none */
	uint8_t memory_digest[DIGEST_SIZE]; /* of the flat RAM, once it is known */
};

/*
 * Lists what the draft and the descriptors of the save say, and makes room in the
 * draft for the digests. Afterwards cat_parts_forget(), also when this
 * fails. 0 or a negative errno.
 */
int cat_parts_list(struct parts *p, struct save *s, SnapshotManifest *draft, struct err *e);

/* Puts all into the place. 0 or a negative errno. */
int cat_parts_put(struct parts *p, struct err *e);

/* Makes the tree of one anew, which is there or not. 0 or a negative errno. */
int cat_parts_make_tree(const struct parts *w, struct part *p, struct err *e);

/* The tree of a file that is not hashed again, from the parent's; failing is no harm. */
void cat_parts_link_tree(const struct parts *w, const struct part *p);

/* Digests one. 0 or a negative errno. */
int cat_parts_digest_one(const struct parts *w, struct part *p, struct io_progress *progress,
			 struct err *e);

/* Digests all, into the draft and part[0].digest; each is durable then. 0 or a negative errno. */
int cat_parts_digest(struct parts *p, struct err *e);

/* When it is published: stamps them, now or (save->due) later. */
void cat_parts_stamp(struct parts *p);

/*
 * When it is published: has those sealed that are new. A file with another name is an
 * older snapshot's, so that was tried; or a disk of somebody's, who may want to write
 * it again when the snapshot is gone, and no seal is ever taken off.
 */
void cat_parts_seal(struct parts *p);

/*
 * After a failure, or where it is not wanted any more: takes what was linked out of the
 * place again. No file of others is left looking like a snapshot's, and a stamp follows.
 */
void cat_parts_undo(struct parts *p);
void cat_parts_drop(const struct parts *w, struct part *p);

void cat_parts_forget(struct parts *p);

/*
 * --- layers.c: the maps of layered RAM, and its flat digest ---
 *
 * When all is digested: writes the maps, composes the flat digest. Where there would be too
 * many layers, or extents, they are made one flat file, and are gone from the draft and the
 * parts. Nothing where the RAM is flat. 0 or a negative errno.
 */
int cat_layers_settle(struct parts *w, struct err *e);
