/* Sizes, times and identifiers as people write and read them. */
#include "unit.h"

#include <sys/random.h>

#include "base/text.h"

static void parse_u64_good_numbers_give_their_value(void **state)
{
	static const struct {
		const char *text;
		uint64_t value;
	} cases[] = {
		{ "0", 0 },
		{ "00017", 17 },
		{ "4294967296", 1ULL << 32 },
		{ "18446744073709551615", UINT64_MAX },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t v = 99;

		assert_int_equal(text_parse_u64(cases[i].text, &v), 0);
		assert_int_equal(v, cases[i].value);
	}
}

static void parse_u64_anything_else_is_refused(void **state)
{
	static const char *const bad[] = { "",
					   " ",
					   " 1",
					   "1 ",
					   "-1",
					   "+1",
					   "0x10",
					   "1.5",
					   "1e3",
					   "18446744073709551616",
					   "a",
					   "1\n",
					   "99999999999999999999" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t v = 99;

		assert_int_equal(text_parse_u64(bad[i], &v), -EINVAL);
		assert_int_equal(v, 99);
	}
}

static void parse_size_suffixes_are_powers_of_1024(void **state)
{
	static const struct {
		const char *text;
		uint64_t value;
	} cases[] = {
		{ "0", 0 },
		{ "1", 1 },
		{ "1k", 1024 },
		{ "1K", 1024 },
		{ "512M", 512ULL << 20 },
		{ "512m", 512ULL << 20 },
		{ "512MB", 512ULL << 20 },
		{ "512MiB", 512ULL << 20 },
		{ "2G", 2ULL << 30 },
		{ "3T", 3ULL << 40 },
		{ "16777215T", 16777215ULL << 40 },
		{ "17179869183G", 17179869183ULL << 30 },
		{ "18446744073709551615", UINT64_MAX },
		{ "0T", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t v = 99;

		assert_int_equal(text_parse_size(cases[i].text, &v), 0);
		assert_int_equal(v, cases[i].value);
	}
}

static void parse_size_overflow_and_nonsense_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"M",
		"1P",
		"1 M",
		"1.5G",
		"-1M",
		"1MM",
		"1Mi",
		"1MiBx",
		"1iB",
		"1b",
		"0x1G",
		"16777216T",
		"17179869184G",
		"18446744073709551616",
		"99999999999999999999T",
		"000000000000000000000000000001",
		"1\xc3\xa4",
		"1M ",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t v = 99;

		if (text_parse_size(bad[i], &v) != -EINVAL || v != 99)
			fail_msg("'%s' was taken as %llu", bad[i], (unsigned long long)v);
	}
}

static void format_size_each_unit_reads_well(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 1, "1 B" },
		{ 1023, "1023 B" },
		{ 1024, "1 KiB" },
		{ 1536, "1.5 KiB" },
		{ 512 << 10, "512 KiB" },
		{ 1536ULL << 20, "1.5 GiB" },
		{ 100ULL << 30, "100 GiB" },
		{ 1ULL << 40, "1 TiB" },
		{ 1ULL << 50, "1 PiB" },
		{ 1ULL << 60, "1 EiB" },
		{ UINT64_MAX, "16 EiB" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char out[TEXT_SIZE_MAX];

		assert_string_equal(text_format_size(cases[i].bytes, out), cases[i].text);
	}
}

static void format_size_just_below_a_unit_is_said_in_that_unit(void **state)
{
	char out[TEXT_SIZE_MAX];

	(void)state;
	assert_string_equal(text_format_size((1 << 20) - 1, out), "1.0 MiB");
	assert_string_equal(text_format_size(102399, out), "100 KiB");
}

