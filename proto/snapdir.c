/* A snapshot directory, read: see snapdir.h. */
#define _GNU_SOURCE
#include "snapdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

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
	rc = digest_verity(data, n, digest);
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

int proto_snapdir_open_memory(const struct snapdir *d, const char *label, struct err *e)
{
	auto_fd int fd = -1;
	uint64_t size = 0;

	fd = io_open_regular(d->dirfd, SNAPDIR_MEMORY, &size, e);
	if (fd == -ENOENT || fd == -EINVAL)
		return err_prefix(e, -EBADMSG, "snapshot %s is damaged", label);
	if (fd < 0)
		return err_prefix(e, fd, "snapshot %s", label);
	if (size != d->manifest->memory_size_bytes)
		return err_refuse(
			e, EBADMSG,
			"snapshot %s is damaged: %s has %llu bytes, the manifest says %llu", label,
			SNAPDIR_MEMORY, (unsigned long long)size,
			(unsigned long long)d->manifest->memory_size_bytes);
	return take_fd(&fd);
}

int proto_snapdir_verify_memory(const struct snapdir *d, int memory_fd, const char *label,
				struct io_progress *progress, struct err *e)
{
	uint8_t digest[DIGEST_SIZE];
	int rc = digest_verity_fd(memory_fd, d->manifest->memory_size_bytes, progress, digest);

	if (rc == -ENODATA)
		return err_refuse(e, EBADMSG, "snapshot %s is damaged: %s is too short", label,
				  SNAPDIR_MEMORY);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s of snapshot %s", SNAPDIR_MEMORY, label);
	if (memcmp(digest, d->manifest->memory_digest.data, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "snapshot %s is damaged: %s does not have the manifest's digest",
				  label, SNAPDIR_MEMORY);
	return 0;
}
