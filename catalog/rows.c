/* Single rows of the index: see rows.h. */
#define _GNU_SOURCE
#include "catalog/rows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "catalog/db.h"

/* What a row says already of the snapshot that was read. */
struct known {
	bool is_known;
	bool has_manifest; /* it was readable once */
	bool same_manifest;
	bool same_files; /* nor was anything else touched */
};

int cat_rows_change(sqlite3 *db, const char *sql, const char *name, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db, sql, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	return cat_db_run(db, s, e);
}

int cat_rows_accept(sqlite3 *db, const char *name, struct err *e)
{
	return cat_rows_change(db, "UPDATE snapshot SET manifest_digest = x'' WHERE name = ?1",
			       name, e);
}

/* ?1 the name, ?2 the inode, ... as the table has them, but where it says otherwise. */
static const char *const statements[ROW_STATEMENTS] = {
	[ROW_LOOK_UP] = "SELECT manifest_digest, inode, fingerprint, status, removing "
			"FROM snapshot WHERE name = ?1",
	/* ?2: the id, ?3: the manifest's digest. */
	[ROW_ADOPT] = "UPDATE snapshot SET name = ?1 WHERE name = "
		      "(SELECT name FROM snapshot WHERE id = ?2 AND missing "
		      "ORDER BY manifest_digest <> ?3, name LIMIT 1)",
	[ROW_WRITE] = "INSERT OR REPLACE INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, "
		      "?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0, 0, ?16, ?17)",
	/* ?4: the status, ?5: the problem. */
	[ROW_NEW_STATUS] = "UPDATE snapshot SET missing = 0, removing = 0, inode = ?2, "
			   "fingerprint = ?3, status = ?4, problem = ?5 WHERE name = ?1",
	[ROW_HERE_AGAIN] = "UPDATE snapshot SET missing = 0, removing = 0 WHERE name = ?1",
};

void cat_rows_finalize(struct cat_rows *rows)
{
	for (size_t i = 0; i < ROW_STATEMENTS; i++)
		sqlite3_finalize(rows->statements[i]);
}

/* The statement, with the name bound. 0 or a negative errno. */
static int get(struct cat_rows *rows, enum row_statement which, const struct reading *r,
	       sqlite3_stmt **s, struct err *e)
{
	int rc = rows->statements[which]
			 ? 0
			 : cat_db_prepare(rows->db, statements[which], &rows->statements[which], e);

	*s = rows->statements[which];
	if (rc == 0)
		sqlite3_bind_text(*s, 1, r->row.name, -1, SQLITE_STATIC);
	return rc;
}

static void read_known(sqlite3_stmt *s, const struct reading *r, struct known *k)
{
	k->is_known = true;
	k->has_manifest = sqlite3_column_bytes(s, 0) == DIGEST_SIZE;
	k->same_manifest =
		k->has_manifest && r->has_manifest &&
		memcmp(sqlite3_column_blob(s, 0), r->row.manifest_digest, DIGEST_SIZE) == 0;
	/* The name of one that is being removed is free for another. */
	if (sqlite3_column_int(s, 4))
		k->has_manifest = k->same_manifest;
	k->same_files =
		k->same_manifest && sqlite3_column_int64(s, 1) == (int64_t)r->inode &&
		sqlite3_column_int(s, 3) != CAT_REPLACED &&
		sqlite3_column_bytes(s, 2) == sizeof(r->fingerprint) &&
		memcmp(sqlite3_column_blob(s, 2), r->fingerprint, sizeof(r->fingerprint)) == 0;
}

static int look_up(struct cat_rows *rows, const struct reading *r, struct known *k, struct err *e)
{
	sqlite3_stmt *s;
	int rc = get(rows, ROW_LOOK_UP, r, &s, e);

	*k = (struct known){ 0 };
	if (rc < 0)
		return rc;
	rc = cat_db_step(rows->db, s, e);
	if (rc == 1)
		read_known(s, r, k);
	sqlite3_reset(s);
	return rc < 0 ? rc : 0;
}

