/*
 * The kinds of virtio devices: the operations that virtio_kinds[] lists.
 */
#pragma once

#include "virtio.h"

extern const struct virtio_ops virtio_console_ops;
extern const struct virtio_ops virtio_net_ops;
extern const struct virtio_ops virtio_rng_ops;
