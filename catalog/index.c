/*
 * The index as a file: its tables, and how it is opened, replaced, rebuilt.
 *
 * It holds nothing that the directories do not, but for the rows of missing
 * snapshots and the outcome of verifications. So a damaged one is not repaired
 * (what is recovered from a damaged database is suspect): it is moved aside as
 * catalog.db.damaged-TIME and made anew from the directories.
 */
#define _GNU_SOURCE
#include "catalog/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/db.h"
#include "catalog/internal.h"

/* On a full disk the index is one in memory for so long; then the file is tried again. */
#define MEMORY_SECONDS 10

/*
 * status: enum cat_status, never missing, which is a column of its own so that
 * it returns to what it was. fingerprint: see internal.h. removing: `rm` has
 * begun. The id is not unique: copied directories repeat it.
 */
static const struct db_kind index_kind = {
	.what = "the index",
	.application_id = 0x736e6670, /* "snfp" */
	.version = 2,		      /* 2: fingerprints have layers/. An older one is made anew */
	.synchronous = "FULL",
	.schema = "CREATE TABLE snapshot ("
		  " name TEXT PRIMARY KEY NOT NULL,"
		  " inode INTEGER NOT NULL,"
		  " fingerprint BLOB NOT NULL,"
		  " id BLOB NOT NULL,"
		  " parent BLOB,"
		  " created_seconds INTEGER NOT NULL,"
		  " created_nanos INTEGER NOT NULL,"
		  " architecture TEXT NOT NULL,"
		  " memory_bytes INTEGER NOT NULL,"
		  " vcpus INTEGER NOT NULL,"
		  " layers INTEGER NOT NULL,"
		  " stored_bytes INTEGER NOT NULL,"
		  " unique_bytes INTEGER NOT NULL,"
		  " manifest_digest BLOB NOT NULL,"
		  " status INTEGER NOT NULL,"
		  " missing INTEGER NOT NULL,"
		  " removing INTEGER NOT NULL,"
		  " problem TEXT NOT NULL,"
		  " verified_at INTEGER NOT NULL"
		  ") STRICT, WITHOUT ROWID;"
		  "CREATE INDEX snapshot_by_time"
		  " ON snapshot (created_seconds, created_nanos, id, name);"
		  "CREATE INDEX snapshot_by_id ON snapshot (id);"
		  "CREATE INDEX snapshot_missing ON snapshot (id) WHERE missing;",
};

const char *cat_status_word(enum cat_status status)
{
	static const char *const words[] = {
		[CAT_UNVERIFIED] = "unverified", [CAT_VALID] = "valid",
		[CAT_DAMAGED] = "damaged",	 [CAT_MISSING] = "missing",
		[CAT_REPLACED] = "replaced",
	};

	return (unsigned)status < sizeof(words) / sizeof(words[0]) ? words[status] : "damaged";
}

static void close_index(struct store *store)
{
	cat_db_abandon(store->db);
	store->db = NULL;
	store->in_memory = false;
	store->synced = (struct timespec){ 0 };
}

static int open_in_memory(struct store *store, struct err *e)
{
	int rc = cat_db_open(&store->db, ":memory:", &index_kind, e);

	store->in_memory = rc == 0;
	store->memory_until = monotonic_seconds() + MEMORY_SECONDS;
	return rc;
}

