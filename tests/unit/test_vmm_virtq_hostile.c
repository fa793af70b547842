/* Virtqueues: what a driver never does, lost pages, saved state; and a driver on a thread. */
#include "virtq_rig.h"

#include <pthread.h>
#include <sched.h>

#include "vmm/fault.h"

/* ---- what a driver never does ---- */

static void desc(struct rig *r, uint16_t i, uint16_t flags, uint16_t next)
{
	driver_put_desc(&r->ram, r->dq.desc, i, DATA_AT, 8, flags, next);
}

static void indirect(struct rig *r, uint64_t address, uint32_t len, uint16_t flags)
{
	driver_put_desc(&r->ram, r->dq.desc, 0, address, len,
			(uint16_t)(flags | VRING_DESC_F_INDIRECT), 0);
	driver_put_avail(&r->dq, 0);
}

static void head_out_of_range_is_broken(void **state)
{
	struct rig *r = *state;

	driver_put_avail(&r->dq, 16);
	assert_broken(r, "outside its table");
	lay_out(r, 16, false);
	driver_put_avail(&r->dq, 0xffff);
	assert_broken(r, "outside its table");
}

static void next_out_of_range_is_broken(void **state)
{
	struct rig *r = *state;

	desc(r, 0, VRING_DESC_F_NEXT, 16);
	driver_put_avail(&r->dq, 0);
	assert_broken(r, "outside its table");
}

static void chain_that_loops_is_broken(void **state)
{
	struct rig *r = *state;

	desc(r, 0, VRING_DESC_F_NEXT, 0);
	driver_put_avail(&r->dq, 0);
	assert_broken(r, "longer than the queue");
	lay_out(r, 16, false);
	desc(r, 5, VRING_DESC_F_NEXT, 6);
	desc(r, 6, VRING_DESC_F_NEXT, 5);
	driver_put_avail(&r->dq, 5);
	assert_broken(r, "longer than the queue");
	/* In a table, and a full one of 256. */
	lay_out(r, 256, false);
	driver_put_desc(&r->ram, TABLES_AT, 0, DATA_AT, 1, VRING_DESC_F_NEXT, 0);
	indirect(r, TABLES_AT, 4096, 0);
	assert_broken(r, "longer than the queue");
}

static void chain_as_long_as_the_queue_is_taken(void **state)
{
	struct driver_buf buf[VIRTQ_SIZE_MAX];
	struct rig *r = *state;

	lay_out(r, VIRTQ_SIZE_MAX, false);
	for (int i = 0; i < VIRTQ_SIZE_MAX; i++)
		buf[i] = (struct driver_buf){ DATA_AT, UINT32_MAX };
	driver_offer(&r->dq, buf, 128, 128);
	assert_int_equal(pop(r), 1);
	assert_int_equal(r->c.out_len, 128ULL * UINT32_MAX);
	assert_int_equal(r->c.in_len, 128ULL * UINT32_MAX);
}

