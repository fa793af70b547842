/*
 * The commands of snapctl: one table makes dispatch and help.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/opt.h"
#include "catalog/index.h"
#include "catalog/store.h"

/* What any command's options fill in. */
struct cli_args {
	bool json, all;
	const char *accept;
	const char *older_than; /* as text_parse_duration() takes it */
	uint64_t limit;		/* bytes a second, 0: none */
	uint32_t fd;
};

struct cli {
	const char *given;   /* --store */
	struct store *store; /* open, unless the command has no_store */
	struct cli_args args;
	char **names; /* operands */
	int n;
};

struct cli_cmd {
	const char *name;
	const char *operands; /* for the help: "NAME.." */
	int min, max;	      /* of operands; max -1: any number */
	const char *help;     /* one line */
	const struct opt *opts;
	int (*run)(struct cli *cli, struct err *e); /* 0 or a negative errno, as all */
	bool hidden, no_store;
};

int cli_list(struct cli *cli, struct err *e);
int cli_show(struct cli *cli, struct err *e);
int cli_status(struct cli *cli, struct err *e);
int cli_verify(struct cli *cli, struct err *e);
int cli_rm(struct cli *cli, struct err *e);
int cli_rename(struct cli *cli, struct err *e);
int cli_reindex(struct cli *cli, struct err *e);
int cli_check(struct cli *cli, struct err *e);
int cli_du(struct cli *cli, struct err *e);
int cli_tree(struct cli *cli, struct err *e);
int cli_diff(struct cli *cli, struct err *e);
int cli_flatten(struct cli *cli, struct err *e);
int cli_publish(struct cli *cli, struct err *e);

/* The row as in `list --json`; a new reference, NULL without memory. */
json_t *cli_row_json(const struct cat_row *row);

/*
 * The number; a new reference. JSON's integers are signed here: what a hostile
 * manifest claims beyond them is a real, and not negative.
 */
json_t *cli_number(uint64_t v);

/* The text cleaned for terminals and JSON (text.h); a new reference. */
json_t *cli_string(const char *text);

/* Prints it, indented, with a newline, and drops the reference. 0 or a negative errno. */
int cli_print_json(json_t *value, struct err *e);

/*
 * Runs `one` for each name, reports each failure at once and goes on. 0, or
 * -ECANCELED without words once anything failed (e->status is set).
 */
int cli_each(struct cli *cli, int (*one)(struct cli *cli, const char *name, struct err *e),
	     struct err *e);
