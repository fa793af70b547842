/*
 * SQLite as this project uses it: opened with all its checks on, its results
 * as negative errno with words. Knows neither tables nor snapshots.
 *
 * -EUCLEAN means: this file is damaged or not ours; move it aside and make it
 * again. It never leaves catalog.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct db_kind {
	const char *what; /* "the index", for messages */
	uint32_t application_id;
	int version; /* user_version */
	/*
	 * Makes an empty database one of this kind. Its statements, each with its ';' and
	 * nothing between them, are compared with what a database says it was made by.
	 */
	const char *schema;
	const char *synchronous; /* "FULL", or "NORMAL" where the last commits may be lost */
};

static inline void cleanup_stmt(sqlite3_stmt **s)
{
	sqlite3_finalize(*s);
}

#define auto_stmt __attribute__((cleanup(cleanup_stmt)))

/*
 * Opens (and, where it is empty, fills) the database file `path`, made 0600;
 * ":memory:" is in memory. Checked whole by quick_check if it is small enough
 * not to be noticed. 0, -EUCLEAN, -ENOTSUP (of a newer version: words), or
 * another negative errno.
 */
int cat_db_open(sqlite3 **db, const char *path, const struct db_kind *kind, struct err *e);

/* Closes a database whose file was moved away, touching no file by its name. */
void cat_db_abandon(sqlite3 *db);

/* The negative errno for a result of db, and words. */
int cat_db_error(sqlite3 *db, int result, struct err *e);

/* Prepares one statement (constant text: a failure means a damaged schema). */
int cat_db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **s, struct err *e);

/* Runs statements without results. */
int cat_db_exec(sqlite3 *db, const char *sql, struct err *e);

/* Runs a prepared statement that has no rows, and resets it. 0 or a negative errno. */
int cat_db_run(sqlite3 *db, sqlite3_stmt *s, struct err *e);

/* One step: 1 with a row, 0 at the end, or a negative errno. */
int cat_db_step(sqlite3 *db, sqlite3_stmt *s, struct err *e);

/* The first column of the first row of a statement as a number. 0 or a negative errno. */
int cat_db_number(sqlite3 *db, const char *sql, int64_t *value, struct err *e);

/* Ends a transaction: commits where rc is 0, else rolls back. Returns what came of it. */
int cat_db_end(sqlite3 *db, int rc, struct err *e);

/* quick_check or integrity_check with foreign keys. 0 or -EUCLEAN. */
int cat_db_check(sqlite3 *db, bool whole, struct err *e);
