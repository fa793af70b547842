/* status and manifest.json, also of manifests that mean no good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/text.h"
#include "snapfs/describe.h"

static void check_clean(const char *dirty, const char *clean)
{
	char *got = text_clean(dirty);

	assert_non_null(got);
	assert_string_equal(got, clean);
	free(got);
}

static void clean_text_stays_as_it_is(void **state)
{
	(void)state;
	check_clean("", "");
	check_clean("console=ttyS0 root=/dev/vda", "console=ttyS0 root=/dev/vda");
	check_clean("\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe");
}

static void bad_bytes_become_replacement_characters(void **state)
{
#define R "\xef\xbf\xbd"
	(void)state;
	check_clean("a\x1b[31mb", "a" R "[31mb");
	check_clean("line\nbreak\x7f", "line" R "break" R);
	check_clean("\xff\xfe", R R);
	check_clean("\xc0\xaf", R R);		  /* overlong */
	check_clean("\xed\xa0\x80", R R R);	  /* a surrogate */
	check_clean("\xf4\x90\x80\x80", R R R R); /* beyond Unicode */
	check_clean("\xc2\x9b", R R);		  /* a C1 control */
	check_clean("\xe2\x82", R R);		  /* cut off */
#undef R
}

struct sample {
	Timestamp created;
	RamRange range;
	RamRange *ranges[1];
	Device device;
	Device *devices[1];
	Machine machine;
	Boot boot;
	uint8_t id[16], digest[32];
	SnapshotManifest m;
};

static void make(struct sample *s)
{
	memset(s, 0, sizeof(*s));
	timestamp__init(&s->created);
	ram_range__init(&s->range);
	device__init(&s->device);
	machine__init(&s->machine);
	boot__init(&s->boot);
	snapshot_manifest__init(&s->m);
	s->created.seconds = 1785585600;
	s->range.size = 1 << 20;
	s->ranges[0] = &s->range;
	s->devices[0] = &s->device;
	s->machine.n_device = 1;
	s->machine.device = s->devices;
	s->m.created_at = &s->created;
	s->m.memory_size_bytes = 1 << 20;
	s->m.vp_count = 2;
	s->m.n_ram = 1;
	s->m.ram = s->ranges;
	s->m.id = (ProtobufCBinaryData){ 16, s->id };
	s->m.memory_digest = (ProtobufCBinaryData){ 32, s->digest };
	s->m.machine = &s->machine;
	s->m.boot = &s->boot;
}

static char *json_of(const SnapshotManifest *m)
{
	char *text;
	size_t len;

	assert_int_equal(sfs_describe_json(m, &text, &len), 0);
	assert_int_equal(strlen(text), len);
	assert_int_equal(text[len - 1], '\n');
	return text;
}

static void json_says_what_the_manifest_says(void **state)
{
	struct sample s;
	char *text;

	(void)state;
	make(&s);
	s.m.name_at_creation = "base";
	text = json_of(&s.m);
	assert_non_null(strstr(text, "\"name_at_creation\": \"base\""));
	assert_non_null(strstr(text, "\"created_at\": \"2026-08-01T12:00:00.000000000Z\""));
	assert_non_null(strstr(text, "\"id\": \"00000000-0000-0000-0000-000000000000\""));
	assert_non_null(strstr(text, "\"memory_bytes\": 1048576"));
	assert_non_null(strstr(text, "\"parent\": null"));
	free(text);
}

static void json_of_a_hostile_manifest_is_still_json(void **state)
{
	struct sample s;
	char *text;

	(void)state;
	make(&s);
	s.m.name_at_creation = "\xff\x1b]0;x\x07";
	s.m.architecture = "\xc0\x80";
	s.device.name = "\xed\xa0\x80";
	s.boot.cmdline = "\"\\\n";
	s.boot.kind = (BootKind)-7;
	s.m.memory_size_bytes = UINT64_MAX;
	s.range.guest_address = UINT64_MAX;
	s.created.seconds = INT64_MIN;
	s.m.memory_digest.len = 0;
	text = json_of(&s.m);
	for (const char *p = text; *p; p++)
		assert_true((unsigned char)*p >= 0x20 || *p == '\n');
	assert_non_null(strstr(text, "\"kind\": \"unknown\""));
	free(text);
}

static void status_of_a_damaged_one_names_the_problem(void **state)
{
	const struct description d = {
		.name = "base",
		.status = CAT_DAMAGED,
		.problem = "manifest.bin is damaged:\nit cannot be parsed",
		.memory = "unknown",
		.parent = "",
	};
	char *text;
	size_t len;

	(void)state;
	assert_int_equal(sfs_describe_status(&d, &text, &len), 0);
	assert_int_equal(strlen(text), len);
	assert_non_null(strstr(text, "state:     damaged\n"));
	assert_non_null(strstr(text, "problem:   manifest.bin is damaged:"));
	assert_non_null(strstr(text, "id:        unknown\n"));
	assert_non_null(strstr(text, "verified:  never\n"));
	free(text);
}

static void status_of_a_good_one_says_what_it_is(void **state)
{
	struct sample s;
	struct description d = {
		.name = "base",
		.id = "00000000-0000-0000-0000-000000000000",
		.status = CAT_VALID,
		.problem = "",
		.memory = "stamped",
		.parent = "root",
		.verified_at = 1785585600,
	};
	char *text;
	size_t len;

	(void)state;
	make(&s);
	s.m.parent_id = (ProtobufCBinaryData){ 16, s.id };
	d.manifest = &s.m;
	assert_int_equal(sfs_describe_status(&d, &text, &len), 0);
	assert_non_null(strstr(text, "state:     valid\n"));
	assert_null(strstr(text, "problem"));
	assert_non_null(strstr(text, "verified:  2026-08-01T12:00:00"));
	assert_non_null(strstr(text, "RAM:       1 MiB\n"));
	assert_non_null(strstr(text, "vCPUs:     2\n"));
	assert_non_null(strstr(text, "parent:    root\n"));
	free(text);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(clean_text_stays_as_it_is),
		cmocka_unit_test(bad_bytes_become_replacement_characters),
		cmocka_unit_test(json_says_what_the_manifest_says),
		cmocka_unit_test(json_of_a_hostile_manifest_is_still_json),
		cmocka_unit_test(status_of_a_damaged_one_names_the_problem),
		cmocka_unit_test(status_of_a_good_one_says_what_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
