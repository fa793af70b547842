/*
 * What the files of catalog share and nobody else sees: the open store, and
 * the steps that index, publisher and commands are made of.
 *
 * Locks are taken in this order and no other:
 *	store.mutex -> flock of STORE/lock -> SQLite's own -> store.stamps_mutex
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include "catalog/index.h"
#include "catalog/store.h"

#define STORE_INDEX  "catalog.db"
#define STORE_STAMPS "stamps.db"
#define STORE_LOCK   "lock"

#define STORE_DIR_MODE	0700
#define STORE_FILE_MODE 0400

/* The statements of stamps.c. */
enum stamp_statement {
	STAMP_TIME,
	STAMP_FIND,
	STAMP_FOLLOW,
	STAMP_FORGET,
	STAMP_GRANT,
	STAMP_STATEMENTS
};

struct store {
	char *path; /* absolute, without symbolic links */
	int root, snapshots;
	int staging, trash, ram; /* -1 where the store cannot be written */
	bool writable;

	pthread_mutex_t mutex; /* guards the six below */
	sqlite3 *db;	       /* NULL: not opened yet */
	bool in_memory;
	int64_t memory_until; /* CLOCK_MONOTONIC seconds: then the file is tried again */
	dev_t db_dev;	      /* of the file that db was opened on */
	ino_t db_ino;
	struct timespec synced; /* mtime of snapshots/ that the rows agree with, 0: none */

	pthread_mutex_t stamps_mutex; /* guards the five below */
	sqlite3 *stamps;	      /* NULL: not open */
	dev_t stamps_dev;	      /* of the file that it was opened on */
	ino_t stamps_ino;
	sqlite3_stmt *stamps_statements[STAMP_STATEMENTS]; /* prepared; NULL: not yet */
	int64_t stamps_after; /* CLOCK_MONOTONIC seconds: not tried again before */
};

/* Ends the statements of the stamps, which a database has to be closed without. */
void cat_stamps_finalize(struct store *store);

/* Wraps for times no file has; only equality and short distances are asked of it. */
static inline int64_t nanoseconds(struct timespec t)
{
	return (int64_t)((uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec);
}

static inline int64_t monotonic_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* As cat_store_open(), but leaves index and leftovers until they are needed. */
int cat_store_open_bare(struct store **store, const char *path, enum cat_open how, struct err *e);

/* 0, or -EROFS with words where the store cannot be written. */
int cat_store_need_writable(const struct store *store, struct err *e);

/*
 * Takes the store's lock: LOCK_SH, or LOCK_EX to replace the index. Closing the
 * descriptor that is returned gives it back. -ENOENT: nothing to lock (a store
 * that cannot be written); or another negative errno.
 */
int cat_store_lock(const struct store *store, int how);

/* --- tree.c: directories that are made, emptied, swept --- */

/*
 * Removes `name` in the directory `at`, a directory and all it holds; never
 * follows a symbolic link. What is gone already is no failure. 0 or a negative errno.
 */
int cat_tree_remove(int at, const char *name);

/* True where fd is still what `name` in `at` stands for. */
bool cat_tree_is(int at, const char *name, int fd);

/* Makes a directory with a fresh unique name in `at` and locks it (flock): its descriptor. */
int cat_tree_make_locked(int at, const char *prefix, char *name, size_t room);

/*
 * Removes from `at` the directories whose name starts with `prefix` and that
 * nobody has locked, by way of `trash` (or, if that is -1, at once).
 */
void cat_tree_sweep(int at, const char *prefix, int trash);

/* Removes what a crash left in staging and trash. */
void cat_store_sweep(struct store *store);

/* --- share.c: many small things, by several threads --- */

typedef void (*cat_share_fn)(void *arg, size_t i);

/*
 * Calls fn for each i below n, in any order, by this thread and, where there are many
 * and the machine has more processors, by others. Returns when all are done.
 */
void cat_share(size_t n, cat_share_fn fn, void *arg);

/* --- reading.c: one snapshot directory as a row --- */

/*
 * {inode, mtime, ctime} of manifest, state and memory, and of disks/ and layers/, each with
 * what is in it, summed up: equal while none of them changed.
 */
#define FINGERPRINT_WORDS 15

struct reading {
	struct cat_row row; /* status: unverified, valid (stamped) or damaged */
	uint64_t inode;	    /* of the directory */
	int64_t fingerprint[FINGERPRINT_WORDS];
	bool has_manifest; /* it could be read: the row is filled in */
};

/* Without opening anything; files that are not there count as zeros. */
void cat_reading_fingerprint(const struct store *store, const char *name,
			     int64_t fingerprint[FINGERPRINT_WORDS]);

/*
 * Reads the directory `name` of snapshots/. A directory that is damaged or
 * unreadable is a reading too. 0, -ENOENT (gone, or no directory), or, where it
 * is this process that lacks what it takes: -EMFILE, -ENFILE, -ENOMEM.
 */
int cat_reading_take(struct store *store, const char *name, struct reading *r);

/* --- index.c: one operation on the index --- */

typedef int (*cat_index_fn)(struct store *store, void *arg, struct err *e);

/*
 * Runs fn with the store's mutex and its shared lock held and the index open.
 * Where fn returns -EUCLEAN (db.h) the index is moved aside, rebuilt, and fn
 * run once more.
 */
int cat_index_run(struct store *store, cat_index_fn fn, void *arg, struct err *e);

/* --- index_sync.c, called within cat_index_run() --- */

enum cat_sync {
	CAT_SYNC_QUICK, /* nothing if snapshots/ is unchanged; then names and inodes */
	CAT_SYNC_FILES, /* names, inodes, and each snapshot's files (stat) */
	CAT_SYNC_READ,	/* read every directory again */
};

/* Brings the rows in line with the directories. 0 or a negative errno. */
int cat_index_sync(struct store *store, enum cat_sync how, struct err *e);

/* The same for one name, with its files. 0 or a negative errno. */
int cat_index_sync_one(struct store *store, const char *name, struct err *e);

/* Puts the row of a snapshot that was just published in place of any of that name. */
int cat_index_add(struct store *store, const char *name, struct err *e);

/* Marks the row as being removed: a crash is then no 'missing'. */
int cat_index_mark_removing(struct store *store, const char *name, struct err *e);
/* Renames the row of a directory that was just renamed, and compares all again. */
int cat_index_rename(struct store *store, const char *from, const char *to, struct err *e);
/* Drops the row, unless a directory of that name is there that is not being removed. */
int cat_index_drop(struct store *store, const char *name, struct err *e);

/* --- change.c: stamps of files that have other names outlive our link or unlink --- */

struct kept_stamp;
struct kept_stamps {
	struct kept_stamp *stamp; /* owned */
	size_t n;
};

/* Those of the files of the snapshot dirfd, as they hold now. */
struct kept_stamps cat_stamps_keep(struct store *store, int dirfd);
/* When the links have changed; gives them back. */
void cat_stamps_follow(struct store *store, struct kept_stamps *k);
