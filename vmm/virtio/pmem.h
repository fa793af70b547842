/*
 * Persistent memory (virtio-pmem): a file that the guest sees as a range of
 * memory above its RAM, and flushes by a queue.
 *
 *	read_only	mapped so; what the guest writes goes nowhere
 *	writable	the file is mapped shared, until a save freezes it as it does
 *			RAM: then the guest goes on over private pages, the file
 *			stays as it was, and a flush has nothing to do
 *	restored	the kept file, mapped privately
 *
 * A file has a multiple of 2 MiB: Linux maps pmem by whole sections of that size,
 * and the tail of another would be lost or made up.
 * Source: virtio 1.2, 5.19.
 */
#pragma once

#include "virtio.h"

#define VIRTIO_PMEM_UNIT    (2ULL << 20) /* bytes; a file has a multiple of it */
#define VIRTIO_PMEM_ALIGN   (1ULL << 30) /* of guest addresses */
#define VIRTIO_PMEM_END_MAX (1ULL << 46) /* no range ends above this guest address */

extern const struct virtio_ops virtio_pmem_ops;

/*
 * open() maps config->path by these rules. Writable: a regular file, no symbolic
 * link, of one link, with write permission, not sealed, not part of a snapshot,
 * and of no other machine (flock). read_only: a regular file that no machine
 * writes. With an empty path it maps nothing, and virtio_pmem_map() follows;
 * config->size is the size then, else it is checked if it is not 0.
 */

/*
 * For a restore: maps the kept file `fd`, which is taken over, also when this
 * fails. Before the device is placed in a VM. 0 or a negative errno with words.
 */
int virtio_pmem_map(struct virtio *v, int fd, enum ram_backing backing, struct err *e);

/*
 * Gives it its guest address, once mapped: the first one that is aligned, not
 * below 4 GiB nor below *end, which becomes where it ends. Begun with
 * ram_end() and done in the order of the manifest's devices, the
 * addresses are the same again at a restore. 0 or -E2BIG with words.
 */
int virtio_pmem_place(struct virtio *v, uint64_t *end, struct err *e);

/* Its memory, the device's own: for the VM's slots, and to be frozen or written out by a save. */
struct ram *virtio_pmem_memory(struct virtio *v);