static void format_time_is_rfc_3339_in_utc(void **state)
{
	char out[TEXT_TIME_MAX];

	(void)state;
	assert_string_equal(text_format_time(0, 0, out), "1970-01-01T00:00:00.000000000Z");
	assert_string_equal(text_format_time(951826154, 5, out), "2000-02-29T12:09:14.000000005Z");
	assert_string_equal(text_format_time(1785585600, 999999999, out),
			    "2026-08-01T12:00:00.999999999Z");
	assert_string_equal(text_format_time(253402300799, 0, out),
			    "9999-12-31T23:59:59.000000000Z");
}

static void format_time_out_of_range_is_the_epoch(void **state)
{
	static const struct {
		int64_t seconds;
		int32_t nanos;
	} cases[] = {
		{ -1, 0 }, { INT64_MIN, 0 },  { INT64_MAX, 0 }, { 253402300800, 0 },
		{ 5, -1 }, { 5, 1000000000 }, { 5, INT32_MIN },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char out[TEXT_TIME_MAX];

		assert_string_equal(text_format_time(cases[i].seconds, cases[i].nanos, out),
				    "1970-01-01T00:00:00.000000000Z");
	}
}

static void uuid_make_has_the_fields_of_version_7(void **state)
{
	const struct timespec now = { .tv_sec = 0x0123456789, .tv_nsec = 987654321 };
	const uint64_t ms = 0x0123456789ULL * 1000 + 987;
	uint64_t got = 0;
	uint8_t id[UUID_SIZE];

	(void)state;
	assert_int_equal(uuid_make(&now, id), 0);
	for (int i = 0; i < 6; i++)
		got = got << 8 | id[i];
	assert_int_equal(got, ms);
	assert_int_equal(id[6] >> 4, 7);
	assert_int_equal(id[8] >> 6, 2);
}

static void uuid_make_a_later_one_sorts_later(void **state)
{
	struct timespec now = { .tv_sec = 1785585600 };
	uint8_t before[UUID_SIZE], after[UUID_SIZE];

	(void)state;
	assert_int_equal(uuid_make(&now, before), 0);
	for (int i = 0; i < 2000; i++) {
		now.tv_nsec += 1000000;
		if (now.tv_nsec >= 1000000000) {
			now.tv_nsec -= 1000000000;
			now.tv_sec++;
		}
		assert_int_equal(uuid_make(&now, after), 0);
		assert_true(memcmp(before, after, UUID_SIZE) < 0);
		memcpy(before, after, UUID_SIZE);
	}
}

static void uuid_make_two_at_one_time_differ(void **state)
{
	const struct timespec now = { .tv_sec = 1 };
	uint8_t a[UUID_SIZE], b[UUID_SIZE];
	uint8_t seen[UUID_SIZE] = { 0 };

	(void)state;
	assert_int_equal(uuid_make(&now, b), 0);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(uuid_make(&now, a), 0);
		assert_memory_not_equal(a, b, UUID_SIZE);
		for (int j = 0; j < UUID_SIZE; j++)
			seen[j] |= (uint8_t)(a[j] ^ b[j]);
	}
	/* All of the 74 random bits change at some time, and no other. */
	assert_int_equal(seen[5], 0);
	assert_int_equal(seen[6], 0x0f);
	assert_int_equal(seen[7], 0xff);
	assert_int_equal(seen[8], 0x3f);
	for (int j = 9; j < UUID_SIZE; j++)
		assert_int_equal(seen[j], 0xff);
}

static void uuid_format_has_its_dashes(void **state)
{
	static const uint8_t id[UUID_SIZE] = { 0x01, 0x98, 0x6b, 0x3c, 0x1d, 0x2e, 0x7f, 0x40,
					       0x8a, 0x5b, 0x6c, 0x7d, 0x8e, 0x9f, 0xa0, 0xff };
	char out[UUID_TEXT_MAX];

	(void)state;
	assert_string_equal(uuid_format(id, out), "01986b3c-1d2e-7f40-8a5b-6c7d8e9fa0ff");
}

