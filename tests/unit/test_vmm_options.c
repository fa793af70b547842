/* vmm's command line: what it takes, and one sentence for each thing that it does not. */
#include "unit.h"

#include "vmm/clock.h"
#include "vmm/options.h"
#include "vmm/ram.h"

#define ARGV_MAX 16

struct parsed {
	struct options o;
	char words[512];
	int rc;
	struct err e;
};

static void parse(struct parsed *p, const char *line)
{
	char *argv[ARGV_MAX + 1] = { 0 };
	int argc = 0;

	memset(p, 0, sizeof(*p));
	snprintf(p->words, sizeof(p->words), "vmm %s", line);
	for (char *w = strtok(p->words, " "); w; w = strtok(NULL, " ")) {
		assert_true(argc < ARGV_MAX);
		argv[argc++] = w;
	}
	p->rc = options_parse(&p->o, argc, argv, &p->e);
}

static void assert_taken(struct parsed *p, const char *line)
{
	parse(p, line);
	if (p->rc != 0)
		fail_msg("'%s': %s", line, p->e.text);
	assert_string_equal(p->e.text, "");
}

static void parse_defaults_are_512_mib_and_stdio(void **state)
{
	struct parsed p;

	(void)state;
	assert_taken(&p, "--kernel bz");
	assert_string_equal(p.o.kernel, "bz");
	assert_int_equal(p.o.memory, OPTIONS_DEFAULT_MEMORY);
	assert_int_equal(p.o.processors, 0);
	assert_string_equal(p.o.serial, "stdio");
	assert_null(p.o.initrd);
	assert_null(p.o.store);
	assert_false(p.o.paused || p.o.check || p.o.trust_memory || p.o.private_memory ||
		     p.o.no_reserve);
}

/* Said before a snapshot is verified or anything opened. */
static void parse_serial_that_is_no_place_is_refused(void **state)
{
	static const char *const bad[] = { "telnet", "file", "file=", "", "stdio2", "nonesuch" };
	struct options o;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char serial[16];
		char *argv[] = { "vmm", "--restore-snapshot", "dir", "--serial", serial, NULL };
		struct err e = { 0 };

		snprintf(serial, sizeof(serial), "%s", bad[i]);
		assert_int_equal(options_parse(&o, 5, argv, &e), -EINVAL);
		assert_says(&e, "--serial takes");
		assert_int_equal(e.status, STATUS_USAGE);
	}
}

/* Nor a path that no socket can have. */
static void parse_control_path_that_no_socket_can_have_is_refused(void **state)
{
	char path[110] = "";
	char *argv[] = { "vmm", "--demo-guest", "--control", path, NULL };
	struct options o;
	struct err e = { 0 };

	(void)state;
	memset(path, 'p', 107);
	assert_int_equal(options_parse(&o, 4, argv, &e), 0);
	assert_string_equal(o.control, path);
	path[107] = 'p';
	assert_int_equal(options_parse(&o, 4, argv, &e), -EINVAL);
	assert_says(&e, "the path must have 1 to 107 bytes");
	assert_int_equal(e.status, STATUS_USAGE);
	e = (struct err){ 0 };
	path[0] = '\0';
	assert_int_equal(options_parse(&o, 4, argv, &e), -EINVAL);
	assert_says(&e, "--control : the path must have");
}

static void parse_restore_needs_and_invents_no_memory(void **state)
{
	struct parsed p;

	(void)state;
	assert_taken(&p, "--restore-snapshot dir");
	assert_string_equal(p.o.restore, "dir");
	assert_int_equal(p.o.memory, 0);
	assert_int_equal(p.o.processors, 0);
	assert_taken(&p, "--restore-snapshot dir --memory 1G --processors 1 --check --paused "
			 "--trust-memory --control sock --serial none");
	assert_int_equal(p.o.memory, 1ULL << 30);
	assert_int_equal(p.o.processors, 1);
	assert_true(p.o.check && p.o.paused && p.o.trust_memory);
}

