/* Virtqueues: what a driver does. */
#include "virtq_rig.h"

/* ---- the normal flow ---- */

static void pop_of_an_empty_queue_is_0(void **state)
{
	struct rig *r = *state;

	assert_int_equal(pop(r), 0);
	r->q.ready = false;
	driver_put_avail(&r->dq, 0);
	assert_int_equal(pop(r), 0);
	assert_int_equal(virtq_push(&r->q, &r->ram, 0, 0), -EPROTO);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), -EPROTO);
	assert_int_equal(virtq_want_kicks(&r->q, &r->ram, true), -EPROTO);
}

static void pop_gives_the_chain_in_order(void **state)
{
	static const struct driver_buf buf[] = {
		{ DATA_AT, 16 }, { DATA_AT + 64, 0 }, { 1ULL << 60, UINT32_MAX }, { DATA_AT, 7 }
	};
	struct rig *r = *state;
	uint16_t head = driver_offer(&r->dq, buf, 2, 2);

	assert_int_equal(pop(r), 1);
	assert_int_equal(r->c.head, head);
	assert_int_equal(r->c.nout, 2);
	assert_int_equal(r->c.nin, 2);
	assert_int_equal(r->c.out_len, 16);
	assert_int_equal(r->c.in_len, UINT32_MAX + 7ULL);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(r->c.buf[i].address, buf[i].address);
		assert_int_equal(r->c.buf[i].len, buf[i].len);
	}
	assert_int_equal(pop(r), 0);
}

static void pushed_requests_come_back_in_any_order(void **state)
{
	static const struct driver_buf buf = { DATA_AT, 16 };
	struct rig *r = *state;
	uint16_t heads[3];
	uint32_t len = 0;

	for (int i = 0; i < 3; i++) {
		heads[i] = driver_offer(&r->dq, &buf, 0, 1);
		assert_int_equal(pop(r), 1);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(virtq_push(&r->q, &r->ram, heads[2 - i], i), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(driver_take(&r->dq, &len), heads[2 - i]);
		assert_int_equal(len, i);
	}
	assert_int_equal(driver_take(&r->dq, &len), NO_HEAD);
}

static void indices_wrap_around_many_times(void **state)
{
	static const uint16_t sizes[] = { 1, 2, 16, 256 };
	static const struct driver_buf buf = { DATA_AT, 4 };
	struct rig *r = *state;

	for (int s = 0; s < 4; s++) {
		uint32_t seed = 7;

		lay_out(r, sizes[s], s % 2);
		for (uint32_t done = 0; done < 140000;) {
			const uint32_t batch = 1 + next_random(&seed) % sizes[s];
			uint16_t heads[256];
			uint32_t len = 0;

			for (uint32_t i = 0; i < batch; i++)
				heads[i] = driver_offer(&r->dq, &buf, 0, 1);
			for (uint32_t i = 0; i < batch; i++) {
				assert_int_equal(pop(r), 1);
				assert_int_equal(r->c.head, heads[i]);
				assert_int_equal(virtq_push(&r->q, &r->ram, r->c.head, i), 0);
			}
			assert_int_equal(pop(r), 0);
			for (uint32_t i = 0; i < batch; i++) {
				assert_int_equal(driver_take(&r->dq, &len), heads[i]);
				assert_int_equal(len, i);
			}
			done += batch;
		}
	}
}

static void unpopped_request_is_taken_again(void **state)
{
	static const struct driver_buf buf = { DATA_AT, 16 };
	struct rig *r = *state;
	uint16_t head = driver_offer(&r->dq, &buf, 1, 0);

	for (int i = 0; i < 3; i++) {
		assert_int_equal(pop(r), 1);
		assert_int_equal(r->c.head, head);
		assert_int_equal(pop(r), 0);
		virtq_unpop(&r->q);
	}
	/* Across the wrap of the index, too. */
	r->q.next_avail = r->q.next_used = r->dq.avail_idx = 0xffff;
	driver_offer(&r->dq, &buf, 1, 0);
	assert_int_equal(pop(r), 1);
	assert_int_equal(r->q.next_avail, 0);
	virtq_unpop(&r->q);
	assert_int_equal(pop(r), 1);
}

/* ---- indirect tables ---- */

static void indirect_chain_is_as_a_direct_one(void **state)
{
	struct driver_buf buf[16];
	struct rig *r = *state;
	uint16_t head;

	for (unsigned i = 0; i < 16; i++)
		buf[i] = (struct driver_buf){ DATA_AT + 64ULL * i, i + 1 };
	head = driver_offer_indirect(&r->dq, TABLES_AT, buf, 5, 11);
	assert_int_equal(pop(r), 1);
	assert_int_equal(r->c.head, head);
	assert_int_equal(r->c.nout, 5);
	assert_int_equal(r->c.nin, 11);
	assert_int_equal(r->c.out_len + r->c.in_len, 136);
	assert_int_equal(r->c.buf[15].len, 16);
	assert_int_equal(pop(r), 0);
}

static void indirect_table_after_direct_buffers_is_taken(void **state)
{
	struct rig *r = *state;

	driver_put_desc(&r->ram, r->dq.desc, 0, DATA_AT, 8, VRING_DESC_F_NEXT, 3);
	/* WRITE has no meaning for a table. */
	driver_put_desc(&r->ram, r->dq.desc, 3, TABLES_AT, 32,
			VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
	driver_put_desc(&r->ram, TABLES_AT, 0, DATA_AT, 9, VRING_DESC_F_NEXT, 1);
	driver_put_desc(&r->ram, TABLES_AT, 1, DATA_AT, 10, VRING_DESC_F_WRITE, 0);
	driver_put_avail(&r->dq, 0);
	assert_int_equal(pop(r), 1);
	assert_int_equal(r->c.nout, 2);
	assert_int_equal(r->c.out_len, 17);
	assert_int_equal(r->c.in_len, 10);
}

/* ---- interrupts and kicks ---- */

static void interrupts_without_event_index_follow_the_flag(void **state)
{
	struct rig *r = *state;

	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 1);
	guest_write16(&r->ram, r->dq.avail, VRING_AVAIL_F_NO_INTERRUPT);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 0);
}

