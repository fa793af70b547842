/* What a snapshot keeps: see keep.h. */
#define _GNU_SOURCE
#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "ram_out.h"
#include "virtio/blk.h"
#include "virtio/pmem.h"

struct keep_ops {
	/* Makes the empty or older file fd a clone of the content; negative errno: it cannot. */
	int (*clone)(const struct kept *it, int fd);
	/* The files as they are now, as disk_files() says; what is written is among them. */
	int (*look)(const struct kept *it, struct disk_file *file, unsigned room);
	int (*prepare)(struct kept *it, struct publisher *p, struct err *e);
	int (*freeze)(struct kept *it, struct machine *m, struct err *e);
	/* Files of its own; copy_fd is seen to by the caller. */
	int (*settle)(struct kept *it, struct err *e);
	void (*drop)(struct kept *it);
};

/* A descriptor of the same file that cannot write it; negative errno. */
static int open_read_only(int fd)
{
	int again = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC);

	return again < 0 ? -errno : again;
}

static int add_file(struct disk_file *file, int fd)
{
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	*file = (struct disk_file){ fd, (uint64_t)st.st_size };
	return 1;
}

/* The one file that copy_fd is; the writable descriptor goes. */
static int settle_copy(struct kept *it, struct err *e)
{
	int rc;

	it->file = calloc(1, sizeof(*it->file));
	if (!it->file)
		return err_sys(e, ENOMEM, "cannot keep %s", it->name);
	rc = add_file(it->file, open_read_only(it->copy_fd));
	if (rc < 0)
		return err_sys(e, -rc, "cannot open the file of %s again for reading", it->name);
	it->nfiles = 1;
	close(it->copy_fd);
	it->copy_fd = -1;
	return 0;
}

/* ---- memory ---- */

static int look_memory(const struct kept *it, struct disk_file *file, unsigned room)
{
	/* RAM is copied where it cannot be linked; what is no file yet will be the store's. */
	if (it->slot == 0 || it->memory->backing != RAM_SHARED)
		return 0;
	return room ? add_file(file, open_read_only(it->memory->fd)) : -E2BIG;
}

/* Not of RAM: all that the guest has written would have to reach the disk while it is held. */
static int clone_memory(const struct kept *it, int fd)
{
	if (it->slot == 0 || it->memory->backing != RAM_SHARED)
		return -EOPNOTSUPP;
	return ioctl(fd, FICLONE, it->memory->fd) < 0 ? -errno : 0;
}

/* RAM that is no file of its own: most of it is copied while the guest runs. */
static int prepare_rounds(struct kept *it, struct publisher *p, struct err *e)
{
	const int layer = rounds_want_layer(it->machine, e);

	if (layer < 0)
		return layer;
	it->copy_fd = layer ? publisher_get_file(p, e)
			    : publisher_get_ram(p, it->memory->size, NULL, false, e);
	if (it->copy_fd < 0)
		return it->copy_fd;
	return rounds_begin(&it->rounds, it->machine, it->copy_fd, layer, e);
}

static int prepare_memory(struct kept *it, struct publisher *p, struct err *e)
{
	if (it->memory->backing == RAM_SHARED)
		return ram_freeze_prepare(it->memory, &it->frozen, e);
	if (it->slot == 0)
		return prepare_rounds(it, p, e);
	it->copy_fd = publisher_get_file(p, e);
	return it->copy_fd < 0 ? it->copy_fd : 0;
}

/* Memory that is a file of the machine's own: the VM is over a private mapping of it. */
static void commit_mapping(struct kept *it)
{
	ram_freeze_commit(it->memory, &it->frozen, &it->old);
	if (it->slot != 0)
		log_warn("%s: its file is frozen for the snapshot; what the guest writes from here "
			 "on lasts only by saves",
			 it->name);
}

/* Without a VM that shows it already: move the slots of the one that there is. */
static int swap_mapping(struct kept *it, struct machine *m, struct err *e)
{
	int rc = vm_move_ram(&m->vm, it->slot, &it->frozen, e);

	if (rc < 0)
		vm_move_ram(&m->vm, it->slot, it->memory, NULL);
	else
		commit_mapping(it);
	return rc;
}