static void parse_cpu_and_clock(void **state)
{
	struct parsed p;

	(void)state;
	assert_taken(&p, "--kernel k");
	assert_null(p.o.cpu);
	assert_taken(&p, "--kernel k --cpu host");
	assert_taken(&p, "--kernel k --cpu x86-64-v3");
	assert_string_equal(p.o.cpu, "x86-64-v3");
	assert_taken(&p, "--restore-snapshot d --clock advance");
	assert_int_equal(p.o.clock, CLOCK_MODE_ADVANCE);
	assert_taken(&p, "--restore-snapshot d --clock freeze");
	assert_int_equal(p.o.clock, CLOCK_MODE_FREEZE);
	parse(&p, "--kernel k --cpu 486");
	assert_int_equal(p.rc, -EINVAL);
	assert_says(&p.e, "there are host, x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4");
	assert_int_equal(p.e.status, STATUS_USAGE);
	parse(&p, "--restore-snapshot d --cpu host");
	assert_says(&p.e, "exclude each other");
	parse(&p, "--kernel k --clock advance");
	assert_says(&p.e, "--clock advance goes with --restore-snapshot");
}

static void parse_everything_for_a_boot_is_taken(void **state)
{
	struct parsed p;

	(void)state;
	assert_taken(&p, "--kernel k --initrd i --cmdline c -m 64M -p 1 --memory-backing-file f "
			 "--no-reserve");
	assert_int_equal(p.o.memory, 64ULL << 20);
	assert_int_equal(p.o.processors, 1);
	assert_string_equal(p.o.memory_backing_file, "f");
	assert_true(p.o.no_reserve);
	assert_taken(&p, "--demo-guest --private-memory --memory 2M");
	assert_true(p.o.demo_guest && p.o.private_memory);
	assert_int_equal(p.o.memory, RAM_MIN);
}

static void parse_version_and_check_host_stand_alone(void **state)
{
	struct parsed p;

	(void)state;
	assert_taken(&p, "--version");
	assert_true(p.o.version);
	assert_taken(&p, "--check-host --json");
	assert_true(p.o.check_host && p.o.json);
}