static void read_buffer_after_a_written_one_is_broken(void **state)
{
	struct rig *r = *state;

	desc(r, 0, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	desc(r, 1, 0, 0);
	driver_put_avail(&r->dq, 0);
	assert_broken(r, "after one to be written");
}

static void bad_indirect_tables_are_broken(void **state)
{
	static const struct {
		uint64_t address;
		uint32_t len;
		uint16_t flags;
		const char *words;
	} cases[] = {
		{ TABLES_AT, 0, 0, "whole descriptors" },
		{ TABLES_AT, 15, 0, "whole descriptors" },
		{ TABLES_AT, 17, 0, "whole descriptors" },
		{ TABLES_AT, 17 * 16, 0, "longer than the queue" },
		{ TABLES_AT, UINT32_MAX & ~15U, 0, "longer than the queue" },
		{ TABLES_AT, 16, VRING_DESC_F_NEXT, "with a next one" },
		{ DRIVER_RAM, 16, 0, "not in RAM" },
		{ DRIVER_RAM - 8, 16, 0, "not in RAM" },
		{ UINT64_MAX - 7, 16, 0, "not in RAM" },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		lay_out(r, 16, false);
		indirect(r, cases[i].address, cases[i].len, cases[i].flags);
		assert_broken(r, cases[i].words);
	}
	/* One in another, and one of the other's own. */
	lay_out(r, 16, false);
	driver_put_desc(&r->ram, TABLES_AT, 0, TABLES_AT, 16, VRING_DESC_F_INDIRECT, 0);
	indirect(r, TABLES_AT, 16, 0);
	assert_broken(r, "in an indirect table");
	lay_out(r, 16, false);
	r->q.indirect = false;
	indirect(r, TABLES_AT, 16, 0);
	assert_broken(r, "not negotiated");
	/* A next one beyond the table, though within the queue. */
	lay_out(r, 16, false);
	driver_put_desc(&r->ram, TABLES_AT, 0, DATA_AT, 16, VRING_DESC_F_NEXT, 1);
	indirect(r, TABLES_AT, 16, 0);
	assert_broken(r, "outside its table");
}

static void more_offered_than_the_queue_is_long_is_broken(void **state)
{
	struct rig *r = *state;

	desc(r, 0, 0, 0);
	guest_write16(&r->ram, r->dq.avail + 2, 17);
	assert_broken(r, "more requests offered");
	guest_write16(&r->ram, r->dq.avail + 2, 0xffff);
	assert_broken(r, "more requests offered");
	guest_write16(&r->ram, r->dq.avail + 2, 16);
	assert_int_equal(pop(r), 1);
	/* And back. */
	guest_write16(&r->ram, r->dq.avail + 2, 0);
	assert_broken(r, "more requests offered");
}

static void more_under_way_than_the_queue_is_long_is_broken(void **state)
{
	struct rig *r = *state;

	desc(r, 0, 0, 0);
	for (int i = 0; i < 16; i++) {
		driver_put_avail(&r->dq, 0);
		assert_int_equal(pop(r), 1);
	}
	driver_put_avail(&r->dq, 0);
	assert_broken(r, "under way");
	assert_int_equal(virtq_push(&r->q, &r->ram, 0, 0), 0);
	assert_int_equal(pop(r), 1);
}

static void rings_that_have_left_ram_are_broken(void **state)
{
	struct rig *r = *state;

	driver_put_avail(&r->dq, 0);
	r->q.desc = DRIVER_RAM;
	assert_broken(r, "not in RAM");
	r->q.avail = 1ULL << 40;
	assert_broken(r, "not in RAM");
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), -EPROTO);
	r->q.used = UINT64_MAX - 3;
	assert_int_equal(virtq_push(&r->q, &r->ram, 0, 0), -EPROTO);
	assert_int_equal(virtq_want_kicks(&r->q, &r->ram, true), -EPROTO);
}

/* ---- pages that cannot be had ---- */

static void lost_rings_are_efault_and_nothing_is_taken_or_given(void **state)
{
	static const struct driver_buf buf[] = { { DATA_AT, 8 }, { DATA_AT, 8 } };
	struct rig *r = *state;
	auto_free uint8_t *copy = malloc(DRIVER_RAM);

	assert_int_equal(fault_install(), 0);
	driver_offer_indirect(&r->dq, TABLES_AT, buf, 1, 1);
	assert_int_equal(io_pread_full(r->ram.fd, copy, DRIVER_RAM, 0), 0);
	for (int i = 0; i < 3; i++) {
		/* The rings; the table; none. */
		static const uint64_t to[] = { QUEUE_AT, TABLES_AT, DRIVER_RAM };

		assert_int_equal(ftruncate(r->ram.fd, (off_t)to[i]), 0);
		if (i < 2) {
			assert_int_equal(pop(r), -EFAULT);
			assert_int_equal(ram_take_fault(&r->ram) & ~(RAM_PAGE - 1), to[i]);
			assert_int_equal(ram_take_fault(&r->ram), UINT64_MAX);
		}
		if (i == 0) {
			assert_int_equal(virtq_push(&r->q, &r->ram, 0, 0), -EFAULT);
			assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), -EFAULT);
			assert_int_equal(virtq_want_kicks(&r->q, &r->ram, true), -EFAULT);
		}
		assert_int_equal(r->q.next_avail, 0);
		assert_int_equal(r->q.next_used, 0);
		assert_false(r->q.signalled_valid);
		assert_int_equal(ftruncate(r->ram.fd, DRIVER_RAM), 0);
		assert_int_equal(io_pwrite_full(r->ram.fd, copy, DRIVER_RAM, 0), 0);
	}
	assert_int_equal(pop(r), 1);
	assert_int_equal(r->c.nout + r->c.nin, 2);
}

