/* A snapshot directory, read: see snapdir.h. */
#define _GNU_SOURCE
#include "snapdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/merkle.h"

int proto_snapdir_open(struct snapdir *d, int at, const char *name, const char *label,
		       struct err *e)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return err_refuse(e, ENOENT, "there is no snapshot %s", label);
	if (fd < 0 && errno == ENOTDIR)
		return err_refuse(e, ENOTDIR, "%s is not a snapshot: it is not a directory", label);
	if (fd < 0)
		return err_sys(e, errno, "cannot open snapshot %s", label);
	return proto_snapdir_open_fd(d, fd, label, e);
}

static int read_manifest(struct snapdir *d, const char *label, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc;

	if (fstat(d->dirfd, &d->stat) < 0)
		return err_sys(e, errno, "cannot stat snapshot %s", label);
	rc = io_read_file(d->dirfd, SNAPDIR_MANIFEST, MANIFEST_MAX, &buf, &len, e);
	if (rc == -ENOENT)
		return err_refuse(e, ENOENT, "%s is not a snapshot: it has no %s", label,
				  SNAPDIR_MANIFEST);
	/* Too large, or no regular file: damaged; what the disk says stays as it is. */
	if (rc == -EFBIG || rc == -EINVAL)
		return err_prefix(e, -EBADMSG, "snapshot %s", label);
	if (rc == 0) {
		d->manifest_size = len;
		rc = digest_sha256(buf, len, d->manifest_digest);
	}
	if (rc == 0)
		rc = proto_manifest_decode(buf, len, &d->manifest, e);
	return rc < 0 ? err_prefix(e, rc, "snapshot %s", label) : 0;
}

#define FUSE_MAGIC 0x65735546

/*
 * Whether layers/ may be a link: in the mount it is one. Elsewhere it is one of
 * somebody who means another directory's files, or a copy of the mount's.
 */
static bool may_link(int dirfd)
{
	struct statfs fs;

	return fstatfs(dirfd, &fs) == 0 && fs.f_type == FUSE_MAGIC;
}

