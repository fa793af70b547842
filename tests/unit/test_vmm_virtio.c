/* The transport of virtio devices: registers, status, interrupts, faults, state, KVM's paths. */
#include "virtio_driver.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include "vmm/fault.h"

/* ---- a device that gives back what it is given ---- */

#define ECHO_CONFIG  12
#define ECHO_FEATURE 5
#define ECHO_QUEUES  2

struct echo {
	struct virtio v; /* first */
	uint8_t config[ECHO_CONFIG];
	unsigned activated, notified;
	uint8_t private[8]; /* of its state */
	int extra_fd;	    /* in its loop while the driver is there, -1 */
	bool by_kernel;	    /* its I/O is the kernel's */
};

static struct echo *echo_of(struct virtio *v)
{
	return (struct echo *)v;
}

static void on_extra(void *arg, uint32_t events)
{
	(void)arg;
	(void)events;
}

static void echo_unwatch(struct echo *echo)
{
	if (echo->extra_fd < 0)
		return;
	loop_remove(&echo->v.io->loop, echo->extra_fd);
	close(echo->extra_fd);
	echo->extra_fd = -1;
}

static void echo_close(struct virtio *v)
{
	echo_unwatch(echo_of(v));
	virtio_fini(v);
	free(v);
}

static void echo_read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	assert_true(offset < ECHO_CONFIG && len <= ECHO_CONFIG - offset);
	memcpy(buf, echo_of(v)->config + offset, len);
}

static void echo_write_config(struct virtio *v, uint32_t offset, const void *buf, uint32_t len)
{
	assert_true(offset < ECHO_CONFIG && len <= ECHO_CONFIG - offset);
	memcpy(echo_of(v)->config + offset, buf, len);
}

static void echo_activate(struct virtio *v)
{
	struct echo *echo = echo_of(v);

	echo->activated++;
	echo->extra_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(loop_add(&v->io->loop, echo->extra_fd, EPOLLIN, on_extra, echo), 0);
}

static void echo_reset(struct virtio *v)
{
	echo_unwatch(echo_of(v));
}

/* As many bytes as the shorter of the two sides has, at most 64. */
static int echo_copy(struct virtio *v, const struct virtq_chain *c, uint64_t n)
{
	struct iovec iov[4];
	uint8_t bytes[64];
	int rc = virtq_read(c, v->ram, 0, bytes, n);

	if (rc < 0)
		return rc;
	if (!echo_of(v)->by_kernel)
		return virtq_write(c, v->ram, 0, bytes, n);
	rc = virtq_iov(c, v->ram, true, 0, n, iov, 4);
	if (rc > 0) {
		auto_fd int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

		rc = readv(zero, iov, rc) < 0 ? -errno : 0;
	}
	return rc;
}

static void echo_notify(struct virtio *v, unsigned q)
{
	struct virtq_chain c;
	bool any = false;

	__atomic_fetch_add(&echo_of(v)->notified, 1, __ATOMIC_RELAXED);
	while (virtio_pop(v, q, &c)) {
		uint64_t n = c.out_len < c.in_len ? c.out_len : c.in_len;
		int rc = echo_copy(v, &c, n < 64 ? n : 64);

		if (rc < 0) {
			virtio_memory_failed(v, q, rc);
			break;
		}
		if (!virtio_push(v, q, &c, (uint32_t)n))
			break;
		any = true;
	}
	if (any)
		virtio_signal(v, q);
}

static int echo_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	*len = sizeof(echo_of(v)->private);
	*buf = malloc(*len);
	if (!*buf)
		return -ENOMEM;
	memcpy(*buf, echo_of(v)->private, *len);
	return 0;
}

static int echo_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		     struct err *e)
{
	assert_in_range(version, 0, 3);
	if (len != sizeof(echo_of(v)->private))
		return err_refuse(e, EINVAL, "the echo has %zu bytes", len);
	memcpy(echo_of(v)->private, buf, len);
	return 0;
}

static int echo_open(const Device *config, struct virtio **out, struct err *e);

static const struct virtio_ops echo_ops = {
	.kind = "virtio-echo",
	.id = 4242,
	.version = 3,
	.max = 1,
	.open = echo_open,
	.close = echo_close,
	.read_config = echo_read_config,
	.write_config = echo_write_config,
	.activate = echo_activate,
	.reset = echo_reset,
	.notify = echo_notify,
	.save = echo_save,
	.load = echo_load,
};

/* The same without anything that may be NULL, and two queues. */
static const struct virtio_ops plain_ops = {
	.kind = "virtio-plain",
	.id = 4243,
	.open = echo_open,
	.close = echo_close,
	.notify = echo_notify,
};

/* config->size, not 0: features that are offered beyond the common ones; path: that it fails. */
static int echo_open(const Device *config, struct virtio **out, struct err *e)
{
	const bool plain = config->kind && strcmp(config->kind, plain_ops.kind) == 0;
	struct echo *echo;

	if (config->path && *config->path)
		return err_env(e, ENOENT, "there is no %s", config->path);
	echo = calloc(1, sizeof(*echo));
	if (!echo)
		return -ENOMEM;
	virtio_init(&echo->v, plain ? &plain_ops : &echo_ops, ECHO_QUEUES, 64,
		    config->size ? config->size : VIRTIO_F(ECHO_FEATURE), ECHO_CONFIG);
	echo->extra_fd = -1;
	*out = &echo->v;
	return 0;
}

