/*
 * Option tables: one table makes the parsing, the checks and the help of a
 * command line. A table ends with an entry without a name.
 */
#pragma once

#include <stdint.h>
#include <stddef.h>
#include <stdio.h>

#include "err.h"

enum opt_type {
	OPT_FLAG,   /* bool: true when given */
	OPT_STRING, /* const char *: into argv, not copied */
	OPT_SIZE,   /* uint64_t bytes: a number with an optional K, M, G, T suffix */
	OPT_UINT,   /* uint32_t */
	OPT_CHOICE, /* unsigned: index of the word in `arg`, "one|two|three" */
	OPT_LIST,   /* struct opt_list: given any number of times */
};

#define OPT_LIST_MAX 32

struct opt_list {
	unsigned n;
	const char *item[OPT_LIST_MAX]; /* into argv, not copied */
};

struct opt {
	const char *name; /* without the dashes */
	char letter;	  /* 0: none */
	enum opt_type type;
	size_t offset;	  /* of the field in the struct that is filled in */
	const char *arg;  /* what the help calls the argument; OPT_CHOICE: the words */
	const char *help; /* one line */
};

/*
 * Parses argv[1..argc) by the table into *into (whose fields hold the
 * defaults). Options and operands may be mixed; argv is reordered so that the
 * operands stand at *operand. "--help" gives -ECANCELED without words.
 * 0 or a negative errno with err_usage words.
 */
int opt_parse(const struct opt *table, void *into, int argc, char **argv, int *operand,
	      struct err *e);

/* As opt_parse, but stops at the first operand (for a program with commands). */
int opt_parse_leading(const struct opt *table, void *into, int argc, char **argv, int *operand,
		      struct err *e);

/* Prints the table's part of a help text. */
void opt_help(FILE *out, const struct opt *table);
