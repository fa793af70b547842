/*
 * The rows brought in line with the directories.
 *
 * First a comparison that only reads: both sides sorted by name, merged. Most
 * of the time it finds nothing. Else the directories that differ are read, and
 * then written in one transaction a batch, each only if the directory is still
 * the one that was read: another program may be removing it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/db.h"
#include "catalog/internal.h"
#include "catalog/rows.h"

#define BATCH 2048

/*
 * A change that follows another within a tick of the kernel's clock leaves the
 * same mtime: only one that is older than this tells that nothing followed.
 */
#define SETTLED_NS 1000000000LL

struct entry {
	char *name; /* owned */
	uint64_t inode;
};

typedef int64_t fingerprint[FINGERPRINT_WORDS];

struct listing {
	struct entry *v;
	size_t n, room;
};

static void free_listing(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i].name);
	free(l->v);
}

#define auto_listing __attribute__((cleanup(free_listing)))

static int add_entry(struct listing *l, const char *name, uint64_t inode)
{
	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 64;
		struct entry *v = reallocarray(l->v, room, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->room = room;
	}
	l->v[l->n].name = strdup(name);
	l->v[l->n].inode = inode;
	return l->v[l->n++].name ? 0 : -ENOMEM;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static bool is_dir(int at, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(at, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* All directories of snapshots/ with a valid name, sorted. */
static int list_dirs(const struct store *store, struct listing *l)
{
	auto_dir DIR *d = NULL;
	struct dirent *entry;
	int fd = openat(store->snapshots, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = 0;

	if (fd >= 0)
		d = fdopendir(fd);
	if (!d) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	errno = 0;
	while (rc == 0 && (entry = readdir(d))) {
		if (cat_name_check(entry->d_name, NULL) == 0 && is_dir(fd, entry))
			rc = add_entry(l, entry->d_name, entry->d_ino);
		errno = 0;
	}
	if (rc == 0 && errno)
		rc = -errno;
	if (rc == 0 && l->n)
		qsort(l->v, l->n, sizeof(*l->v), by_name);
	return rc;
}

/*
 * True where the row that `s` stands at says the same as the directory, and of its
 * files, unless `now` is NULL: they are not asked about.
 */
static bool agrees(sqlite3_stmt *s, const struct entry *dir, const fingerprint *now)
{
	if (sqlite3_column_int64(s, 1) != (int64_t)dir->inode || sqlite3_column_int(s, 2) ||
	    sqlite3_column_int(s, 3))
		return false;
	return !now || (sqlite3_column_bytes(s, 4) == sizeof(*now) &&
			memcmp(sqlite3_column_blob(s, 4), now, sizeof(*now)) == 0);
}

struct looking {
	const struct store *store;
	const struct listing *dirs;
	fingerprint *prints;
};

static void look_at_one(void *arg, size_t i)
{
	const struct looking *l = arg;

	cat_reading_fingerprint(l->store, l->dirs->v[i].name, l->prints[i]);
}

/* The fingerprints of all: most of the time of a comparison. The caller's; NULL: no memory. */
static fingerprint *look_at_all(const struct store *store, const struct listing *dirs)
{
	struct looking l = { store, dirs, calloc(dirs->n + 1, sizeof(fingerprint)) };

	if (l.prints)
		cat_share(dirs->n, look_at_one, &l);
	return l.prints;
}

/* The names of which row and directory differ: in `changed` and `gone`. */
static int compare(struct store *store, const struct listing *dirs, enum cat_sync how,
		   struct listing *changed, struct listing *gone, struct err *e)
{
	/* Before there is a read transaction: long ones keep the WAL from ending. */
	auto_free fingerprint *prints = how == CAT_SYNC_FILES ? look_at_all(store, dirs) : NULL;
	auto_stmt sqlite3_stmt *s = NULL;
	size_t i = 0;
	int rc = cat_db_prepare(store->db,
				"SELECT name, inode, missing, removing, fingerprint FROM snapshot "
				"ORDER BY name",
				&s, e);

	if (how == CAT_SYNC_FILES && !prints)
		return err_sys(e, ENOMEM, "cannot read the store %s", store->path);
	while (rc == 0 && (rc = cat_db_step(store->db, s, e)) == 1) {
		const char *name = (const char *)sqlite3_column_text(s, 0);
		int order = -1;

		rc = name ? 0 : -EUCLEAN;
		for (; rc == 0 && i < dirs->n; i++) {
			order = strcmp(dirs->v[i].name, name);
			if (order >= 0)
				break;
			rc = add_entry(changed, dirs->v[i].name, dirs->v[i].inode);
		}
		if (rc < 0)
			break;
		if (i < dirs->n && order == 0) {
			if (how == CAT_SYNC_READ ||
			    !agrees(s, &dirs->v[i], prints ? &prints[i] : NULL))
				rc = add_entry(changed, name, dirs->v[i].inode);
			i++;
		} else if (!sqlite3_column_int(s, 2) || sqlite3_column_int(s, 3)) {
			rc = add_entry(gone, name, 0);
		}
	}
	for (; rc == 0 && i < dirs->n; i++)
		rc = add_entry(changed, dirs->v[i].name, dirs->v[i].inode);
	return rc;
}

static bool dir_is(const struct store *store, const char *name, uint64_t *inode)
{
	struct stat st;

	if (fstatat(store->snapshots, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return false;
	*inode = st.st_ino;
	return true;
}

/* Rows without a directory: missing; dropped where they were being removed. */
static int apply_gone(struct store *store, const struct listing *gone, struct err *e)
{
	auto_stmt sqlite3_stmt *drop = NULL, *miss = NULL;
	uint64_t inode;
	int rc = 0;

	if (gone->n == 0)
		return 0;
	rc = cat_db_prepare(store->db, "DELETE FROM snapshot WHERE name = ?1 AND removing", &drop,
			    e);
	if (rc == 0)
		rc = cat_db_prepare(store->db, "UPDATE snapshot SET missing = 1 WHERE name = ?1",
				    &miss, e);
	if (rc == 0)
		rc = cat_db_exec(store->db, "BEGIN IMMEDIATE", e);
	if (rc < 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < gone->n; i++) {
		if (dir_is(store, gone->v[i].name, &inode))
			continue;
		sqlite3_bind_text(drop, 1, gone->v[i].name, -1, SQLITE_STATIC);
		sqlite3_bind_text(miss, 1, gone->v[i].name, -1, SQLITE_STATIC);
		rc = cat_db_run(store->db, drop, e);
		if (rc == 0)
			rc = cat_db_run(store->db, miss, e);
	}
	return cat_db_end(store->db, rc, e);
}

/* What became of reading a directory. */
struct taken {
	struct reading r;
	int rc;
};

struct reading_batch {
	struct store *store;
	const struct entry *v;
	struct taken *taken;
};

static void take_one(void *arg, size_t i)
{
	const struct reading_batch *b = arg;

	b->taken[i].rc = cat_reading_take(b->store, b->v[i].name, &b->taken[i].r);
}

/* Writes the rows of those that are still what was read. Within a transaction. */
static int merge_batch(struct store *store, const struct taken *t, size_t n, struct err *e)
{
	auto_rows struct cat_rows rows = { .db = store->db };
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++) {
		uint64_t inode;

		if (t[i].rc == 0 && dir_is(store, t[i].r.row.name, &inode) && inode == t[i].r.inode)
			rc = cat_rows_merge(&rows, &t[i].r, e);
	}
	return rc;
}

/* Reads up to BATCH directories, then writes their rows in one transaction. */
static int apply_batch(struct store *store, const struct entry *v, size_t n, struct taken *t,
		       struct err *e)
{
	struct reading_batch b = { store, v, t };
	int rc;

	cat_share(n, take_one, &b);
	for (size_t i = 0; i < n; i++)
		if (t[i].rc < 0 && t[i].rc != -ENOENT)
			return err_sys(e, -t[i].rc, "cannot read snapshot %s", v[i].name);
	rc = cat_db_exec(store->db, "BEGIN IMMEDIATE", e);
	if (rc < 0)
		return rc;
	return cat_db_end(store->db, merge_batch(store, t, n, e), e);
}

static int apply_changed(struct store *store, const struct listing *changed, struct err *e)
{
	size_t room = changed->n < BATCH ? changed->n : BATCH;
	auto_free struct taken *r = room ? calloc(room, sizeof(*r)) : NULL;
	int rc = 0;

	if (room && !r)
		return err_sys(e, ENOMEM, "cannot read the store %s", store->path);
	for (size_t i = 0; rc == 0 && i < changed->n; i += BATCH) {
		size_t n = changed->n - i < BATCH ? changed->n - i : BATCH;

		rc = apply_batch(store, changed->v + i, n, r, e);
	}
	return rc;
}

/*
 * A row marked as being removed whose directory is still there: its remover
 * holds the directory's lock, or has died before it began.
 */
static bool is_being_removed(struct store *store, sqlite3_stmt *s, const char *name)
{
	auto_fd int fd = -1;
	bool marked;

	sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	marked = sqlite3_step(s) == SQLITE_ROW;
	sqlite3_reset(s);
	if (!marked)
		return false;
	fd = openat(store->snapshots, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0;
}

static void skip_being_removed(struct store *store, struct listing *changed)
{
	auto_stmt sqlite3_stmt *s = NULL;
	size_t kept = 0;

	if (cat_db_prepare(store->db, "SELECT 1 FROM snapshot WHERE name = ?1 AND removing", &s,
			   NULL) < 0)
		return;
	for (size_t i = 0; i < changed->n; i++) {
		if (is_being_removed(store, s, changed->v[i].name))
			free(changed->v[i].name);
		else
			changed->v[kept++] = changed->v[i];
	}
	changed->n = kept;
}

/* Keeps the time that the rows agree with, if it says that nothing followed. */
static void keep_time(struct store *store, struct timespec changed)
{
	struct timespec now;
	int64_t age;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	age = (int64_t)((uint64_t)nanoseconds(now) - (uint64_t)nanoseconds(changed));
	store->synced = age > SETTLED_NS ? changed : (struct timespec){ 0 };
}

int cat_index_sync(struct store *store, enum cat_sync how, struct err *e)
{
	auto_listing struct listing dirs = { 0 };
	auto_listing struct listing changed = { 0 };
	auto_listing struct listing gone = { 0 };
	struct stat st;
	int rc;

	if (fstat(store->snapshots, &st) < 0)
		return err_sys(e, errno, "cannot read %s/snapshots", store->path);
	if (how == CAT_SYNC_QUICK && nanoseconds(st.st_mtim) == nanoseconds(store->synced))
		return 0;
	rc = list_dirs(store, &dirs);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s/snapshots", store->path);
	rc = compare(store, &dirs, how, &changed, &gone, e);
	if (rc < 0)
		return rc;
	skip_being_removed(store, &changed);
	/* First: what is gone under one name may be what is new under another. */
	rc = apply_gone(store, &gone, e);
	if (rc == 0)
		rc = apply_changed(store, &changed, e);
	if (rc == 0)
		keep_time(store, st.st_mtim);
	return rc;
}

int cat_index_sync_one(struct store *store, const char *name, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	struct entry dir = { .name = (char *)(uintptr_t)name };
	struct taken t;
	fingerprint now;
	int rc = cat_db_prepare(store->db,
				"SELECT name, inode, missing, removing, fingerprint FROM snapshot "
				"WHERE name = ?1 AND NOT missing AND NOT removing",
				&s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	rc = cat_db_step(store->db, s, e);
	if (rc <= 0)
		return rc;
	dir.inode = (uint64_t)sqlite3_column_int64(s, 1);
	cat_reading_fingerprint(store, name, now);
	if (agrees(s, &dir, &now))
		return 0;
	/* No read transaction is held while the directory is read. */
	sqlite3_reset(s);
	return apply_batch(store, &dir, 1, &t, e);
}
