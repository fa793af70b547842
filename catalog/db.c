/* SQLite as this project uses it: see db.h. */
#define _GNU_SOURCE
#include "catalog/db.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_MS 30000

/* Of pages, at most: all of an index of 100,000 snapshots, which is walked by name and by time. */
#define CACHE_KIB 40960

/* quick_check reads every page: beyond this size damage is met when it is used. */
#define QUICK_CHECK_MAX (16 << 20)

static int errno_of(sqlite3 *db, int result)
{
	int sys = sqlite3_system_errno(db);

	/* So are reported shared memory that cannot grow, and a quota. */
	if ((result & 0xff) == SQLITE_IOERR && (sys == ENOSPC || sys == EDQUOT))
		return ENOSPC;
	switch (result & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_MISMATCH:
		return EUCLEAN;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return EBUSY;
	case SQLITE_FULL:
		return ENOSPC;
	case SQLITE_NOMEM:
		return ENOMEM;
	case SQLITE_READONLY:
		return EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return EACCES;
	default:
		return EIO;
	}
}

int cat_db_error(sqlite3 *db, int result, struct err *e)
{
	int errnum = errno_of(db, result);

	if (errnum == EBUSY)
		return err_env(e, EBUSY, "the index of the store is locked by another program");
	return err_env(e, errnum, "the index of the store failed: %s", sqlite3_errmsg(db));
}

int cat_db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **s, struct err *e)
{
	int result = sqlite3_prepare_v2(db, sql, -1, s, NULL);

	if (result == SQLITE_OK)
		return 0;
	cat_db_error(db, result, e);
	return result == SQLITE_ERROR ? -EUCLEAN : -errno_of(db, result);
}

int cat_db_step(sqlite3 *db, sqlite3_stmt *s, struct err *e)
{
	int result = sqlite3_step(s);

	if (result == SQLITE_ROW)
		return 1;
	return result == SQLITE_DONE ? 0 : cat_db_error(db, result, e);
}

int cat_db_run(sqlite3 *db, sqlite3_stmt *s, struct err *e)
{
	int rc = cat_db_step(db, s, e);

	sqlite3_reset(s);
	return rc < 0 ? rc : 0;
}

int cat_db_exec(sqlite3 *db, const char *sql, struct err *e)
{
	int result = sqlite3_exec(db, sql, NULL, NULL, NULL);

	return result == SQLITE_OK ? 0 : cat_db_error(db, result, e);
}

int cat_db_number(sqlite3 *db, const char *sql, int64_t *value, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	int rc = cat_db_prepare(db, sql, &s, e);

	if (rc == 0)
		rc = cat_db_step(db, s, e);
	if (rc == 1)
		*value = sqlite3_column_int64(s, 0);
	return rc == 1 ? 0 : rc < 0 ? rc : -EUCLEAN;
}

