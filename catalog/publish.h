/*
 * Saving into the store, or into any directory: the place that a snapshot is
 * made in, and the order in which it becomes durable and visible.
 *
 *	RAM synced; never-written space given back; linked or copied
 *	or: its layers linked into layers/, their maps written
 *	the frozen files of disks linked into disks/
 *	digests; state.bin; chmod; manifest.bin last; each file and the directory synced
 *	renameat2(RENAME_NOREPLACE): published; both parents synced; index
 *
 * A kill at any point leaves a whole snapshot, or a locked directory in staging
 * (or hidden beside the path that was asked for) that the next one sweeps away.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/io.h"
#include "base/text.h"
#include "catalog/stamps.h"
#include "catalog/store.h"
#include "proto/manifest.h"

/* Where a snapshot is being made and where it will be. */
struct place {
	char name[CAT_NAME_MAX + 1]; /* of the directory to be */
	char *path;		     /* whole, for people; owned */
	int parent;		     /* it will be in: owned */
	int holder;		     /* it is being made in: owned */
	int dir;		     /* it, locked: owned */
	char temp[256];		     /* its name in holder */
	bool in_store;
};

#define PLACE_NONE                                                                                 \
	{                                                                                          \
		.parent = -1, .holder = -1, .dir = -1                                              \
	}

/*
 * Checks that `name` can be published, and makes a place for it: in the store,
 * or, where the name has a '/', beside that path (store may then be NULL).
 * 0, -EEXIST, -EINVAL or another negative errno.
 */
int cat_place_make(struct place *p, struct store *store, const char *name, struct err *e);

/* Removes what is in the place and the place itself, unless it was published. */
void cat_place_drop(struct place *p);

/* Renames the finished directory to its name and makes that durable. 0 or a negative errno. */
int cat_place_publish(struct place *p, struct store *store, struct err *e);

/*
 * Renames a directory to a name that is not taken: 0, -EEXIST, or another
 * negative errno. `store` (may be NULL): its lock, where the file system
 * cannot do that by itself.
 */
int cat_rename_new(int from_at, const char *from, int to_at, const char *to, struct store *store);

/*
 * The files of disks that are to be kept, as they are now: refuses, by the name
 * of its device, one that could not be linked into a directory of `folder`, which
 * people know as `where`. 0 or a negative errno.
 */
int cat_check_disks(int folder, const char *where, char *const *names, const int *fds, size_t n,
		    struct err *e);

#define SAVE_NOTICES 3
#define SAVE_OUT_MAX (1 + MANIFEST_LAYERS_MAX) /* descriptors */

/* A stamp that has to wait until the file's ctime is old enough, under its lease. */
struct due_stamp {
	struct lease lease;
	uint8_t digest[DIGEST_SIZE];
};

/* What is saved; all of it comes from a process that may be hostile. */
struct save {
	struct store *store; /* NULL: none is open, nothing is stamped */
	struct place *place;
	int draft, state; /* descriptors, the caller's */
	/*
	 * The rest of them as a CommitRequest has them: the RAM, or its maps and its layers;
	 * then the frozen files of disks, in the order of the draft.
	 */
	const int *files;
	size_t n_files;
	bool link_ram; /* the RAM is the file that this publisher made, to be linked */
	struct io_progress *progress;
	struct sealer *sealer; /* gets what is published in a store; NULL: nothing is sealed */

	/* what came of it */
	uint8_t id[UUID_SIZE];
	uint8_t manifest_digest[DIGEST_SIZE];
	int out[SAVE_OUT_MAX]; /* the caller's: manifest.bin, then the RAM, read-only */
	size_t n_out;
	char notice[SAVE_NOTICES][256];
	size_t n_notice;
	struct due_stamp *due; /* the caller's: leases to drop, then to free */
	size_t n_due;
	int64_t stamp_wait_ns; /* for how long they wait */
	bool unstamped;	       /* a file of it gets no stamp at all */
};

/*
 * Publishes. On success the place is used up. On failure nothing of it is
 * left, but the place itself, which the caller drops, and the files have the
 * modes that they had. RAM that cannot be linked is copied, and that is said;
 * a disk that cannot be linked is a failure. 0 or a negative errno.
 */
int cat_save_commit(struct save *s, struct err *e);

/* Something worth saying of it, if there is room. */
void cat_save_notice(struct save *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- ram.c --- */

/*
 * A new RAM file of `size` bytes in the store: without a name where the file
 * system can. Returns the writable descriptor, locked; or a negative errno.
 */
int cat_ram_make(struct store *store, uint64_t size, bool reserve, struct err *e);

/*
 * The RAM file at `path`, made if it is missing. An existing one that may be
 * (part of) a snapshot is refused; else it is emptied to zeros.
 */
int cat_ram_open(const char *path, uint64_t size, bool reserve, struct err *e);

/*
 * A new empty file in STORE/ram without a name, for a disk: to be linked into a
 * snapshot later, so a file system that has no such files is refused. Returns
 * the writable descriptor or a negative errno.
 */
int cat_file_make(struct store *store, struct err *e);

/* Gives the space back that was reserved and never written. Failing is no harm. */
void cat_ram_give_back(int fd);

/* --- working_set.c --- */

/*
 * Checks the working set in the file `fd`, which may be hostile, and puts it beside the
 * snapshot of this id, in the place of an older one. 0, -ENOENT (no such snapshot),
 * -EBADMSG, or another negative errno.
 */
int cat_working_set_keep(struct store *store, const uint8_t id[UUID_SIZE], int fd, struct err *e);

/* --- publisher.c --- */

/*
 * The publisher: answers proto/publish.proto on `sock` until the other side is
 * gone. The store (`given` as for cat_store_locate()) is opened by the first
 * request that needs it. 0 or a negative errno.
 */
int cat_publisher_serve(int sock, const char *given, struct err *e);
