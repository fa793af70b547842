/*
 * What the files of the transport share: virtio.c (the kinds' side, life of a
 * device), mmio.c (registers), virtio_state.c (save and load). For no others.
 */
#pragma once

#include "virtio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

/* All bits of `status` that have a meaning. */
#define STATUS_KNOWN                                                                               \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

#define INTERRUPTS_KNOWN (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)

/* True while the driver is there and has not been told to reset. Under lock. */
static inline bool virtio_is_running(const struct virtio *v)
{
	return (v->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       !(v->status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED));
}

/* The queues know what was negotiated. Under lock. */
void virtio_apply_features(struct virtio *v);

/* Adds bits to InterruptStatus and interrupts the guest. Any thread. */
void virtio_raise(struct virtio *v, uint32_t bits);

/* Counts up the eventfd of queue q. Any thread. */
void virtio_kick(const struct virtio *v, unsigned q);

/* save and load of virtio_mmio_ops (virtio_state.c). */
int virtio_save(struct vdev *d, uint8_t **buf, size_t *len);
int virtio_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e);