static void set_used_event(struct rig *r, uint16_t value)
{
	guest_write16(&r->ram, r->dq.avail + 4 + 2ULL * r->dq.size, value);
}

static void interrupts_by_event_index_come_when_it_is_passed(void **state)
{
	struct rig *r = *state;

	lay_out(r, 16, true);
	r->q.next_avail = r->q.next_used = r->dq.avail_idx = r->dq.seen = 0xfffd;
	guest_write16(&r->ram, r->dq.used + 2, 0xfffd);
	/* The first one always: what the driver has seen is not known. */
	set_used_event(r, 0x8000);
	push_n(r, 1);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 1);
	set_used_event(r, 0); /* when entry 0 is used */
	push_n(r, 1);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 0);
	push_n(r, 1);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 0);
	push_n(r, 1);
	assert_int_equal(r->q.next_used, 1);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 1);
	push_n(r, 1);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 0);
	/* Once for a batch that passes it; not for none. */
	set_used_event(r, 4);
	push_n(r, 6);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 1);
	set_used_event(r, 7);
	assert_int_equal(virtq_needs_interrupt(&r->q, &r->ram), 0);
}

static void kicks_by_event_index_are_asked_for_where_the_device_is(void **state)
{
	static const struct driver_buf buf = { DATA_AT, 16 };
	struct rig *r = *state;

	lay_out(r, 16, true);
	driver_offer(&r->dq, &buf, 1, 0);
	assert_true(driver_should_kick(&r->dq)); /* 0: the first one */
	driver_offer(&r->dq, &buf, 1, 0);
	assert_false(driver_should_kick(&r->dq));
	assert_int_equal(pop(r), 1);
	assert_int_equal(pop(r), 1);
	driver_offer(&r->dq, &buf, 1, 0);
	assert_false(driver_should_kick(&r->dq));
	assert_int_equal(pop(r), 1);
	assert_int_equal(virtq_want_kicks(&r->q, &r->ram, true), 0);
	driver_offer(&r->dq, &buf, 1, 0);
	assert_true(driver_should_kick(&r->dq));
}

