/*
 * A virtio driver, as a guest would be one, for the tests of devices. It runs in
 * the test's own process: no KVM, no guest, and no thread unless the test starts
 * d->io. The rings are written through ram.h into a memfd.
 *
 *	struct driver d;
 *
 *	driver_open(&d, &virtio_rng_ops, &config);	// the device, over 16 MiB of RAM
 *	driver_start(&d, ALL_FEATURES);			// up to DRIVER_OK, all queues ready
 *	n = driver_request(&d, 0, out, out_len, in, in_len); // one request, whole
 *	driver_close(&d);
 *
 * Step by step: driver_alloc() gives guest memory, driver_offer() puts a chain
 * into the driver area, driver_kick() writes QueueNotify, driver_run() runs the
 * iothread's loop until nothing is ready, driver_take() takes a used request,
 * driver_interrupts() tells how often the guest was interrupted. What a driver
 * never does is done with driver_put_desc() and driver_put_avail().
 *
 * A RAM page that cannot be had: fault_install() in the test itself (cmocka has
 * put its own SIGBUS handler in place), then ftruncate(d.ram.fd, ..). d.faults
 * counts the host-memory-faults that the device reported, d.fault is the last one's address.
 */
#pragma once

#include "unit.h"

#include <poll.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "vmm/virtio/virtio.h"

#define DRIVER_RAM     (16ULL << 20)
#define DRIVER_ADDRESS 0xc0000000ULL /* of the device's window */
#define DRIVER_IRQ     16
#define ALL_FEATURES   UINT64_MAX
#define NO_HEAD	       UINT16_MAX

struct driver_buf {
	uint64_t address; /* guest address */
	uint32_t len;
};

/* ---- a queue ---- */

struct driver_queue {
	struct ram *ram;
	uint16_t size;
	uint64_t desc, avail, used; /* guest addresses */
	bool event_idx;
	uint16_t avail_idx, seen; /* next entry to offer, next used entry to take */
	uint16_t kicked;	  /* avail_idx at the last look whether to kick */
	uint16_t nfree, free[VIRTQ_SIZE_MAX];
	uint16_t length[VIRTQ_SIZE_MAX]; /* descriptors of the chain by its head */
	uint16_t member[VIRTQ_SIZE_MAX]; /* the next descriptor of its chain */
};

UNUSED static void guest_write(struct ram *ram, uint64_t address, const void *buf, size_t len)
{
	assert_int_equal(ram_write(ram, address, buf, len), 0);
}

UNUSED static void guest_read(const struct ram *ram, uint64_t address, void *buf, size_t len)
{
	assert_int_equal(ram_read(ram, address, buf, len), 0);
}

UNUSED static void guest_write16(struct ram *ram, uint64_t address, uint16_t value)
{
	assert_int_equal(ram_store16(ram, address, value), 0);
}

UNUSED static uint16_t guest_read16(const struct ram *ram, uint64_t address)
{
	uint16_t value = 0;

	assert_int_equal(ram_load16(ram, address, &value), 0);
	return value;
}

/* Lays out an empty queue of `size` at `address`, a multiple of 4096; where it ends. */
UNUSED static uint64_t driver_queue_init(struct driver_queue *q, struct ram *ram, uint64_t address,
					 uint16_t size, bool event_idx)
{
	const uint8_t zeros[16] = { 0 };
	uint64_t end;

	*q = (struct driver_queue){
		.ram = ram, .size = size, .desc = address, .event_idx = event_idx, .nfree = size
	};
	q->avail = q->desc + 16ULL * size;
	q->used = (q->avail + 6 + 2ULL * size + 3) & ~3ULL;
	end = (q->used + 6 + 8ULL * size + 4095) & ~4095ULL;
	for (uint64_t at = address; at < end; at += sizeof(zeros))
		guest_write(ram, at, zeros, sizeof(zeros));
	for (uint16_t i = 0; i < size; i++)
		q->free[i] = (uint16_t)(size - 1 - i);
	return end;
}

/* The same place, for a struct virtq that is used without a device. */
UNUSED static struct virtq driver_queue_virtq(const struct driver_queue *q)
{
	return (struct virtq){ .size_max = q->size,
			       .size = q->size,
			       .ready = true,
			       .desc = q->desc,
			       .avail = q->avail,
			       .used = q->used,
			       .event_idx = q->event_idx };
}

