/* virtio-rng: random bytes to the guest, in bounds, and requests that make no sense. */
#include "virtio_driver.h"

#include "vmm/fault.h"
#include "vmm/virtio/kinds.h"

#define REQUEST_MAX (64U << 10)

static int make(void **state)
{
	static Device config = DEVICE__INIT;
	struct driver *d = calloc(1, sizeof(*d));

	if (!d)
		return -1;
	driver_open(d, &virtio_rng_ops, &config);
	driver_start(d, ALL_FEATURES);
	*state = d;
	return 0;
}

static int drop(void **state)
{
	driver_close(*state);
	free(*state);
	return 0;
}

static void rng_request_is_filled_with_different_bytes(void **state)
{
	static const uint8_t zeros[32];
	uint8_t a[4096] = { 0 }, b[4096] = { 0 };
	struct driver *d = *state;

	assert_int_equal(driver_request(d, 0, NULL, 0, a, sizeof(a)), sizeof(a));
	assert_int_equal(driver_request(d, 0, NULL, 0, b, sizeof(b)), sizeof(b));
	assert_int_equal(driver_interrupts(d), 2);
	assert_memory_not_equal(a, b, sizeof(a));
	/* Each part of it: the end, too. */
	for (size_t at = 0; at < sizeof(a); at += sizeof(zeros))
		assert_memory_not_equal(a + at, zeros, sizeof(zeros));
}

static void rng_odd_request_is_filled_exactly(void **state)
{
	struct driver *d = *state;
	const struct driver_buf buf[2] = { { driver_alloc(d, 16), 1 }, { driver_alloc(d, 64), 9 } };
	uint8_t behind[55];
	uint32_t len;

	driver_offer(&d->queue[0], buf, 0, 2);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[0], &len), NO_HEAD);
	assert_int_equal(len, 10);
	guest_read(&d->ram, buf[1].address + 9, behind, sizeof(behind));
	assert_true(io_is_zero(behind, sizeof(behind)));
}

static void rng_large_request_is_bounded(void **state)
{
	static uint8_t bytes[REQUEST_MAX + 4096];
	struct driver *d = *state;

	assert_int_equal(driver_request(d, 0, NULL, 0, bytes, sizeof(bytes)), REQUEST_MAX);
	assert_true(io_is_zero(bytes + REQUEST_MAX, 4096));
	assert_false(io_is_zero(bytes + REQUEST_MAX - 16, 16));
}

static void rng_many_requests_are_all_served(void **state)
{
	struct driver *d = *state;
	const struct driver_buf buf = { driver_alloc(d, 64), 64 };
	unsigned served = 0;
	uint32_t len;

	/* More than one callback serves. */
	for (int i = 0; i < 60; i++)
		driver_offer(&d->queue[0], &buf, 0, 1);
	driver_kick(d, 0);
	driver_run(d);
	for (; driver_take(&d->queue[0], &len) != NO_HEAD; served++)
		assert_int_equal(len, 64);
	assert_int_equal(served, 60);
}

static void assert_refused(struct driver *d, struct driver_buf buf, unsigned nout, unsigned nin)
{
	driver_offer(&d->queue[0], &buf, nout, nin);
	driver_kick(d, 0);
	driver_run(d);
	assert_true(driver_needs_reset(d));
	assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
	/* The driver comes to itself. */
	driver_start(d, 0);
	assert_int_equal(driver_request(d, 0, NULL, 0, (uint8_t[8]){ 0 }, 8), 8);
}

static void rng_senseless_request_needs_a_reset(void **state)
{
	struct driver *d = *state;
	const uint64_t address = driver_alloc(d, 64);

	assert_refused(d, (struct driver_buf){ address, 64 }, 1, 0);
	assert_refused(d, (struct driver_buf){ address, 0 }, 0, 1);
	assert_refused(d, (struct driver_buf){ DRIVER_RAM - 8, 64 }, 0, 1);
	assert_refused(d, (struct driver_buf){ UINT64_MAX - 8, 64 }, 0, 1);
}

static void rng_lost_page_is_filled_when_it_is_back(void **state)
{
	struct driver *d = *state;
	const uint64_t page = DRIVER_RAM - RAM_PAGE;
	const struct driver_buf buf = { page, 128 };
	uint8_t bytes[128];
	uint32_t len;

	assert_int_equal(fault_install(), 0);
	driver_offer(&d->queue[0], &buf, 0, 1);
	assert_int_equal(ftruncate(d->ram.fd, (off_t)page), 0);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_equal(d->faults, 1);
	assert_in_range(d->fault, page, page + 127);
	assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);

	assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM), 0);
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[0], &len), NO_HEAD);
	assert_int_equal(len, 128);
	guest_read(&d->ram, page, bytes, sizeof(bytes));
	assert_false(io_is_zero(bytes, sizeof(bytes)));
	assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
}

static void rng_saved_and_loaded_serves_what_waited(void **state)
{
	static Device config = DEVICE__INIT;
	struct driver *d = *state, to;
	const struct driver_buf buf = { driver_alloc(d, 64), 64 };
	uint8_t bytes[64];

	driver_offer(&d->queue[0], &buf, 0, 1);
	driver_open(&to, &virtio_rng_ops, &config);
	assert_int_equal(driver_move(&to, d, NULL), 0);
	assert_int_not_equal(driver_take(&to.queue[0], NULL), NO_HEAD);
	guest_read(&to.ram, buf.address, bytes, sizeof(bytes));
	assert_false(io_is_zero(bytes, sizeof(bytes)));
	driver_close(&to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(rng_request_is_filled_with_different_bytes, make,
						drop),
		cmocka_unit_test_setup_teardown(rng_odd_request_is_filled_exactly, make, drop),
		cmocka_unit_test_setup_teardown(rng_large_request_is_bounded, make, drop),
		cmocka_unit_test_setup_teardown(rng_many_requests_are_all_served, make, drop),
		cmocka_unit_test_setup_teardown(rng_senseless_request_needs_a_reset, make, drop),
		cmocka_unit_test_setup_teardown(rng_lost_page_is_filled_when_it_is_back, make,
						drop),
		cmocka_unit_test_setup_teardown(rng_saved_and_loaded_serves_what_waited, make,
						drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
