/* virtio-balloon: inflating, deflating, free page reports, its target and its state. */
#include "virtio_driver.h"

#include <linux/virtio_balloon.h>

#include "vmm/fault.h"
#include "vmm/virtio/balloon.h"

#define INFLATE	  0
#define DEFLATE	  1
#define REPORT_61 2 /* by a driver that counts only the queues it uses */
#define REPORT	  4
#define TARGET	  0 /* offsets in the configuration space */
#define ACTUAL	  4
#define FULL	  (8ULL << 20) /* guest memory from here to the end is the test's, and has data */

struct rig {
	struct driver d; /* first */
	Device config;
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	device__init(&r->config);
	driver_open(&r->d, &virtio_balloon_ops, &r->config);
	memset(r->d.ram.base + FULL, 0xaa, DRIVER_RAM - FULL);
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	driver_close(&r->d);
	free(r);
	return 0;
}

static int make_started(void **state)
{
	int rc = make(state);

	if (rc == 0)
		driver_start(*state, ALL_FEATURES);
	return rc;
}

static uint32_t config_at(struct driver *d, uint32_t offset)
{
	uint32_t value;

	driver_get_config(d, offset, &value, sizeof(value));
	return value;
}

static struct balloon_status status(struct driver *d)
{
	struct balloon_status s;

	virtio_balloon_get_status(d->v, &s);
	return s;
}

static uint32_t page(uint64_t address)
{
	return (uint32_t)(address / RAM_PAGE);
}

static bool has_data(struct driver *d, uint64_t address)
{
	return d->ram.base[address] == 0xaa;
}

