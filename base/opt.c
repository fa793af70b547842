/* Option tables over getopt_long(3): see opt.h. */
#define _GNU_SOURCE
#include "opt.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <string.h>

#include "text.h"

#define MAX_OPTS 48

static int set_choice(const struct opt *o, unsigned *field, const char *value, struct err *e)
{
	const char *word = o->arg;
	unsigned index = 0;

	for (;; index++) {
		size_t n = strcspn(word, "|");

		if (strlen(value) == n && memcmp(word, value, n) == 0) {
			*field = index;
			return 0;
		}
		if (!word[n])
			break;
		word += n + 1;
	}
	return err_usage(e, EINVAL, "--%s takes %s, not '%s'", o->name, o->arg, value);
}

static int set_uint(const struct opt *o, uint32_t *field, const char *value, struct err *e)
{
	uint64_t v;

	if (text_parse_u64(value, &v) < 0 || v > UINT32_MAX)
		return err_usage(e, EINVAL, "--%s takes a number, not '%s'", o->name, value);
	*field = (uint32_t)v;
	return 0;
}

static int add(const struct opt *o, struct opt_list *list, const char *value, struct err *e)
{
	if (list->n == OPT_LIST_MAX)
		return err_usage(e, EINVAL, "--%s is given more than %d times", o->name,
				 OPT_LIST_MAX);
	list->item[list->n++] = value;
	return 0;
}

static int set(const struct opt *o, void *into, const char *value, struct err *e)
{
	void *field = (char *)into + o->offset;

	switch (o->type) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_STRING:
		*(const char **)field = value;
		return 0;
	case OPT_SIZE:
		if (text_parse_size(value, field) < 0)
			return err_usage(e, EINVAL,
					 "--%s takes a size such as 512M or 2G, not '%s'", o->name,
					 value);
		return 0;
	case OPT_UINT:
		return set_uint(o, field, value, e);
	case OPT_CHOICE:
		return set_choice(o, field, value, e);
	case OPT_LIST:
		return add(o, field, value, e);
	}
	return -EINVAL;
}

/* Makes getopt's two tables from ours. Value of a long option: 256 + index; --help is last. */
static int build(const struct opt *table, bool leading, struct option *longs, char *shorts)
{
	size_t n = 0, s = 0;

	if (leading)
		shorts[s++] = '+';
	shorts[s++] = ':';
	for (; table[n].name; n++) {
		if (n == MAX_OPTS - 1)
			return -E2BIG;
		longs[n] = (struct option){
			.name = table[n].name,
			.has_arg = table[n].type != OPT_FLAG,
			.val = 256 + (int)n,
		};
		if (!table[n].letter)
			continue;
		shorts[s++] = table[n].letter;
		if (table[n].type != OPT_FLAG)
			shorts[s++] = ':';
	}
	longs[n] = (struct option){ .name = "help", .val = 256 + (int)n };
	n++;
	longs[n] = (struct option){ 0 };
	shorts[s++] = 'h';
	shorts[s] = '\0';
	return 0;
}

static const struct opt *find(const struct opt *table, int value)
{
	if (value >= 256)
		return table[value - 256].name ? &table[value - 256] : NULL;
	for (; table->name; table++)
		if (table->letter == value)
			return table;
	return NULL;
}

/*
 * What getopt did not take. optopt: 0, a long option that is unknown; a letter,
 * which may stand within a word that optind has not passed yet; else a long
 * option with an argument that it does not have.
 */
static int refuse(const char *word, struct err *e)
{
	if (optopt >= 256)
		return err_usage(e, EINVAL, "option '%s' takes no argument", word);
	if (optopt)
		return err_usage(e, EINVAL, "unknown option '-%c'; --help lists them", optopt);
	return err_usage(e, EINVAL, "unknown option '%s'; --help lists them", word);
}

static int parse(const struct opt *table, bool leading, void *into, int argc, char **argv,
		 int *operand, struct err *e)
{
	struct option longs[MAX_OPTS + 1];
	char shorts[2 * MAX_OPTS + 4];
	int rc = build(table, leading, longs, shorts);

	if (rc < 0)
		return rc;
	opterr = 0;
	optind = 0; /* glibc: start anew */
	for (;;) {
		const struct opt *o;
		int v = getopt_long(argc, argv, shorts, longs, NULL);

		if (v == -1)
			break;
		if (v == '?')
			return refuse(argv[optind - 1], e);
		if (v == ':')
			return err_usage(e, EINVAL, "option '%s' needs an argument",
					 argv[optind - 1]);
		o = find(table, v);
		if (!o)
			return -ECANCELED; /* --help */
		rc = set(o, into, optarg, e);
		if (rc < 0)
			return rc;
	}
	*operand = optind;
	return 0;
}

int opt_parse(const struct opt *table, void *into, int argc, char **argv, int *operand,
	      struct err *e)
{
	return parse(table, false, into, argc, argv, operand, e);
}

int opt_parse_leading(const struct opt *table, void *into, int argc, char **argv, int *operand,
		      struct err *e)
{
	return parse(table, true, into, argc, argv, operand, e);
}

void opt_help(FILE *out, const struct opt *table)
{
	for (; table->name; table++) {
		char left[80];
		char letter[5] = "    ";

		if (table->letter)
			snprintf(letter, sizeof(letter), "-%c, ", table->letter);
		snprintf(left, sizeof(left), "  %s--%s%s%s", letter, table->name,
			 table->type == OPT_FLAG ? "" : " ",
			 table->type == OPT_FLAG ? "" : table->arg);
		fprintf(out, "%-38s%s%s\n", left, strlen(left) > 37 ? " " : "", table->help);
	}
}
