/* Working sets: what is added, encoded and parsed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/digest.h"
#include "proto/working_set.h"

#define PAGES 1000000U

static uint8_t *encode(struct working_set *s, size_t *len)
{
	uint8_t *buf;

	assert_int_equal(proto_working_set_encode(s, &buf, len), 0);
	return buf;
}

static void pages_become_runs(void **state)
{
	static const uint64_t pages[] = { 0, 1, 2, 7, 9, 10, 999999 };
	static const struct page_run runs[] = { { 0, 3 }, { 7, 1 }, { 9, 2 }, { 999999, 1 } };
	struct working_set s = { .id = { 7 } }, out;
	uint8_t *buf;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		assert_int_equal(proto_working_set_add(&s, pages[i]), 0);
	assert_int_equal(s.n, 4);
	buf = encode(&s, &len);
	assert_int_equal(proto_working_set_parse(buf, len, PAGES, &out), 0);
	assert_int_equal(out.n, 4);
	assert_memory_equal(out.run, runs, sizeof(runs));
	assert_memory_equal(out.id, s.id, UUID_SIZE);
	proto_working_set_free(&out);
	/* Of a smaller RAM it is not. */
	assert_int_equal(proto_working_set_parse(buf, len, PAGES - 1, &out), -EBADMSG);
	free(buf);
	proto_working_set_free(&s);
}

static void too_many_runs_are_joined_and_lose_no_page(void **state)
{
	struct working_set s = { 0 };
	uint64_t page = 0, n = 0;

	(void)state;
	srand(1);
	for (; n < 3 * WORKING_SET_RUNS_MAX; n++) {
		assert_int_equal(proto_working_set_add(&s, page), 0);
		page += 2 + (uint64_t)rand() % 9;
	}
	assert_true(s.n <= WORKING_SET_RUNS_MAX);
	srand(1);
	page = 0;
	for (size_t i = 0, k = 0; k < n; k++) {
		while (s.run[i].page + s.run[i].count <= page)
			assert_true(++i < s.n);
		assert_true(s.run[i].page <= page);
		page += 2 + (uint64_t)rand() % 9;
	}
	proto_working_set_free(&s);
}

static void each_flipped_byte_and_each_length_is_refused(void **state)
{
	struct working_set s = { .id = { 7 } }, out;
	uint8_t *buf;
	size_t len;

	(void)state;
	for (uint64_t p = 0; p < 40; p += 4)
		assert_int_equal(proto_working_set_add(&s, p), 0);
	buf = encode(&s, &len);
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(proto_working_set_parse(buf, i, PAGES, &out), -EBADMSG);
		buf[i] ^= 1;
		assert_int_equal(proto_working_set_parse(buf, len, PAGES, &out), -EBADMSG);
		buf[i] ^= 1;
	}
	free(buf);
	proto_working_set_free(&s);
}

/* A digest that holds over runs that do not. */
static void impossible_runs_are_refused(void **state)
{
	static const struct page_run bad[][2] = {
		{ { 1, 0 }, { 5, 1 } },		 { { 5, 1 }, { 1, 1 } },
		{ { 1, 4 }, { 5, 1 } },		 { { 0, 1 }, { PAGES, 1 } },
		{ { 0, 1 }, { PAGES - 1, 2 } },	 { { 0, 1 }, { UINT64_MAX, 2 } },
		{ { 0, 1 }, { 2, UINT64_MAX } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct working_set s = { .run = (struct page_run *)(uintptr_t)bad[i], .n = 2 }, out;
		size_t len;
		uint8_t *buf = encode(&s, &len);

		assert_int_equal(proto_working_set_parse(buf, len, PAGES, &out), -EBADMSG);
		free(buf);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_become_runs),
		cmocka_unit_test(too_many_runs_are_joined_and_lose_no_page),
		cmocka_unit_test(each_flipped_byte_and_each_length_is_refused),
		cmocka_unit_test(impossible_runs_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