static void uuid_parse_takes_what_format_writes_and_nothing_else(void **state)
{
	static const char *const bad[] = {
		"",
		"01986b3c-1d2e-7f40-8a5b-6c7d8e9fa0f",
		"01986b3c-1d2e-7f40-8a5b-6c7d8e9fa0ff0",
		"01986B3C-1d2e-7f40-8a5b-6c7d8e9fa0ff",
		"01986b3c1-d2e-7f40-8a5b-6c7d8e9fa0ff",
		"01986b3c-1d2e-7f40-8a5b06c7d8e9fa0ff",
		"01986b3cg1d2e-7f40-8a5b-6c7d8e9fa0ff",
		"------------------------------------",
		"000000000000000000000000000000000000",
		" 1986b3c-1d2e-7f40-8a5b-6c7d8e9fa0ff",
	};
	uint8_t id[UUID_SIZE], again[UUID_SIZE];
	char text[UUID_TEXT_MAX];

	(void)state;
	for (uint32_t seed = 1; seed < 200; seed++) {
		fill_random(id, sizeof(id), seed);
		assert_int_equal(uuid_parse(uuid_format(id, text), again), 0);
		assert_memory_equal(id, again, UUID_SIZE);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (uuid_parse(bad[i], id) != -EINVAL)
			fail_msg("'%s' is taken", bad[i]);
}

#define BAD "\xef\xbf\xbd" /* U+FFFD */

static void clean_keeps_printable_text_and_replaces_the_rest(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{ "", "" },
		{ "plain ~", "plain ~" },
		{ "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
		  "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80" },
		{ "\033[2J", BAD "[2J" },
		{ "a\nb\tc\x7f", "a" BAD "b" BAD "c" BAD },
		{ "\xc2\x85x", BAD BAD "x" },		 /* C1: next line */
		{ "\xc0\xaf", BAD BAD },		 /* overlong */
		{ "\xe0\x80\xaf", BAD BAD BAD },	 /* overlong */
		{ "\xed\xa0\x80", BAD BAD BAD },	 /* a surrogate */
		{ "\xf4\x90\x80\x80", BAD BAD BAD BAD }, /* beyond U+10FFFF */
		{ "\xff\xfe", BAD BAD },
		{ "\xc3", BAD }, /* cut off */
		{ "\xe2\x82", BAD BAD },
		{ "\xf0\x9f\x98", BAD BAD BAD },
		{ "\xc3(", BAD "(" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_free char *got = text_clean(cases[i].text);

		assert_string_equal(got, cases[i].want);
	}
}

static void format_hex_of_bytes_is_lowercase(void **state)
{
	static const uint8_t bytes[] = { 0x00, 0x0f, 0xa0, 0xff };
	char out[9];

	(void)state;
	assert_string_equal(text_format_hex(bytes, 4, out), "000fa0ff");
	assert_string_equal(text_format_hex(bytes, 0, out), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_u64_good_numbers_give_their_value),
		cmocka_unit_test(parse_u64_anything_else_is_refused),
		cmocka_unit_test(parse_size_suffixes_are_powers_of_1024),
		cmocka_unit_test(parse_size_overflow_and_nonsense_are_refused),
		cmocka_unit_test(format_size_each_unit_reads_well),
		cmocka_unit_test(format_size_just_below_a_unit_is_said_in_that_unit),
		cmocka_unit_test(format_time_is_rfc_3339_in_utc),
		cmocka_unit_test(format_time_out_of_range_is_the_epoch),
		cmocka_unit_test(uuid_make_has_the_fields_of_version_7),
		cmocka_unit_test(uuid_make_a_later_one_sorts_later),
		cmocka_unit_test(uuid_make_two_at_one_time_differ),
		cmocka_unit_test(uuid_format_has_its_dashes),
		cmocka_unit_test(uuid_parse_takes_what_format_writes_and_nothing_else),
		cmocka_unit_test(clean_keeps_printable_text_and_replaces_the_rest),
		cmocka_unit_test(format_hex_of_bytes_is_lowercase),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
