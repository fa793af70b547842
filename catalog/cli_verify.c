/* snapctl verify: every byte of snapshots. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/progress.h"
#include "catalog/cli.h"
#include "catalog/verify.h"

static const char *outcome(int rc)
{
	switch (rc) {
	case 0:
		return "valid";
	case -EBADMSG:
		return "damaged";
	case -ESTALE:
		return "replaced";
	case -ENOENT:
		return "missing";
	default:
		return "unreadable";
	}
}

static int verify_one(struct cli *cli, const char *name, struct err *e)
{
	struct io_progress io;
	struct progress p;
	char what[CAT_NAME_MAX + 32];
	int rc;

	snprintf(what, sizeof(what), "verifying %s", name);
	progress_start(&p, what, cli->args.json);
	io = progress_io(&p);
	rc = cat_verify_snapshot(cli->store, name, true, &io, e);
	progress_end(&p);
	if (cli->args.json) {
		json_t *line = json_pack("{s:s, s:s, s:s?}", "name", name, "status", outcome(rc),
					 "problem", rc < 0 ? e->text : NULL);

		if (!line || json_dumpf(line, stdout, 0) < 0)
			return err_sys(e, EIO, "cannot print JSON");
		json_decref(line);
		putchar('\n');
		fflush(stdout);
	} else if (rc == 0) {
		printf("%s: valid\n", name);
		fflush(stdout);
	}
	return rc;
}

struct names {
	char **v;
	int n;
	int64_t *verified;
};

static int add_name(void *arg, const struct cat_row *row)
{
	struct names *names = arg;
	char **v = reallocarray(names->v, (size_t)names->n + 1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	names->v = v;
	v[names->n] = strdup(row->name);
	return v[names->n++] ? 0 : -ENOMEM;
}

static int verify_all(struct cli *cli, struct err *e)
{
	struct names names = { 0 };
	int rc = cat_index_list(cli->store, add_name, &names, e);

	if (rc == 0) {
		cli->names = names.v;
		cli->n = names.n;
		rc = cli_each(cli, verify_one, e);
	}
	for (int i = 0; i < names.n; i++)
		free(names.v[i]);
	free(names.v);
	return rc;
}

int cli_verify(struct cli *cli, struct err *e)
{
	if (cli->args.all && cli->n)
		return err_usage(e, EINVAL, "verify takes names or --all, not both");
	if (!cli->args.all && !cli->n)
		return err_usage(e, EINVAL, "verify needs names, or --all");
	return cli->args.all ? verify_all(cli, e) : cli_each(cli, verify_one, e);
}
