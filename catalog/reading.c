/* One snapshot directory as a row of the index: see internal.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"
#include "catalog/usage.h"
#include "proto/snapdir.h"

/* More entries than any snapshot has in a folder: what is beyond is not looked at. */
#define FOLDER_MAX 1024

static const char *const fingerprinted[] = { SNAPDIR_MANIFEST, SNAPDIR_STATE, SNAPDIR_MEMORY };

/* Spreads v over all bits, so that a sum of such does not hide one by another. */
static uint64_t spread(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9;
	v = (v ^ v >> 27) * 0x94d049bb133111eb;
	return v ^ v >> 31;
}

static void add_stat(uint64_t sum[3], const struct stat *st)
{
	sum[0] += spread(st->st_ino);
	/* Bound to its inode, or two files could swap times. */
	sum[1] += spread(spread(st->st_ino) + (uint64_t)nanoseconds(st->st_mtim));
	sum[2] += spread(spread(st->st_ino) + (uint64_t)nanoseconds(st->st_ctim));
}

/* In whatever order the directory gives them. A change of names is one of the folder itself. */
static void fingerprint_folder(int at, const char *path, int64_t words[3])
{
	auto_dir DIR *d = NULL;
	struct dirent *entry;
	uint64_t sum[3] = { 0 };
	struct stat st;
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d && fd >= 0)
		close(fd);
	if (d && fstat(fd, &st) == 0)
		add_stat(sum, &st);
	for (int n = 0; d && n < FOLDER_MAX && (entry = readdir(d)); n++)
		if (entry->d_name[0] != '.' &&
		    fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			add_stat(sum, &st);
	for (int i = 0; i < 3; i++)
		words[i] = (int64_t)sum[i];
}