static int freeze_memory(struct kept *it, struct machine *m, struct err *e)
{
	int rc;

	if (it->copy_fd < 0)
		return swap_mapping(it, m, e);
	if (it->rounds)
		return rounds_rest(it->rounds, e);
	rc = ram_write_out(it->memory, it->copy_fd, e);
	return rc < 0 && it->slot != 0 ? err_prefix(e, rc, "%s", it->name) : rc;
}

static int settle_memory(struct kept *it, struct err *e)
{
	int rc;

	ram_release(&it->old);
	it->file = calloc(1, sizeof(*it->file));
	if (!it->file)
		return err_sys(e, ENOMEM, "cannot keep %s", it->name);
	rc = add_file(it->file, fcntl(it->memory->fd, F_DUPFD_CLOEXEC, 0));
	if (rc < 0)
		return err_sys(e, -rc, "cannot keep %s", it->name);
	it->nfiles = 1;
	return 0;
}

static void drop_memory(struct kept *it)
{
	ram_unmap(&it->frozen);
	ram_release(&it->old);
	rounds_fail(take_ptr(&it->rounds));
}

static const struct keep_ops memory_ops = {
	.clone = clone_memory,
	.look = look_memory,
	.prepare = prepare_memory,
	.freeze = freeze_memory,
	.settle = settle_memory,
	.drop = drop_memory,
};

/* ---- disks ---- */

/* How many of its files, from the bottom, are those of the snapshot it was restored from. */
static unsigned old_files(const struct kept *it)
{
	return it->origin ? (unsigned)it->origin->n_layer : 0;
}

/* The files of a snapshot need not be linked: they are found in the store, or copied. */
static int look_disk(const struct kept *it, struct disk_file *file, unsigned room)
{
	const int n = disk_files(it->disk, true, file, room);
	const int old = (int)old_files(it);

	if (n < old)
		return n;
	for (int i = 0; i < old; i++)
		close(file[i].fd);
	memmove(file, file + old, (size_t)(n - old) * sizeof(*file));
	return n - old;
}

static int clone_disk(const struct kept *it, int fd)
{
	return disk_try_reflink(it->disk, fd);
}

static int prepare_disk(struct kept *it, struct publisher *p, struct err *e)
{
	int top = disk_is_anonymous(it->disk) ? publisher_get_file(p, e) : -1;

	if (top < 0 && disk_is_anonymous(it->disk))
		return top;
	return disk_freeze_prepare(it->disk, top, e);
}

static int freeze_disk(struct kept *it, struct machine *m, struct err *e)
{
	(void)m;
	return disk_freeze(it->disk, e);
}

static int settle_disk(struct kept *it, struct err *e)
{
	int rc;

	it->file = calloc(DISK_LAYERS_MAX, sizeof(*it->file));
	rc = it->file ? disk_files(it->disk, false, it->file, DISK_LAYERS_MAX) : -ENOMEM;
	if (rc < 0)
		return err_sys(e, -rc, "cannot keep %s", it->name);
	it->nfiles = (unsigned)rc;
	return 0;
}

static void drop_disk(struct kept *it)
{
	disk_freeze_abort(it->disk);
}

static const struct keep_ops disk_ops = {
	.clone = clone_disk,
	.look = look_disk,
	.prepare = prepare_disk,
	.freeze = freeze_disk,
	.settle = settle_disk,
	.drop = drop_disk,
};

/* ---- all of them ---- */

/*
 * What has no path of its own lives in a snapshot's files: nobody else can see to
 * it, whatever the policy.
 */
bool keep_wants(const struct machine *m, const Device *d)
{
	return !d->read_only &&
	       (strcmp(d->kind, virtio_blk_ops.kind) == 0 ||
		strcmp(d->kind, virtio_pmem_ops.kind) == 0) &&
	       (m->disk_policy == DISK_KEEP || !*d->path);
}