/*
 * A directory without a row: a missing row with its id has only been renamed. 1: there
 * was one, 0, or a negative errno.
 */
static int adopt(struct cat_rows *rows, const struct reading *r, struct err *e)
{
	sqlite3_stmt *s;
	int rc = get(rows, ROW_ADOPT, r, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_blob(s, 2, r->row.id, UUID_SIZE, SQLITE_STATIC);
	sqlite3_bind_blob(s, 3, r->row.manifest_digest, DIGEST_SIZE, SQLITE_STATIC);
	rc = cat_db_run(rows->db, s, e);
	return rc < 0 ? rc : sqlite3_changes(rows->db) > 0;
}

static int write_whole(struct cat_rows *rows, const struct reading *r, struct err *e)
{
	const struct cat_row *row = &r->row;
	sqlite3_stmt *s;
	int rc = get(rows, ROW_WRITE, r, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(s, 2, (int64_t)r->inode);
	sqlite3_bind_blob(s, 3, r->fingerprint, sizeof(r->fingerprint), SQLITE_STATIC);
	sqlite3_bind_blob(s, 4, row->id, r->has_manifest ? UUID_SIZE : 0, SQLITE_STATIC);
	if (row->has_parent)
		sqlite3_bind_blob(s, 5, row->parent, UUID_SIZE, SQLITE_STATIC);
	else
		sqlite3_bind_null(s, 5);
	sqlite3_bind_int64(s, 6, row->created_seconds);
	sqlite3_bind_int64(s, 7, row->created_nanos);
	sqlite3_bind_text(s, 8, row->architecture, -1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 9, (int64_t)row->memory_bytes);
	sqlite3_bind_int64(s, 10, row->vcpus);
	sqlite3_bind_int64(s, 11, row->layers);
	sqlite3_bind_int64(s, 12, (int64_t)row->stored_bytes);
	sqlite3_bind_int64(s, 13, (int64_t)row->unique_bytes);
	sqlite3_bind_blob(s, 14, row->manifest_digest, r->has_manifest ? DIGEST_SIZE : 0,
			  SQLITE_STATIC);
	sqlite3_bind_int64(s, 15, row->status);
	sqlite3_bind_text(s, 16, row->problem, -1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 17, row->verified_at);
	return cat_db_run(rows->db, s, e);
}

/* Changes what changed about a row whose description stays as it was indexed. */
static int write_status(struct cat_rows *rows, const struct reading *r, enum cat_status status,
			struct err *e)
{
	sqlite3_stmt *s;
	int rc = get(rows, ROW_NEW_STATUS, r, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_int64(s, 2, (int64_t)r->inode);
	sqlite3_bind_blob(s, 3, r->fingerprint, sizeof(r->fingerprint), SQLITE_STATIC);
	sqlite3_bind_int64(s, 4, status);
	sqlite3_bind_text(s, 5, r->row.problem, -1, SQLITE_STATIC);
	return cat_db_run(rows->db, s, e);
}

static int is_here_again(struct cat_rows *rows, const struct reading *r, struct err *e)
{
	sqlite3_stmt *s;
	int rc = get(rows, ROW_HERE_AGAIN, r, &s, e);

	return rc < 0 ? rc : cat_db_run(rows->db, s, e);
}

int cat_rows_merge(struct cat_rows *rows, const struct reading *r, struct err *e)
{
	struct known k;
	int rc = look_up(rows, r, &k, e);

	if (rc == 0 && !k.is_known && r->has_manifest) {
		rc = adopt(rows, r, e);
		if (rc == 1)
			rc = look_up(rows, r, &k, e);
	}
	if (rc < 0)
		return rc;
	if (k.same_files)
		return is_here_again(rows, r, e);
	/* It once could be read: what it was then is worth more than nothing. */
	if (k.has_manifest && !r->has_manifest)
		return write_status(rows, r, CAT_DAMAGED, e);
	if (k.has_manifest && !k.same_manifest)
		return write_status(rows, r, CAT_REPLACED, e);
	return write_whole(rows, r, e);
}
