/*
 * An index that somebody else has written. The input's first byte says how: the rest
 * is (0) the file catalog.db itself, (1) rows, put into an index with our tables,
 * or (2) SQL that is run on such an index, one with other tables or triggers then.
 *
 * The directories are the truth: whatever it says, the store opens, lists each
 * directory once, and nothing goes on for ever; but for one of a newer version,
 * which is refused. Without it the list is what it was before.
 *
 * A row is its name's length and name, how often it is put (its name with a number then),
 * and for the columns behind the name 18 values: a type (NULL, number, text, blob), and
 * 8 bytes of number, or a length and so many bytes.
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/merkle.h"
#include "catalog/index.h"
#include "proto/snapdir.h"

#define COLUMNS	  19
#define ROWS_MAX  2000
#define STEPS_MAX 200000 /* of SQLite's machine, for the SQL of an input */

/* A store of two snapshots, one of them damaged, made by the first input. */
static struct {
	char path[64];
	uint8_t *index; /* its catalog.db */
	size_t index_len;
	char listed[1024];
} home;

/* What a list gives: all names with their status, and how often the two are in it. */
struct listed {
	char text[1024];
	size_t rows, seen[2];
	bool endless, here;
};

static int add_row(void *arg, const struct cat_row *row)
{
	struct listed *l = arg;
	const size_t n = strlen(l->text);

	if (l->rows++ > 2 * ROWS_MAX) {
		l->endless = true;
		return -ELOOP;
	}
	MUST(cat_name_check(row->name, NULL) == 0);
	if (n + CAT_NAME_MAX + 40 < sizeof(l->text))
		snprintf(l->text + n, sizeof(l->text) - n, "%s=%s ", row->name,
			 cat_status_word(row->status));
	for (int i = 0; i < 2; i++) {
		if (strcmp(row->name, i ? "bad" : "good") != 0)
			continue;
		l->seen[i]++;
		MUST(row->status != CAT_MISSING);
	}
	return 0;
}

static void list(struct store *store, struct listed *l)
{
	*l = (struct listed){ .rows = 0 };
	MUST(cat_index_list(store, add_row, l, NULL) == 0);
	MUST(!l->endless && l->seen[0] == 1 && l->seen[1] == 1);
}

static void put(int at, const char *name, const void *buf, size_t len)
{
	unlinkat(at, name, 0);
	MUST(io_write_file(at, name, buf, len, 0600, NULL) == 0);
}

static void make_snapshot(int at)
{
	static const uint8_t ram[4096] = { 1 }, state[] = "state", id[UUID_SIZE] = { 7 };
	uint8_t digest[2][DIGEST_SIZE];
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT;
	Timestamp at_time = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT, *ranges[] = { &range };
	auto_free uint8_t *buf = NULL;
	size_t len;

	MUST(merkle_digest(ram, sizeof(ram), digest[0]) == 0);
	MUST(merkle_digest(state, sizeof(state), digest[1]) == 0);
	range.size = m.memory_size_bytes = sizeof(ram);
	m.version = MANIFEST_VERSION;
	at_time.seconds = 1785585600;
	m.created_at = &at_time;
	m.vp_count = 1;
	m.page_size = MANIFEST_PAGE_SIZE;
	m.architecture = (char *)(uintptr_t)MANIFEST_ARCHITECTURE;
	m.ram = ranges;
	m.n_ram = 1;
	m.id = (ProtobufCBinaryData){ sizeof(id), (uint8_t *)(uintptr_t)id };
	m.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, digest[0] };
	m.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, digest[1] };
	m.state_size = sizeof(state);
	MUST(proto_manifest_encode(&m, &buf, &len, NULL) == 0);
	put(at, SNAPDIR_MANIFEST, buf, len);
	put(at, SNAPDIR_STATE, state, sizeof(state));
	put(at, SNAPDIR_MEMORY, ram, sizeof(ram));
}

static void remove_home(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf '%s'", home.path);
	if (system(command) != 0)
		fprintf(stderr, "%s is left\n", home.path);
}

static struct store *open_store(int *rc)
{
	struct store *store = NULL;

	*rc = cat_store_open(&store, home.path, CAT_OPEN_CREATE, NULL);
	return store;
}

/* No index, nor what was moved aside of others. */
static void forget_index(int root)
{
	auto_dir DIR *d = opendir(home.path);
	const struct dirent *entry;

	MUST(d);
	while ((entry = readdir(d)))
		if (strncmp(entry->d_name, "catalog.db", 10) == 0)
			unlinkat(root, entry->d_name, 0);
}