static void add(struct keep *k, struct kept it)
{
	it.copy_fd = it.frozen.fd = it.old.fd = -1;
	k->item[k->n++] = it;
}

/* The slot of a device's memory. */
static unsigned slot_of(struct machine *m, const struct ram *memory)
{
	unsigned i = 0;

	while (i < m->npmem && m->pmem[i] != memory)
		i++;
	return 1 + i;
}

static const Disk *origin_of(const struct machine *m, const Device *d)
{
	for (size_t i = 0; !*d->path && i < m->norigin; i++)
		if (strcmp(m->origin[i]->device, d->name) == 0)
			return m->origin[i];
	return NULL;
}

void keep_list(struct keep *k, struct machine *m)
{
	*k = (struct keep){ .machine = m };
	add(k, (struct kept){ .ops = &memory_ops, .name = "RAM", .memory = &m->ram, .machine = m });
	for (size_t i = 0; m->config && i < m->config->n_device; i++) {
		const Device *d = m->config->device[i];
		struct virtio *v = keep_wants(m, d) ? machine_find_virtio(m, d->name) : NULL;
		struct kept it = { .name = d->name };

		if (v && v->ops == &virtio_pmem_ops) {
			it.ops = &memory_ops;
			it.memory = virtio_pmem_memory(v);
			it.slot = slot_of(m, it.memory);
		} else if (v) {
			it.ops = &disk_ops;
			it.disk = virtio_blk_disk(v);
			it.origin = origin_of(m, d);
		}
		if (it.memory || it.disk)
			add(k, it);
	}
}

/* The devices' files as they are now. */
struct look {
	struct disk_file file[MANIFEST_DISK_FILES_MAX];
	int fds[MANIFEST_DISK_FILES_MAX];
	char *names[MANIFEST_DISK_FILES_MAX];
	struct publisher_disks disks;
};

static void look_away(struct look *l)
{
	for (size_t i = 0; i < l->disks.n; i++)
		close(l->fds[i]);
	free(l);
}

/* Once disks are frozen it is too late: each failure would leave them with one more file. */
static int check_files(const struct keep *k, struct err *e)
{
	const size_t layers = k->machine ? k->machine->base.nfiles + 1 : 0;
	size_t files = 0;

	for (unsigned i = 1; i < k->n; i++) {
		const struct kept *it = &k->item[i];

		files += it->disk ? disk_layers(it->disk) : 1;
		if (it->disk && disk_layers(it->disk) == DISK_LAYERS_MAX)
			return err_refuse(e, EMLINK,
					  "%s has %d files, which is the most: copy it to a new "
					  "file",
					  it->name, DISK_LAYERS_MAX);
	}
	if (files > MANIFEST_DISK_FILES_MAX)
		return err_refuse(
			e, E2BIG,
			"the machine's disks are of %zu files, of which a snapshot has at most "
			"%d: copy one to a new file",
			files, MANIFEST_DISK_FILES_MAX);
	if (!k->machine || k->machine->base.nfiles == 0 || files + layers + 3 <= IO_MAX_FDS)
		return 0;
	return err_refuse(
		e, E2BIG,
		"the machine's disks are of %zu files and its RAM of %zu layers, which is "
		"more than can be passed on: copy a disk to a new file",
		files, layers);
}

static struct look *look(const struct keep *k, struct err *e)
{
	struct look *l;

	if (check_files(k, e) < 0)
		return NULL;
	l = calloc(1, sizeof(*l));
	if (!l) {
		err_sys(e, ENOMEM, "cannot look at the disks");
		return NULL;
	}
	l->disks = (struct publisher_disks){ .names = l->names, .fds = l->fds };
	for (unsigned i = 0; i < k->n; i++) {
		const struct kept *it = &k->item[i];
		const size_t from = l->disks.n;
		int n = it->ops->look(it, l->file + from,
				      (unsigned)(MANIFEST_DISK_FILES_MAX - from));

		if (n < 0) {
			err_sys(e, -n, "cannot look at %s", it->name);
			look_away(l);
			return NULL;
		}
		for (int j = 0; j < n; j++, l->disks.n++) {
			l->fds[l->disks.n] = l->file[l->disks.n].fd;
			l->names[l->disks.n] = (char *)(uintptr_t)it->name;
		}
	}
	return l;
}