/* Of the snapshot whose files' paths start with `prefix`, from the directory `at`. */
static void fingerprint_at(int at, const char *prefix, int64_t fingerprint[FINGERPRINT_WORDS])
{
	char path[CAT_NAME_MAX + 32];
	const size_t n = strlen(prefix);
	struct stat st;
	size_t i;

	memcpy(path, prefix, n);
	for (i = 0; i < sizeof(fingerprinted) / sizeof(fingerprinted[0]); i++) {
		strcpy(path + n, fingerprinted[i]);
		if (fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			memset(&st, 0, sizeof(st));
		fingerprint[3 * i] = (int64_t)st.st_ino;
		fingerprint[3 * i + 1] = nanoseconds(st.st_mtim);
		fingerprint[3 * i + 2] = nanoseconds(st.st_ctim);
	}
	strcpy(path + n, SNAPDIR_DISKS);
	fingerprint_folder(at, path, fingerprint + 3 * i);
	strcpy(path + n, SNAPDIR_LAYERS);
	fingerprint_folder(at, path, fingerprint + 3 * i + 3);
}

void cat_reading_fingerprint(const struct store *store, const char *name,
			     int64_t fingerprint[FINGERPRINT_WORDS])
{
	char prefix[CAT_NAME_MAX + 2];

	snprintf(prefix, sizeof(prefix), "%s/", name);
	fingerprint_at(store->snapshots, prefix, fingerprint);
}

/* What it takes on the disk; nothing is known without memory for that. */
static void count_blocks(int fd, struct cat_row *row)
{
	struct cat_inodes files = { 0 };
	struct cat_usage u = { 0 };

	if (cat_inodes_add(&files, fd) == 0)
		u = cat_inodes_sum(&files);
	cat_inodes_free(&files);
	row->stored_bytes = u.stored;
	row->unique_bytes = u.unique;
}

#define PLAIN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

static void fill(struct cat_row *row, const struct snapdir *d)
{
	const SnapshotManifest *m = d->manifest;

	memcpy(row->id, m->id.data, UUID_SIZE);
	row->has_parent = m->parent_id.len == UUID_SIZE;
	if (row->has_parent)
		memcpy(row->parent, m->parent_id.data, UUID_SIZE);
	row->created_seconds = m->created_at->seconds;
	row->created_nanos = m->created_at->nanos;
	/* It stands in tables and JSON: where it is not plain it is not known. */
	if (m->architecture[strspn(m->architecture, PLAIN)] == '\0')
		snprintf(row->architecture, sizeof(row->architecture), "%s", m->architecture);
	row->memory_bytes = m->memory_size_bytes;
	row->vcpus = m->vp_count;
	row->layers = d->layered ? (uint32_t)m->n_layer : 0;
	memcpy(row->manifest_digest, d->manifest_digest, DIGEST_SIZE);
}

/*
 * Damaged, as far as can be told: 0. Or rc, where this process ran out of
 * something, which says nothing of the snapshot.
 */
static int cannot_read(struct reading *r, const struct err *e, int rc)
{
	struct cat_row *row = &r->row;

	if (rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE)
		return rc;
	/* What may pass (an I/O error, a permission) is looked at again next time. */
	if (rc != -EBADMSG && rc != -ENOENT)
		memset(r->fingerprint, 0, sizeof(r->fingerprint));
	row->status = CAT_DAMAGED;
	snprintf(row->problem, sizeof(row->problem), "%.*s", (int)sizeof(row->problem) - 1,
		 e->text[0] ? e->text : strerror(-rc));
	/* One line: it stands in tables. */
	for (char *p = row->problem; *p; p++)
		if (*p == '\n')
			*p = ' ';
	return 0;
}

/* Looks at memory and disks: *when is the time of their oldest stamp, 0 if one has none. */
static int look_at_files(struct store *store, const struct snapdir *d, const char *name,
			 int64_t *when, struct err *e)
{
	const size_t n = proto_snapdir_files(d->manifest, d->layered);

	*when = INT64_MAX;
	for (size_t i = 0; i < n; i++) {
		struct snapdir_file f;
		auto_fd int fd = -1;
		int64_t stamped;

		proto_snapdir_file(d->manifest, d->layered, i, &f);
		fd = proto_snapdir_open_file(d, &f, name, e);
		if (fd < 0)
			return fd;
		stamped = *when ? cat_stamp_time(store, fd, f.digest) : 0;
		if (stamped < *when)
			*when = stamped;
	}
	return 0;
}

static int look_at_maps(const struct snapdir *d, const char *name, struct err *e)
{
	struct flat f;
	int rc = d->layered ? proto_snapdir_read_flat(d, name, &f, e) : 0;

	if (d->layered && rc == 0)
		proto_flat_free(&f);
	return rc;
}

/* What can be said of the content without reading the memory, or a disk. */
static int judge(struct store *store, const struct snapdir *d, struct reading *r)
{
	struct cat_row *row = &r->row;
	struct err e = { 0 };
	auto_free uint8_t *state = NULL;
	int64_t when;
	size_t len;
	int rc = look_at_files(store, d, row->name, &when, &e);

	if (rc < 0)
		return cannot_read(r, &e, rc);
	if (when == 0)
		return 0;
	rc = proto_snapdir_read_state(d, row->name, &state, &len, &e);
	if (rc == 0)
		rc = look_at_maps(d, row->name, &e);
	if (rc < 0)
		return cannot_read(r, &e, rc);
	row->status = CAT_VALID;
	row->verified_at = when;
	return 0;
}

int cat_reading_take(struct store *store, const char *name, struct reading *r)
{
	auto_fd int fd =
		openat(store->snapshots, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct err e = { 0 };
	struct snapdir d;
	struct stat st;
	int rc;

	memset(r, 0, sizeof(*r));
	snprintf(r->row.name, sizeof(r->row.name), "%s", name);
	rc = fd < 0 ? -errno : 0;
	if (rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP)
		return -ENOENT;
	if (fd < 0 ? fstatat(store->snapshots, name, &st, AT_SYMLINK_NOFOLLOW) < 0
		   : fstat(fd, &st) < 0)
		return -ENOENT;
	r->inode = st.st_ino;
	/* Before the files are read: a change meanwhile then shows as one. */
	if (fd >= 0)
		fingerprint_at(fd, "", r->fingerprint);
	else
		cat_reading_fingerprint(store, name, r->fingerprint);
	if (fd < 0) {
		rc = err_sys(&e, -rc, "cannot open snapshot %s", name);
		return cannot_read(r, &e, rc);
	}
	count_blocks(fd, &r->row);
	rc = proto_snapdir_open_fd(&d, take_fd(&fd), name, &e);
	if (rc < 0)
		return cannot_read(r, &e, rc);
	fill(&r->row, &d);
	r->has_manifest = true;
	rc = judge(store, &d, r);
	proto_snapdir_close(&d);
	return rc;
}
