/* What others ask of the index: see index.h. */
#define _GNU_SOURCE
#include "catalog/index.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/db.h"
#include "catalog/internal.h"
#include "catalog/rows.h"

/* Rows handed out at a time: callbacks run without any lock of the store's. */
#define PAGE 1024

#define COLUMNS                                                                                    \
	"s.name, s.id, s.parent, s.created_seconds, s.created_nanos, s.architecture, "             \
	"s.memory_bytes, s.vcpus, s.layers, s.stored_bytes, s.unique_bytes, "                      \
	"s.manifest_digest, s.status, s.missing, s.problem, s.verified_at, "                       \
	"(SELECT p.name FROM snapshot p WHERE p.id = s.parent AND NOT p.missing "                  \
	"ORDER BY p.created_seconds, p.created_nanos, p.name LIMIT 1) "

static void copy_text(sqlite3_stmt *s, int column, char *out, size_t room)
{
	const char *text = (const char *)sqlite3_column_text(s, column);

	snprintf(out, room, "%s", text ? text : "");
}

static bool copy_blob(sqlite3_stmt *s, int column, uint8_t *out, size_t size)
{
	if (sqlite3_column_bytes(s, column) != (int)size)
		return false;
	memcpy(out, sqlite3_column_blob(s, column), size);
	return true;
}

/*
 * What no row of ours has: a name or number that would be cut when it is read, so
 * that a walk from row to row never got past it.
 */
static bool is_sound(sqlite3_stmt *s)
{
	const char *name = (const char *)sqlite3_column_text(s, 0);
	const int id = sqlite3_column_bytes(s, 1);
	const int64_t nanos = sqlite3_column_int64(s, 4);

	return name && strlen(name) == (size_t)sqlite3_column_bytes(s, 0) &&
	       cat_name_check(name, NULL) == 0 && (id == 0 || id == UUID_SIZE) && nanos >= 0 &&
	       nanos <= 999999999;
}

/* 0, or -EUCLEAN with words: the index is made again. */
static int fill(sqlite3_stmt *s, struct cat_row *row, struct err *e)
{
	if (!is_sound(s))
		return err_env(e, EUCLEAN, "the index of the store has a row that is none of ours");
	memset(row, 0, sizeof(*row));
	copy_text(s, 0, row->name, sizeof(row->name));
	copy_blob(s, 1, row->id, UUID_SIZE);
	row->has_parent = copy_blob(s, 2, row->parent, UUID_SIZE);
	row->created_seconds = sqlite3_column_int64(s, 3);
	row->created_nanos = sqlite3_column_int(s, 4);
	copy_text(s, 5, row->architecture, sizeof(row->architecture));
	row->memory_bytes = (uint64_t)sqlite3_column_int64(s, 6);
	row->vcpus = (uint32_t)sqlite3_column_int64(s, 7);
	row->layers = (uint32_t)sqlite3_column_int64(s, 8);
	row->stored_bytes = (uint64_t)sqlite3_column_int64(s, 9);
	row->unique_bytes = (uint64_t)sqlite3_column_int64(s, 10);
	copy_blob(s, 11, row->manifest_digest, DIGEST_SIZE);
	row->status = (enum cat_status)sqlite3_column_int(s, 12);
	if (sqlite3_column_int(s, 13))
		row->status = CAT_MISSING;
	copy_text(s, 14, row->problem, sizeof(row->problem));
	row->verified_at = sqlite3_column_int64(s, 15);
	copy_text(s, 16, row->parent_name, sizeof(row->parent_name));
	return 0;
}

/* --- list --- */

struct page {
	struct cat_row *rows; /* PAGE of them */
	size_t n;
	bool first;
};

