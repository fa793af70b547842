/*
 * virtio-vsock: streams between programs in the guest and Unix sockets of the
 * host (vsock_mux.h). Device: guest_cid and path.
 *
 * A save does not touch the connections of the machine that goes on. The machine
 * that is restored has none: its guest is told by a TRANSPORT_RESET, ends its
 * sockets, and reads its CID again, which may be another.
 * Source: virtio 1.2, 5.10.
 */
#pragma once

#include "virtio.h"

extern const struct virtio_ops virtio_vsock_ops;