int keep_ask(const struct keep *k, struct publisher *p, const char *name, struct err *e)
{
	struct look *l = look(k, e);
	int rc = l ? publisher_send_save(p, name, &l->disks, e) : -EINVAL;

	if (l)
		look_away(l);
	return rc;
}

int keep_check(const struct keep *k, struct publisher *p, struct err *e)
{
	struct look *l = look(k, e);
	int rc = l ? 0 : -EINVAL;

	if (l && l->disks.n)
		rc = publisher_check_disks(p, &l->disks, e);
	if (l)
		look_away(l);
	return rc;
}

/*
 * Has a clone in a file of the publisher's, where the file system makes them. This
 * first one, while the guest runs, brings most of what the host still has to write
 * to where it belongs; that of the moment takes its place.
 */
static bool try_clone(struct kept *it, struct publisher *p)
{
	auto_fd int fd = -1;

	if (it->slot == 0 && it->memory)
		return false;
	fd = publisher_get_file(p, NULL);
	it->cloned = fd >= 0 && it->ops->clone(it, fd) == 0;
	if (it->cloned)
		it->copy_fd = take_fd(&fd);
	return it->cloned;
}

/* Where RAM is to go on over another mapping: a VM that shows all memory as it will be. */
static void prepare_handover(struct keep *k)
{
	struct machine *m = k->machine;
	struct ram *memory[VM_MEMORIES_MAX];
	const unsigned n = machine_memories(m, memory);
	struct err e = { 0 };

	if (!k->item[0].frozen.base || m->freeze != FREEZE_HANDOVER)
		return;
	for (unsigned i = 0; i < k->n; i++)
		if (k->item[i].frozen.base)
			memory[k->item[i].slot] = &k->item[i].frozen;
	if (handover_prepare(m, memory, n, &e) < 0)
		log_warn("%s: the memory slots are moved instead, and the pause grows with RAM",
			 e.text);
}

int keep_prepare(struct keep *k, struct publisher *p, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < k->n; i++)
		if (!try_clone(&k->item[i], p))
			rc = k->item[i].ops->prepare(&k->item[i], p, e);
	if (rc == 0)
		prepare_handover(k);
	return rc;
}

static int freeze_one(struct kept *it, struct machine *m, struct err *e)
{
	int rc;

	if (!it->cloned)
		return it->ops->freeze(it, m, e);
	rc = it->disk ? disk_flush(it->disk) : 0;
	if (rc == 0)
		rc = it->ops->clone(it, it->copy_fd);
	return rc < 0 ? err_sys(e, -rc, "cannot clone the file of %s", it->name) : 0;
}

/* Those that are copied, or those that are switched over and are or are no memory; RAM last. */
static int freeze_some(struct keep *k, bool copied, bool memory, struct err *e)
{
	int rc = 0;

	for (unsigned i = k->n; rc == 0 && i-- > 0;) {
		struct kept *it = &k->item[i];

		if ((it->copy_fd >= 0) == copied && (copied || !it->memory == !memory))
			rc = freeze_one(it, k->machine, e);
	}
	return rc;
}

/* The memory that is switched over: all of it at once by a hand-over, or one by one. */
static int freeze_memories(struct keep *k, const VmState *state, struct err *e)
{
	struct err found = { 0 };
	int rc = handover_commit(k->machine, state, &found);

	if (rc < 0) {
		if (rc != -ENOENT)
			log_warn("%s: the memory slots are moved instead", found.text);
		k->way = k->item[0].frozen.base ? "slot-swap" : "copy";
		return freeze_some(k, false, true, e);
	}
	k->way = "hand-over";
	for (unsigned i = 0; i < k->n; i++)
		if (k->item[i].frozen.base)
			commit_mapping(&k->item[i]);
	return 0;
}