struct rig {
	struct driver d;
	Device config;
	struct echo *echo;
};

static struct rig *open_rig(const struct virtio_ops *ops, uint64_t features)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	device__init(&r->config);
	r->config.size = features;
	driver_open(&r->d, ops, &r->config);
	r->echo = echo_of(r->d.v);
	return r;
}

static void close_rig(struct rig *r)
{
	driver_close(&r->d);
	free(r);
}

static int make(void **state)
{
	*state = open_rig(&echo_ops, 0);
	return 0;
}

static int drop(void **state)
{
	close_rig(*state);
	return 0;
}

static void echo(struct driver *d, unsigned q)
{
	static uint32_t seed = 1;
	uint8_t out[50], in[50] = { 0 };

	fill_random(out, sizeof(out), seed++);
	assert_int_equal(driver_request(d, q, out, sizeof(out), in, sizeof(in)), sizeof(in));
	assert_memory_equal(out, in, sizeof(in));
}

/* ---- the normal life ---- */

static void request_comes_back_with_an_interrupt(void **state)
{
	static const uint64_t features[] = { 0, VIRTIO_F(VIRTIO_RING_F_EVENT_IDX), ALL_FEATURES };
	struct rig *r = *state;
	struct driver *d = &r->d;

	for (int i = 0; i < 3; i++) {
		driver_start(d, features[i]);
		for (int n = 0; n < 300; n++) {
			echo(d, (unsigned)n % 2);
			assert_int_equal(driver_interrupts(d), 1);
			assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS),
					 VIRTIO_MMIO_INT_VRING);
			driver_set(d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
			assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
		}
	}
	assert_int_equal(d->v->requests, 900);
	assert_int_equal(d->v->bytes_out, 900 * 50);
	assert_int_equal(d->v->bytes_in, 900 * 50);
	assert_int_equal(d->v->interrupts, 900);
	assert_true(d->v->kicks >= 900);
	assert_int_equal(d->v->errors, 0);
}

static void registers_say_what_the_device_is(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	assert_int_equal(driver_get(d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_DEVICE_ID), 4242);
	assert_int_not_equal(driver_get(d, VIRTIO_MMIO_VENDOR_ID), 0);
	assert_true(driver_offered(d) == (virtio_common_features | VIRTIO_F(ECHO_FEATURE)));
	driver_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	driver_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, UINT32_MAX);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	/* No shared memory region has all ones for its length and base. */
	for (uint32_t i = 0; i < 3; i++) {
		driver_set(d, VIRTIO_MMIO_SHM_SEL, i);
		for (uint64_t at = VIRTIO_MMIO_SHM_LEN_LOW; at <= VIRTIO_MMIO_SHM_BASE_HIGH;
		     at += 4)
			assert_int_equal(driver_get(d, at), UINT32_MAX);
	}
	for (uint32_t q = 0; q < 3; q++) {
		driver_set(d, VIRTIO_MMIO_QUEUE_SEL, q);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_NUM_MAX), q < 2 ? 64 : 0);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 0);
	}
	/* 1.2's QueueReset, which is not offered, and what there is not. */
	assert_int_equal(driver_get(d, 0xc0), 0);
	assert_int_equal(driver_get(d, 0xf8), 0);
}

static void registers_of_another_width_are_nothing(void **state)
{
	struct rig *r = *state;
	struct vdev *dev = &r->d.v->dev;
	uint8_t bytes[8];

	for (unsigned len = 1; len <= 8; len *= 2) {
		if (len == 4)
			continue;
		memset(bytes, 0x55, sizeof(bytes));
		dev->ops->read(dev, VIRTIO_MMIO_MAGIC_VALUE, bytes, len);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(bytes[i], i < len ? 0 : 0x55);
		memset(bytes, 1, sizeof(bytes));
		dev->ops->write(dev, VIRTIO_MMIO_STATUS, bytes, len);
		dev->ops->write(dev, VIRTIO_MMIO_QUEUE_NOTIFY, bytes, len);
	}
	/* Nor is an offset between two. */
	dev->ops->read(dev, VIRTIO_MMIO_MAGIC_VALUE + 2, bytes, 4);
	assert_int_equal(bytes[0] | bytes[1] | bytes[2] | bytes[3], 0);
	assert_int_equal(driver_get(&r->d, VIRTIO_MMIO_STATUS), 0);
}