/* Host memory behind the guest's. */
static uint64_t used(const struct driver *d)
{
	struct stat st;

	assert_int_equal(fstat(d->ram.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* ---- features and configuration ---- */

static void features_are_those_that_are_kept_by_a_save(void **state)
{
	const uint64_t offered = driver_offered(*state);

	assert_true(offered >> VIRTIO_BALLOON_F_DEFLATE_ON_OOM & 1);
	assert_true(offered >> VIRTIO_BALLOON_F_REPORTING & 1);
	assert_false(offered >> VIRTIO_BALLOON_F_PAGE_POISON & 1);
	assert_false(offered >> VIRTIO_BALLOON_F_FREE_PAGE_HINT & 1);
	assert_false(offered >> VIRTIO_BALLOON_F_STATS_VQ & 1);
}

static void target_is_in_the_configuration_with_an_interrupt(void **state)
{
	struct driver *d = *state;
	struct err e = { 0 };

	assert_int_equal(config_at(d, TARGET), 0);
	driver_interrupts(d);
	assert_int_equal(virtio_balloon_set_target(d->v, 4 << 20, &e), 0);
	assert_int_equal(driver_interrupts(d), 1);
	assert_true(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(config_at(d, TARGET), 1024);
	assert_int_equal(status(d).target, 4 << 20);
	assert_int_equal(virtio_balloon_set_target(d->v, DRIVER_RAM + 1, &e), -EINVAL);
	assert_says(&e, "no larger than the guest's RAM of 16");
	assert_int_equal(config_at(d, TARGET), 1024);
	assert_int_equal(virtio_balloon_set_target(d->v, DRIVER_RAM, &e), 0);
	assert_int_equal(virtio_balloon_set_target(d->v, 0, &e), 0);
	assert_int_equal(config_at(d, TARGET), 0);
}

static void driver_writes_what_it_gave_and_nothing_else(void **state)
{
	struct driver *d = *state;
	const uint32_t much = 0xffffffff, some = 77;

	driver_set_config(d, ACTUAL, &some, sizeof(some));
	driver_set_config(d, TARGET, &much, sizeof(much));
	assert_int_equal(config_at(d, TARGET), 0);
	assert_int_equal(status(d).actual, 77 * RAM_PAGE);
	driver_set(d, VIRTIO_MMIO_STATUS, 0); /* a driver that begins again has given nothing */
	assert_int_equal(status(d).actual, 0);
}

/* ---- inflating ---- */

static void inflate_gives_the_pages_to_the_host(void **state)
{
	struct driver *d = *state;
	const uint32_t pfn[] = { page(FULL), page(FULL) + 1, page(FULL) + 2, page(FULL) + 9,
				 page(FULL) + 5 };
	const uint64_t before = used(d);

	driver_interrupts(d);
	assert_int_equal(driver_request(d, INFLATE, pfn, sizeof(pfn), NULL, 0), 0);
	assert_int_equal(driver_interrupts(d), 1);
	for (uint32_t i = 0; i < 10; i++) {
		const bool given = i < 3 || i == 9 || i == 5;

		assert_int_equal(has_data(d, FULL + i * RAM_PAGE), !given);
	}
	assert_true(before - used(d) >= 4 * RAM_PAGE);
	assert_int_equal(status(d).discarded, 5 * RAM_PAGE);
	assert_int_equal(status(d).ignored, 0);
}

static void inflate_of_a_list_in_pieces_is_whole(void **state)
{
	struct driver *d = *state;
	uint32_t pfn[1000];
	struct driver_buf buf[3];
	const uint64_t at = driver_alloc(d, sizeof(pfn));

	for (uint32_t i = 0; i < 1000; i++)
		pfn[i] = page(FULL) + 2 * i;
	guest_write(&d->ram, at, pfn, sizeof(pfn));
	buf[0] = (struct driver_buf){ at, 6 }; /* not even whole numbers */
	buf[1] = (struct driver_buf){ at + 6, 2000 };
	buf[2] = (struct driver_buf){ at + 2006, sizeof(pfn) - 2006 };
	driver_offer(&d->queue[INFLATE], buf, 3, 0);
	driver_kick(d, INFLATE);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[INFLATE], NULL), NO_HEAD);
	for (uint32_t i = 0; i < 2000; i++)
		assert_int_equal(has_data(d, FULL + i * RAM_PAGE), i % 2);
}

static void inflate_of_what_is_no_ram_is_ignored_and_counted(void **state)
{
	struct driver *d = *state;
	const uint32_t pfn[] = { page(DRIVER_RAM), 0xffffffff, 0, 0xfffffffe, page(FULL) };

	guest_write(&d->ram, 0, "first page", 10);
	driver_request(d, INFLATE, pfn, sizeof(pfn), NULL, 0);
	assert_false(driver_needs_reset(d));
	assert_int_equal(status(d).ignored, 3);
	assert_int_equal(status(d).discarded, 2 * RAM_PAGE);
	assert_false(has_data(d, FULL));
	assert_int_equal(d->ram.base[0], 0);
}

static void inflate_by_a_list_that_cannot_be_needs_a_reset(void **state)
{
	static const uint32_t bad[] = { 3, 4097, (16384 + 1) * 4, 8 << 20 };
	struct driver *d = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct driver_buf buf = { FULL, bad[i] };

		d->next = RAM_PAGE;
		driver_start(d, ALL_FEATURES);
		driver_offer(&d->queue[INFLATE], &buf, 1, 0);
		driver_kick(d, INFLATE);
		driver_run(d);
		assert_true(driver_needs_reset(d));
		assert_int_equal(driver_take(&d->queue[INFLATE], NULL), NO_HEAD);
	}
	assert_int_equal(status(d).discarded, 0);
}

static void inflate_of_shared_ram_keeps_what_is_reserved(void **state)
{
	struct driver *d = *state;
	const uint32_t pfn[] = { page(FULL), page(FULL) + 1 };

	d->ram.backing = RAM_SHARED;
	driver_request(d, INFLATE, pfn, sizeof(pfn), NULL, 0);
	assert_true(has_data(d, FULL));
	assert_int_equal(status(d).kept, 2 * RAM_PAGE);
	assert_int_equal(status(d).discarded, 0);
	d->ram.may_punch = true;
	driver_request(d, INFLATE, pfn, sizeof(pfn), NULL, 0);
	assert_false(has_data(d, FULL));
	assert_int_equal(status(d).discarded, 2 * RAM_PAGE);
}

static void more_requests_than_a_turn_are_all_served(void **state)
{
	struct driver *d = *state;
	const uint64_t at = driver_alloc(d, 4 * 100);

	for (uint32_t i = 0; i < 100; i++) {
		const uint32_t pfn = page(FULL) + i;
		const struct driver_buf buf = { at + 4 * i, 4 };

		guest_write(&d->ram, buf.address, &pfn, sizeof(pfn));
		driver_offer(&d->queue[INFLATE], &buf, 1, 0);
	}
	driver_kick(d, INFLATE);
	driver_run(d);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_not_equal(driver_take(&d->queue[INFLATE], NULL), NO_HEAD);
	assert_int_equal(status(d).discarded, 100 * RAM_PAGE);
}

static void deflate_leaves_the_pages_for_the_guest_to_touch(void **state)
{
	struct driver *d = *state;
	const uint32_t pfn[] = { page(FULL), page(FULL) + 1 };

	driver_request(d, INFLATE, pfn, sizeof(pfn), NULL, 0);
	assert_int_equal(driver_request(d, DEFLATE, pfn, sizeof(pfn), NULL, 0), 0);
	assert_int_equal(status(d).discarded, 2 * RAM_PAGE);
	guest_write(&d->ram, FULL, "mine again", 10);
	assert_true(has_data(d, FULL + 2 * RAM_PAGE));
}

static void list_that_cannot_be_had_is_a_fault_and_comes_again(void **state)
{
	struct driver *d = *state;
	const uint32_t pfn = page(FULL);
	const struct driver_buf buf = { DRIVER_RAM - RAM_PAGE, 4 };

	assert_int_equal(fault_install(), 0);
	assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM - RAM_PAGE), 0);
	driver_offer(&d->queue[INFLATE], &buf, 1, 0);
	driver_kick(d, INFLATE);
	driver_run(d);
	assert_int_equal(d->faults, 1);
	assert_int_equal(d->fault & ~(RAM_PAGE - 1), DRIVER_RAM - RAM_PAGE);
	assert_false(driver_needs_reset(d));
	assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM), 0);
	guest_write(&d->ram, buf.address, &pfn, sizeof(pfn));
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[INFLATE], NULL), NO_HEAD);
	assert_false(has_data(d, FULL));
}

