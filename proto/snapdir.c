/* A snapshot directory, read: see snapdir.h. */
#define _GNU_SOURCE
#include "snapdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int proto_snapdir_open_fd(struct snapdir *d, int dirfd, const char *label, struct err *e)
{
	int rc;

	*d = (struct snapdir){ .dirfd = dirfd };
	rc = read_manifest(d, label, e);
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

size_t proto_snapdir_files(const SnapshotManifest *m)
{
	size_t n = 1;

	for (size_t i = 0; i < m->n_disk; i++)
		n += m->disk[i]->n_layer;
	return n;
}

void proto_snapdir_file(const SnapshotManifest *m, size_t i, struct snapdir_file *f)
{
	const DiskFile *layer = NULL;

	if (i == 0) {
		*f = (struct snapdir_file){ .path = SNAPDIR_MEMORY,
					    .tree = SNAPDIR_MEMORY_TREE,
					    .size = m->memory_size_bytes,
					    .digest = m->memory_digest.data };
		return;
	}
	i--;
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

/* disks/ and what is in it, none of them through a link. */
static int open_beneath(int dirfd, const char *path, uint64_t *size, struct err *e)
{
	const char *slash = strchr(path, '/');
	auto_fd int sub = -1;

	if (!slash)
		return io_open_regular(dirfd, path, size, e);
	sub = openat(dirfd, SNAPDIR_DISKS, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0)
		return err_sys(e, errno, "%s", SNAPDIR_DISKS);
	return io_open_regular(sub, slash + 1, size, e);
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

	proto_snapdir_file(d->manifest, 0, &f);
	return proto_snapdir_open_file(d, &f, label, e);
}

int proto_snapdir_verify_memory(const struct snapdir *d, int memory_fd, const char *label,
				struct io_progress *progress, struct err *e)
{
	struct snapdir_file f;

	proto_snapdir_file(d->manifest, 0, &f);
	return proto_snapdir_verify_file(d, &f, memory_fd, label, progress, e);
}