static void parse_each_conflict_is_one_sentence(void **state)
{
	static const struct {
		const char *line, *says, *also;
	} cases[] = {
		{ "--demo-guest --private-memory --memory-backing-file f", "--private-memory",
		  "--memory-backing-file" },
		{ "--restore-snapshot d --memory-backing-file f", "--restore-snapshot",
		  "--memory-backing-file" },
		{ "--restore-snapshot d --private-memory", "--restore-snapshot",
		  "--private-memory" },
		{ "--restore-snapshot d --kernel k", "--restore-snapshot", "boots from" },
		{ "--restore-snapshot d --initrd i", "--restore-snapshot", "boots from" },
		{ "--restore-snapshot d --cmdline c", "--restore-snapshot", "boots from" },
		{ "--restore-snapshot d --demo-guest", "--restore-snapshot", "boots from" },
		{ "--demo-guest --check", "--check", "--restore-snapshot DIR" },
		{ "--demo-guest operand", "'operand'", "--help" },
		{ "--bogus", "'--bogus'", "--help" },
		{ "--kernel", "'--kernel'", "argument" },
		{ "--demo-guest --processors 0", "--processors", "at least 1" },
		{ "--demo-guest --processors two", "--processors", "'two'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct parsed p;

		parse(&p, cases[i].line);
		if (p.rc != -EINVAL)
			fail_msg("'%s' gives %d", cases[i].line, p.rc);
		assert_int_equal(p.e.status, STATUS_USAGE);
		assert_says(&p.e, cases[i].says);
		assert_says(&p.e, cases[i].also);
	}
}

static void parse_each_bad_memory_is_one_sentence(void **state)
{
	static const struct {
		const char *size;
		int rc, status;
		const char *says;
	} cases[] = {
		{ "0", -EINVAL, STATUS_USAGE, "too small" },
		{ "1M", -EINVAL, STATUS_USAGE, "too small" },
		{ "2097151", -EINVAL, STATUS_USAGE, "too small" },
		{ "2097153", -EINVAL, STATUS_USAGE, "not a multiple of 4096" },
		{ "16777215T", -ENOMEM, STATUS_REFUSED, "more than the" },
		{ "lots", -EINVAL, STATUS_USAGE, "'lots'" },
		{ "-1", -EINVAL, STATUS_USAGE, "'-1'" },
		{ "1.5G", -EINVAL, STATUS_USAGE, "'1.5G'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char line[64];
		struct parsed p;

		snprintf(line, sizeof(line), "--demo-guest --memory %s", cases[i].size);
		parse(&p, line);
		if (p.rc != cases[i].rc)
			fail_msg("'%s' gives %d", line, p.rc);
		assert_int_equal(p.e.status, cases[i].status);
		assert_says(&p.e, "--memory");
		assert_says(&p.e, cases[i].says);
	}
}

static void parse_more_than_32_vcpus_is_refused(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--demo-guest --processors 32");
	assert_int_equal(p.rc, 0);
	parse(&p, "--demo-guest --processors 33");
	assert_int_equal(p.rc, -EINVAL);
	assert_int_equal(p.e.status, STATUS_USAGE);
	assert_says(&p.e, "--processors 33");
}

static void parse_largest_numbers_are_not_taken_for_the_default(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--demo-guest --processors 4294967295");
	assert_int_equal(p.rc, -EINVAL);
	assert_says(&p.e, "--processors 4294967295");
	parse(&p, "--demo-guest --memory 18446744073709551615");
	assert_int_equal(p.rc, -EINVAL);
	assert_says(&p.e, "--memory");
	/* Nor is the smallest. */
	parse(&p, "--restore-snapshot dir --memory 0");
	assert_int_equal(p.rc, -EINVAL);
	assert_says(&p.e, "--memory");
	parse(&p, "--demo-guest --memory 1");
	assert_int_equal(p.rc, -EINVAL);
	assert_says(&p.e, "too small");
}

static void parse_help_prints_all_options(void **state)
{
	char out[16384];
	int pair[2], before = dup(STDOUT_FILENO);
	struct parsed p;
	ssize_t n;

	(void)state;
	assert_int_equal(pipe(pair), 0);
	fflush(stdout);
	dup2(pair[1], STDOUT_FILENO);
	close(pair[1]);
	parse(&p, "--help");
	fflush(stdout);
	dup2(before, STDOUT_FILENO);
	close(before);
	n = read(pair[0], out, sizeof(out) - 1);
	close(pair[0]);
	assert_true(n > 0);
	out[n] = '\0';
	assert_int_equal(p.rc, -ECANCELED);
	assert_string_equal(p.e.text, "");
	for (const struct opt *o = options_table; o->name; o++) {
		char name[64];

		snprintf(name, sizeof(name), "--%s", o->name);
		if (!strstr(out, name))
			fail_msg("--help does not show %s", name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_defaults_are_512_mib_and_stdio),
		cmocka_unit_test(parse_serial_that_is_no_place_is_refused),
		cmocka_unit_test(parse_control_path_that_no_socket_can_have_is_refused),
		cmocka_unit_test(parse_restore_needs_and_invents_no_memory),
		cmocka_unit_test(parse_cpu_and_clock),
		cmocka_unit_test(parse_everything_for_a_boot_is_taken),
		cmocka_unit_test(parse_version_and_check_host_stand_alone),
		cmocka_unit_test(parse_each_conflict_is_one_sentence),
		cmocka_unit_test(parse_each_bad_memory_is_one_sentence),
		cmocka_unit_test(parse_more_than_32_vcpus_is_refused),
		cmocka_unit_test(parse_largest_numbers_are_not_taken_for_the_default),
		cmocka_unit_test(parse_help_prints_all_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