int cat_db_end(sqlite3 *db, int rc, struct err *e)
{
	if (rc == 0)
		rc = cat_db_exec(db, "COMMIT", e);
	if (rc < 0 && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int cat_db_check(sqlite3 *db, bool whole, struct err *e)
{
	const char *sql = whole ? "PRAGMA integrity_check(1)" : "PRAGMA quick_check(1)";
	auto_stmt sqlite3_stmt *s = NULL;
	const char *said;
	int rc = cat_db_prepare(db, sql, &s, e);

	if (rc == 0)
		rc = cat_db_step(db, s, e);
	if (rc < 0)
		return rc;
	said = rc == 1 ? (const char *)sqlite3_column_text(s, 0) : "no result";
	if (!said || strcmp(said, "ok") != 0)
		return err_env(e, EUCLEAN, "the index of the store is damaged: %s",
			       said ? said : "no result");
	return 0;
}

/* SQLite would make it as the umask says; its WAL follows the mode of this. */
static int make_private(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return errno == EEXIST ? 0 : -errno;
	/* Nobody can have it open yet, so this close drops no lock of SQLite's. */
	close(fd);
	return 0;
}

static int set_up(sqlite3 *db, const struct db_kind *kind, struct err *e)
{
	char sql[192];

	sqlite3_busy_timeout(db, BUSY_MS);
	sqlite3_extended_result_codes(db, 1);
	sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	snprintf(sql, sizeof(sql),
		 "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA foreign_keys=ON;"
		 "PRAGMA cache_size=-%d; PRAGMA synchronous=%s",
		 CACHE_KIB, kind->synchronous);
	return cat_db_exec(db, sql, e);
}

/* Makes the tables, unless another program was first. */
static int fill(sqlite3 *db, const struct db_kind *kind, struct err *e)
{
	char sql[96];
	int64_t tables = 0;
	int rc = cat_db_exec(db, "BEGIN IMMEDIATE", e);

	if (rc < 0)
		return rc;
	rc = cat_db_number(db, "SELECT count(*) FROM sqlite_schema", &tables, e);
	snprintf(sql, sizeof(sql), "PRAGMA application_id=%u; PRAGMA user_version=%d",
		 kind->application_id, kind->version);
	if (rc == 0 && tables == 0) {
		rc = cat_db_exec(db, kind->schema, e);
		if (rc == 0)
			rc = cat_db_exec(db, sql, e);
	}
	return cat_db_end(db, rc, e);
}

/* Whose it is, and of which version; an empty one becomes ours. */
static int identify(sqlite3 *db, const char *path, const struct db_kind *kind, struct err *e)
{
	int64_t application = 0, version = 0, tables = 0;
	int rc = cat_db_number(db, "SELECT count(*) FROM sqlite_schema", &tables, e);

	if (rc == 0 && tables == 0)
		rc = fill(db, kind, e);
	if (rc == 0)
		rc = cat_db_number(db, "PRAGMA application_id", &application, e);
	if (rc == 0)
		rc = cat_db_number(db, "PRAGMA user_version", &version, e);
	if (rc < 0)
		return rc;
	if ((uint32_t)application != kind->application_id)
		return err_env(e, EUCLEAN, "%s is not %s of a store", path, kind->what);
	if (version > kind->version)
		return err_refuse(
			e, ENOTSUP,
			"%s (%s) is of version %lld, this program knows %d: use the newer "
			"program, or move that file away and run `snapctl reindex`",
			path, kind->what, (long long)version, kind->version);
	return version == kind->version ? 0 : -EUCLEAN;
}

/*
 * Our tables and nothing else, to the letter: what others have put there (a view, a
 * trigger) would run within our statements, and need not end. -EUCLEAN: it is not.
 */
static int check_schema(sqlite3 *db, const struct db_kind *kind, struct err *e)
{
	auto_stmt sqlite3_stmt *s = NULL;
	const char *left = kind->schema;
	int rc = cat_db_prepare(
		db, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid", &s, e);

	while (rc == 0 && (rc = cat_db_step(db, s, e)) == 1) {
		const char *sql = (const char *)sqlite3_column_text(s, 0);
		const size_t n = sql ? strlen(sql) : 0;

		rc = 0;
		if (n == 0 || strncmp(left, sql, n) != 0 || left[n] != ';')
			return err_env(e, EUCLEAN, "%s has other tables than ours", kind->what);
		left += n + 1;
	}
	if (rc == 0 && *left)
		rc = err_env(e, EUCLEAN, "%s lacks a table", kind->what);
	return rc;
}

static int open_checked(sqlite3 *db, const char *path, const struct db_kind *kind, struct err *e)
{
	struct stat st;
	int rc = set_up(db, kind, e);

	if (rc == 0)
		rc = identify(db, path, kind, e);
	if (rc == 0)
		rc = check_schema(db, kind, e);
	if (rc == 0)
		rc = cat_db_exec(db, "PRAGMA journal_mode=WAL", e);
	if (rc == 0 && stat(path, &st) == 0 && st.st_size <= QUICK_CHECK_MAX)
		rc = cat_db_check(db, false, e);
	return rc;
}

int cat_db_open(sqlite3 **db, const char *path, const struct db_kind *kind, struct err *e)
{
	bool memory = strcmp(path, ":memory:") == 0;
	sqlite3 *d = NULL;
	int rc = memory ? 0 : make_private(path);

	if (rc < 0)
		return err_sys(e, -rc, "cannot make %s", path);
	rc = sqlite3_open_v2(path, &d,
			     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
				     SQLITE_OPEN_NOFOLLOW,
			     NULL);
	if (rc != SQLITE_OK)
		rc = d ? err_env(e, errno_of(d, rc), "cannot open %s: %s", path, sqlite3_errmsg(d))
		       : err_sys(e, ENOMEM, "cannot open %s", path);
	else
		rc = open_checked(d, path, kind, e);
	if (rc < 0) {
		if (rc == -EUCLEAN)
			cat_db_abandon(d);
		else
			sqlite3_close(d);
		return rc;
	}
	*db = d;
	return 0;
}

void cat_db_abandon(sqlite3 *db)
{
	if (!db)
		return;
	/* Else the last to close writes the WAL back and removes it: by its name. */
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_close(db);
}
