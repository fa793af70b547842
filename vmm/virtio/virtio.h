/*
 * A virtio device on the virtio-mmio transport: what all of them share. A kind
 * of device is one file: a struct that begins with struct virtio, and const
 * operations, listed in virtio_kinds[] (kinds.c).
 *
 *	vCPU thread  --MMIO-->  virtio.c: registers, status, configuration
 *	vCPU thread  --ioeventfd (QueueNotify)-->  iothread: ops->notify()
 *	iothread     --irqfd-->  vCPU, edge triggered
 *
 * Locking: `lock` is held over every operation below and over every register
 * access but InterruptStatus and InterruptACK, which a guest's interrupt handler
 * uses and which shall not wait for I/O. An iothread's own callbacks (a tap that
 * has become readable) take it by virtio_enter(), which also says whether the
 * driver is there. The main thread saves, loads and binds with iothreads and
 * vCPUs held.
 *
 * A guest that breaks the rules puts its device into NEEDS_RESET; a RAM page
 * that cannot be had makes a host-memory-fault of the machine: the request is
 * put back and taken again after `resume`.
 * Source: virtio 1.2, 2 (devices), 4.2 (MMIO).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "manifest.pb-c.h"
#include "vmm/iothread.h"
#include "vmm/ram.h"
#include "vmm/vdev.h"
#include "vmm/vm.h"
#include "virtq.h"

#define VIRTIO_QUEUES_MAX 8
#define VIRTIO_MMIO_SIZE  0x1000 /* bytes of a device's window */

#define VIRTIO_F(bit) (1ULL << (bit))
/* What the transport offers for every device: VERSION_1, INDIRECT_DESC, EVENT_IDX. */
extern const uint64_t virtio_common_features;

struct virtio;

struct virtio_ops {
	const char *kind; /* "virtio-blk": in manifest and state */
	uint32_t id;	  /* device ID, virtio 1.2, 5 */
	uint32_t version; /* newest version of the private state that load() reads */
	uint32_t max;	  /* of this kind in one machine */
	bool blocks;	  /* its I/O blocks: it gets an iothread of its own */

	/*
	 * Makes the device as `config` says (valid as long as the device) and opens
	 * its host resources: *out, with ops, nqueues, queue[].size_max and features
	 * set. 0 or a negative errno with words.
	 */
	int (*open)(const Device *config, struct virtio **out, struct err *e);
	/* Closes and frees. No thread runs any more. */
	void (*close)(struct virtio *v);
	/* Adds the device's own descriptors to v->io->loop; NULL: it has none. Before any thread
	 * runs. */
	int (*attach)(struct virtio *v, struct err *e);

	/* Device configuration space: NULL: none, writes go nowhere. In bounds of config_size. */
	void (*read_config)(struct virtio *v, uint32_t offset, void *buf, uint32_t len);
	void (*write_config)(struct virtio *v, uint32_t offset, const void *buf, uint32_t len);

	/*
	 * The driver has said DRIVER_OK (v->driver_features says what it took); may be
	 * NULL. A vCPU's thread; the iothread stands, so that its loop may be changed.
	 */
	void (*activate)(struct virtio *v);
	/*
	 * The driver, or the machine, has reset the device; queues are reset by the
	 * core. May be NULL. The iothread stands, as above.
	 */
	void (*reset)(struct virtio *v);
	/* iothread: the driver has kicked queue q, or the machine goes on. */
	void (*notify)(struct virtio *v, unsigned q);

	/*
	 * Saving, in two steps. quiesce (may be NULL), vCPUs still running, iothreads
	 * held: what lies in host buffers or is under way is brought to its end
	 * (a disk is flushed); 0 or a negative errno with words. save (may be NULL):
	 * the private state as an encoded message; vCPUs held too.
	 */
	int (*quiesce)(struct virtio *v, struct err *e);
	int (*save)(struct virtio *v, uint8_t **buf, size_t *len);
	/* Hostile input; after the transport's own part. 0, -EINVAL or -ENOMEM. */
	int (*load)(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		    struct err *e);
	/* All devices are loaded; this is another VM than the one that was saved (may be NULL). */
	void (*restored)(struct virtio *v);
};

extern const struct virtio_ops *const virtio_kinds[]; /* ends with NULL */
/* The kind of that name, or NULL. */
const struct virtio_ops *virtio_find_kind(const char *kind);

struct virtio {
	struct vdev dev; /* first: name, kind, window, interrupt */
	const struct virtio_ops *ops;
	struct ram *ram;      /* the machine's */
	struct iothread *io;  /* the machine's */
	uint32_t config_size; /* of the device configuration space */
	unsigned nqueues;
	uint64_t features;			  /* offered, the common ones included */
	int irq_fd;				  /* eventfd, owned */
	int kick_fd[VIRTIO_QUEUES_MAX];		  /* eventfds, owned */
	struct virtio *kicked[VIRTIO_QUEUES_MAX]; /* each this device: tells a callback the queue */

	pthread_mutex_t lock;
	/* under lock: */
	uint64_t driver_features;
	uint32_t features_select, driver_features_select, queue_select, status;
	uint32_t config_generation;
	struct virtq queue[VIRTIO_QUEUES_MAX];
	/* atomic: */
	uint32_t interrupt_status;

	/* counted for `status`, relaxed */
	uint64_t kicks, requests, interrupts, bytes_out, bytes_in, errors;
	int64_t warned_ns; /* when a line about it was last logged */
};

