/* The transport of virtio devices: registers, configuration, status. */
#include "virtio_echo.h"

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