/* ---- free page reports ---- */

static void report_ranges(struct driver *d, unsigned q, const struct driver_buf *buf, unsigned n)
{
	driver_offer(&d->queue[q], buf, 0, n);
	driver_kick(d, q);
	driver_run(d);
}

static void report_gives_whole_pages_of_each_range(void **state)
{
	static const unsigned queues[] = { REPORT, REPORT_61 };
	struct driver *d = *state;

	for (size_t i = 0; i < 2; i++) {
		const uint64_t at = FULL + i * (2 << 20);
		const struct driver_buf buf[] = {
			{ at, 4 * RAM_PAGE },
			{ at + 6 * RAM_PAGE - 1, 2 * RAM_PAGE + 1 }, /* two pages and a byte */
			{ at + 10 * RAM_PAGE + 1, RAM_PAGE },	     /* no whole one */
			{ at + 13 * RAM_PAGE, RAM_PAGE - 1 },
		};

		report_ranges(d, queues[i], buf, 4);
		assert_int_not_equal(driver_take(&d->queue[queues[i]], NULL), NO_HEAD);
		for (unsigned p = 0; p < 16; p++)
			assert_int_equal(has_data(d, at + p * RAM_PAGE),
					 !(p < 4 || p == 6 || p == 7));
		assert_int_equal(status(d).discarded, (i + 1) * 6 * RAM_PAGE);
	}
}

static void report_of_what_is_no_ram_is_ignored_and_counted(void **state)
{
	struct driver *d = *state;
	const struct driver_buf buf[] = {
		{ UINT64_MAX - 100, 4096 }, { UINT64_MAX - 8191, 4096 },
		{ DRIVER_RAM, RAM_PAGE },   { DRIVER_RAM - RAM_PAGE, 2 * RAM_PAGE },
		{ FULL, RAM_PAGE },
	};

	report_ranges(d, REPORT, buf, 5);
	assert_false(driver_needs_reset(d));
	assert_int_equal(status(d).ignored, 4);
	assert_int_equal(status(d).discarded, RAM_PAGE);
	assert_true(has_data(d, DRIVER_RAM - RAM_PAGE));
}

static void report_of_more_than_there_is_needs_a_reset(void **state)
{
	struct driver *d = *state;
	const struct driver_buf buf[] = { { 0, DRIVER_RAM }, { 0, RAM_PAGE } };

	report_ranges(d, REPORT, buf, 2);
	assert_true(driver_needs_reset(d));
	assert_true(has_data(d, FULL));
}