static void kicks_without_event_index_follow_the_flag(void **state)
{
	struct rig *r = *state;

	assert_true(driver_should_kick(&r->dq));
	assert_int_equal(virtq_want_kicks(&r->q, &r->ram, false), 0);
	assert_false(driver_should_kick(&r->dq));
	assert_int_equal(virtq_want_kicks(&r->q, &r->ram, true), 0);
	assert_true(driver_should_kick(&r->dq));
}

/* ---- buffers ---- */

static void read_and_write_go_across_buffers(void **state)
{
	static const struct driver_buf buf[] = { { DATA_AT, 3 },	 { DATA_AT + 100, 0 },
						 { DATA_AT + 4093, 10 }, { DATA_AT + 200, 5 },
						 { DATA_AT + 300, 7 },	 { DATA_AT + 8190, 4 } };
	uint8_t want[18], got[18];
	struct rig *r = *state;

	fill_random(want, sizeof(want), 3);
	guest_write(&r->ram, buf[0].address, want, 3);
	guest_write(&r->ram, buf[2].address, want + 3, 10);
	guest_write(&r->ram, buf[3].address, want + 13, 5);
	driver_offer(&r->dq, buf, 4, 2);
	assert_int_equal(pop(r), 1);
	for (uint64_t off = 0; off <= 18; off++)
		for (uint64_t len = 0; len <= 18 - off; len++) {
			memset(got, 0xaa, sizeof(got));
			assert_int_equal(virtq_read(&r->c, &r->ram, off, got, len), 0);
			assert_memory_equal(got, want + off, len);
			assert_true(len == 18 || got[len] == 0xaa);
		}
	assert_int_equal(virtq_write(&r->c, &r->ram, 5, want, 6), 0);
	guest_read(&r->ram, DATA_AT + 305, got, 2);
	guest_read(&r->ram, DATA_AT + 8190, got + 2, 4);
	assert_memory_equal(got, want, 6);
}

static void accesses_beyond_the_chain_are_einval(void **state)
{
	static const struct driver_buf buf[] = { { DATA_AT, 16 }, { DATA_AT, 8 } };
	struct rig *r = *state;
	struct iovec iov[2];
	uint8_t bytes[32];

	driver_offer(&r->dq, buf, 1, 1);
	assert_int_equal(pop(r), 1);
	assert_int_equal(virtq_read(&r->c, &r->ram, 0, bytes, 17), -EINVAL);
	assert_int_equal(virtq_read(&r->c, &r->ram, 17, bytes, 0), -EINVAL);
	assert_int_equal(virtq_read(&r->c, &r->ram, 1, bytes, UINT64_MAX), -EINVAL);
	assert_int_equal(virtq_read(&r->c, &r->ram, UINT64_MAX, bytes, 1), -EINVAL);
	assert_int_equal(virtq_write(&r->c, &r->ram, 0, bytes, 9), -EINVAL);
	assert_int_equal(virtq_write(&r->c, &r->ram, 8, bytes, 1), -EINVAL);
	assert_int_equal(virtq_write(&r->c, &r->ram, 8, bytes, 0), 0);
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 9, iov, 2), -EINVAL);
	assert_int_equal(virtq_iov(&r->c, &r->ram, false, 0, 17, iov, 2), -EINVAL);
}

