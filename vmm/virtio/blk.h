/*
 * virtio-blk: a disk (disk.h) on one queue. Of the configuration it takes path,
 * overlay, read_only, and size, which, unless it is 0, the disk must have.
 */
#pragma once

#include "disk.h"
#include "virtio.h"

extern const struct virtio_ops virtio_blk_ops;

/* The disk of a device of this kind, which stays the device's; NULL: none yet. */
struct disk *virtio_blk_disk(struct virtio *v);

/*
 * Gives the disk to a device that was opened with an empty path, as a restore does
 * with a snapshot's files: before anything is loaded, and before it is bound. It
 * becomes the device's, unless that fails: size and read_only are not those of the configuration.
 * 0 or -EINVAL with words.
 */
int virtio_blk_set_disk(struct virtio *v, struct disk *d, struct err *e);