static void configuration_is_read_and_written_within_its_size(void **state)
{
	struct rig *r = *state;
	struct vdev *dev = &r->d.v->dev;
	uint8_t bytes[ECHO_CONFIG];

	for (uint8_t i = 0; i < ECHO_CONFIG; i++)
		r->echo->config[i] = (uint8_t)(i + 1);
	driver_get_config(&r->d, 0, bytes, ECHO_CONFIG);
	assert_memory_equal(bytes, r->echo->config, ECHO_CONFIG);
	dev->ops->read(dev, VIRTIO_MMIO_CONFIG + 8, bytes, 8);
	assert_memory_equal(bytes, "\x09\x0a\x0b\x0c\0\0\0\0", 8);
	dev->ops->read(dev, VIRTIO_MMIO_CONFIG + 12, bytes, 1);
	assert_int_equal(bytes[0], 0);
	dev->ops->read(dev, VIRTIO_MMIO_SIZE - 1, bytes, 8);
	dev->ops->read(dev, UINT64_MAX, bytes, 8);
	driver_set_config(&r->d, 10, "xy", 2);
	assert_memory_equal(r->echo->config + 10, "xy", 2);
	driver_set_config(&r->d, 10, "abcd", 4);
	driver_set_config(&r->d, 12, "a", 1);
	assert_memory_equal(r->echo->config + 10, "xy", 2);
}

static void configuration_that_changes_is_told(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	uint32_t generation = driver_get(d, VIRTIO_MMIO_CONFIG_GENERATION);

	virtio_config_changed(d->v);
	assert_int_not_equal(driver_get(d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	assert_int_equal(driver_interrupts(d), 0);
	driver_start(d, ALL_FEATURES);
	generation = driver_get(d, VIRTIO_MMIO_CONFIG_GENERATION);
	virtio_config_changed(d->v);
	assert_int_not_equal(driver_get(d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	assert_int_equal(driver_interrupts(d), 1);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
}

/* ---- the status ---- */

static void features_that_were_not_offered_are_not_ok(void **state)
{
	static const uint64_t bad[] = { VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(6),
					VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(63), 0,
					VIRTIO_F(ECHO_FEATURE) };
	struct rig *r = *state;
	struct driver *d = &r->d;

	for (int i = 0; i < 4; i++) {
		driver_set(d, VIRTIO_MMIO_STATUS, 0);
		driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN);
		driver_accept(d, bad[i]);
		driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS), DRIVER_BEGUN);
	}
	/* Another try without a reset. */
	driver_accept(d, VIRTIO_F(VIRTIO_F_VERSION_1));
	driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS),
			 DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
	/* What was accepted stands. */
	driver_accept(d, ALL_FEATURES);
	assert_true(d->v->driver_features == VIRTIO_F(VIRTIO_F_VERSION_1));
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
	driver_set(d, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
	assert_true(d->v->driver_features == 0);
}

static void features_before_the_driver_is_there_are_not_ok(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_accept(d, VIRTIO_F(VIRTIO_F_VERSION_1));
	driver_set(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS), 0);
}

static void driver_ok_without_features_ok_needs_reset(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_set(d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(driver_needs_reset(d));
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
	assert_int_equal(r->echo->activated, 0);
	assert_int_equal(driver_interrupts(d), 0);
	driver_start(d, ALL_FEATURES);
	echo(d, 0);
	assert_int_equal(r->echo->activated, 1);
}

static void status_bits_are_cleared_by_a_reset_alone(void **state)
{
	const uint32_t all = DRIVER_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	driver_set(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set(d, VIRTIO_MMIO_STATUS, 0xffffff30 | VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS), all);
	assert_int_equal(r->echo->activated, 1);
	echo(d, 0);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	driver_set(d, VIRTIO_MMIO_QUEUE_SEL, 0);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(r->echo->extra_fd, -1);
}

static void driver_that_has_failed_is_left_alone(void **state)
{
	static const struct driver_buf buf = { RAM_PAGE / 2, 8 };
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	driver_set(d, VIRTIO_MMIO_STATUS,
		   driver_get(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_FAILED);
	driver_run(d);
	r->echo->notified = 0;
	driver_offer(&d->queue[0], &buf, 1, 0);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_equal(r->echo->notified, 0);
	assert_false(virtio_enter(d->v));
}

static void queue_that_is_ready_is_not_moved(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	d->queue[1].size = 8;
	d->queue[1].desc += 16;
	driver_place_queue(d, 1);
	assert_int_equal(d->v->queue[1].size, 64);
	assert_int_equal(d->v->queue[1].desc, d->queue[1].desc - 16);
	d->queue[1].size = 64;
	d->queue[1].desc -= 16;
	echo(d, 1);
	/* Taken out and put in again, it begins anew. */
	driver_set(d, VIRTIO_MMIO_QUEUE_SEL, 1);
	driver_set(d, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 0);
	driver_queue_init(&d->queue[1], &d->ram, d->queue[1].desc, 8, true);
	driver_place_queue(d, 1);
	driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	echo(d, 1);
	assert_false(driver_needs_reset(d));
}

static void bad_queue_needs_reset(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc;
	} bad[] = { { 0, 0x1000 },     { 3, 0x1000 },	   { 128, 0x1000 },
		    { 64, 0x1001 },    { 64, DRIVER_RAM }, { 64, UINT64_MAX & ~15ULL },
		    { 64, 3ULL << 30 } };
	struct rig *r = *state;
	struct driver *d = &r->d;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		driver_negotiate(d, ALL_FEATURES);
		d->queue[0].size = bad[i].size;
		d->queue[0].desc = bad[i].desc;
		driver_place_queue(d, 0);
		driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 0);
		assert_true(driver_needs_reset(d));
		d->next = RAM_PAGE;
	}
	/* A size of 32 bits whose lower half would do. */
	driver_negotiate(d, ALL_FEATURES);
	driver_place_queue(d, 0);
	driver_set(d, VIRTIO_MMIO_QUEUE_NUM, 65536 + 64);
	driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_true(driver_needs_reset(d));
	/* Before the features are settled. */
	driver_negotiate(d, ALL_FEATURES);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	driver_place_queue(d, 0);
	driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_true(driver_needs_reset(d));
}

