/* A queue in RAM with both its ends, for the tests of virtqueues. */
#pragma once

#include "virtio_driver.h"

#define QUEUE_AT  0x10000ULL
#define TABLES_AT 0x40000ULL
#define DATA_AT	  0x100000ULL

struct rig {
	struct ram ram;
	struct driver_queue dq;
	struct virtq q;
	struct virtq_chain c;
	const char *why;
};

UNUSED static void lay_out(struct rig *r, uint16_t size, bool event_idx)
{
	driver_queue_init(&r->dq, &r->ram, QUEUE_AT, size, event_idx);
	r->q = driver_queue_virtq(&r->dq);
	r->q.indirect = true;
	r->why = "";
}

UNUSED static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	*state = r;
	if (!r || ram_map_memfd(&r->ram, DRIVER_RAM, NULL) < 0)
		return -1;
	lay_out(r, 16, false);
	return 0;
}

UNUSED static int drop(void **state)
{
	struct rig *r = *state;

	ram_unmap(&r->ram);
	free(r);
	return 0;
}

UNUSED static int pop(struct rig *r)
{
	return virtq_pop(&r->q, &r->ram, &r->c, &r->why);
}

UNUSED static void assert_broken(struct rig *r, const char *words)
{
	const uint16_t before = r->q.next_avail;

	assert_int_equal(pop(r), -EPROTO);
	if (!strstr(r->why, words))
		fail_msg("'%s' does not say '%s'", r->why, words);
	assert_int_equal(r->q.next_avail, before);
}

/* n requests, whole. */
UNUSED static void push_n(struct rig *r, unsigned n)
{
	static const struct driver_buf buf = { DATA_AT, 16 };

	for (; n > 0; n--) {
		driver_offer(&r->dq, &buf, 1, 0);
		assert_int_equal(pop(r), 1);
		assert_int_equal(virtq_push(&r->q, &r->ram, r->c.head, 0), 0);
	}
}
