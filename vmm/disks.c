/* The disks of a machine, as its snapshots know them: see disks.h. */
#include "disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "virtio/blk.h"
#include "virtio/pmem.h"

static struct disk_identity identity_of(const struct stat *st)
{
	return (struct disk_identity){
		.size = (uint64_t)st->st_size,
		.inode = st->st_ino,
		.mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec,
	};
}

/* What a disk is, by its description: its size, and the file that is at the top. */
static int look(const Device *d, struct disk_identity *id, struct err *e)
{
	struct stat st;

	if (!*d->path)
		return err_refuse(e, EINVAL, "the snapshot has neither its files nor a path");
	if (strcmp(d->kind, virtio_blk_ops.kind) == 0)
		return disk_probe(d->path, d->overlay, d->read_only, id, e);
	if (stat(d->path, &st) < 0)
		return err_sys(e, errno, "%s", d->path);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "%s is no regular file", d->path);
	*id = identity_of(&st);
	return 0;
}

static bool is_disk(const Device *d)
{
	return strcmp(d->kind, virtio_blk_ops.kind) == 0 ||
	       strcmp(d->kind, virtio_pmem_ops.kind) == 0;
}

/* What a device's open file is: its path may be gone, or another's, by now. */
static int identify(struct virtio *v, struct disk_identity *id)
{
	struct stat st;

	if (v->ops == &virtio_blk_ops)
		return disk_identify(virtio_blk_disk(v), id);
	if (fstat(virtio_pmem_memory(v)->fd, &st) < 0)
		return -errno;
	*id = identity_of(&st);
	return 0;
}

static int describe_one(struct machine *m, const Device *d, SnapshotManifest *manifest)
{
	struct virtio *v = machine_find_virtio(m, d->name);
	struct disk_identity id = { 0 };
	Disk *out;
	int rc = v ? identify(v, &id) : -ENODEV;

	if (rc < 0)
		return rc;
	out = malloc(sizeof(*out));
	if (!out)
		return -ENOMEM;
	disk__init(out);
	manifest->disk[manifest->n_disk++] = out;
	out->device = strdup(d->name);
	out->size = id.size;
	out->inode = id.inode;
	out->mtime_ns = id.mtime_ns;
	return out->device ? 0 : -ENOMEM;
}

int disks_describe(struct machine *m, SnapshotManifest *manifest)
{
	int rc = 0;

	if (!m->config || !m->config->n_device)
		return 0;
	manifest->disk = calloc(m->config->n_device, sizeof(*manifest->disk));
	if (!manifest->disk)
		return -ENOMEM;
	for (size_t i = 0; rc == 0 && i < m->config->n_device; i++)
		if (is_disk(m->config->device[i]))
			rc = describe_one(m, m->config->device[i], manifest);
	return rc;
}

static const Disk *find_disk(const SnapshotManifest *manifest, const char *device)
{
	for (size_t i = 0; i < manifest->n_disk; i++)
		if (strcmp(manifest->disk[i]->device, device) == 0)
			return manifest->disk[i];
	return NULL;
}

/* True where the restore uses the very path that the snapshot's machine did. */
static bool is_same_path(const SnapshotManifest *manifest, const Device *d)
{
	for (size_t i = 0; i < manifest->machine->n_device; i++) {
		const Device *was = manifest->machine->device[i];

		if (strcmp(was->name, d->name) == 0)
			return strcmp(was->path, d->path) == 0 &&
			       strcmp(was->overlay, d->overlay) == 0;
	}
	return false;
}

/* The kept files of a device among fds, where it goes on with them. */
struct kept_files {
	size_t from, n;
};

static struct kept_files kept_files(const SnapshotManifest *manifest, const Device *d)
{
	struct kept_files k = { 0 };

	for (size_t i = 0; i < manifest->n_disk; k.from += manifest->disk[i++]->n_layer) {
		if (strcmp(manifest->disk[i]->device, d->name) != 0)
			continue;
		k.n = *d->path ? 0 : manifest->disk[i]->n_layer;
		break;
	}
	return k;
}

static int set_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}

int disks_forget_paths(const SnapshotManifest *manifest, Machine *config)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < config->n_device; i++) {
		Device *d = config->device[i];
		const Disk *was = is_disk(d) ? find_disk(manifest, d->name) : NULL;

		if (!was)
			continue;
		d->size = was->size;
		if (was->n_layer == 0)
			continue;
		rc = set_string(&d->path, "");
		if (rc == 0)
			rc = set_string(&d->overlay, "");
	}
	return rc;
}