/* Writes a descriptor, number i of the table at `table`. */
UNUSED static void driver_put_desc(struct ram *ram, uint64_t table, uint16_t i, uint64_t address,
				   uint32_t len, uint16_t flags, uint16_t next)
{
	const struct vring_desc d = { address, len, flags, next };

	guest_write(ram, table + 16ULL * i, &d, sizeof(d));
}

/* Offers the chain that starts at descriptor `head`, whatever that is. */
UNUSED static void driver_put_avail(struct driver_queue *q, uint16_t head)
{
	guest_write16(q->ram, q->avail + 4 + 2ULL * (q->avail_idx % q->size), head);
	guest_write16(q->ram, q->avail + 2, ++q->avail_idx);
}

static uint16_t driver_flags(unsigned i, unsigned nout, unsigned n)
{
	return (uint16_t)((i + 1 < n ? VRING_DESC_F_NEXT : 0) |
			  (i >= nout ? VRING_DESC_F_WRITE : 0));
}

/* Offers buf[0..nout) to be read and the next nin to be written; the head. No kick. */
UNUSED static uint16_t driver_offer(struct driver_queue *q, const struct driver_buf *buf,
				    unsigned nout, unsigned nin)
{
	const unsigned n = nout + nin;
	uint16_t head, at;

	assert_in_range(n, 1, q->nfree);
	head = at = q->free[--q->nfree];
	q->length[head] = (uint16_t)n;
	for (unsigned i = 0; i < n; i++) {
		const uint16_t next = i + 1 < n ? q->free[--q->nfree] : 0;

		driver_put_desc(q->ram, q->desc, at, buf[i].address, buf[i].len,
				driver_flags(i, nout, n), next);
		q->member[at] = next;
		at = next;
	}
	driver_put_avail(q, head);
	return head;
}

/* The same by an indirect table at guest address `table`. */
UNUSED static uint16_t driver_offer_indirect(struct driver_queue *q, uint64_t table,
					     const struct driver_buf *buf, unsigned nout,
					     unsigned nin)
{
	const unsigned n = nout + nin;
	uint16_t head;

	assert_true(q->nfree > 0);
	head = q->free[--q->nfree];
	q->length[head] = 1;
	for (unsigned i = 0; i < n; i++)
		driver_put_desc(q->ram, table, (uint16_t)i, buf[i].address, buf[i].len,
				driver_flags(i, nout, n), (uint16_t)(i + 1));
	driver_put_desc(q->ram, q->desc, head, table, (uint32_t)(16 * n), VRING_DESC_F_INDIRECT, 0);
	driver_put_avail(q, head);
	return head;
}

/* Takes the next used request: its head and the length written; NO_HEAD: there is none. */
UNUSED static uint16_t driver_take(struct driver_queue *q, uint32_t *len)
{
	struct vring_used_elem elem;
	uint16_t at;

	if (guest_read16(q->ram, q->used + 2) == q->seen)
		return NO_HEAD;
	guest_read(q->ram, q->used + 4 + 8ULL * (q->seen++ % q->size), &elem, sizeof(elem));
	assert_true(elem.id < q->size);
	at = (uint16_t)elem.id;
	for (unsigned i = q->length[at]; i > 0; i--) {
		q->free[q->nfree++] = at;
		at = q->member[at];
	}
	if (len)
		*len = elem.len;
	/* The driver wants to hear of the next one. */
	guest_write16(q->ram, q->avail + 4 + 2ULL * q->size, q->seen);
	return (uint16_t)elem.id;
}

/* Whether the device wants to be kicked for what was offered since this was last asked. */
UNUSED static bool driver_should_kick(struct driver_queue *q)
{
	const uint16_t before = q->kicked;

	q->kicked = q->avail_idx;
	if (!q->event_idx)
		return !(guest_read16(q->ram, q->used) & VRING_USED_F_NO_NOTIFY);
	return vring_need_event(guest_read16(q->ram, q->used + 4 + 8ULL * q->size), q->avail_idx,
				before);
}

/* ---- a device ---- */

struct driver {
	struct virtio *v;
	struct ram ram;
	struct iothread io;
	struct driver_queue queue[VIRTIO_QUEUES_MAX];
	uint64_t next; /* guest memory from here on is free */
	unsigned faults;
	uint64_t fault;
};

static void driver_on_fault(void *arg, uint64_t address, const char *form)
{
	struct driver *d = arg;

	assert_non_null(form);
	d->fault = address;
	__atomic_fetch_add(&d->faults, 1, __ATOMIC_SEQ_CST);
}

static void driver_set_irq(void *arg, uint32_t irq, bool level)
{
	(void)arg;
	(void)irq;
	(void)level;
	fail_msg("a virtio device interrupts by its irqfd");
}