/* The rows that follow the last one of the page before. */
static int next_page(struct store *store, void *arg, struct err *e)
{
	static const uint8_t no_id[UUID_SIZE];
	auto_stmt sqlite3_stmt *s = NULL;
	struct page *p = arg;
	/* Before the first: less than any row can be. A seek, so pages do not add up. */
	struct cat_row last = { .created_seconds = INT64_MIN, .created_nanos = -1 };
	int rc = p->first	    ? cat_index_sync(store, CAT_SYNC_FILES, e)
		 : store->in_memory ? cat_index_sync(store, CAT_SYNC_QUICK, e)
				    : 0;

	if (rc == 0)
		rc = cat_db_prepare(store->db,
				    "SELECT " COLUMNS "FROM snapshot s WHERE (s.created_seconds, "
				    "s.created_nanos, s.id, s.name) > (?1, ?2, ?3, ?4) ORDER BY "
				    "s.created_seconds, s.created_nanos, s.id, s.name LIMIT ?5",
				    &s, e);
	if (rc < 0)
		return rc;
	if (!p->first)
		last = p->rows[p->n - 1];
	sqlite3_bind_int64(s, 1, last.created_seconds);
	sqlite3_bind_int64(s, 2, last.created_nanos);
	sqlite3_bind_blob(s, 3, last.id, memcmp(last.id, no_id, UUID_SIZE) ? UUID_SIZE : 0,
			  SQLITE_STATIC);
	sqlite3_bind_text(s, 4, last.name, -1, SQLITE_STATIC);
	sqlite3_bind_int(s, 5, PAGE);
	p->n = 0;
	while (p->n < PAGE && (rc = cat_db_step(store->db, s, e)) == 1) {
		rc = fill(s, &p->rows[p->n], e);
		if (rc < 0)
			break;
		p->n++;
	}
	/* It may be asked once more, of an index made anew: from where this page began. */
	if (rc < 0 && !p->first) {
		p->rows[0] = last;
		p->n = 1;
	}
	return rc < 0 ? rc : 0;
}

int cat_index_list(struct store *store, cat_row_fn fn, void *arg, struct err *e)
{
	struct page p = { .first = true };
	auto_free struct cat_row *rows = calloc(PAGE, sizeof(*rows));
	int rc = rows ? 0 : err_sys(e, ENOMEM, "cannot list the store %s", store->path);

	p.rows = rows;
	while (rc == 0) {
		rc = cat_index_run(store, next_page, &p, e);
		p.first = false;
		for (size_t i = 0; rc == 0 && i < p.n; i++)
			rc = fn(arg, &rows[i]);
		if (p.n < PAGE)
			break;
	}
	return rc;
}

/* --- find --- */

struct find {
	const char *name;
	uint8_t id[UUID_SIZE];
	bool by_id;
	struct cat_row *row;
};

static int select_one(struct store *store, const char *where, const struct find *f, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	auto_free char *sql = NULL;
	int rc;

	if (asprintf(&sql, "SELECT " COLUMNS "FROM snapshot s WHERE %s", where) < 0)
		return err_sys(e, ENOMEM, "cannot look up %s", f->name);
	rc = cat_db_prepare(store->db, sql, &s, e);
	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, f->name, -1, SQLITE_STATIC);
	sqlite3_bind_blob(s, 2, f->id, UUID_SIZE, SQLITE_STATIC);
	rc = cat_db_step(store->db, s, e);
	if (rc == 1 && fill(s, f->row, e) < 0)
		rc = -EUCLEAN;
	return rc;
}

#define BY_ID "s.id = ?2 ORDER BY s.missing, s.created_seconds, s.created_nanos, s.name LIMIT 1"

static int find_one(struct store *store, void *arg, struct err *e)
{
	struct find *f = arg;
	int rc = cat_index_sync(store, CAT_SYNC_QUICK, e);

	if (rc == 0)
		rc = select_one(store, "s.name = ?1", f, e);
	if (rc == 0 && f->by_id)
		rc = select_one(store, BY_ID, f, e);
	if (rc == 0)
		return err_refuse(e, ENOENT, "there is no snapshot %s in %s", f->name, store->path);
	/* Its own files, too, before anything is said of it. */
	if (rc == 1)
		rc = cat_index_sync_one(store, f->row->name, e);
	if (rc == 0) {
		struct find again = { .name = f->row->name, .row = f->row };
		char name[CAT_NAME_MAX + 1];

		memcpy(name, f->row->name, sizeof(name));
		again.name = name;
		rc = select_one(store, "s.name = ?1", &again, e);
	}
	if (rc == 0)
		return err_refuse(e, ENOENT, "there is no snapshot %s in %s", f->name, store->path);
	return rc < 0 ? rc : 0;
}