static void queues_that_there_are_not_are_ignored(void **state)
{
	static const uint32_t which[] = { ECHO_QUEUES, VIRTIO_QUEUES_MAX, 1U << 31, UINT32_MAX };
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	for (int i = 0; i < 4; i++) {
		driver_set(d, VIRTIO_MMIO_QUEUE_SEL, which[i]);
		driver_set(d, VIRTIO_MMIO_QUEUE_NUM, 64);
		driver_set(d, VIRTIO_MMIO_QUEUE_DESC_LOW, 64);
		driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(driver_get(d, VIRTIO_MMIO_QUEUE_READY), 0);
		driver_kick(d, which[i]);
	}
	driver_run(d);
	assert_false(driver_needs_reset(d));
	echo(d, 0);
}

/* ---- a guest that breaks the rules ---- */

static void broken_ring_needs_reset_and_is_left_alone(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	for (int i = 0; i < 50; i++) {
		driver_start(d, ALL_FEATURES);
		driver_run(d);
		driver_interrupts(d);
		driver_put_avail(&d->queue[0], 64);
		driver_kick(d, 0);
		driver_run(d);
		assert_true(driver_needs_reset(d));
		assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS),
				 VIRTIO_MMIO_INT_CONFIG);
		assert_int_equal(driver_interrupts(d), 1);
		r->echo->notified = 0;
		for (int n = 0; n < 20; n++) {
			driver_kick(d, 0);
			driver_run(d);
		}
		assert_int_equal(r->echo->notified, 0);
		assert_int_equal(driver_interrupts(d), 0);
		d->next = RAM_PAGE;
	}
	assert_int_equal(d->v->errors, 50);
	driver_start(d, ALL_FEATURES);
	echo(d, 0);
	assert_int_equal(d->faults, 0);
}

static void buffer_outside_ram_needs_reset(void **state)
{
	static const struct driver_buf buf[] = { { DRIVER_RAM - 4, 8 }, { 0, 8 } };
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	driver_offer(&d->queue[0], buf, 1, 1);
	driver_kick(d, 0);
	driver_run(d);
	assert_true(driver_needs_reset(d));
	assert_int_equal(d->faults, 0);
}

/* ---- pages that cannot be had ---- */

#define LOST_AT (8ULL << 20)

/* Puts a request up whose in buffer lies at LOST_AT, takes that away, kicks. */
static void offer_lost(struct rig *r, uint8_t *copy)
{
	struct driver *d = &r->d;
	const struct driver_buf buf[] = { { driver_alloc(d, 8), 8 }, { LOST_AT + 40, 8 } };

	guest_write(&d->ram, buf[0].address, "goes on!", 8);
	driver_offer(&d->queue[0], buf, 1, 1);
	assert_int_equal(io_pread_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
	assert_int_equal(ftruncate(d->ram.fd, LOST_AT), 0);
	driver_kick(d, 0);
	driver_run(d);
}

static void mend(struct driver *d, const uint8_t *copy)
{
	assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM), 0);
	assert_int_equal(io_pwrite_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
}

static void lost_buffer_is_reported_and_taken_again(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;
	char bytes[8];

	assert_int_equal(fault_install(), 0);
	for (int i = 0; i < 2; i++) {
		r->echo->by_kernel = i;
		driver_start(d, ALL_FEATURES);
		driver_run(d);
		driver_interrupts(d);
		d->faults = 0;
		offer_lost(r, copy);
		assert_int_equal(d->faults, 1);
		assert_int_equal(d->fault & ~(RAM_PAGE - 1), LOST_AT);
		assert_false(driver_needs_reset(d));
		/* Resumed, and still not there. */
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_equal(d->faults, 2);
		assert_int_equal(driver_interrupts(d), 0);
		mend(d, copy);
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_equal(driver_interrupts(d), 1);
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		guest_read(&d->ram, LOST_AT + 40, bytes, 8);
		assert_memory_equal(bytes, i ? "\0\0\0\0\0\0\0" : "goes on!", 8);
		assert_int_equal(d->faults, 2);
	}
}

static void lost_rings_are_reported_and_go_on(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;

	assert_int_equal(fault_install(), 0);
	d->next = LOST_AT;
	driver_start(d, ALL_FEATURES);
	driver_run(d);
	d->next = RAM_PAGE;
	offer_lost(r, copy);
	assert_int_equal(d->faults, 1);
	assert_in_range(d->fault, LOST_AT, LOST_AT + 8 * RAM_PAGE);
	assert_false(driver_needs_reset(d));
	mend(d, copy);
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
	assert_int_equal(driver_interrupts(d), 1);
}