/*
 * Opens a device over fresh RAM, bound to eventfds alone. `config` must live as
 * long; its name and kind may be NULL. Not to be moved or copied. 0 or what
 * open() said, with nothing left.
 */
UNUSED static int driver_try_open(struct driver *d, const struct virtio_ops *ops, Device *config,
				  struct err *e)
{
	const struct vdev_host host = { .arg = d,
					.set_irq = driver_set_irq,
					.report_fault = driver_on_fault };
	int rc;

	*d = (struct driver){ .next = RAM_PAGE };
	if (!config->name || !*config->name)
		config->name = (char *)(uintptr_t) "device0";
	if (!config->kind || !*config->kind)
		config->kind = (char *)(uintptr_t)ops->kind;
	assert_int_equal(ram_map_memfd(&d->ram, DRIVER_RAM, NULL), 0);
	assert_int_equal(iothread_init(&d->io, NULL), 0);
	rc = virtio_open_kind(ops, config, DRIVER_ADDRESS, DRIVER_IRQ, &d->ram, &d->io, &host,
			      &d->v, e);
	if (rc < 0) {
		iothread_destroy(&d->io);
		ram_unmap(&d->ram);
		return rc;
	}
	assert_int_equal(virtio_bind(d->v, NULL, NULL), 0);
	return 0;
}

UNUSED static void driver_open(struct driver *d, const struct virtio_ops *ops, Device *config)
{
	struct err e = { 0 };

	if (driver_try_open(d, ops, config, &e) < 0)
		fail_msg("%s", e.text);
}

UNUSED static void driver_close(struct driver *d)
{
	/* The thread first: the device closes where no thread runs. */
	if (d->io.started)
		iothread_hold(&d->io);
	virtio_close(d->v);
	iothread_destroy(&d->io);
	ram_unmap(&d->ram);
}

UNUSED static uint32_t driver_get(struct driver *d, uint64_t offset)
{
	uint8_t bytes[4];
	uint32_t value;

	d->v->dev.ops->read(&d->v->dev, offset, bytes, sizeof(bytes));
	memcpy(&value, bytes, sizeof(value));
	return value;
}

UNUSED static void driver_set(struct driver *d, uint64_t offset, uint32_t value)
{
	uint8_t bytes[4];

	memcpy(bytes, &value, sizeof(value));
	d->v->dev.ops->write(&d->v->dev, offset, bytes, sizeof(bytes));
}

/* The device's own configuration, byte by byte as any width may be read. */
UNUSED static void driver_get_config(struct driver *d, uint32_t offset, void *buf, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		d->v->dev.ops->read(&d->v->dev, VIRTIO_MMIO_CONFIG + offset + i, (uint8_t *)buf + i,
				    1);
}

UNUSED static void driver_set_config(struct driver *d, uint32_t offset, const void *buf,
				     unsigned len)
{
	d->v->dev.ops->write(&d->v->dev, VIRTIO_MMIO_CONFIG + offset, buf, len);
}

/* Guest memory that nothing else uses. */
UNUSED static uint64_t driver_alloc(struct driver *d, uint64_t len)
{
	const uint64_t address = d->next;

	d->next += (len + 15) & ~15ULL;
	assert_true(d->next <= DRIVER_RAM);
	return address;
}

UNUSED static uint64_t driver_offered(struct driver *d)
{
	uint64_t low;

	driver_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	low = driver_get(d, VIRTIO_MMIO_DEVICE_FEATURES);
	driver_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return (uint64_t)driver_get(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32 | low;
}

UNUSED static void driver_accept(struct driver *d, uint64_t features)
{
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

/* Tells the device where queue q is; not ready yet. */
UNUSED static void driver_place_queue(struct driver *d, unsigned q)
{
	const struct driver_queue *dq = &d->queue[q];

	driver_set(d, VIRTIO_MMIO_QUEUE_SEL, q);
	driver_set(d, VIRTIO_MMIO_QUEUE_NUM, dq->size);
	driver_set(d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)dq->desc);
	driver_set(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(dq->desc >> 32));
	driver_set(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)dq->avail);
	driver_set(d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(dq->avail >> 32));
	driver_set(d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)dq->used);
	driver_set(d, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(dq->used >> 32));
}

#define DRIVER_BEGUN (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

/*
 * Resets the device and brings it up to FEATURES_OK with those of `features`
 * that are offered (VERSION_1 always); the queues are laid out and not ready.
 */