/* True where layers/ is what it has to be. */
static bool has_folder(const struct snapdir *d)
{
	struct stat st;

	return fstatat(d->dirfd, SNAPDIR_LAYERS, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (S_ISDIR(st.st_mode) || may_link(d->dirfd));
}

/* True where all layers are there; and where none but they could be the RAM. */
static bool has_layers(const struct snapdir *d)
{
	struct snapdir_file f;
	struct stat st;
	bool all = d->manifest->n_layer > 0 && has_folder(d);

	for (size_t i = 0; all && i < d->manifest->n_layer; i++) {
		proto_snapdir_file(d->manifest, true, i, &f);
		all = fstatat(d->dirfd, f.path, &st, AT_SYMLINK_NOFOLLOW) == 0;
	}
	return all || (d->manifest->n_layer > 0 &&
		       fstatat(d->dirfd, SNAPDIR_MEMORY, &st, AT_SYMLINK_NOFOLLOW) < 0);
}

int proto_snapdir_open_fd(struct snapdir *d, int dirfd, const char *label, struct err *e)
{
	int rc;

	*d = (struct snapdir){ .dirfd = dirfd };
	rc = read_manifest(d, label, e);
	if (rc == 0)
		d->layered = has_layers(d);
	if (rc < 0)
		proto_snapdir_close(d);
	return rc;
}

void proto_snapdir_close(struct snapdir *d)
{
	proto_manifest_free(d->manifest);
	d->manifest = NULL;
	if (d->dirfd >= 0)
		close(d->dirfd);
	d->dirfd = -1;
}

int proto_snapdir_read_state(const struct snapdir *d, const char *label, uint8_t **buf, size_t *len,
			     struct err *e)
{
	auto_free uint8_t *data = NULL;
	uint8_t digest[DIGEST_SIZE];
	size_t n = 0;
	int rc = io_read_file(d->dirfd, SNAPDIR_STATE, STATE_MAX, &data, &n, e);

	if (rc == -EFBIG || rc == -EINVAL || rc == -ENOENT)
		return err_prefix(e, -EBADMSG, "snapshot %s is damaged", label);
	if (rc < 0)
		return err_prefix(e, rc, "snapshot %s", label);
	if (n != d->manifest->state_size)
		return err_refuse(
			e, EBADMSG,
			"snapshot %s is damaged: %s has %zu bytes, the manifest says %llu", label,
			SNAPDIR_STATE, n, (unsigned long long)d->manifest->state_size);
	rc = merkle_digest(data, n, digest);
	if (rc < 0)
		return err_sys(e, -rc, "cannot check %s of snapshot %s", SNAPDIR_STATE, label);
	if (memcmp(digest, d->manifest->state_digest.data, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "snapshot %s is damaged: %s does not have the manifest's digest",
				  label, SNAPDIR_STATE);
	*buf = take_ptr(&data);
	*len = n;
	return 0;
}

size_t proto_snapdir_ram_files(const SnapshotManifest *m, bool layered)
{
	return layered ? m->n_layer : 1;
}

size_t proto_snapdir_files(const SnapshotManifest *m, bool layered)
{
	size_t n = proto_snapdir_ram_files(m, layered);

	for (size_t i = 0; i < m->n_disk; i++)
		n += m->disk[i]->n_layer;
	return n;
}

static void ram_file(const SnapshotManifest *m, bool layered, size_t i, struct snapdir_file *f)
{
	if (!layered) {
		*f = (struct snapdir_file){ .path = SNAPDIR_MEMORY,
					    .tree = SNAPDIR_MEMORY_TREE,
					    .size = m->memory_size_bytes,
					    .digest = m->memory_digest.data };
		return;
	}
	*f = (struct snapdir_file){ .size = m->layer[i]->size, .digest = m->layer[i]->digest.data };
	snprintf(f->path, sizeof(f->path), SNAPDIR_LAYERS "/%zu.ram", i);
	snprintf(f->tree, sizeof(f->tree), SNAPDIR_LAYERS "/%zu.tree", i);
}

void proto_snapdir_file(const SnapshotManifest *m, bool layered, size_t i, struct snapdir_file *f)
{
	const size_t ram = proto_snapdir_ram_files(m, layered);
	const DiskFile *layer = NULL;

	if (i < ram) {
		ram_file(m, layered, i, f);
		return;
	}
	i -= ram;
	for (size_t d = 0; d < m->n_disk && !layer; d++) {
		if (i < m->disk[d]->n_layer)
			layer = m->disk[d]->layer[i];
		else
			i -= m->disk[d]->n_layer;
	}
	*f = (struct snapdir_file){ .size = layer->size, .digest = layer->digest.data };
	snprintf(f->path, sizeof(f->path), SNAPDIR_DISKS "/%s", layer->file);
	snprintf(f->tree, sizeof(f->tree), SNAPDIR_DISKS "/%s.tree", layer->file);
}

/*
 * The folder that the path begins with; *name: what comes behind it. No link, but for
 * that of the mount, whose layers/ is one. The descriptor (dup'ed) or a negative errno.
 */
static int open_folder(int dirfd, const char *path, const char **name)
{
	const char *slash = strchr(path, '/');
	const bool is_layers = strncmp(path, SNAPDIR_LAYERS "/", sizeof(SNAPDIR_LAYERS)) == 0;
	char folder[16];
	int fd;

	*name = slash + 1;
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	fd = openat(dirfd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* Of a link the kernel says that it is none of both. */
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) && is_layers && may_link(dirfd))
		fd = openat(dirfd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A file in the directory, or in a folder of it. */
static int open_beneath(int dirfd, const char *path, uint64_t *size, struct err *e)
{
	const char *name;
	auto_fd int folder = -1;
	int rc;

	if (!strchr(path, '/'))
		return io_open_regular(dirfd, path, size, e);
	folder = open_folder(dirfd, path, &name);
	if (folder < 0)
		return err_sys(e, -folder, "%.*s", (int)strcspn(path, "/"), path);
	rc = io_open_regular(folder, name, size, e);
	return rc < 0 ? err_prefix(e, rc, "%.*s", (int)strcspn(path, "/"), path) : rc;
}

int proto_snapdir_read_map(const struct snapdir *d, size_t i, const char *label,
			   struct layermap *map, struct err *e)
{
	const Layer *l = d->manifest->layer[i];
	const uint64_t pages = d->manifest->memory_size_bytes / MANIFEST_PAGE_SIZE;
	char path[SNAPDIR_PATH_MAX];
	auto_free uint8_t *buf = NULL;
	uint8_t digest[DIGEST_SIZE];
	const char *name;
	auto_fd int folder = -1;
	size_t len = 0;
	int rc;

	snprintf(path, sizeof(path), SNAPDIR_LAYERS "/%zu.map", i);
	folder = open_folder(d->dirfd, path, &name);
	rc = folder < 0 ? err_sys(e, -folder, "%s", SNAPDIR_LAYERS)
			: io_read_file(folder, name, LAYERMAP_MAX, &buf, &len, e);
	if (rc < 0 && folder >= 0)
		rc = err_prefix(e, rc, "%s", SNAPDIR_LAYERS);
	if (rc == -EFBIG || rc == -EINVAL || rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP)
		return err_prefix(e, -EBADMSG, "snapshot %s is damaged", label);
	if (rc < 0)
		return err_prefix(e, rc, "snapshot %s", label);
	rc = merkle_digest(buf, len, digest);
	if (rc < 0)
		return err_sys(e, -rc, "cannot check %s of snapshot %s", path, label);
	if (len != l->map_size || memcmp(digest, l->map_digest.data, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "snapshot %s is damaged: %s does not have the manifest's digest",
				  label, path);
	rc = proto_layermap_parse(buf, len, pages, l->size / MANIFEST_PAGE_SIZE, map, e);
	return rc < 0 ? err_prefix(e, rc, "snapshot %s is damaged: %s", label, path) : 0;
}

int proto_snapdir_read_flat(const struct snapdir *d, const char *label, struct flat *f,
			    struct err *e)
{
	int rc = proto_flat_start(f, d->manifest->memory_size_bytes / MANIFEST_PAGE_SIZE);

	for (size_t i = 1; rc == 0 && d->layered && i < d->manifest->n_layer; i++) {
		struct layermap map;

		rc = proto_snapdir_read_map(d, i, label, &map, e);
		if (rc < 0) {
			proto_flat_free(f);
			return rc;
		}
		rc = proto_flat_add(f, (unsigned)i, &map);
		proto_layermap_free(&map);
	}
	if (rc == 0)
		return 0;
	proto_flat_free(f);
	return err_sys(e, -rc, "cannot read the layers of snapshot %s", label);
}

int proto_snapdir_open_file(const struct snapdir *d, const struct snapdir_file *f,
			    const char *label, struct err *e)
{
	auto_fd int fd = -1;
	uint64_t size = 0;

	fd = open_beneath(d->dirfd, f->path, &size, e);
	if (fd == -ENOENT || fd == -EINVAL || fd == -ENOTDIR || fd == -ELOOP)
		return err_prefix(e, -EBADMSG, "snapshot %s is damaged", label);
	if (fd < 0)
		return err_prefix(e, fd, "snapshot %s", label);
	if (size != f->size)
		return err_refuse(
			e, EBADMSG,
			"snapshot %s is damaged: %s has %llu bytes, the manifest says %llu", label,
			f->path, (unsigned long long)size, (unsigned long long)f->size);
	return take_fd(&fd);
}

struct merkle_reader *proto_snapdir_open_tree(const struct snapdir *d, const struct snapdir_file *f)
{
	struct merkle_reader *r = NULL;
	struct merkle m;
	int fd = -1;

	merkle_layout(&m, f->size);
	if (m.tree_size) {
		fd = open_beneath(d->dirfd, f->tree, NULL, NULL);
		if (fd < 0)
			return NULL;
	}
	return merkle_open(&r, fd, f->size, f->digest) == 0 ? r : NULL;
}

/* How many blocks of the file are not what its tree says; *first: which one is. */
static uint64_t count_wrong(struct merkle_reader *r, int fd, uint64_t size, uint64_t *first)
{
	const size_t chunk = 1U << 20;
	auto_free uint8_t *buf = malloc(chunk);
	uint64_t wrong = 0, at = 0;

	while (buf && at < size) {
		const size_t len = size - at < chunk ? (size_t)(size - at) : chunk;
		uint64_t bad = 0;
		int rc = io_pread_full(fd, buf, len, at);

		/* Block by block behind one that is wrong. */
		for (size_t from = 0; rc == 0 && from < len;) {
			int found = merkle_check(r, at + from, buf + from, len - from, &bad);

			if (found == 0)
				break;
			if (found != -EBADMSG)
				return 0;
			if (wrong++ == 0)
				*first = bad;
			from = (size_t)((bad + 1) * DIGEST_BLOCK - at);
		}
		if (rc < 0)
			return 0;
		at += len;
	}
	return wrong;
}

void proto_snapdir_tell_damage(const struct snapdir *d, const struct snapdir_file *f, int fd,
			       char text[SNAPDIR_DAMAGE_MAX])
{
	struct merkle_reader *r = proto_snapdir_open_tree(d, f);
	uint64_t first = 0, wrong = r ? count_wrong(r, fd, f->size, &first) : 0;
	int n = snprintf(text, SNAPDIR_DAMAGE_MAX, "%s does not have the manifest's digest",
			 f->path);

	merkle_close(r);
	if (wrong == 1)
		snprintf(text + n, SNAPDIR_DAMAGE_MAX - (size_t)n,
			 ": block %llu (byte %llu and on) is wrong", (unsigned long long)first,
			 (unsigned long long)(first * DIGEST_BLOCK));
	else if (wrong)
		snprintf(text + n, SNAPDIR_DAMAGE_MAX - (size_t)n,
			 ": %llu blocks are wrong, the first of them is block %llu (byte %llu and "
			 "on)",
			 (unsigned long long)wrong, (unsigned long long)first,
			 (unsigned long long)(first * DIGEST_BLOCK));
}

int proto_snapdir_verify_file(const struct snapdir *d, const struct snapdir_file *f, int fd,
			      const char *label, struct io_progress *progress, struct err *e)
{
	uint8_t digest[DIGEST_SIZE];
	char text[SNAPDIR_DAMAGE_MAX];
	int rc = merkle_digest_fd(fd, f->size, -1, progress, digest);

	if (rc == -ENODATA)
		return err_refuse(e, EBADMSG, "snapshot %s is damaged: %s is too short", label,
				  f->path);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s of snapshot %s", f->path, label);
	if (memcmp(digest, f->digest, DIGEST_SIZE) == 0)
		return 0;
	proto_snapdir_tell_damage(d, f, fd, text);
	return err_refuse(e, EBADMSG, "snapshot %s is damaged: %s", label, text);
}

int proto_snapdir_open_memory(const struct snapdir *d, const char *label, struct err *e)
{
	struct snapdir_file f;

	proto_snapdir_file(d->manifest, false, 0, &f);
	return proto_snapdir_open_file(d, &f, label, e);
}

int proto_snapdir_verify_memory(const struct snapdir *d, int memory_fd, const char *label,
				struct io_progress *progress, struct err *e)
{
	struct snapdir_file f;

	proto_snapdir_file(d->manifest, false, 0, &f);
	return proto_snapdir_verify_file(d, &f, memory_fd, label, progress, e);
}
