/* The rows that publish and remove change themselves: see internal.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "catalog/db.h"
#include "catalog/internal.h"
#include "catalog/rows.h"

struct change {
	const char *name, *sql;
};

struct renaming {
	const char *from, *to;
};

static int add(struct store *store, void *arg, struct err *e)
{
	auto_rows struct cat_rows rows = { .db = store->db };
	const struct change *c = arg;
	struct reading r;
	int rc = cat_reading_take(store, c->name, &r);

	/* Removed again already: the next comparison sees to it. */
	if (rc == -ENOENT)
		return 0;
	if (rc == 0)
		rc = cat_db_exec(store->db, "BEGIN IMMEDIATE", e);
	if (rc < 0)
		return rc;
	rc = cat_rows_change(store->db, "DELETE FROM snapshot WHERE name = ?1", c->name, e);
	if (rc == 0)
		rc = cat_rows_merge(&rows, &r, e);
	return cat_db_end(store->db, rc, e);
}

int cat_index_add(struct store *store, const char *name, struct err *e)
{
	struct change c = { .name = name };

	return cat_index_run(store, add, &c, e);
}

static int change(struct store *store, void *arg, struct err *e)
{
	const struct change *c = arg;

	return cat_rows_change(store->db, c->sql, c->name, e);
}

int cat_index_mark_removing(struct store *store, const char *name, struct err *e)
{
	struct change c = { name, "UPDATE snapshot SET removing = 1 WHERE name = ?1" };

	return cat_index_run(store, change, &c, e);
}

/*
 * Also where the manifest cannot be read, so that no comparison would find out.
 * Only the row of that very directory: others may have changed both names since.
 */
static int rename_row(struct store *store, void *arg, struct err *e)
{
	const struct renaming *n = arg;
	auto_stmt sqlite3_stmt *s = NULL;
	struct stat st;
	int rc = cat_db_prepare(store->db,
				"UPDATE OR REPLACE snapshot SET name = ?2, missing = 0 "
				"WHERE name = ?1 AND inode = ?3",
				&s, e);

	if (rc == 0 && fstatat(store->snapshots, n->to, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		sqlite3_bind_text(s, 1, n->from, -1, SQLITE_STATIC);
		sqlite3_bind_text(s, 2, n->to, -1, SQLITE_STATIC);
		sqlite3_bind_int64(s, 3, (int64_t)st.st_ino);
		rc = cat_db_run(store->db, s, e);
	}
	/* This change may be within the clock tick of the last comparison. */
	store->synced = (struct timespec){ 0 };
	return rc < 0 ? rc : cat_index_sync(store, CAT_SYNC_QUICK, e);
}

int cat_index_rename(struct store *store, const char *from, const char *to, struct err *e)
{
	struct renaming n = { from, to };

	return cat_index_run(store, rename_row, &n, e);
}

static int drop(struct store *store, void *arg, struct err *e)
{
	struct change c = { arg, "DELETE FROM snapshot WHERE name = ?1" };
	struct stat st;

	if (fstatat(store->snapshots, c.name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		c.sql = "DELETE FROM snapshot WHERE name = ?1 AND (missing OR removing)";
	return change(store, &c, e);
}

int cat_index_drop(struct store *store, const char *name, struct err *e)
{
	/* What was removed from a full disk has made room: the file is tried again. */
	pthread_mutex_lock(&store->mutex);
	store->memory_until = 0;
	pthread_mutex_unlock(&store->mutex);
	return cat_index_run(store, drop, (void *)(uintptr_t)name, e);
}
