/* A look over the whole store: see check.h. */
#define _GNU_SOURCE
#include "catalog/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/merkle.h"
#include "catalog/db.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"
#include "proto/snapdir.h"

struct check {
	struct store *store;
	cat_finding_fn fn;
	void *arg;
	uint8_t (*ids)[UUID_SIZE]; /* of all present snapshots, owned */
	size_t n_ids, room;
};

static int find(struct check *c, const char *about, const char *mend, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int find(struct check *c, const char *about, const char *mend, const char *fmt, ...)
{
	struct finding f = { .about = about, .mend = mend };
	char problem[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(problem, sizeof(problem), fmt, ap);
	va_end(ap);
	f.problem = problem;
	return c->fn(c->arg, &f);
}

static const char *command(char *out, size_t room, const char *fmt, const char *path,
			   const char *name)
{
	snprintf(out, room, fmt, path, name);
	return out;
}

/* --- rows --- */

static int keep_id(struct check *c, const struct cat_row *row)
{
	static const uint8_t none[UUID_SIZE];

	if (memcmp(row->id, none, UUID_SIZE) == 0)
		return 0;
	if (c->n_ids == c->room) {
		size_t room = c->room ? 2 * c->room : 64;
		void *v = reallocarray(c->ids, room, UUID_SIZE);

		if (!v)
			return -ENOMEM;
		c->ids = v;
		c->room = room;
	}
	memcpy(c->ids[c->n_ids++], row->id, UUID_SIZE);
	return 0;
}

/* `file` in the directory of a snapshot, "" for that itself. */
static int check_mode(struct check *c, const struct cat_row *row, const char *file)
{
	char path[CAT_NAME_MAX + SNAPDIR_PATH_MAX + 2], mend[CAT_NAME_MAX + 8192];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", row->name, file);
	if (fstatat(c->store->snapshots, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (S_ISREG(st.st_mode) && (st.st_mode & 0222))
		return find(c, row->name,
			    command(mend, sizeof(mend), "chmod 0400 %s/snapshots/%s",
				    c->store->path, path),
			    "%s can be written", file);
	if (st.st_mode & 0007)
		return find(c, row->name,
			    command(mend, sizeof(mend), "chmod o= %s/snapshots/%s", c->store->path,
				    path),
			    "%s is open to everybody, and RAM holds secrets",
			    *file ? file : "its directory");
	return 0;
}

static bool has_file(const SnapshotManifest *m, const char *path)
{
	const bool layered = m->n_layer > 0;
	const size_t n = proto_snapdir_files(m, layered);
	char map[SNAPDIR_PATH_MAX];

	for (size_t i = 0; i < n; i++) {
		struct snapdir_file f;

		proto_snapdir_file(m, layered, i, &f);
		if (strcmp(f.path, path) == 0 || strcmp(f.tree, path) == 0)
			return true;
	}
	for (size_t i = 1; i < m->n_layer; i++) {
		snprintf(map, sizeof(map), SNAPDIR_LAYERS "/%zu.map", i);
		if (strcmp(map, path) == 0)
			return true;
	}
	return false;
}

/* What lies in disks/ or layers/ and is no file of the manifest's. What is missing is damage. */
static int check_folder(struct check *c, const struct cat_row *row, const struct snapdir *d,
			const char *folder)
{
	int fd = openat(d->dirfd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	auto_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	char path[sizeof(SNAPDIR_LAYERS) + 256];
	struct dirent *entry;
	struct stat st;
	int rc = 0;

	if (fd < 0 && fstatat(d->dirfd, folder, &st, AT_SYMLINK_NOFOLLOW) == 0)
		rc = find(c, row->name, "", "%s is not a directory of its own", folder);
	while (dir && rc == 0 && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (!has_file(d->manifest, path))
			rc = find(c, row->name, "", "%s is in it and not in its manifest", path);
	}
	return rc;
}

/* The modes of the maps, which are no files of their own to proto_snapdir_file(). */
static int check_maps(struct check *c, const struct cat_row *row, const struct snapdir *d)
{
	char path[SNAPDIR_PATH_MAX];
	int rc = 0;

	for (size_t i = 1; rc == 0 && d->layered && i < d->manifest->n_layer; i++) {
		snprintf(path, sizeof(path), SNAPDIR_LAYERS "/%zu.map", i);
		rc = check_mode(c, row, path);
	}
	return rc;
}

/* The file's tree, by its looks: what is wrong in it `verify` finds. */
static int check_tree(struct check *c, const struct cat_row *row, const struct snapdir *d,
		      const struct snapdir_file *f)
{
	struct merkle_reader *tree;
	char mend[CAT_NAME_MAX + 32];
	struct merkle m;

	merkle_layout(&m, f->size);
	if (!m.tree_size)
		return 0;
	tree = proto_snapdir_open_tree(d, f);
	if (tree) {
		merkle_close(tree);
		return 0;
	}
	return find(c, row->name, command(mend, sizeof(mend), "snapctl verify %s%s", row->name, ""),
		    "%s is missing or of no use: where %s is not verified, it cannot be read block "
		    "by block",
		    f->tree, f->path);
}

static int check_files(struct check *c, const struct cat_row *row)
{
	static const char *const files[] = { "", SNAPDIR_MANIFEST, SNAPDIR_STATE, SNAPDIR_DISKS,
					     SNAPDIR_LAYERS };
	struct snapdir d;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(files) / sizeof(files[0]); i++)
		rc = check_mode(c, row, files[i]);
	if (rc || proto_snapdir_open(&d, c->store->snapshots, row->name, row->name, NULL) < 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < proto_snapdir_files(d.manifest, d.layered); i++) {
		struct snapdir_file f;

		proto_snapdir_file(d.manifest, d.layered, i, &f);
		rc = check_mode(c, row, f.path);
		if (rc == 0)
			rc = check_tree(c, row, &d, &f);
	}
	if (rc == 0)
		rc = check_folder(c, row, &d, SNAPDIR_DISKS);
	if (rc == 0)
		rc = check_folder(c, row, &d, SNAPDIR_LAYERS);
	if (rc == 0)
		rc = check_maps(c, row, &d);
	proto_snapdir_close(&d);
	return rc;
}

static int check_row(void *arg, const struct cat_row *row)
{
	struct check *c = arg;
	char mend[CAT_NAME_MAX + 64];
	int rc;

	switch (row->status) {
	case CAT_MISSING:
		return find(c, row->name,
			    command(mend, sizeof(mend), "snapctl rm %s%s", row->name, ""),
			    "its directory is gone");
	case CAT_REPLACED:
		return find(
			c, row->name,
			command(mend, sizeof(mend), "snapctl reindex --accept %s%s", row->name, ""),
			"it was replaced by another of the same name");
	case CAT_DAMAGED:
		rc = find(c, row->name,
			  command(mend, sizeof(mend), "snapctl rm %s%s", row->name, ""), "%s",
			  row->problem);
		break;
	default:
		rc = 0;
	}
	if (rc == 0)
		rc = keep_id(c, row);
	return rc ? rc : check_files(c, row);
}

static int by_id(const void *a, const void *b)
{
	return memcmp(a, b, UUID_SIZE);
}

static int check_ids(struct check *c, struct err *e)
{
	int rc = 0;

	if (c->n_ids)
		qsort(c->ids, c->n_ids, UUID_SIZE, by_id);
	for (size_t i = 1; rc == 0 && i < c->n_ids; i++) {
		char id[UUID_TEXT_MAX], name[CAT_NAME_MAX + 1] = "";

		if (memcmp(c->ids[i - 1], c->ids[i], UUID_SIZE) != 0 ||
		    (i > 1 && memcmp(c->ids[i - 2], c->ids[i], UUID_SIZE) == 0))
			continue;
		rc = cat_index_name_of(c->store, c->ids[i], name, e);
		if (rc == 0)
			rc = find(c, name, "",
				  "copies of it are in the store: id %s stands for this, the "
				  "earliest",
				  uuid_format(c->ids[i], id));
	}
	return rc;
}

/* --- directories --- */

/* Names that are no snapshot's: seen by nobody else. */
static int check_strangers(struct check *c)
{
	int fd = openat(c->store->snapshots, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int rc = 0;

	while (d && rc == 0 && (entry = readdir(d))) {
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (cat_name_check(entry->d_name, NULL) < 0)
			rc = find(
				c, entry->d_name, "",
				"it is in snapshots/ and ignored: no snapshot can have that name");
		else if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			 !S_ISDIR(st.st_mode))
			rc = find(c, entry->d_name, "",
				  "it is in snapshots/ and ignored: it is not a directory");
	}
	return rc;
}

/* What a crash left; what somebody works in is not left over. */
static int check_leftovers(struct check *c, int at, const char *part)
{
	int fd = at < 0 ? -1 : openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int rc = 0;

	while (d && rc == 0 && (entry = readdir(d))) {
		auto_fd int sub = -1;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		sub = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub < 0 || flock(sub, LOCK_SH | LOCK_NB) == 0)
			rc = find(c, entry->d_name, "snapctl status",
				  "it was left in %s/ by something that was killed", part);
	}
	return rc;
}

static int check_root(struct check *c)
{
	static const char damaged[] = STORE_INDEX ".damaged-";
	auto_dir DIR *d = NULL;
	struct dirent *entry;
	char mend[8192];
	struct err e = { 0 };
	struct stat st;
	int fd, rc = 0;

	if (fstat(c->store->root, &st) == 0 && (st.st_mode & 0007))
		rc = find(c, c->store->path,
			  command(mend, sizeof(mend), "chmod o= %s%s", c->store->path, ""),
			  "the store is open to everybody, and RAM holds secrets");
	cat_stamp_problem(c->store, &e);
	if (rc == 0 && e.text[0])
		rc = find(c, STORE_STAMPS,
			  command(mend, sizeof(mend), "rm %s/%s", c->store->path, STORE_STAMPS),
			  "it is ignored, for others may have written it");
	fd = openat(c->store->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	while (d && rc == 0 && (entry = readdir(d)))
		if (strncmp(entry->d_name, damaged, sizeof(damaged) - 1) == 0)
			rc = find(c, entry->d_name,
				  command(mend, sizeof(mend), "rm %s/%s", c->store->path,
					  entry->d_name),
				  "an index that was damaged lies here; it was made anew");
	return rc;
}

/* --- the index's file --- */

static int check_index(struct store *store, void *arg, struct err *e)
{
	const char **said = arg;
	int rc;

	if (store->in_memory) {
		*said = store->writable ? "in memory: the disk is full"
					: "in memory: the store cannot be written";
		return 0;
	}
	rc = cat_db_check(store->db, true, e);
	/* Returning it has the index made anew: then there is nothing left to say. */
	*said = rc == 0 ? "ok" : "damaged";
	return rc;
}

const char *cat_index_health(struct store *store)
{
	const char *said = "cannot be opened";

	cat_index_run(store, check_index, &said, NULL);
	return said;
}

int cat_store_check(struct store *store, cat_finding_fn fn, void *arg, struct err *e)
{
	struct check c = { .store = store, .fn = fn, .arg = arg };
	int rc = cat_index_list(store, check_row, &c, e);

	if (rc == 0)
		rc = check_ids(&c, e);
	if (rc == 0)
		rc = check_strangers(&c);
	if (rc == 0)
		rc = check_leftovers(&c, store->staging, "staging");
	if (rc == 0)
		rc = check_leftovers(&c, store->trash, "trash");
	if (rc == 0)
		rc = check_root(&c);
	free(c.ids);
	return rc;
}