/* ---- for the kinds ---- */

/* What open() calls first: the common part of a device of nqueues queues. */
void virtio_init(struct virtio *v, const struct virtio_ops *ops, unsigned nqueues,
		 uint16_t queue_size, uint64_t features, uint32_t config_size);
/* What close() calls last but free(). */
void virtio_fini(struct virtio *v);

static inline bool virtio_has(const struct virtio *v, unsigned bit)
{
	return v->driver_features >> bit & 1;
}

/*
 * Brackets an iothread's own callback. enter: takes the lock; false, and not
 * locked, where the driver is not there (no DRIVER_OK, or NEEDS_RESET).
 */
bool virtio_enter(struct virtio *v);
void virtio_leave(struct virtio *v);

/*
 * As virtq_pop() and virtq_push() of queue q, and what is to be done when they
 * fail: false where there is nothing (more) to do. Under lock, as in notify().
 * A pop that finds nothing has asked the driver for a kick. A push that fails
 * for want of a page puts the request back that was popped last: a kind pushes
 * each request before it pops the next. The driver is told of pushed requests by
 * virtio_signal(), once for a batch.
 */
bool virtio_pop(struct virtio *v, unsigned q, struct virtq_chain *c);
bool virtio_push(struct virtio *v, unsigned q, const struct virtq_chain *c, uint32_t len);
void virtio_signal(struct virtio *v, unsigned q);

/* As virtio_push() of requests that the driver must find together: virtq_push_many(). */
bool virtio_push_many(struct virtio *v, unsigned q, const struct virtq_used *used, unsigned count);

/*
 * Kicks queue q in the driver's place: its notify() comes (again) after the other
 * callbacks that wait, as where a batch has left something over. Any thread.
 */
void virtio_kick(const struct virtio *v, unsigned q);

/* The configuration has changed: the driver, if it is there, is told. Under lock. */
void virtio_config_changed(struct virtio *v);

/*
 * A failed access to guest memory (the result of virtq_read() and the like, or
 * -EFAULT of a system call): the request goes back to its queue and the machine
 * has a host-memory-fault, or, where it was no RAM at all, the device needs a
 * reset. The callback ends after it.
 */
void virtio_memory_failed(struct virtio *v, unsigned q, int rc);

/*
 * The guest broke the rules: NEEDS_RESET, said in the log, at most once a second
 * a device. Under lock.
 */
void virtio_broken(struct virtio *v, const char *why);

/* ---- for the machine ---- */

/*
 * Opens a device of config->kind and puts it at `address` with interrupt `irq`,
 * on iothread io. 0 or a negative errno with words.
 */
int virtio_open(const Device *config, uint64_t address, uint32_t irq, struct ram *ram,
		struct iothread *io, const struct vdev_host *host, struct virtio **out,
		struct err *e);
/* The same of a kind that need not be in virtio_kinds[]: for tests. */
int virtio_open_kind(const struct virtio_ops *ops, const Device *config, uint64_t address,
		     uint32_t irq, struct ram *ram, struct iothread *io,
		     const struct vdev_host *host, struct virtio **out, struct err *e);
void virtio_close(struct virtio *v);

/*
 * Connects the device with a VM, by fresh eventfds: irqfd, and one ioeventfd a
 * queue, watched by its iothread; what it was connected with before is left, and
 * kept where this fails. Kicks on their way are lost: virtio_kick_all() follows.
 * Everything is held. vm NULL: no KVM, the eventfds alone, for tests. 0 or a
 * negative errno.
 */
int virtio_bind(struct virtio *v, const struct vm *vm, struct err *e);

/*
 * The same in steps, for a VM that is made ready while another one runs the guest:
 *
 *	make	 eventfds, connected with vm; the device knows nothing of them yet
 *	watch	 by the device's iothread as well as those that it has. 0, or a
 *		 negative errno, and it watches none of them
 *	exchange they are the device's, which watches them already, and *b is what
 *		 it had. unwatch: it does not become so
 *	close	 what is in *b
 *
 * All but make and close: everything is held.
 */
struct virtio_binding {
	int irq_fd;
	int kick_fd[VIRTIO_QUEUES_MAX]; /* -1: there is no such queue */
};

int virtio_binding_make(const struct virtio *v, const struct vm *vm, struct virtio_binding *b,
			struct err *e);
void virtio_binding_close(struct virtio_binding *b);
int virtio_binding_watch(struct virtio *v, const struct virtio_binding *b, struct err *e);
void virtio_binding_unwatch(struct virtio *v, const struct virtio_binding *b);
void virtio_binding_exchange(struct virtio *v, struct virtio_binding *b);

/*
 * The machine goes on after a hold or a restore: every queue is looked at again,
 * and an interrupt that the guest has not acknowledged is raised again.
 */
void virtio_kick_all(struct virtio *v);

/*
 * Whether a device of that kind can be loaded with this state, as far as can be
 * said without the device: `ram` need not be mapped. Hostile input. 0 or -EINVAL.
 */
int virtio_check_state(const struct virtio_ops *ops, const char *name, const struct ram *ram,
		       const uint8_t *buf, size_t len, struct err *e);

/* Every device is loaded: tells the device that it is another VM's now. */
void virtio_restored(struct virtio *v);

static inline struct virtio *virtio_of(struct vdev *d)
{
	return (struct virtio *)d;
}

/* The vdev operations of every virtio device: MMIO, reset, save, load. */
extern const struct vdev_ops virtio_mmio_ops;
