/* Option tables: what is understood, and what is said of what is not. */
#include "unit.h"

#include "base/opt.h"

struct values {
	bool flag, other;
	const char *name;
	uint64_t size;
	uint32_t count;
	unsigned how;
};

static const struct opt table[] = {
	{ "flag", 'f', OPT_FLAG, offsetof(struct values, flag), NULL, "a flag" },
	{ "other", 'o', OPT_FLAG, offsetof(struct values, other), NULL, "another" },
	{ "name", 'n', OPT_STRING, offsetof(struct values, name), "NAME", "a string" },
	{ "size", 0, OPT_SIZE, offsetof(struct values, size), "SIZE", "a size" },
	{ "count", 'c', OPT_UINT, offsetof(struct values, count), "N", "a number" },
	{ "how", 0, OPT_CHOICE, offsetof(struct values, how), "slow|fast|faster", "a choice" },
	{ 0 },
};

#define ARGV_MAX 12

/* One parse of a line of words. */
struct parsed {
	struct values v;
	char *argv[ARGV_MAX];
	char words[256];
	int argc, operand, rc;
	struct err e;
};

static void parse(struct parsed *p, const char *line, bool leading)
{
	*p = (struct parsed){ .v = { .name = "default", .count = 7 } };
	snprintf(p->words, sizeof(p->words), "%s", line);
	for (char *w = strtok(p->words, " "); w; w = strtok(NULL, " ")) {
		assert_true(p->argc < ARGV_MAX - 1);
		p->argv[p->argc++] = w;
	}
	p->operand = -1;
	p->rc = (leading ? opt_parse_leading : opt_parse)(table, &p->v, p->argc, p->argv,
							  &p->operand, &p->e);
}

static void parse_no_options_keeps_the_defaults(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "prog", false);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.operand, 1);
	assert_string_equal(p.v.name, "default");
	assert_int_equal(p.v.count, 7);
	assert_false(p.v.flag);
}

static void parse_each_type_fills_its_field(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "prog -f --name=x --size 2G -c 4294967295 --how faster", false);
	assert_int_equal(p.rc, 0);
	assert_true(p.v.flag);
	assert_false(p.v.other);
	assert_string_equal(p.v.name, "x");
	assert_int_equal(p.v.size, 2ULL << 30);
	assert_int_equal(p.v.count, UINT32_MAX);
	assert_int_equal(p.v.how, 2);
}

static void parse_mixed_operands_stand_last_in_order(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "prog one -f two --name x three -o", false);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.argc - p.operand, 3);
	assert_string_equal(p.argv[p.operand], "one");
	assert_string_equal(p.argv[p.operand + 1], "two");
	assert_string_equal(p.argv[p.operand + 2], "three");
	assert_true(p.v.flag);
	assert_true(p.v.other);
	assert_string_equal(p.v.name, "x");
}

static void parse_double_dash_ends_the_options(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "prog -f -- --name -o", false);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.argc - p.operand, 2);
	assert_string_equal(p.argv[p.operand], "--name");
	assert_string_equal(p.argv[p.operand + 1], "-o");
	assert_false(p.v.other);
}

static void parse_leading_stops_at_the_first_operand(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "prog -f command --name x -o", true);
	assert_int_equal(p.rc, 0);
	assert_string_equal(p.argv[p.operand], "command");
	assert_int_equal(p.argc - p.operand, 4);
	assert_true(p.v.flag);
	assert_false(p.v.other);
	assert_string_equal(p.v.name, "default");
}

