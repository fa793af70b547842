/*
 * Single rows of the index: how a reading of a directory becomes one.
 */
#pragma once

#include <sqlite3.h>

#include "catalog/internal.h"

/* What cat_rows_merge() asks of a database. */
enum row_statement {
	ROW_LOOK_UP,
	ROW_ADOPT,
	ROW_WRITE,
	ROW_NEW_STATUS,
	ROW_HERE_AGAIN,
	ROW_STATEMENTS
};

/* Readings that become rows, one after the other: {.db} to begin with. */
struct cat_rows {
	sqlite3 *db;
	sqlite3_stmt *statements[ROW_STATEMENTS]; /* owned, prepared; NULL: not yet */
};

void cat_rows_finalize(struct cat_rows *rows);
#define auto_rows __attribute__((cleanup(cat_rows_finalize)))

/*
 * Merges a reading into the rows, by the rules of index.h. Within a
 * transaction of the caller's. 0 or a negative errno.
 */
int cat_rows_merge(struct cat_rows *rows, const struct reading *r, struct err *e);

/* Forgets which manifest `name` had, so that the next reading is taken as it is. */
int cat_rows_accept(sqlite3 *db, const char *name, struct err *e);

/* One statement whose only parameter is a name. */
int cat_rows_change(sqlite3 *db, const char *sql, const char *name, struct err *e);