/* True where what is open is still what should be. */
static bool is_current(const struct store *store)
{
	struct stat st;

	if (store->in_memory)
		return !store->writable || monotonic_seconds() < store->memory_until;
	return fstatat(store->root, STORE_INDEX, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_dev == store->db_dev && st.st_ino == store->db_ino;
}

static int open_file(struct store *store, struct err *e)
{
	auto_free char *path = NULL;
	struct stat st;
	int rc;

	if (asprintf(&path, "%s/%s", store->path, STORE_INDEX) < 0)
		return err_sys(e, ENOMEM, "cannot open the index of the store");
	if (fstatat(store->root, STORE_INDEX, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    !S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "%s is not a regular file: move it away", path);
	rc = cat_db_open(&store->db, path, &index_kind, e);
	if (rc < 0)
		return rc;
	if (fstatat(store->root, STORE_INDEX, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(e, errno, "the index of the store vanished");
	store->db_dev = st.st_dev;
	store->db_ino = st.st_ino;
	return 0;
}

/* Makes store->db the index as it is now. The shared lock is held. */
static int make_current(struct store *store, struct err *e)
{
	if (store->db && !is_current(store))
		close_index(store);
	if (store->db)
		return 0;
	return store->writable ? open_file(store, e) : open_in_memory(store, e);
}

/*
 * Moves the damaged index away, its WAL with it. Names on disk are all that is
 * touched: SQLite's locks would not outlive an open and close of ours.
 */
static int move_aside(struct store *store, struct err *e)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char from[64], to[96];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	for (size_t i = 0; i < 3; i++) {
		snprintf(from, sizeof(from), STORE_INDEX "%s", suffixes[i]);
		snprintf(to, sizeof(to), STORE_INDEX ".damaged-%lld.%09ld%s", (long long)now.tv_sec,
			 now.tv_nsec, suffixes[i]);
		if (renameat(store->root, from, store->root, to) < 0 && errno != ENOENT)
			return err_sys(e, errno, "cannot move the damaged index of %s aside",
				       store->path);
	}
	fsync(store->root);
	return 0;
}

/*
 * Replaces the index that was found damaged. `dev` and `ino` are of that file:
 * who gets the exclusive lock later finds another there, and is done.
 */
static int replace(struct store *store, dev_t dev, ino_t ino, struct err *e)
{
	auto_fd int lock = cat_store_lock(store, LOCK_EX);
	struct stat st;
	int rc = 0;

	if (lock < 0)
		return err_sys(e, -lock, "cannot lock the store %s", store->path);
	if (fstatat(store->root, STORE_INDEX, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == dev &&
	    st.st_ino == ino)
		rc = move_aside(store, e);
	if (rc == 0)
		rc = make_current(store, e);
	if (rc == 0)
		rc = cat_index_sync(store, CAT_SYNC_QUICK, e);
	return rc;
}

/* fn with the shared lock held and the index open; says which file was in use. */
static int attempt(struct store *store, cat_index_fn fn, void *arg, struct stat *used,
		   struct err *e)
{
	auto_fd int lock = cat_store_lock(store, LOCK_SH);
	int rc;

	if (lock < 0 && lock != -ENOENT)
		return err_sys(e, -lock, "cannot lock the store %s", store->path);
	rc = make_current(store, e);
	if (fstatat(store->root, STORE_INDEX, used, AT_SYMLINK_NOFOLLOW) < 0)
		memset(used, 0, sizeof(*used));
	return rc < 0 ? rc : fn(store, arg, e);
}

static int run(struct store *store, cat_index_fn fn, void *arg, struct err *e)
{
	struct stat used = { 0 };
	int rc = attempt(store, fn, arg, &used, e);

	if (rc == -EUCLEAN) {
		close_index(store);
		if (e)
			*e = (struct err){ 0 };
		rc = store->writable ? replace(store, used.st_dev, used.st_ino, e) : 0;
	} else if (rc == -ENOSPC && !store->in_memory) {
		/* A full disk must not keep anybody from listing what could be removed. */
		close_index(store);
		if (e)
			*e = (struct err){ 0 };
		rc = open_in_memory(store, e);
	} else {
		return rc;
	}
	return rc < 0 ? rc : attempt(store, fn, arg, &used, e);
}

int cat_index_run(struct store *store, cat_index_fn fn, void *arg, struct err *e)
{
	struct err none = { 0 };
	int rc;

	pthread_mutex_lock(&store->mutex);
	rc = run(store, fn, arg, e ? e : &none);
	pthread_mutex_unlock(&store->mutex);
	return rc == -EUCLEAN ? -EIO : rc;
}
