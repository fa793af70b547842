/* Whether this program can restore a manifest: versions, sizes, RAM ranges. */
#include "unit.h"

#include "proto/manifest.h"
#include "samples.h"

static void check_newer_version_says_the_versions(void **state)
{
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	s.m.version = 2;
	assert_int_equal(proto_manifest_check(&s.m, &e), -EINVAL);
	assert_says(&e, "format version 2, this program reads 1");
}

static void check_bad_ranges_are_refused(void **state)
{
	static const struct {
		uint64_t total;
		size_t n;
		struct {
			uint64_t address, size, offset;
		} range[2];
	} bad[] = {
		{ 0x2000, 2, { { 0, 0x1000, 0 }, { 0, 0x1000, 0x1000 } } },	 /* overlap */
		{ 0x3000, 2, { { 0, 0x2000, 0 }, { 0x1000, 0x1000, 0x2000 } } }, /* overlap */
		{ 0x2000, 2, { { 0x1000, 0x1000, 0 }, { 0, 0x1000, 0x1000 } } }, /* descending */
		{ 0x1800, 1, { { 0, 0x1800, 0 } } },				 /* size */
		{ 0x1000, 1, { { 0x800, 0x1000, 0 } } },			 /* address */
		{ 0x1000, 1, { { 0, 0x1000, 0x1000 } } }, /* gap in the file */
		{ 0x3000,
		  2,
		  { { 0, 0x1000, 0 }, { 0x1000, 0x1000, 0x2000 } } },	    /* gap in the file */
		{ 0x2000, 2, { { 0, 0x1000, 0 }, { 0x1000, 0x1000, 0 } } }, /* twice in the file */
		{ 0x1000, 2, { { 0, 0x1000, 0 }, { 0x1000, 0, 0x1000 } } }, /* empty */
		{ 0, 0, { { 0, 0, 0 } } },				    /* none */
		{ 0, 1, { { 0, 0, 0 } } },				    /* of zero */
		{ 0x1000, 1, { { 0, 0x2000, 0 } } },			    /* sum */
		{ 0x3000, 1, { { 0, 0x2000, 0 } } },			    /* sum */
		{ 0x2000, 1, { { UINT64_MAX - 0xfff, 0x2000, 0 } } },	    /* over the end */
		{ 0x1000, 1, { { UINT64_MAX - 0xfff, 0x1000, 0 } } },	    /* up to the end */
		{ 1ULL << 63, 1, { { 0, 1ULL << 63, 0 } } }, /* no file is so large */
		{ 0, 2, { { 0, 1ULL << 63, 0 }, { 1ULL << 63, 1ULL << 63, 1ULL << 63 } } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct sample_manifest s;
		struct err e = { 0 };

		sample_manifest(&s);
		s.m.memory_size_bytes = bad[i].total;
		s.m.n_ram = bad[i].n;
		for (size_t j = 0; j < bad[i].n; j++) {
			s.range[j].guest_address = bad[i].range[j].address;
			s.range[j].size = bad[i].range[j].size;
			s.range[j].file_offset = bad[i].range[j].offset;
		}
		if (proto_manifest_check(&s.m, &e) != -EINVAL)
			fail_msg("case %zu is taken", i);
		assert_says(&e, "RAM");
	}
}

static void check_too_many_ranges_are_refused(void **state)
{
	RamRange range[17], *ranges[17];
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	for (uint64_t i = 0; i < 17; i++) {
		ram_range__init(&range[i]);
		range[i].guest_address = range[i].file_offset = i * 4096;
		range[i].size = 4096;
		ranges[i] = &range[i];
	}
	s.m.ram = ranges;
	s.m.n_ram = 16;
	s.m.memory_size_bytes = 16 * 4096;
	assert_int_equal(proto_manifest_check(&s.m, &e), 0);
	s.m.n_ram = 17;
	s.m.memory_size_bytes = 17 * 4096;
	assert_int_equal(proto_manifest_check(&s.m, &e), -EINVAL);
}

static void check_all_that_differs_is_reported_together(void **state)
{
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	s.m.version = 0;
	s.m.architecture = sample_string("aarch64");
	s.m.page_size = 16384;
	s.m.memory_size_bytes += 4096;
	s.m.vp_count = 33;
	assert_int_equal(proto_manifest_check(&s.m, &e), -EINVAL);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_int_equal(lines_in(e.text), 5);
	assert_non_null(strstr(e.text, "format version 0"));
	assert_non_null(strstr(e.text, "'aarch64'"));
	assert_non_null(strstr(e.text, "pages of 16384 bytes"));
	assert_non_null(strstr(e.text, "RAM size of 5368713216 bytes"));
	assert_non_null(strstr(e.text, "33 vCPUs"));
	/* Without words the verdict is the same. */
	assert_int_equal(proto_manifest_check(&s.m, NULL), -EINVAL);
}

static void check_number_of_vcpus_is_1_to_32(void **state)
{
	struct sample_manifest s;

	(void)state;
	sample_manifest(&s);
	for (uint32_t n = 0; n < 40; n++) {
		s.m.vp_count = n;
		assert_int_equal(proto_manifest_check(&s.m, NULL), n >= 1 && n <= 32 ? 0 : -EINVAL);
	}
	s.m.vp_count = UINT32_MAX;
	assert_int_equal(proto_manifest_check(&s.m, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(check_bad_ranges_are_refused),
		cmocka_unit_test(check_too_many_ranges_are_refused),
		cmocka_unit_test(check_all_that_differs_is_reported_together),
		cmocka_unit_test(check_number_of_vcpus_is_1_to_32),
		cmocka_unit_test(check_newer_version_says_the_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
