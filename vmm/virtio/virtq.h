/*
 * A split virtqueue, as a device sees it. The rings lie in guest memory and the
 * guest may write there at any time: whatever is read is copied once, the copy
 * is checked, the copy is used. No walk is longer than the queue.
 *
 *	descriptor table	struct vring_desc[size]
 *	driver area		flags, idx, ring[size], used_event
 *	device area		flags, idx, { id, len }[size], avail_event
 *
 * A queue belongs to its device's iothread while the device runs, and to
 * whoever holds the device's lock before.
 * Source: virtio 1.2, 2.7.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "state.pb-c.h"
#include "vmm/ram.h"

#define VIRTQ_SIZE_MAX 256

struct virtq {
	uint16_t size_max; /* what the device offers */
	uint16_t size;	   /* what the driver chose: a power of two, at most size_max */
	bool ready;
	uint64_t desc, avail, used; /* guest addresses */
	uint16_t next_avail;	    /* the next entry of the driver area to take */
	uint16_t next_used;	    /* the next entry of the device area to fill */
	/* since the last virtq_needs_interrupt(): for EVENT_IDX */
	uint16_t signalled_used;
	bool signalled_valid;
	bool event_idx, indirect; /* negotiated */
};

struct virtq_buf {
	uint64_t address; /* guest address: not checked to be RAM before it is accessed */
	uint32_t len;
};

/* One request: buffers that the device reads (out), then those it writes (in). */
struct virtq_chain {
	uint16_t head;
	unsigned nout, nin;
	uint64_t out_len, in_len;	      /* bytes in all */
	struct virtq_buf buf[VIRTQ_SIZE_MAX]; /* nout, then nin */
};

/*
 * Takes the next request: 1 and *c; 0: there is none; -EFAULT: a page could not
 * be had, nothing was taken; -EPROTO: the guest broke the rules (the reason in
 * *why, for the log), the queue must not be used until a reset. No more requests
 * are under way, popped and not pushed, than the queue is long: one more is
 * against the rules.
 */
int virtq_pop(struct virtq *q, struct ram *ram, struct virtq_chain *c, const char **why);

/* Puts the request that virtq_pop() gave last back, to be taken again. */
void virtq_unpop(struct virtq *q);

/*
 * Gives a request back, with `len` bytes written into its in buffers, and makes
 * it visible to the driver. 0, -EFAULT (nothing was given back) or -EPROTO.
 */
int virtq_push(struct virtq *q, struct ram *ram, uint16_t head, uint32_t len);

/* Whether the driver wants an interrupt for what was pushed. 1, 0, -EFAULT or -EPROTO. */
int virtq_needs_interrupt(struct virtq *q, struct ram *ram);

/*
 * Tells the driver whether it shall kick for new requests (avail_event or the
 * NO_NOTIFY flag). After `on` look once more for requests. 0, -EFAULT or -EPROTO.
 */
int virtq_want_kicks(struct virtq *q, struct ram *ram, bool on);

/*
 * Copies `len` bytes at `offset` of the out buffers to buf, or from buf into the
 * in buffers. 0; -EINVAL: the chain is shorter, or a buffer is not RAM; -EFAULT.
 */
int virtq_read(const struct virtq_chain *c, const struct ram *ram, uint64_t offset, void *buf,
	       uint64_t len);
int virtq_write(const struct virtq_chain *c, struct ram *ram, uint64_t offset, const void *buf,
		uint64_t len);

/*
 * The `len` bytes at `offset` of the out (in: false) or in buffers as host
 * memory, for I/O by the kernel; in buffers are marked as written. Valid until
 * the iothread's callback returns. The number of iov[] filled; -EINVAL as above;
 * -E2BIG: more than room. Such I/O fails with EFAULT where a page cannot be had.
 */
int virtq_iov(const struct virtq_chain *c, struct ram *ram, bool in, uint64_t offset, uint64_t len,
	      struct iovec *iov, unsigned room);

/* Back to the state after power-on; size_max stays. */
void virtq_reset(struct virtq *q);

/* True where the areas lie in RAM, aligned, and the size is allowed: to be asked when it is made
 * ready. */
bool virtq_is_sane(const struct virtq *q, const struct ram *ram);

/*
 * State. save fills a message of the caller's. load checks it as hostile input:
 * size, areas in RAM, indices no further apart than the queue is long.
 * 0 or -EINVAL with words that name `what`.
 */
void virtq_save(const struct virtq *q, VirtqState *s);
int virtq_load(struct virtq *q, const VirtqState *s, const struct ram *ram, const char *what,
	       struct err *e);