/* Opens a disk of kept files to look at it; they stay the caller's. */
static int probe_kept(const Device *d, const int *fds, size_t n, uint64_t *size, struct err *e)
{
	int again[DISK_LAYERS_MAX];
	struct disk *disk;
	int rc;

	for (size_t i = 0; i < n; i++) {
		again[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (again[i] < 0) {
			rc = err_sys(e, errno, "cannot look at the files of %s", d->name);
			while (i)
				close(again[--i]);
			return rc;
		}
	}
	rc = disk_open_fds(d->name, again, (unsigned)n, -1, NULL, true, &disk, e);
	if (rc == 0) {
		*size = disk_size(disk);
		disk_close(disk);
	}
	return rc;
}

static int check_kept(const Disk *was, const Device *d, const int *fds, size_t n, struct err *e)
{
	uint64_t size = n ? was->layer[0]->size : 0;
	struct err found = { 0 };
	struct stat st;
	int rc = 0;

	for (size_t i = 0; i < n; i++)
		if (fds[i] < 0)
			return -EINVAL;
	if (strcmp(d->kind, virtio_blk_ops.kind) == 0)
		rc = probe_kept(d, fds, n, &size, &found);
	else if (n != 1)
		rc = err_refuse(&found, EINVAL, "%s is of %zu files, pmem is of one", d->name, n);
	if (rc < 0)
		return err_also(e, EINVAL, "%s: %s", d->name, found.text);
	if (size != was->size)
		return err_also(e, EINVAL, "the kept files of %s are of %llu bytes, not of %llu",
				d->name, (unsigned long long)size, (unsigned long long)was->size);
	/* An older one would change the disk under a guest that remembers it as it was. */
	if (*d->overlay && lstat(d->overlay, &st) == 0)
		return err_also(e, EINVAL,
				"%s: the overlay %s exists; the disk of a snapshot needs a new one",
				d->name, d->overlay);
	return 0;
}

static int check_one(const SnapshotManifest *manifest, const Device *d, const int *fds,
		     struct err *e)
{
	const struct kept_files kept = kept_files(manifest, d);
	const Disk *was = find_disk(manifest, d->name);
	struct err found = { 0 };
	struct disk_identity id;

	if (!was)
		return err_also(e, EINVAL, "the snapshot does not say what disk %s was", d->name);
	if (kept.n && !fds)
		return -EINVAL;
	if (kept.n)
		return check_kept(was, d, fds + kept.from, kept.n, e);
	if (look(d, &id, &found) < 0)
		return err_also(e, EINVAL, "%s: %s", d->name, found.text);
	if (id.size != was->size)
		return err_also(e, EINVAL, "%s (%s) has %llu bytes, the snapshot knew it with %llu",
				d->name, d->path, (unsigned long long)id.size,
				(unsigned long long)was->size);
	if (id.mtime_ns == was->mtime_ns || !is_same_path(manifest, d))
		return 0;
	if (d->read_only)
		return err_also(e, EINVAL,
				"%s (%s) was changed since the snapshot: give the right one, or a "
				"copy of it, by its path with --%s",
				d->name, d->path,
				strcmp(d->kind, virtio_blk_ops.kind) == 0 ? "disk" : "pmem");
	log_warn("%s (%s) was written since the snapshot: its guest remembers it as it was then",
		 d->name, d->path);
	return 0;
}

int disks_preflight(const SnapshotManifest *manifest, const Machine *config, const int *fds,
		    struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < config->n_device; i++)
		if (is_disk(config->device[i]) &&
		    check_one(manifest, config->device[i], fds, e) < 0)
			rc = -EINVAL;
	return rc;
}

static int attach_disk(struct virtio *v, const Device *d, int *fds, size_t n, struct publisher *p,
		       struct err *e)
{
	const bool wants_top = !d->read_only && !*d->overlay;
	struct disk *disk;
	int top = wants_top ? publisher_get_file(p, e) : -1;
	int rc;

	if (wants_top && top < 0)
		return err_prefix(e, top,
				  "there is no place in the store for what the guest writes to %s "
				  "(give one by --disk overlay=FILE)",
				  d->name);
	rc = disk_open_fds(d->name, fds, (unsigned)n, top, d->overlay, d->read_only, &disk, e);
	for (size_t i = 0; i < n; i++)
		fds[i] = -1;
	if (rc < 0)
		return rc;
	rc = virtio_blk_set_disk(v, disk, e);
	if (rc < 0)
		disk_close(disk);
	return rc;
}

int disks_attach(struct machine *m, const SnapshotManifest *manifest, int *fds, struct publisher *p,
		 struct err *e)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < m->config->n_device; i++) {
		const Device *d = m->config->device[i];
		const struct kept_files kept = kept_files(manifest, d);
		struct virtio *v = is_disk(d) && kept.n ? machine_find_virtio(m, d->name) : NULL;

		if (v && v->ops == &virtio_blk_ops)
			rc = attach_disk(v, d, fds + kept.from, kept.n, p, e);
		else if (v)
			rc = virtio_pmem_map(v, take_fd(&fds[kept.from]), RAM_PRIVATE, e);
	}
	return rc;
}
