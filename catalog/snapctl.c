/* snapctl: the command line of the store. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/cli.h"
#include "catalog/publish.h"

#define JSON_OPT                                                                                   \
	{                                                                                          \
		"json", 0, OPT_FLAG, offsetof(struct cli_args, json), NULL, "print JSON"           \
	}

static const struct opt plain_opts[] = { { 0 } };
static const struct opt json_opts[] = { JSON_OPT, { 0 } };
static const struct opt verify_opts[] = {
	{ "all", 'a', OPT_FLAG, offsetof(struct cli_args, all), NULL,
	  "verify every snapshot, those first that were verified longest ago" },
	{ "older-than", 0, OPT_STRING, offsetof(struct cli_args, older_than), "AGE",
	  "of all those that were not verified for so long: 90s, 30m, 12h, 7d" },
	{ "limit", 0, OPT_SIZE, offsetof(struct cli_args, limit), "RATE",
	  "read no more than RATE bytes a second (suffix K, M, G)" },
	JSON_OPT,
	{ 0 },
};
static const struct opt reindex_opts[] = {
	{ "accept", 0, OPT_STRING, offsetof(struct cli_args, accept), "NAME",
	  "take this replaced snapshot as it is now" },
	{ 0 },
};
static const struct opt publish_opts[] = {
	{ "fd", 0, OPT_UINT, offsetof(struct cli_args, fd), "N", "the socket to vmm" },
	{ 0 },
};

static const struct cli_cmd commands[] = {
	{ "list", "", 0, 0, "list the snapshots", json_opts, cli_list, false, false },
	{ "show", "NAME", 1, 1, "show all that is known of a snapshot", json_opts, cli_show, false,
	  false },
	{ "verify", "[NAME..|--all]", 0, -1, "read snapshots whole and check every byte",
	  verify_opts, cli_verify, false, false },
	{ "rm", "NAME..", 1, -1, "remove snapshots", plain_opts, cli_rm, false, false },
	{ "rename", "OLD NEW", 2, 2, "rename a snapshot; its id stays", plain_opts, cli_rename,
	  false, false },
	{ "tree", "", 0, 0, "draw which snapshot was saved after which", json_opts, cli_tree, false,
	  false },
	{ "du", "", 0, 0, "show what each snapshot takes on the disk, alone and with others",
	  json_opts, cli_du, false, false },
	{ "diff", "A B", 2, 2, "list the guest RAM that differs between two snapshots", json_opts,
	  cli_diff, false, false },
	{ "flatten", "NAME..", 1, -1, "make snapshots in layers ones of a single memory.bin",
	  json_opts, cli_flatten, false, false },
	{ "reindex", "", 0, 0, "read every snapshot directory again", reindex_opts, cli_reindex,
	  false, false },
	{ "check", "", 0, 0, "look for what is wrong in the store, RAM unread", json_opts,
	  cli_check, false, false },
	{ "status", "", 0, 0, "show the state of the store", json_opts, cli_status, false, false },
	{ "publish", "", 0, 0, "serve a vmm on a socket", publish_opts, cli_publish, true, true },
	{ 0 },
};

struct globals {
	const char *store;
	bool version;
};

static const struct opt global_opts[] = {
	{ "store", 0, OPT_STRING, offsetof(struct globals, store), "DIR",
	  "the store (default: $SNAPFS_STORE, or the user's own)" },
	{ "version", 0, OPT_FLAG, offsetof(struct globals, version), NULL, "print the version" },
	{ 0 },
};

static void print_help(void)
{
	printf("Usage: snapctl [--store DIR] COMMAND [ARGUMENTS]\n\nCommands:\n");
	for (const struct cli_cmd *c = commands; c->name; c++) {
		char left[64];

		if (c->hidden)
			continue;
		snprintf(left, sizeof(left), "%s %s", c->name, c->operands);
		printf("  %-24s%s\n", left, c->help);
	}
	printf("\nOptions:\n");
	opt_help(stdout, global_opts);
	printf("\nExit status: 0 done; 1 damaged, missing or refused; 2 usage; 3 the environment "
	       "failed.\n`snapctl COMMAND --help` shows a command's options.\n");
}

static int print_command_help(const struct cli_cmd *c)
{
	printf("Usage: snapctl [--store DIR] %s%s%s\n\n%s.\n", c->name, *c->operands ? " " : "",
	       c->operands, c->help);
	if (c->opts->name) {
		printf("\nOptions:\n");
		opt_help(stdout, c->opts);
	}
	return 0;
}

static const struct cli_cmd *find_command(const char *name)
{
	for (const struct cli_cmd *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

int cli_publish(struct cli *cli, struct err *e)
{
	static const int ignored[] = { SIGINT, SIGQUIT, SIGHUP, SIGPIPE };
	int type = 0;
	socklen_t size = sizeof(type);
	int fd = (int)cli->args.fd;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
		return err_usage(e, ENOTSOCK, "publish is run by vmm, with a socket at --fd");
	/* What the terminal sends to all of vmm's group must not end a save half way. */
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return cat_publisher_serve(fd, cli->given, e);
}