static void make_home(void)
{
	auto_fd int root = -1, good = -1, bad = -1;
	struct listed l;
	struct store *store;
	int rc;

	snprintf(home.path, sizeof(home.path), "%s/snapfs-fuzz.XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	MUST(mkdtemp(home.path));
	atexit(remove_home);
	store = open_store(&rc);
	MUST(store);
	root = open(home.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(mkdirat(root, "snapshots/good", 0700) == 0);
	MUST(mkdirat(root, "snapshots/bad", 0700) == 0);
	good = openat(root, "snapshots/good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bad = openat(root, "snapshots/bad", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	make_snapshot(good);
	put(bad, SNAPDIR_MANIFEST, "no manifest", 11);
	list(store, &l);
	memcpy(home.listed, l.text, sizeof(l.text));
	cat_store_close(store);
	MUST(io_read_file(root, "catalog.db", 1U << 20, &home.index, &home.index_len, NULL) == 0);
}

/* ---- what the input says ---- */

struct input {
	const uint8_t *p;
	size_t left;
};

static uint8_t next(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->p++;
}

static const uint8_t *take(struct input *in, size_t *len)
{
	const uint8_t *p;

	*len = next(in);
	p = in->p;
	if (*len > in->left)
		*len = in->left;
	in->p += *len;
	in->left -= *len;
	return p;
}

static void bind(sqlite3_stmt *s, int column, struct input *in)
{
	const uint8_t type = next(in) % 4;
	const uint8_t *bytes;
	uint64_t number = 0;
	size_t len;

	switch (type) {
	case 0:
		sqlite3_bind_null(s, column);
		break;
	case 1:
		for (int i = 0; i < 8; i++)
			number |= (uint64_t)next(in) << (8 * i);
		sqlite3_bind_int64(s, column, (int64_t)number);
		break;
	default:
		bytes = take(in, &len);
		if (type == 2)
			sqlite3_bind_text(s, column, (const char *)bytes, (int)len,
					  SQLITE_TRANSIENT);
		else
			sqlite3_bind_blob(s, column, bytes, (int)len, SQLITE_TRANSIENT);
	}
}

static void put_rows(sqlite3 *db, struct input *in)
{
	sqlite3_stmt *s = NULL;
	int rows = 0;

	MUST(sqlite3_prepare_v2(
		     db,
		     "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, "
		     "?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		     -1, &s, NULL) == SQLITE_OK);
	MUST(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) == SQLITE_OK);
	while (in->left) {
		size_t len;
		const char *name = (const char *)take(in, &len);
		const unsigned times = next(in);

		for (int i = 2; i <= COLUMNS; i++)
			bind(s, i, in);
		for (unsigned i = 0; i <= times && rows < ROWS_MAX; i++, rows++) {
			char text[300];
			int n = snprintf(text, sizeof(text), "%.*s", (int)len, name);

			if (i)
				n += snprintf(text + n, sizeof(text) - (size_t)n, "%u", i);
			sqlite3_bind_text(s, 1, i ? text : name, i ? n : (int)len,
					  SQLITE_TRANSIENT);
			sqlite3_step(s);
			sqlite3_reset(s);
		}
	}
	sqlite3_finalize(s);
	sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
}

static int forbid(void *arg, int action, const char *a, const char *b, const char *c, const char *d)
{
	(void)arg, (void)a, (void)b, (void)c, (void)d;
	return action == SQLITE_ATTACH ? SQLITE_DENY : SQLITE_OK;
}

static int stop(void *arg)
{
	(void)arg;
	return 1;
}

static void run_sql(sqlite3 *db, const struct input *in)
{
	auto_free char *sql = strndup((const char *)in->p, in->left);

	MUST(sql);
	/* No other files, and an end. */
	sqlite3_set_authorizer(db, forbid, NULL);
	sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 1 << 20);
	sqlite3_progress_handler(db, STEPS_MAX, stop, NULL);
	sqlite3_exec(db, sql, NULL, NULL, NULL);
	if (!sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

static void write_index(int root, struct input *in)
{
	const uint8_t how = next(in) % 3;
	char path[96];
	sqlite3 *db = NULL;

	if (how == 0) {
		put(root, "catalog.db", in->p, in->left);
		return;
	}
	put(root, "catalog.db", home.index, home.index_len);
	snprintf(path, sizeof(path), "%s/catalog.db", home.path);
	MUST(sqlite3_open(path, &db) == SQLITE_OK);
	if (how == 1)
		put_rows(db, in);
	else
		run_sql(db, in);
	sqlite3_close(db);
}

/* What is asked of an index, each of which must end, and well. */
static void ask(struct store *store)
{
	static const uint8_t id[UUID_SIZE] = { 7 }, none[UUID_SIZE] = { 8 }, digest[DIGEST_SIZE];
	char name[CAT_NAME_MAX + 1];
	struct cat_row row;
	struct listed l;
	int rc;

	MUST(cat_index_find(store, "good", &row, NULL) == 0 && strcmp(row.name, "good") == 0);
	MUST(cat_index_find(store, "bad", &row, NULL) == 0 && row.status != CAT_MISSING);
	rc = cat_index_name_of(store, id, name, NULL);
	MUST(rc == 0 || rc == -ENOENT);
	rc = cat_index_name_of(store, none, name, NULL);
	MUST(rc == 0 || rc == -ENOENT);
	rc = cat_index_latest(store, name, NULL);
	MUST(rc == -ENOENT || (rc == 0 && cat_name_check(name, NULL) == 0));
	MUST(cat_index_set_status(store, "good", digest, CAT_DAMAGED, "it", NULL) == 0);
	list(store, &l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct listed l;
	struct store *store;
	auto_fd int root = -1;
	int rc;

	if (!*home.path)
		make_home();
	root = open(home.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(root >= 0);
	write_index(root, &in);
	store = open_store(&rc);
	MUST(rc == 0 || rc == -ENOTSUP);
	if (store) {
		ask(store);
		cat_store_close(store);
	}
	forget_index(root);
	store = open_store(&rc);
	MUST(store);
	list(store, &l);
	MUST(strcmp(l.text, home.listed) == 0);
	cat_store_close(store);
	forget_index(root);
	return 0;
}
