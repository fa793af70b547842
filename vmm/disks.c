/* The disks of a machine, as its snapshots know them: see disks.h. */
#include "disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

int disks_check_policy(struct machine *m, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; m->config && i < m->config->n_device; i++) {
		const Device *d = m->config->device[i];

		if (m->disk_policy == DISK_EXTERNAL || !is_disk(d) || d->read_only)
			continue;
		rc = err_also(e, EINVAL,
			      "%s (%s) can be written, and a snapshot does not keep its content: "
			      "start vmm with --disk-policy external and see to it yourself, or "
			      "give the disk as read-only (ro)",
			      d->name, d->path);
	}
	return rc;
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

static int check_one(const SnapshotManifest *manifest, const Device *d, struct err *e)
{
	const Disk *was = find_disk(manifest, d->name);
	struct err found = { 0 };
	struct disk_identity id;

	if (!was)
		return err_also(e, EINVAL, "the snapshot does not say what disk %s was", d->name);
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

int disks_preflight(const SnapshotManifest *manifest, const Machine *config, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < config->n_device; i++)
		if (is_disk(config->device[i]) && check_one(manifest, config->device[i], e) < 0)
			rc = -EINVAL;
	return rc;
}