static int run_with_store(const struct cli_cmd *c, struct cli *cli, struct err *e)
{
	auto_free char *path = NULL;
	int rc = cat_store_locate(cli->given, &path, e);

	if (rc == 0)
		rc = cat_store_open(&cli->store, path, CAT_OPEN_EXISTING, e);
	if (rc < 0)
		return rc;
	rc = c->run(cli, e);
	cat_store_close(cli->store);
	return rc;
}

static int run_command(const struct cli_cmd *c, struct cli *cli, int argc, char **argv,
		       struct err *e)
{
	int operand = 0;
	int rc = opt_parse(c->opts, &cli->args, argc, argv, &operand, e);

	if (rc == -ECANCELED)
		return print_command_help(c);
	if (rc < 0)
		return rc;
	cli->names = argv + operand;
	cli->n = argc - operand;
	if (cli->n < c->min)
		return err_usage(e, EINVAL, "%s needs %s; see `snapctl %s --help`", c->name,
				 c->operands, c->name);
	if (c->max >= 0 && cli->n > c->max)
		return err_usage(e, EINVAL, "%s does not take '%s'; see `snapctl %s --help`",
				 c->name, cli->names[c->max], c->name);
	return c->no_store ? c->run(cli, e) : run_with_store(c, cli, e);
}

static int dispatch(int argc, char **argv, struct err *e)
{
	struct cli cli = { .args = { .fd = 3 } };
	struct globals g = { 0 };
	const struct cli_cmd *c;
	int operand = 0;
	int rc = opt_parse_leading(global_opts, &g, argc, argv, &operand, e);

	if (rc == -ECANCELED || (rc == 0 && operand < argc && strcmp(argv[operand], "help") == 0)) {
		c = operand + 1 < argc && rc == 0 ? find_command(argv[operand + 1]) : NULL;
		if (c)
			return print_command_help(c);
		print_help();
		return 0;
	}
	if (rc < 0)
		return rc;
	if (g.version) {
		printf("snapctl %s\n", SNAPFS_VERSION);
		return 0;
	}
	if (operand == argc)
		return err_usage(e, EINVAL, "a command is needed; `snapctl help` lists them");
	c = find_command(argv[operand]);
	if (!c)
		return err_usage(e, EINVAL, "there is no command '%s'; `snapctl help` lists them",
				 argv[operand]);
	cli.given = g.store;
	return run_command(c, &cli, argc - operand, argv + operand, e);
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	int rc;

	log_init("snapctl");
	rc = dispatch(argc, argv, &e);
	/* A full disk or a closed pipe must not pass for success. */
	if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		rc = err_sys(&e, errno, "cannot print");
	/* Reported already, name by name. */
	if (rc == -ECANCELED && !e.text[0])
		return e.status;
	return err_exit("snapctl", &e, rc);
}
