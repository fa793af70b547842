/*
 * Single rows of the index: how a reading of a directory becomes one.
 */
#pragma once

#include <sqlite3.h>

#include "catalog/internal.h"

/*
 * Merges a reading into the rows, by the rules of index.h. Within a
 * transaction of the caller's. 0 or a negative errno.
 */
int cat_rows_merge(sqlite3 *db, const struct reading *r, struct err *e);

/* Forgets which manifest `name` had, so that the next reading is taken as it is. */
int cat_rows_accept(sqlite3 *db, const char *name, struct err *e);

/* One statement whose only parameter is a name. */
int cat_rows_change(sqlite3 *db, const char *sql, const char *name, struct err *e);
