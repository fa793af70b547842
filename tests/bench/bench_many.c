/*
 * bench_many STORE NAME COUNT: fills a store with COUNT snapshots more, many-000000 and
 * on, each a valid one by itself: the manifest of NAME with an id, a name and a time of its own,
 * and hard links to NAME's other files. Nine of ten have the one before as their parent.
 * No sync, and no row of the index: both are the store's to make up.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "proto/manifest.h"
#include "proto/snapdir.h"

#define FILES_MAX 8 /* of a snapshot, beside its manifest */

struct file {
	char name[NAME_MAX + 1];
	int fd; /* of what is linked now: a copy is made when that has too many links */
	uint64_t size;
};

struct many {
	int snapshots;
	SnapshotManifest *manifest; /* of the one that is like all */
	struct file file[FILES_MAX];
	size_t files;
};

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void add_file(struct many *m, int dir, const char *name)
{
	struct file *f = &m->file[m->files];
	struct stat st;

	if (m->files == FILES_MAX)
		die("too many files");
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		die(name);
	f->size = (uint64_t)st.st_size;
	m->files++;
}

static void load(struct many *m, const char *name)
{
	const int fd = openat(m->snapshots, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_free uint8_t *buf = NULL;
	auto_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	size_t len;

	if (!d || io_read_file(fd, SNAPDIR_MANIFEST, MANIFEST_MAX, &buf, &len, NULL) < 0 ||
	    proto_manifest_decode(buf, len, &m->manifest, NULL) < 0)
		die(name);
	while ((entry = readdir(d)))
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, SNAPDIR_MANIFEST) != 0)
			add_file(m, fd, entry->d_name);
}

/* A file system has a limit of links to a file: a copy takes on from there. */
static void link_file(struct file *f, int dir)
{
	struct io_fd_path path = io_fd_path(f->fd);
	int copy;

	if (linkat(AT_FDCWD, path.text, dir, f->name, AT_SYMLINK_FOLLOW) == 0)
		return;
	if (errno != EMLINK)
		die(f->name);
	copy = openat(dir, f->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (copy < 0 || io_copy_file(f->fd, copy, f->size, NULL) < 0)
		die(f->name);
	close(copy);
	close(f->fd);
	f->fd = openat(dir, f->name, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0)
		die(f->name);
}

/* Its id is that of the one that is like all, with its number as the last bytes. */
static void number_id(uint8_t id[UUID_SIZE], unsigned n)
{
	for (int i = 0; i < 4; i++)
		id[UUID_SIZE - 1 - i] = (uint8_t)(n >> (8 * i));
}

static void write_manifest(const struct many *m, int dir, char *name, unsigned n)
{
	SnapshotManifest own = *m->manifest;
	Timestamp created = *own.created_at;
	uint8_t id[UUID_SIZE], parent[UUID_SIZE];
	auto_free uint8_t *buf = NULL;
	auto_fd int fd =
		openat(dir, SNAPDIR_MANIFEST, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	size_t len;

	memcpy(id, own.id.data, UUID_SIZE);
	memcpy(parent, own.id.data, UUID_SIZE);
	number_id(id, n);
	number_id(parent, n - 1);
	own.id.data = id;
	if (n % 10)
		own.parent_id = (ProtobufCBinaryData){ UUID_SIZE, parent };
	created.seconds += n;
	own.created_at = &created;
	own.name_at_creation = name;
	if (fd < 0 || proto_manifest_encode(&own, &buf, &len, NULL) < 0 ||
	    io_pwrite_full(fd, buf, len, 0) < 0)
		die(name);
}

static void make(struct many *m, unsigned n)
{
	auto_fd int dir = -1;
	char name[32];

	snprintf(name, sizeof(name), "many-%06u", n);
	if (mkdirat(m->snapshots, name, 0700) < 0)
		die(name);
	dir = openat(m->snapshots, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		die(name);
	for (size_t i = 0; i < m->files; i++)
		link_file(&m->file[i], dir);
	write_manifest(m, dir, name, n);
}

int main(int argc, char **argv)
{
	struct many m = { 0 };
	char path[4096];
	unsigned count;

	if (argc != 4)
		return 2;
	count = (unsigned)strtoul(argv[3], NULL, 10);
	snprintf(path, sizeof(path), "%s/snapshots", argv[1]);
	m.snapshots = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (m.snapshots < 0)
		die(path);
	load(&m, argv[2]);
	for (unsigned n = 0; n < count; n++)
		make(&m, n);
	proto_manifest_free(m.manifest);
	return 0;
}
