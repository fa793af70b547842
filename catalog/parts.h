/*
 * The large files of a snapshot that is being saved: memory.bin and the files of
 * disks. Linked or copied into the place, digested, and stamped once all is
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
};

/*
 * Lists what the draft and the descriptors of the save say, and makes room in the
 * draft for the digests. Afterwards cat_parts_forget(), also when this
 * fails. 0 or a negative errno.
 */
int cat_parts_list(struct parts *p, struct save *s, SnapshotManifest *draft, struct err *e);

/* Puts all into the place. 0 or a negative errno. */
int cat_parts_put(struct parts *p, struct err *e);

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

/* After a failure: no file of others is left looking like a snapshot's. */
void cat_parts_restore_modes(const struct parts *p);

void cat_parts_forget(struct parts *p);