static void lost_buffers_are_efault(void **state)
{
	static const struct driver_buf buf[] = { { DATA_AT, 8192 }, { DATA_AT, 8192 } };
	uint8_t bytes[8192] = { 0 };
	struct rig *r = *state;
	struct iovec iov[1];

	assert_int_equal(fault_install(), 0);
	driver_offer(&r->dq, buf, 1, 1);
	assert_int_equal(pop(r), 1);
	assert_int_equal(ftruncate(r->ram.fd, DATA_AT + 4096), 0);
	assert_int_equal(virtq_read(&r->c, &r->ram, 0, bytes, 8192), -EFAULT);
	assert_int_equal(ram_take_fault(&r->ram) & ~(RAM_PAGE - 1), DATA_AT + 4096);
	assert_int_equal(virtq_write(&r->c, &r->ram, 0, bytes, 8192), -EFAULT);
	assert_int_equal(virtq_write(&r->c, &r->ram, 0, bytes, 4096), 0);
	/* I/O by the kernel says it by itself. */
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 4096, 4096, iov, 1), 1);
	{
		auto_fd int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

		assert_int_equal(readv(zero, iov, 1), -1);
		assert_int_equal(errno, EFAULT);
	}
}

/* ---- sane, state ---- */

static void sane_knows_every_edge(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		bool sane;
	} cases[] = {
		{ 16, 0x1000, 0x2000, 0x3000, true },
		{ 1, 0, 0, 0, true },
		{ 0, 0x1000, 0x2000, 0x3000, false },
		{ 3, 0x1000, 0x2000, 0x3000, false },
		{ 32, 0x1000, 0x2000, 0x3000, false }, /* more than offered */
		{ 16, 0x1008, 0x2000, 0x3000, false },
		{ 16, 0x1000, 0x2001, 0x3000, false },
		{ 16, 0x1000, 0x2000, 0x3002, false },
		{ 16, DRIVER_RAM - 256, 0x2000, 0x3000, true },
		{ 16, DRIVER_RAM - 240, 0x2000, 0x3000, false },
		{ 16, 0x1000, DRIVER_RAM - 38, 0x3000, true },
		{ 16, 0x1000, DRIVER_RAM - 36, 0x3000, false },
		{ 2, 0x1000, 0x2000, DRIVER_RAM - 24, true },
		{ 2, 0x1000, 0x2000, DRIVER_RAM - 20, false },
		{ 16, UINT64_MAX & ~15ULL, 0x2000, 0x3000, false },
		{ 16, 0x1000, UINT64_MAX & ~1ULL, 0x3000, false },
		{ 16, 0x1000, 0x2000, UINT64_MAX & ~3ULL, false },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtq q = { .size_max = 16,
				   .size = cases[i].size,
				   .desc = cases[i].desc,
				   .avail = cases[i].avail,
				   .used = cases[i].used };

		if (virtq_is_sane(&q, &r->ram) != cases[i].sane)
			fail_msg("case %zu", i);
	}
}

static void state_loads_as_it_was_saved(void **state)
{
	struct rig *r = *state;
	struct virtq q = { .size_max = 16 };
	VirtqState s;

	lay_out(r, 16, true);
	r->q.next_avail = r->q.next_used = r->dq.avail_idx = 0xfff8;
	push_n(r, 13);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 1);
	push_n(r, 1);
	virtq_save(&r->q, &s);
	assert_int_equal(virtq_load(&q, &s, &r->ram, "device0", NULL), 0);
	q.event_idx = q.indirect = true; /* the device's part */
	assert_memory_equal(&q, &r->q, sizeof(q));
	/* Not set up yet: whatever the driver has written so far. */
	virtq_reset(&q);
	q.desc = UINT64_MAX;
	q.size = 7;
	virtq_save(&q, &s);
	assert_int_equal(virtq_load(&q, &s, &r->ram, "device0", NULL), 0);
	assert_int_equal(q.desc, UINT64_MAX);
	assert_int_equal(q.size, 7);
	assert_int_equal(q.size_max, 16);
}