UNUSED static void driver_negotiate(struct driver *d, uint64_t features)
{
	features = (features | VIRTIO_F(VIRTIO_F_VERSION_1)) & driver_offered(d);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS), 0);
	driver_set(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN);
	driver_accept(d, features);
	driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS),
			 DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned q = 0; q < d->v->nqueues; q++) {
		d->next = (d->next + RAM_PAGE - 1) & ~(RAM_PAGE - 1);
		driver_set(d, VIRTIO_MMIO_QUEUE_SEL, q);
		d->next = driver_queue_init(&d->queue[q], &d->ram, d->next,
					    (uint16_t)driver_get(d, VIRTIO_MMIO_QUEUE_NUM_MAX),
					    features >> VIRTIO_RING_F_EVENT_IDX & 1);
	}
}

/* The same, up to DRIVER_OK with every queue ready. */
UNUSED static void driver_start(struct driver *d, uint64_t features)
{
	driver_negotiate(d, features);
	for (unsigned q = 0; q < d->v->nqueues; q++) {
		driver_place_queue(d, q);
		driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 1);
	}
	driver_set(d, VIRTIO_MMIO_STATUS,
		   driver_get(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS),
			 DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

UNUSED static void driver_kick(struct driver *d, unsigned q)
{
	driver_set(d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

/* Runs the iothread's loop, whose thread is not started, until nothing is ready. */
UNUSED static void driver_run(struct driver *d)
{
	struct pollfd p = { .fd = d->io.loop.fd, .events = POLLIN };

	for (int i = 0; poll(&p, 1, 0) == 1; i++) {
		assert_true(i < 10000); /* else a callback leaves its descriptor ready */
		assert_int_equal(loop_step(&d->io.loop, 0), 0);
	}
}

/* Interrupts since the last call. */
UNUSED static unsigned driver_interrupts(struct driver *d)
{
	uint64_t count = 0;

	return read(d->v->irq_fd, &count, sizeof(count)) == sizeof(count) ? (unsigned)count : 0;
}

UNUSED static bool driver_needs_reset(struct driver *d)
{
	return driver_get(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/*
 * One request to queue q, with the bytes of `out` to be read and in_len bytes to
 * be written, which are copied to `in`: from offer to used. The length that the
 * device says it wrote. Each length may be 0. Its guest memory is used again.
 */
UNUSED static uint32_t driver_request(struct driver *d, unsigned q, const void *out,
				      uint32_t out_len, void *in, uint32_t in_len)
{
	const uint64_t before = d->next;
	struct driver_buf buf[2];
	unsigned n = 0;
	uint32_t len = 0;
	uint16_t head;

	if (out_len) {
		buf[n++] = (struct driver_buf){ driver_alloc(d, out_len), out_len };
		guest_write(&d->ram, buf[0].address, out, out_len);
	}
	if (in_len)
		buf[n++] = (struct driver_buf){ driver_alloc(d, in_len), in_len };
	head = driver_offer(&d->queue[q], buf, out_len != 0, in_len != 0);
	driver_kick(d, q);
	driver_run(d);
	assert_int_equal(driver_take(&d->queue[q], &len), head);
	if (in_len)
		guest_read(&d->ram, buf[n - 1].address, in, in_len);
	d->next = before;
	return len;
}

/*
 * A snapshot: what `from` and its RAM are now becomes what `to` is, a device that
 * has been opened and not started. It goes on as a restored machine's does. 0 or
 * what load() said.
 */
UNUSED static int driver_move(struct driver *to, struct driver *from, struct err *e)
{
	auto_free uint8_t *saved = NULL, *page = malloc(RAM_PAGE);
	size_t len = 0;
	int rc;

	assert_non_null(page);
	for (uint64_t at = 0; at < DRIVER_RAM; at += RAM_PAGE) {
		guest_read(&from->ram, at, page, RAM_PAGE);
		if (!io_is_zero(page, RAM_PAGE))
			guest_write(&to->ram, at, page, RAM_PAGE);
	}
	memcpy(to->queue, from->queue, sizeof(to->queue));
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		to->queue[q].ram = &to->ram;
	to->next = from->next;
	assert_int_equal(from->v->dev.ops->save(&from->v->dev, &saved, &len), 0);
	rc = to->v->dev.ops->load(&to->v->dev, saved, len, e);
	if (rc < 0)
		return rc;
	if (to->v->ops->restored)
		to->v->ops->restored(to->v);
	virtio_kick_all(to->v);
	driver_run(to);
	return 0;
}
