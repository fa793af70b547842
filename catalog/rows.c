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

static int look_up(sqlite3 *db, const struct reading *r, struct known *k, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db,
				"SELECT manifest_digest, inode, fingerprint, status, removing "
				"FROM snapshot WHERE name = ?1",
				&s, e);

	*k = (struct known){ 0 };
	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, r->row.name, -1, SQLITE_STATIC);
	rc = cat_db_step(db, s, e);
	if (rc <= 0)
		return rc;
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
	return 0;
}

/* A directory without a row: a missing row with its id has only been renamed. */
static int adopt(sqlite3 *db, const struct reading *r, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db,
				"UPDATE snapshot SET name = ?1 WHERE name = "
				"(SELECT name FROM snapshot WHERE id = ?2 AND missing "
				"ORDER BY manifest_digest <> ?3, name LIMIT 1)",
				&s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, r->row.name, -1, SQLITE_STATIC);
	sqlite3_bind_blob(s, 2, r->row.id, UUID_SIZE, SQLITE_STATIC);
	sqlite3_bind_blob(s, 3, r->row.manifest_digest, DIGEST_SIZE, SQLITE_STATIC);
	return cat_db_run(db, s, e);
}

static int write_whole(sqlite3 *db, const struct reading *r, struct err *e)
{
	const struct cat_row *row = &r->row;
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db,
				"INSERT OR REPLACE INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, "
				"?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0, 0, ?16, ?17)",
				&s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, row->name, -1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 2, (int64_t)r->inode);
	sqlite3_bind_blob(s, 3, r->fingerprint, sizeof(r->fingerprint), SQLITE_STATIC);
	sqlite3_bind_blob(s, 4, row->id, r->has_manifest ? UUID_SIZE : 0, SQLITE_STATIC);
	if (row->has_parent)
		sqlite3_bind_blob(s, 5, row->parent, UUID_SIZE, SQLITE_STATIC);
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
	return cat_db_run(db, s, e);
}

/* Changes what changed about a row whose description stays as it was indexed. */
static int write_status(sqlite3 *db, const struct reading *r, const char *sql,
			enum cat_status status, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db, sql, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, r->row.name, -1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 2, (int64_t)r->inode);
	sqlite3_bind_blob(s, 3, r->fingerprint, sizeof(r->fingerprint), SQLITE_STATIC);
	sqlite3_bind_int64(s, 4, status);
	sqlite3_bind_text(s, 5, r->row.problem, -1, SQLITE_STATIC);
	return cat_db_run(db, s, e);
}

int cat_rows_merge(sqlite3 *db, const struct reading *r, struct err *e)
{
	static const char here_again[] = "UPDATE snapshot SET missing = 0, removing = 0 "
					 "WHERE name = ?1";
	static const char new_status[] =
		"UPDATE snapshot SET missing = 0, removing = 0, inode = ?2, fingerprint = ?3, "
		"status = ?4, problem = ?5 WHERE name = ?1";
	struct known k;
	int rc = look_up(db, r, &k, e);

	if (rc == 0 && !k.is_known && r->has_manifest) {
		rc = adopt(db, r, e);
		if (rc == 0)
			rc = look_up(db, r, &k, e);
	}
	if (rc < 0)
		return rc;
	if (k.same_files)
		return cat_rows_change(db, here_again, r->row.name, e);
	/* It once could be read: what it was then is worth more than nothing. */
	if (k.has_manifest && !r->has_manifest)
		return write_status(db, r, new_status, CAT_DAMAGED, e);
	if (k.has_manifest && !k.same_manifest)
		return write_status(db, r, new_status, CAT_REPLACED, e);
	return write_whole(db, r, e);
}