/*
 * First what may fail for want of space, and then has changed nothing. A switch stays:
 * a disk has one more file from then on, pmem and RAM a private mapping.
 */
int keep_freeze(struct keep *k, const VmState *state, struct err *e)
{
	int rc = freeze_some(k, true, false, e);

	if (rc == 0)
		rc = freeze_some(k, false, false, e);
	return rc < 0 ? rc : freeze_memories(k, state, e);
}

int keep_settle(struct keep *k, struct err *e)
{
	int rc = 0;

	handover_finish(k->machine);
	for (unsigned i = 0; rc == 0 && i < k->n; i++) {
		struct kept *it = &k->item[i];

		if (it->rounds)
			rc = rounds_finish(it->rounds, e);
		if (rc == 0)
			rc = it->copy_fd >= 0 ? settle_copy(it, e) : it->ops->settle(it, e);
	}
	return rc;
}

/* What it was verified to be. */
static int copy_digest(DiskFile *to, const DiskFile *from)
{
	to->digest.data = malloc(from->digest.len);
	if (!to->digest.data)
		return -ENOMEM;
	memcpy(to->digest.data, from->digest.data, from->digest.len);
	to->digest.len = from->digest.len;
	return 0;
}

static int describe_file(const struct kept *it, unsigned n, Disk *d)
{
	DiskFile *f = malloc(sizeof(*f));

	if (!f)
		return -ENOMEM;
	disk_file__init(f);
	d->layer[d->n_layer++] = f;
	f->size = it->file[n].size;
	if (n < old_files(it) && copy_digest(f, it->origin->layer[n]) < 0)
		return -ENOMEM;
	if (asprintf(&f->file, "%s.%u", it->name, n) >= 0)
		return 0;
	f->file = (char *)(uintptr_t)protobuf_c_empty_string;
	return -ENOMEM;
}

static int describe_one(const struct kept *it, SnapshotManifest *manifest)
{
	size_t i = 0;
	Disk *d;
	int rc = 0;

	while (i < manifest->n_disk && strcmp(manifest->disk[i]->device, it->name) != 0)
		i++;
	if (i == manifest->n_disk)
		return -EINVAL;
	d = manifest->disk[i];
	d->layer = calloc(it->nfiles, sizeof(*d->layer));
	for (unsigned n = 0; rc == 0 && n < it->nfiles; n++)
		rc = d->layer ? describe_file(it, n, d) : -ENOMEM;
	return rc;
}

int keep_describe(const struct keep *k, SnapshotManifest *manifest)
{
	int rc = 0;

	for (unsigned i = 1; rc == 0 && i < k->n; i++)
		rc = describe_one(&k->item[i], manifest);
	return rc;
}

int keep_commit(const struct keep *k, struct publisher *p, int manifest_fd, int state_fd,
		struct err *e)
{
	int ram[MANIFEST_LAYERS_MAX + 2];
	auto_fd int maps = -1;
	size_t nram;
	int fds[MANIFEST_DISK_FILES_MAX];
	struct publisher_disks disks = { .fds = fds };

	for (unsigned i = 1; i < k->n; i++)
		for (unsigned n = 0; n < k->item[i].nfiles; n++) {
			if (disks.n == MANIFEST_DISK_FILES_MAX)
				return err_refuse(e, E2BIG,
						  "the machine's disks are of more than %d files",
						  MANIFEST_DISK_FILES_MAX);
			fds[disks.n++] = k->item[i].file[n].fd;
		}
	if (keep_list_ram(k, ram, &nram, &maps, e) < 0)
		return -EIO;
	return publisher_send_commit(p, manifest_fd, state_fd, ram, nram, &disks, e);
}

void keep_drop(struct keep *k)
{
	handover_finish(k->machine);
	for (unsigned i = 0; i < k->n; i++) {
		struct kept *it = &k->item[i];

		it->ops->drop(it);
		if (it->copy_fd >= 0)
			close(it->copy_fd);
		while (it->nfiles)
			close(it->file[--it->nfiles].fd);
		free(it->file);
	}
	k->n = 0;
}
