/*
 * A snapshot as the mount sees it: bound to the directory it was found at,
 * whatever that is called later. Its directory, open, and what its manifest says
 * are a `view`, taken anew when the file manifest.bin changes; requests hold the
 * view they began with. The kernel may know any number of snapshots: only those
 * that were viewed last keep their view between requests.
 *
 * Any thread. The lock of a snapshot is held while its manifest (at most 1 MiB)
 * is read, never while its memory is.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "catalog/index.h"
#include "proto/snapdir.h"

#define SNAP_PROBLEM_MAX 512
#define SNAP_FILES_MAX	 (MANIFEST_LAYERS_MAX + MANIFEST_DISK_FILES_MAX) /* large ones */

/* A file as it was: equal as long as neither it nor its content was changed openly. */
struct identity {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
};

struct identity sfs_identity_of(const struct stat *st);
bool sfs_identity_equal(const struct identity *a, const struct identity *b);

/*
 * False where the file, which is open as fd, was written or cut since it was so. Its
 * ctime may move: links to it come and go.
 */
bool sfs_identity_holds(const struct identity *id, int fd);

struct composed;
struct maps;

/*
 * The directory of a snapshot, and what its manifest said or why it cannot be
 * believed. Immutable but for what came of asking about it.
 */
struct view {
	unsigned refs;		  /* guarded by the snapshot's lock */
	struct identity manifest; /* of manifest.bin when it was read */
	struct snapdir dir;	  /* dirfd -1, manifest NULL: see rc */
	struct maps *maps;	  /* owned, of a layered one: maps.h */
	/* Who has the whole RAM open, composed, if anybody; not owned. Guarded by the same. */
	struct composed *composed;
	/*
	 * 0, -EBADMSG (damaged), -ESTALE (the directory is gone), or the negative errno that
	 * kept it from being read.
	 */
	int rc;
	char problem[SNAP_PROBLEM_MAX]; /* empty: none */
	/*
	 * The index has this manifest under this directory's name, and calls it
	 * valid: opens need not ask again. Damage found later takes it back.
	 */
	atomic_bool settled;
};

/* What is remembered of a large file from one open to the next. */
struct memo {
	struct memo *next;
	size_t file;	     /* its number: proto_snapdir_file(), or one of composed.c's own */
	struct identity bad; /* as it was when it was seen to be damaged */
	char problem[SNAP_PROBLEM_MAX]; /* empty: it was not */
	struct identity served;		/* as it was when it was last served */
};

/* Which directory it is. */
struct snap_dir {
	uint64_t dev, ino;
	uint64_t born;	       /* as node_key's */
	struct timespec mtime; /* when it was looked at; no part of its identity */
};

/* What the snapshots of a mount have in common. */
struct snaps {
	struct store *store;
	pthread_mutex_t lock;
	struct snap **kept; /* owned, `most` slots, guarded by lock: those that keep their view */
	size_t most, next;
};

struct snap {
	struct snaps *of;
	struct snap_dir at;
	atomic_uint refs;
	pthread_mutex_t lock;
	/* Guarded by lock. */
	char name[CAT_NAME_MAX + 1]; /* when it was last looked up */
	uint8_t id[UUID_SIZE];	     /* as its manifest last said; 0: not known */
	struct view *view;	     /* newest; NULL: not kept */
	struct memo *memos;	     /* owned; of what was opened */
	char *said;		     /* owned: last problem that went to the log; NULL: none */
	size_t slot;		     /* guarded by snaps.lock: where it is among the kept */
};

/* Over an open store, which it does not own. 0 or -ENOMEM. */
int sfs_snaps_init(struct snaps *of, struct store *store);
/* For when all snapshots were given back. */
void sfs_snaps_destroy(struct snaps *of);

/*
 * The directory `name` in the store's snapshots/, following no link.
 * 0, -ENOENT (none, or not a directory), or another negative errno.
 */
int sfs_snaps_look(const struct snaps *of, const char *name, struct snap_dir *dir);

/* The snapshot at that directory, with one reference. NULL: out of memory. */
struct snap *sfs_snap_new(struct snaps *of, const struct snap_dir *dir, const char *name);

struct snap *sfs_snap_get(struct snap *s);
void sfs_snap_put(struct snap *s); /* may be NULL */

/* Keeps, and copies to `out`, the name it was last looked up by. */
void sfs_snap_set_name(struct snap *s, const char *name);
void sfs_snap_name(struct snap *s, char out[CAT_NAME_MAX + 1]);

/*
 * The snapshot as it is now, its manifest read again if the file has changed.
 * Never NULL but when memory runs out. Give it back with sfs_view_put().
 */
struct view *sfs_snap_view(struct snap *s);
struct view *sfs_view_get(struct snap *s, struct view *v);

/*
 * lstat(2) of a path in the directory, whatever it is. 0, -ENOENT (also where the
 * directory is gone), or another negative errno.
 */
int sfs_view_look(const struct view *v, const char *path, struct stat *st);
void sfs_view_put(struct snap *s, struct view *v); /* v may be NULL */

/* True where the store has this very directory among its snapshots, by whatever name. */
bool sfs_snap_is_listed(struct snap *s, const struct view *v);

/*
 * The index's row of this very directory, whatever its name is now; 0,
 * -ENOENT (not indexed under any name), or another negative errno.
 */
int sfs_snap_row(struct snap *s, const struct view *v, struct cat_row *row);

/* Keeps that the file of this number, as it was, is damaged. */
void sfs_snap_set_bad(struct snap *s, size_t file, const struct identity *id, const char *problem);
/* True, with the words, where that file was seen to be damaged and is unchanged. */
bool sfs_snap_is_bad(struct snap *s, size_t file, const struct identity *id,
		     char problem[SNAP_PROBLEM_MAX]);

/* How a snapshot is, for those that ask: status, the xattr, an open. */
struct condition {
	enum cat_status status;		/* valid, unverified, damaged or replaced */
	char problem[SNAP_PROBLEM_MAX]; /* of a damaged, replaced or unreadable one */
	bool indexed;			/* row holds something */
	struct cat_row row;
};

/*
 * From what is known: the manifest, the index, damage seen before. No file but
 * manifest.bin is read.
 */
void sfs_snap_condition(struct snap *s, const struct view *v, struct condition *c);

/*
 * As sfs_snap_condition(), and looks at the files: state.bin and maps are
 * checked, memory.bin or the layers and the disks' files must be there with their sizes, and all be
 * sealed or stamped for `valid`.
 */
void sfs_snap_examine(struct snap *s, const struct view *v, struct condition *c);

/*
 * Says in the log, once, what is wrong; and keeps it in the index where it is
 * damage. `problem` names the file.
 */
void sfs_snap_report(struct snap *s, struct view *v, enum cat_status status, const char *problem);

/*
 * A file was found good: keeps the snapshot as valid where the index does not
 * say so yet and all its other files are good too.
 */
void sfs_snap_settle(struct snap *s, const struct view *v);

/*
 * Notes that the file of this number, as it is, is served from now on. True where it was the one
 * that was served before: what the kernel caches of it is right.
 */
bool sfs_snap_serve(struct snap *s, size_t file, const struct identity *id);