int cat_index_find(struct store *store, const char *name, struct cat_row *row, struct err *e)
{
	struct find f = { .name = name, .row = row };
	uint8_t id[UUID_SIZE] = { 0 };

	f.by_id = uuid_parse(name, id) == 0;
	memcpy(f.id, id, UUID_SIZE);
	if (!f.by_id) {
		int rc = cat_name_check(name, e);

		if (rc < 0)
			return rc;
	}
	return cat_index_run(store, find_one, &f, e);
}

/* --- names --- */

struct named {
	const char *where;
	const uint8_t *id;
	char *name;
};

static int select_name(struct store *store, void *arg, struct err *e)
{
	struct named *n = arg;
	struct cat_row row;
	struct find f = { .name = "", .row = &row };
	int rc = cat_index_sync(store, CAT_SYNC_QUICK, e);

	if (n->id)
		memcpy(f.id, n->id, UUID_SIZE);
	if (rc == 0)
		rc = select_one(store, n->where, &f, e);
	if (rc == 0)
		return -ENOENT;
	if (rc < 0)
		return rc;
	memcpy(n->name, row.name, sizeof(row.name));
	return 0;
}

static int settled_name(struct store *store, void *arg, struct err *e)
{
	struct named *n = arg;
	int rc;

	/* A changed file makes the candidate another one: look at each only once. */
	for (int tries = 0; tries < 3; tries++) {
		char before[CAT_NAME_MAX + 1];

		rc = select_name(store, n, e);
		if (rc < 0)
			return rc;
		memcpy(before, n->name, sizeof(before));
		rc = cat_index_sync_one(store, before, e);
		if (rc == 0)
			rc = select_name(store, n, e);
		if (rc < 0 || strcmp(before, n->name) == 0)
			return rc;
	}
	return 0;
}

int cat_index_name_of(struct store *store, const uint8_t id[UUID_SIZE], char name[CAT_NAME_MAX + 1],
		      struct err *e)
{
	struct named n = {
		.where = "s.id = ?2 AND NOT s.missing ORDER BY s.created_seconds, "
			 "s.created_nanos, s.name LIMIT 1",
		.id = id,
		.name = name,
	};

	return cat_index_run(store, settled_name, &n, e);
}

int cat_index_latest(struct store *store, char name[CAT_NAME_MAX + 1], struct err *e)
{
	/*
	 * 0 and 1 are CAT_UNVERIFIED and CAT_VALID. The index of times, walked backwards: any
	 * other order of the names would have all rows sorted for each look.
	 */
	struct named n = {
		.where = "s.status IN (0, 1) AND NOT s.missing ORDER BY s.created_seconds DESC, "
			 "s.created_nanos DESC, s.id DESC, s.name DESC LIMIT 1",
		.name = name,
	};

	return cat_index_run(store, settled_name, &n, e);
}

/* --- outcomes --- */

struct outcome {
	const char *name, *problem;
	const uint8_t *manifest_digest;
	enum cat_status status;
};

static int set_status(struct store *store, void *arg, struct err *e)
{
	static const char sql[] =
		"UPDATE snapshot SET status = ?3, problem = ?4, "
		"verified_at = CASE WHEN ?3 = 0 THEN verified_at ELSE unixepoch() END "
		"WHERE name = ?1 AND manifest_digest = ?2 AND status <> ?5";
	const struct outcome *o = arg;
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(store->db, sql, &s, e);

	if (rc < 0)
		return rc;
	sqlite3_bind_text(s, 1, o->name, -1, SQLITE_STATIC);
	sqlite3_bind_blob(s, 2, o->manifest_digest, DIGEST_SIZE, SQLITE_STATIC);
	sqlite3_bind_int64(s, 3, o->status);
	sqlite3_bind_text(s, 4, o->problem ? o->problem : "", -1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 5, CAT_REPLACED);
	return cat_db_run(store->db, s, e);
}

int cat_index_set_status(struct store *store, const char *name,
			 const uint8_t manifest_digest[DIGEST_SIZE], enum cat_status status,
			 const char *problem, struct err *e)
{
	struct outcome o = { name, problem, manifest_digest, status };

	return cat_index_run(store, set_status, &o, e);
}