static void buffers_outside_ram_are_einval(void **state)
{
	static const struct driver_buf bufs[] = {
		{ DRIVER_RAM, 8 },  { DRIVER_RAM - 4, 8 },	{ UINT64_MAX - 3, 8 },
		{ UINT64_MAX, 8 },  { 3ULL << 30, UINT32_MAX }, { UINT64_MAX - 7, 16 },
		{ 4ULL << 30, 16 },
	};
	struct rig *r = *state;
	struct iovec iov[2];
	uint8_t bytes[8];

	for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++) {
		const struct driver_buf both[] = { bufs[i], bufs[i] };

		driver_offer(&r->dq, both, 1, 1);
		assert_int_equal(pop(r), 1);
		assert_int_equal(virtq_read(&r->c, &r->ram, 0, bytes, 8), -EINVAL);
		assert_int_equal(virtq_write(&r->c, &r->ram, 0, bytes, 8), -EINVAL);
		assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 8, iov, 2), -EINVAL);
		assert_int_equal(virtq_iov(&r->c, &r->ram, false, 0, 8, iov, 2), -EINVAL);
		if (bufs[i].len >= 16) /* from 8 on it would begin in RAM: it wraps */
			assert_int_equal(virtq_read(&r->c, &r->ram, 8, bytes, 8), -EINVAL);
	}
}

static bool is_marked(const struct ram *ram, uint64_t address)
{
	return ram->written[address / RAM_PAGE / 64] >> address / RAM_PAGE % 64 & 1;
}

static void iov_is_the_memory_and_marks_what_is_written(void **state)
{
	static const struct driver_buf buf[] = { { DATA_AT, 100 },
						 { DATA_AT + 0x10000, 50 },
						 { DATA_AT + 0x20ffe, 4 },
						 { DATA_AT + 0x30000, 4096 } };
	struct rig *r = *state;
	struct iovec iov[4];

	driver_offer(&r->dq, buf, 2, 2);
	assert_int_equal(pop(r), 1);
	assert_int_equal(virtq_iov(&r->c, &r->ram, false, 99, 2, iov, 4), 2);
	assert_ptr_equal(iov[0].iov_base, r->ram.base + DATA_AT + 99);
	assert_int_equal(iov[0].iov_len, 1);
	assert_ptr_equal(iov[1].iov_base, r->ram.base + DATA_AT + 0x10000);
	assert_int_equal(iov[1].iov_len, 1);
	assert_false(is_marked(&r->ram, DATA_AT));
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 5, iov, 4), 2);
	assert_true(is_marked(&r->ram, DATA_AT + 0x20ffe));
	assert_true(is_marked(&r->ram, DATA_AT + 0x21000));
	assert_true(is_marked(&r->ram, DATA_AT + 0x30000));
	assert_false(is_marked(&r->ram, DATA_AT + 0x31000));
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 4, 4096, iov, 4), 1);
	assert_ptr_equal(iov[0].iov_base, r->ram.base + DATA_AT + 0x30000);
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 0, iov, 0), 0);
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 5, iov, 1), -E2BIG);
	assert_int_equal(virtq_iov(&r->c, &r->ram, true, 0, 4, iov, 1), 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pop_of_an_empty_queue_is_0),
		T(pop_gives_the_chain_in_order),
		T(pushed_requests_come_back_in_any_order),
		T(indices_wrap_around_many_times),
		T(unpopped_request_is_taken_again),
		T(indirect_chain_is_as_a_direct_one),
		T(indirect_table_after_direct_buffers_is_taken),
		T(interrupts_without_event_index_follow_the_flag),
		T(interrupts_by_event_index_come_when_it_is_passed),
		T(kicks_by_event_index_are_asked_for_where_the_device_is),
		T(kicks_without_event_index_follow_the_flag),
		T(read_and_write_go_across_buffers),
		T(accesses_beyond_the_chain_are_einval),
		T(buffers_outside_ram_are_einval),
		T(iov_is_the_memory_and_marks_what_is_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