static void report_that_was_not_negotiated_needs_a_reset(void **state)
{
	struct driver *d = *state;
	const struct driver_buf buf = { FULL, RAM_PAGE };

	driver_start(d, 0);
	report_ranges(d, REPORT, &buf, 1);
	assert_true(driver_needs_reset(d));
	assert_true(has_data(d, FULL));
}

/* ---- state ---- */

static void load_saved(struct driver *from, struct driver *to)
{
	struct err e = { 0 };
	auto_free uint8_t *buf = NULL;
	size_t len;

	assert_int_equal(from->v->dev.ops->save(&from->v->dev, &buf, &len), 0);
	if (to->v->dev.ops->load(&to->v->dev, buf, len, &e) < 0)
		fail_msg("%s", e.text);
}

static void saved_balloon_is_the_same_in_another_machine(void **state)
{
	struct driver *d = *state;
	struct rig *other;
	const uint32_t given = 300, pfn = page(FULL);

	assert_int_equal(virtio_balloon_set_target(d->v, 2 << 20, NULL), 0);
	driver_set_config(d, ACTUAL, &given, sizeof(given));
	make((void **)&other);
	/* As RAM would come with the snapshot. */
	memcpy(other->d.ram.base, d->ram.base, DRIVER_RAM);
	load_saved(d, &other->d);
	assert_int_equal(status(&other->d).target, 2 << 20);
	assert_int_equal(status(&other->d).actual, 300 * RAM_PAGE);
	memcpy(other->d.queue, d->queue, sizeof(d->queue));
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		other->d.queue[q].ram = &other->d.ram;
	other->d.next = d->next;
	driver_request(&other->d, INFLATE, &pfn, sizeof(pfn), NULL, 0);
	assert_false(has_data(&other->d, FULL));
	assert_true(has_data(d, FULL));
	/* Nothing asked for, nothing given: an empty message. */
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(virtio_balloon_set_target(d->v, 0, NULL), 0);
	load_saved(d, &other->d);
	assert_int_equal(status(&other->d).target, 0);
	drop((void **)&other);
}

static void load_of_a_bad_state_is_refused(void **state)
{
	struct driver *d = *state;
	BalloonState s = BALLOON_STATE__INIT;
	uint8_t buf[32];
	struct err e = { 0 };
	size_t len;

	assert_int_equal(virtio_balloon_set_target(d->v, 1 << 20, NULL), 0);
	s.target = page(DRIVER_RAM) + 1;
	len = balloon_state__pack(&s, buf);
	assert_int_equal(virtio_balloon_ops.load(d->v, 1, buf, len, &e), -EINVAL);
	assert_says(&e, "device0 asks for more memory than the machine has");
	assert_int_equal(virtio_balloon_ops.load(d->v, 1, (const uint8_t *)"\xff\xff", 2, &e),
			 -EINVAL);
	assert_says(&e, "device0 cannot be parsed");
	assert_int_equal(status(d).target, 1 << 20);
}

#define ON(f)	   cmocka_unit_test_setup_teardown(f, make_started, drop)
#define ON_IDLE(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_IDLE(features_are_those_that_are_kept_by_a_save),
		ON(target_is_in_the_configuration_with_an_interrupt),
		ON(driver_writes_what_it_gave_and_nothing_else),
		ON(inflate_gives_the_pages_to_the_host),
		ON(inflate_of_a_list_in_pieces_is_whole),
		ON(inflate_of_what_is_no_ram_is_ignored_and_counted),
		ON_IDLE(inflate_by_a_list_that_cannot_be_needs_a_reset),
		ON(inflate_of_shared_ram_keeps_what_is_reserved),
		ON(more_requests_than_a_turn_are_all_served),
		ON(deflate_leaves_the_pages_for_the_guest_to_touch),
		ON(list_that_cannot_be_had_is_a_fault_and_comes_again),
		ON(report_gives_whole_pages_of_each_range),
		ON(report_of_what_is_no_ram_is_ignored_and_counted),
		ON(report_of_more_than_there_is_needs_a_reset),
		ON_IDLE(report_that_was_not_negotiated_needs_a_reset),
		ON(saved_balloon_is_the_same_in_another_machine),
		ON(load_of_a_bad_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