/* Where the used ring alone is gone: the request is done, cannot be given back, is done again. */
static void lost_used_ring_gives_the_request_back_once(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;
	struct driver_queue *q = &d->queue[0];

	assert_int_equal(fault_install(), 0);
	driver_negotiate(d, ALL_FEATURES);
	q->used = LOST_AT;
	for (unsigned i = 0; i < 2; i++) {
		driver_place_queue(d, i);
		driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	driver_set(d, VIRTIO_MMIO_STATUS,
		   driver_get(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	driver_run(d);
	{
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };

		driver_offer(q, &buf, 1, 0);
	}
	assert_int_equal(io_pread_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
	assert_int_equal(ftruncate(d->ram.fd, LOST_AT), 0);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_equal(d->faults, 1);
	assert_int_equal(d->fault & ~(RAM_PAGE - 1), LOST_AT);
	assert_int_equal(d->v->requests, 0);
	mend(d, copy);
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(q, NULL), NO_HEAD);
	assert_int_equal(driver_take(q, NULL), NO_HEAD);
	assert_int_equal(d->v->requests, 1);
}

/* ---- opening, binding ---- */

static void open_that_fails_says_why_and_leaves_nothing(void **state)
{
	const unsigned before = open_descriptors();
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct driver d;

	(void)state;
	config.path = (char *)(uintptr_t) "/nowhere";
	assert_int_equal(driver_try_open(&d, &echo_ops, &config, &e), -ENOENT);
	assert_says(&e, "/nowhere");
	assert_int_equal(open_descriptors(), before);
}

static void open_of_an_unknown_kind_is_refused(void **state)
{
	const struct vdev_host host = { 0 };
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct virtio *v;

	(void)state;
	config.name = (char *)(uintptr_t) "disk0";
	config.kind = (char *)(uintptr_t) "virtio-nothing";
	assert_null(virtio_find_kind(config.kind));
	assert_null(virtio_find_kind(""));
	assert_int_equal(virtio_open(&config, 0, 5, NULL, NULL, &host, &v, &e), -EINVAL);
	assert_says(&e, "disk0");
	assert_says(&e, "virtio-nothing");
	for (size_t i = 0; virtio_kinds[i]; i++)
		assert_ptr_equal(virtio_find_kind(virtio_kinds[i]->kind), virtio_kinds[i]);
}

static void device_bound_again_goes_on(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	unsigned before;

	driver_start(d, ALL_FEATURES);
	driver_run(d);
	before = open_descriptors();
	for (int i = 0; i < 10; i++) {
		/* A kick that was on its way is not lost. */
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };

		driver_offer(&d->queue[0], &buf, 1, 0);
		driver_kick(d, 0);
		assert_int_equal(virtio_bind(d->v, NULL, NULL), 0);
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		echo(d, 1);
	}
	assert_int_equal(open_descriptors(), before);
}

static void bind_that_fails_keeps_what_was(void **state)
{
	const struct vm none = { .fd = -1 };
	struct rig *r = *state;
	struct err e = { 0 };

	driver_start(&r->d, ALL_FEATURES);
	assert_true(virtio_bind(r->d.v, &none, &e) < 0);
	assert_says(&e, "device0");
	echo(&r->d, 0);
	assert_int_equal(driver_interrupts(&r->d), 1);
}

static void interrupt_that_stands_is_raised_again(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	echo(d, 0);
	assert_int_equal(virtio_bind(d->v, NULL, NULL), 0);
	assert_int_equal(driver_interrupts(d), 0);
	virtio_kick_all(d->v);
	assert_int_equal(driver_interrupts(d), 1);
	driver_set(d, VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
	virtio_kick_all(d->v);
	assert_int_equal(driver_interrupts(d), 0);
}

/* KVM's own paths: a guest's write to QueueNotify makes no exit, an irqfd reaches the PIC. */
static void run_guest(struct vm *vm, struct ram *ram, uint32_t value)
{
	/* mov %ebx, (%eax); out %al, $0x10 */
	static const uint8_t code[] = { 0x89, 0x18, 0xe6, 0x10 };
	struct kvm_regs regs = { .rip = 0x1000,
				 .rflags = 2,
				 .rbx = value,
				 .rax = DRIVER_ADDRESS + VIRTIO_MMIO_QUEUE_NOTIFY };
	struct kvm_segment flat = { .limit = UINT32_MAX, .present = 1, .db = 1, .s = 1, .g = 1 };
	const int fd = vm->vcpu[0].fd;
	struct kvm_sregs sregs;

	assert_int_equal(ram_write(ram, regs.rip, code, sizeof(code)), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.ss = flat;
	flat.type = 11;
	flat.selector = 8;
	sregs.cs = flat;
	sregs.cr0 |= 1;
	assert_int_equal(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_RUN, NULL), 0);
}

static uint8_t pic_requests(const struct vm *vm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	assert_int_equal(kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.pic.irr;
}

/* An irqfd may have its interrupt raised by a thread of the kernel's: within two seconds. */
static bool pic_requested(const struct vm *vm, unsigned irq)
{
	for (int i = 0; i < 2000 && !(pic_requests(vm) & 1 << irq); i++)
		usleep(1000);
	return pic_requests(vm) & 1 << irq;
}

static void bound_to_kvm_kicks_and_interrupts_without_exits(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	struct kvm_host host;

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("skipped: /dev/kvm: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(kvm_host_open(&host, NULL), 0);
	d->v->dev.irq = 5;
	driver_start(d, ALL_FEATURES);
	/* Two VMs, one after the other, as at a reset. */
	for (int i = 0; i < 2; i++) {
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };
		struct vm vm;

		assert_int_equal(
			vm_create(&vm, &host, (const struct ram *[]){ &d->ram }, 1, 1, NULL), 0);
		assert_int_equal(virtio_bind(d->v, &vm, NULL), 0);
		driver_run(d);
		r->echo->notified = 0;
		driver_offer(&d->queue[1], &buf, 1, 0);
		run_guest(&vm, &d->ram, 1);
		assert_int_equal(vm.vcpu[0].run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(pic_requests(&vm) & 1 << 5, 0);
		driver_run(d);
		assert_int_equal(r->echo->notified, 1);
		assert_int_not_equal(driver_take(&d->queue[1], NULL), NO_HEAD);
		assert_true(pic_requested(&vm, 5));
		/* A queue that there is not is an MMIO exit. */
		run_guest(&vm, &d->ram, 2);
		assert_int_equal(vm.vcpu[0].run->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(vm.vcpu[0].run->mmio.phys_addr,
				 DRIVER_ADDRESS + VIRTIO_MMIO_QUEUE_NOTIFY);
		vm_destroy(&vm);
	}
	kvm_host_close(&host);
}

/* ---- threads ---- */

/* A vCPU that resets and starts over, again and again, while its iothread works. */
static void reset_while_the_iothread_works_waits_for_it(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	assert_int_equal(iothread_start(&d->io, NULL), 0);
	iothread_release(&d->io);
	for (int i = 0; i < 300; i++) {
		struct driver_buf buf[2];

		d->next = RAM_PAGE;
		driver_start(d, ALL_FEATURES);
		assert_int_not_equal(r->echo->extra_fd, -1);
		buf[0] = (struct driver_buf){ driver_alloc(d, 64), 64 };
		buf[1] = (struct driver_buf){ driver_alloc(d, 64), 64 };
		for (int n = 0; n < 32; n++) {
			driver_offer(&d->queue[n % 2], buf, 1, 1);
			driver_kick(d, (unsigned)n % 2);
		}
		while (i % 3 == 0 && driver_take(&d->queue[1], NULL) == NO_HEAD)
			usleep(10);
	}
	/* And the machine holds it in the midst of that. */
	iothread_hold(&d->io);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	driver_start(d, ALL_FEATURES);
	assert_true(d->io.hold && d->io.parked);
	iothread_release(&d->io);
	driver_kick(d, 0);
}

static void *pause_often(void *arg)
{
	struct iothread *t = arg;

	for (int i = 0; i < 1000; i++) {
		iothread_pause(t);
		/* The loop is this thread's alone. */
		assert_int_equal(loop_add(&t->loop, t->wake_fd, EPOLLIN, on_extra, NULL), -EEXIST);
		iothread_unpause(t);
	}
	return NULL;
}

static void pauses_of_several_vcpus_and_holds_take_turns(void **state)
{
	struct rig *r = *state;
	struct iothread *t = &r->d.io;
	pthread_t vcpu[3];

	assert_int_equal(iothread_start(t, NULL), 0);
	iothread_release(t);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&vcpu[i], NULL, pause_often, t), 0);
	for (int i = 0; i < 200; i++) {
		iothread_hold(t);
		iothread_release(t);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(vcpu[i], NULL);
	/* And it still works. */
	driver_start(&r->d, ALL_FEATURES);
	for (int i = 0; __atomic_load_n(&r->echo->notified, __ATOMIC_RELAXED) == 0; i++) {
		assert_true(i < 3000);
		usleep(1000);
	}
}

/* ---- state ---- */

static void save(struct rig *r, uint8_t **buf, size_t *len)
{
	assert_int_equal(r->d.v->dev.ops->save(&r->d.v->dev, buf, len), 0);
}

static int load(struct rig *r, const uint8_t *buf, size_t len, struct err *e)
{
	return r->d.v->dev.ops->load(&r->d.v->dev, buf, len, e);
}

/* A device like r's with its RAM and its state, as a restore makes it. */
static struct rig *restore(struct rig *r, const uint8_t *buf, size_t len)
{
	struct rig *s = open_rig(r->d.v->ops, 0);
	struct err e = { 0 };

	assert_int_equal(ram_write(&s->d.ram, 0, r->d.ram.base, DRIVER_RAM), 0);
	if (load(s, buf, len, &e) < 0)
		fail_msg("%s", e.text);
	memcpy(s->d.queue, r->d.queue, sizeof(s->d.queue));
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		s->d.queue[q].ram = &s->d.ram;
	s->d.next = r->d.next;
	return s;
}

static void state_loads_and_is_the_same_when_saved_again(void **state)
{
	struct rig *r = *state;

	/* As new; half way; with features refused; running, with requests not yet looked at. */
	for (int stage = 0; stage < 4; stage++) {
		auto_free uint8_t *once = NULL, *twice = NULL;
		struct driver_buf buf;
		size_t n, k;
		struct rig *s;

		if (stage == 1)
			driver_negotiate(&r->d, ALL_FEATURES);
		if (stage == 2) {
			driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
			driver_set(&r->d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN);
			driver_accept(&r->d, ALL_FEATURES);
		}
		if (stage == 3) {
			driver_start(&r->d, ALL_FEATURES);
			for (int i = 0; i < 100; i++)
				echo(&r->d, 0);
			buf = (struct driver_buf){ driver_alloc(&r->d, 8), 8 };
			driver_offer(&r->d.queue[0], &buf, 1, 0);
		}
		fill_random(r->echo->private, sizeof(r->echo->private), 5);
		save(r, &once, &n);
		s = restore(r, once, n);
		save(s, &twice, &k);
		assert_int_equal(n, k);
		assert_memory_equal(once, twice, n);
		assert_memory_equal(r->echo->private, s->echo->private, 8);
		if (stage == 3) {
			/* It goes on where it was, and says so again. */
			virtio_kick_all(s->d.v);
			driver_run(&s->d);
			assert_true(driver_interrupts(&s->d) >= 1);
			assert_int_not_equal(driver_take(&s->d.queue[0], NULL), NO_HEAD);
			assert_int_equal(driver_take(&s->d.queue[0], NULL), NO_HEAD);
			for (int i = 0; i < 100; i++)
				echo(&s->d, (unsigned)i % 2);
		}
		close_rig(s);
	}
}

static void device_that_needs_reset_is_restored_so(void **state)
{
	struct rig *r = *state, *s;
	auto_free uint8_t *buf = NULL;
	size_t len;

	driver_start(&r->d, ALL_FEATURES);
	driver_put_avail(&r->d.queue[0], 9999);
	driver_kick(&r->d, 0);
	driver_run(&r->d);
	save(r, &buf, &len);
	s = restore(r, buf, len);
	assert_true(driver_needs_reset(&s->d));
	virtio_kick_all(s->d.v);
	assert_int_equal(driver_interrupts(&s->d), 1);
	driver_start(&s->d, ALL_FEATURES);
	echo(&s->d, 0);
	close_rig(s);
}

static void device_without_a_state_of_its_own_is_saved_too(void **state)
{
	Device config = DEVICE__INIT;
	auto_free uint8_t *buf = NULL;
	struct driver d;
	size_t len;

	(void)state;
	config.kind = (char *)(uintptr_t) "virtio-plain";
	driver_open(&d, &plain_ops, &config);
	driver_start(&d, ALL_FEATURES);
	echo(&d, 0);
	assert_int_equal(d.v->dev.ops->save(&d.v->dev, &buf, &len), 0);
	assert_int_equal(d.v->dev.ops->load(&d.v->dev, buf, len, NULL), 0);
	virtio_kick_all(d.v);
	echo(&d, 0);
	driver_set_config(&d, 0, "x", 1);
	driver_get_config(&d, 0, buf, 1);
	assert_int_equal(buf[0], 0);
	driver_close(&d);
}

static void fewer_features_offered_than_saved_is_refused_more_is_not(void **state)
{
	struct rig *r = *state, *more = open_rig(&echo_ops, VIRTIO_F(ECHO_FEATURE) | VIRTIO_F(7));
	auto_free uint8_t *buf = NULL, *more_buf = NULL, *again = NULL;
	struct err e = { 0 };
	size_t len, more_len, again_len;

	driver_start(&r->d, ALL_FEATURES);
	save(r, &buf, &len);
	driver_start(&more->d, ALL_FEATURES);
	save(more, &more_buf, &more_len);
	assert_int_equal(load(r, more_buf, more_len, &e), -EINVAL);
	assert_says(&e, "needs features 0x80");
	assert_int_equal(load(more, buf, len, NULL), 0);
	save(more, &again, &again_len);
	assert_int_equal(again_len, len);
	assert_memory_equal(again, buf, len);
	/* The guest is offered what it was. */
	assert_true(driver_offered(&more->d) == driver_offered(&r->d));
	close_rig(more);
}

/* A good state is spoilt in one place. */
static const struct {
	const char *words;
	size_t offset;
	uint32_t value;
} spoilt[] = {
#define FIELD(f) offsetof(VirtioState, f)
	{ "type 1, not 4242", FIELD(device_id), 1 },
	{ "version 4", FIELD(device_version), 4 },
	{ "status 0x1f", FIELD(status), 0x1f }, /* 0x10 is nothing */
	{ "status 0x100", FIELD(status), 0x100 },
	{ "status 0xf0000000", FIELD(status), 0xf0000000 },
	{ "status 0x7", FIELD(status), 7 }, /* DRIVER_OK, not FEATURES_OK */
	{ "status 0x8", FIELD(status), 8 }, /* FEATURES_OK, no driver */
	{ "status 0x3", FIELD(status), 3 }, /* with queues ready */
	{ "interrupts 0x4", FIELD(interrupt_status), 4 },
	{ "interrupts 0xffffffff", FIELD(interrupt_status), UINT32_MAX },
	{ "1 queues, not 2", FIELD(n_queue), 1 },
#undef FIELD
};

static void put_field(VirtioState *m, size_t offset, uint32_t value)
{
	if (offset == offsetof(VirtioState, n_queue))
		m->n_queue = value;
	else
		*(uint32_t *)(void *)((uint8_t *)m + offset) = value;
}

static int load_spoilt(struct rig *r, const VirtioState *m, struct err *e)
{
	const size_t len = virtio_state__get_packed_size(m);
	auto_free uint8_t *buf = malloc(len);

	assert_non_null(buf);
	virtio_state__pack(m, buf);
	*e = (struct err){ 0 };
	return load(r, buf, len, e);
}

/* What is refused leaves a device that works. */
static void assert_refused(struct rig *r, const VirtioState *m, const char *words)
{
	struct err e;

	assert_int_equal(load_spoilt(r, m, &e), -EINVAL);
	assert_says(&e, words);
	r->d.next = RAM_PAGE;
	driver_start(&r->d, ALL_FEATURES);
	echo(&r->d, 0);
}

static VirtioState *good_state(struct rig *r)
{
	auto_free uint8_t *buf = NULL;
	VirtioState *m;
	size_t len;

	driver_start(&r->d, ALL_FEATURES);
	save(r, &buf, &len);
	m = virtio_state__unpack(NULL, len, buf);
	assert_non_null(m);
	return m;
}

static void hostile_states_are_refused(void **state)
{
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(spoilt) / sizeof(spoilt[0]); i++) {
		VirtioState *m = good_state(r);
		const size_t n = m->n_queue;

		put_field(m, spoilt[i].offset, spoilt[i].value);
		assert_refused(r, m, spoilt[i].words);
		m->n_queue = n;
		virtio_state__free_unpacked(m, NULL);
	}
}

static void hostile_features_and_queues_are_refused(void **state)
{
	struct rig *r = *state;
	VirtioState *m = good_state(r);
	const uint64_t features = m->driver_features;

	m->driver_features |= 1ULL << 40;
	assert_refused(r, m, "accepted, which were not offered");
	m->driver_features = features & ~VIRTIO_F(VIRTIO_F_VERSION_1);
	assert_refused(r, m, "VERSION_1");
	m->driver_features = features;
	m->features |= 1ULL << 40;
	assert_refused(r, m, "needs features");
	m->features &= ~(1ULL << 40);
	m->queue[1]->used = DRIVER_RAM;
	assert_refused(r, m, "outside RAM");
	m->queue[1]->used = m->queue[0]->used;
	m->queue[0]->next_avail = 77;
	assert_refused(r, m, "further apart");
	m->queue[0]->next_avail = 0;
	m->device.len = 7;
	assert_refused(r, m, "the echo has 7 bytes");
	m->device.len = 8;
	assert_int_equal(load_spoilt(r, m, &(struct err){ 0 }), 0);
	virtio_state__free_unpacked(m, NULL);
}

static void nonsense_is_refused(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *many = malloc(1 << 20);
	uint8_t bytes[200];
	struct err e = { 0 };

	for (uint32_t seed = 0; seed < 500; seed++) {
		fill_random(bytes, sizeof(bytes), seed);
		assert_int_equal(load(r, bytes, seed % 200, NULL), -EINVAL);
	}
	/* Half a million empty queues: two bytes each here, much more in memory. */
	for (size_t i = 0; i < 1 << 20; i += 2)
		memcpy(many + i, "\x52\x00", 2);
	assert_int_equal(load(r, many, 1 << 20, &e), -EINVAL);
	assert_says(&e, "cannot be parsed");
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(request_comes_back_with_an_interrupt),
		T(registers_say_what_the_device_is),
		T(registers_of_another_width_are_nothing),
		T(configuration_is_read_and_written_within_its_size),
		T(configuration_that_changes_is_told),
		T(features_that_were_not_offered_are_not_ok),
		T(features_before_the_driver_is_there_are_not_ok),
		T(driver_ok_without_features_ok_needs_reset),
		T(status_bits_are_cleared_by_a_reset_alone),
		T(driver_that_has_failed_is_left_alone),
		T(queue_that_is_ready_is_not_moved),
		T(bad_queue_needs_reset),
		T(queues_that_there_are_not_are_ignored),
		T(broken_ring_needs_reset_and_is_left_alone),
		T(buffer_outside_ram_needs_reset),
		T(lost_buffer_is_reported_and_taken_again),
		T(lost_rings_are_reported_and_go_on),
		T(lost_used_ring_gives_the_request_back_once),
		cmocka_unit_test(open_that_fails_says_why_and_leaves_nothing),
		cmocka_unit_test(open_of_an_unknown_kind_is_refused),
		T(device_bound_again_goes_on),
		T(bind_that_fails_keeps_what_was),
		T(interrupt_that_stands_is_raised_again),
		T(bound_to_kvm_kicks_and_interrupts_without_exits),
		T(reset_while_the_iothread_works_waits_for_it),
		T(pauses_of_several_vcpus_and_holds_take_turns),
		T(state_loads_and_is_the_same_when_saved_again),
		T(device_that_needs_reset_is_restored_so),
		cmocka_unit_test(device_without_a_state_of_its_own_is_saved_too),
		T(fewer_features_offered_than_saved_is_refused_more_is_not),
		T(hostile_states_are_refused),
		T(hostile_features_and_queues_are_refused),
		T(nonsense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