static void parse_unknown_option_is_named(void **state)
{
	static const struct {
		const char *line, *named;
	} cases[] = {
		{ "prog --bogus", "'--bogus'" },
		{ "prog one --bogus two", "'--bogus'" },
		{ "prog -f --bogus=3 -o", "'--bogus=3'" },
		{ "prog -z", "'-z'" },
		{ "prog -f -z -o", "'-z'" },
		/* In a cluster it is named, not the word before it. */
		{ "prog -z1", "'-z'" },
		{ "prog --name x -fzo", "'-z'" },
		{ "prog one -zf", "'-z'" },
		{ "prog --flag=yes", "'--flag=yes' takes no argument" },
		{ "prog --help=yes", "'--help=yes' takes no argument" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct parsed p;

		parse(&p, cases[i].line, false);
		assert_int_equal(p.rc, -EINVAL);
		assert_int_equal(p.e.status, STATUS_USAGE);
		assert_says(&p.e, cases[i].named);
	}
}

static void parse_missing_argument_names_the_option(void **state)
{
	static const struct {
		const char *line, *named;
	} cases[] = {
		{ "prog --name", "'--name'" },
		{ "prog one --size", "'--size'" },
		{ "prog -n", "'-n'" },
		{ "prog -fn", "'-fn'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct parsed p;

		parse(&p, cases[i].line, false);
		assert_int_equal(p.rc, -EINVAL);
		assert_int_equal(p.e.status, STATUS_USAGE);
		assert_says(&p.e, cases[i].named);
		assert_says(&p.e, "needs an argument");
	}
}

static void parse_bad_values_name_option_and_value(void **state)
{
	static const struct {
		const char *line, *option, *value;
	} cases[] = {
		{ "prog --size big", "--size", "'big'" },
		{ "prog --size 99999999999999999999", "--size", "'99999999999999999999'" },
		{ "prog --count -1", "--count", "'-1'" },
		{ "prog --count 4294967296", "--count", "'4294967296'" },
		{ "prog --how quick", "--how", "'quick'" },
		{ "prog --how fas", "--how", "'fas'" },
		{ "prog --how slow|fast", "--how", "'slow|fast'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct parsed p;

		parse(&p, cases[i].line, false);
		assert_int_equal(p.rc, -EINVAL);
		assert_int_equal(p.e.status, STATUS_USAGE);
		assert_says(&p.e, cases[i].option);
		assert_says(&p.e, cases[i].value);
	}
}

static void parse_empty_values_are_refused_where_they_mean_nothing(void **state)
{
	static const char *const bad[] = { "--how=", "--size=", "--count=" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char line[32];
		struct parsed p;

		snprintf(line, sizeof(line), "prog %s", bad[i]);
		parse(&p, line, false);
		assert_int_equal(p.rc, -EINVAL);
	}
}

static void parse_choice_gives_the_index_of_the_word(void **state)
{
	static const char *const words[] = { "slow", "fast", "faster" };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		char line[32];
		struct parsed p;

		snprintf(line, sizeof(line), "prog --how %s", words[i]);
		parse(&p, line, false);
		assert_int_equal(p.rc, 0);
		assert_int_equal(p.v.how, i);
	}
}

static void parse_help_is_said_without_words(void **state)
{
	static const char *const lines[] = { "prog --help", "prog -h", "prog -f one --help",
					     "prog -fh" };

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct parsed p;

		parse(&p, lines[i], false);
		assert_int_equal(p.rc, -ECANCELED);
		assert_string_equal(p.e.text, "");
	}
}

static void parse_ambiguous_beginning_is_refused(void **state)
{
	static const struct opt two[] = {
		{ "memory", 0, OPT_FLAG, offsetof(struct values, flag), NULL, "" },
		{ "memory-file", 0, OPT_FLAG, offsetof(struct values, other), NULL, "" },
		{ 0 },
	};
	char prog[] = "prog", word[] = "--mem", exact[] = "--memory";
	char *argv[] = { prog, word, NULL };
	struct values v = { 0 };
	struct err e = { 0 };
	int operand;

	(void)state;
	assert_int_equal(opt_parse(two, &v, 2, argv, &operand, &e), -EINVAL);
	assert_says(&e, "'--mem'");
	argv[1] = exact;
	assert_int_equal(opt_parse(two, &v, 2, argv, &operand, &e), 0);
	assert_true(v.flag);
	assert_false(v.other);
}

static void help_shows_each_option_once(void **state)
{
	auto_free char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	opt_help(f, table);
	fclose(f);
	assert_int_equal(lines_in(text), 7); /* six, and the end of the last */
	assert_non_null(strstr(text, "-n, --name NAME"));
	assert_non_null(strstr(text, "--how slow|fast|faster"));
	assert_non_null(strstr(text, "a choice"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_no_options_keeps_the_defaults),
		cmocka_unit_test(parse_each_type_fills_its_field),
		cmocka_unit_test(parse_mixed_operands_stand_last_in_order),
		cmocka_unit_test(parse_double_dash_ends_the_options),
		cmocka_unit_test(parse_leading_stops_at_the_first_operand),
		cmocka_unit_test(parse_unknown_option_is_named),
		cmocka_unit_test(parse_missing_argument_names_the_option),
		cmocka_unit_test(parse_bad_values_name_option_and_value),
		cmocka_unit_test(parse_empty_values_are_refused_where_they_mean_nothing),
		cmocka_unit_test(parse_choice_gives_the_index_of_the_word),
		cmocka_unit_test(parse_help_is_said_without_words),
		cmocka_unit_test(parse_ambiguous_beginning_is_refused),
		cmocka_unit_test(help_shows_each_option_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