static void hostile_states_are_refused(void **state)
{
	static const struct {
		uint32_t size, next_avail, next_used, signalled;
		uint64_t desc;
		const char *words;
	} cases[] = {
		{ 3, 0, 0, 0, 0x1000, "size 3" },
		{ 32, 0, 0, 0, 0x1000, "size 32" },
		{ 65536 + 16, 0, 0, 0, 0x1000, "size 65552" },
		{ 0, 0, 0, 0, 0x1000, "size 0" },
		{ 16, 0, 0, 0, DRIVER_RAM, "outside RAM" },
		{ 16, 0, 0, 0, 0x1001, "outside RAM" },
		{ 16, 65536, 0, 0, 0x1000, "out of range" },
		{ 16, 0, 65536, 0, 0x1000, "out of range" },
		{ 16, 0, 0, 65536, 0x1000, "out of range" },
		{ 16, 17, 0, 0, 0x1000, "further apart" },
		{ 16, 0, 1, 0, 0x1000, "further apart" },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct virtq before = { .size_max = 16, .next_used = 5 };
		struct virtq q = before;
		VirtqState s = VIRTQ_STATE__INIT;
		struct err e = { 0 };

		s.size = cases[i].size;
		s.ready = true;
		s.desc = cases[i].desc;
		s.avail = 0x2000;
		s.used = 0x3000;
		s.next_avail = cases[i].next_avail;
		s.next_used = cases[i].next_used;
		s.signalled_used = cases[i].signalled;
		assert_int_equal(virtq_load(&q, &s, &r->ram, "device0", &e), -EINVAL);
		assert_says(&e, cases[i].words);
		assert_says(&e, "device0");
		assert_memory_equal(&q, &before, sizeof(q));
	}
}

#define REQUESTS 10000

/* A driver on another thread: what the index says is there, is there. */
static void *offer_all(void *arg)
{
	struct rig *r = arg;

	for (uint32_t n = 0; n < REQUESTS; n++) {
		const struct driver_buf buf = { DATA_AT + 64ULL * (n % 128), 4 };

		while (driver_take(&r->dq, NULL) != NO_HEAD || r->dq.nfree == 0)
			sched_yield();
		guest_write(&r->ram, buf.address, &n, sizeof(n));
		driver_offer(&r->dq, &buf, 1, 0);
	}
	return NULL;
}

static void driver_on_another_thread_sees_and_is_seen_in_order(void **state)
{
	struct rig *r = *state;
	pthread_t driver;
	uint32_t value;

	lay_out(r, 64, true);
	assert_int_equal(pthread_create(&driver, NULL, offer_all, r), 0);
	for (uint32_t n = 0; n < REQUESTS;) {
		int rc = pop(r);

		assert_true(rc >= 0);
		if (rc == 0) {
			sched_yield();
			continue;
		}
		assert_int_equal(virtq_read(&r->c, &r->ram, 0, &value, 4), 0);
		assert_int_equal(value, n);
		assert_int_equal(virtq_push(&r->q, &r->ram, r->c.head, 0), 0);
		n++;
	}
	pthread_join(driver, NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(head_out_of_range_is_broken),
		T(next_out_of_range_is_broken),
		T(chain_that_loops_is_broken),
		T(chain_as_long_as_the_queue_is_taken),
		T(read_buffer_after_a_written_one_is_broken),
		T(bad_indirect_tables_are_broken),
		T(more_offered_than_the_queue_is_long_is_broken),
		T(more_under_way_than_the_queue_is_long_is_broken),
		T(rings_that_have_left_ram_are_broken),
		T(lost_rings_are_efault_and_nothing_is_taken_or_given),
		T(lost_buffers_are_efault),
		T(sane_knows_every_edge),
		T(state_loads_as_it_was_saved),
		T(hostile_states_are_refused),
		T(driver_on_another_thread_sees_and_is_seen_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
