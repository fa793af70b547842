/*
 * A device as the machine sees it: where it sits, on I/O ports or in a window of
 * guest addresses, and its operations. A device knows nothing of KVM or the machine; it asks for an
 * interrupt or a reset through struct vdev_host.
 *
 * The machine lists its devices in one table (machine.c). Every operation is
 * safe from any thread: a device holds its own lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/state.h"

/* What a device may ask of its machine. */
struct vdev_host {
	void *arg;
	void (*set_irq)(void *arg, uint32_t irq, bool level);
	void (*request_reset)(void *arg);
	void (*request_power_off)(void *arg);
	/* host-memory-fault: the page at a guest address cannot be had; everything is held. */
	void (*report_fault)(void *arg, uint64_t address, const char *form);
};

struct vdev;

struct vdev_ops {
	uint32_t version; /* newest version of the state that load() reads */
	/* A guest's access to one port, `port` from the device's first one. */
	uint8_t (*in)(struct vdev *d, uint16_t port);
	void (*out)(struct vdev *d, uint16_t port, uint8_t value);
	/* A guest's access of len bytes (1, 2, 4, 8) at `offset` of the device's window. */
	void (*read)(struct vdev *d, uint64_t offset, uint8_t *data, unsigned len);
	void (*write)(struct vdev *d, uint64_t offset, const uint8_t *data, unsigned len);
	/* Back to the state after power-on. */
	void (*reset)(struct vdev *d);
	/*
	 * The state as an encoded message, the caller's to free; the machine is
	 * quiet. load() takes it, checked as hostile input, raises again the
	 * interrupts that stand, and returns 0 or -EINVAL or -ENOMEM with words.
	 */
	int (*save)(struct vdev *d, uint8_t **buf, size_t *len);
	int (*load)(struct vdev *d, const uint8_t *buf, size_t len, struct err *e);
};

struct vdev {
	const struct vdev_ops *ops;
	const char *name;      /* unique in the machine; in manifest and state */
	const char *kind;      /* "16550", "virtio-blk"; in the manifest */
	uint16_t port, nports; /* on I/O ports, or */
	uint64_t address;      /* in a window of guest addresses */
	uint32_t size;	       /* of it, bytes */
	uint32_t irq;	       /* GSI, 0: none */
	struct vdev_host host;
};
