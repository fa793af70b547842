/* snapctl rm, rename, reindex. */
#include <errno.h>
#include <stdio.h>

#include "catalog/change.h"
#include "catalog/cli.h"

int cli_each(struct cli *cli, int (*one)(struct cli *cli, const char *name, struct err *e),
	     struct err *e)
{
	int status = 0;

	for (int i = 0; i < cli->n; i++) {
		struct err own = { 0 };
		int rc = one(cli, cli->names[i], &own);
		int s;

		if (rc == 0)
			continue;
		s = err_exit("snapctl", &own, rc);
		/* Of several names one status: that of the asked for, unless there is worse. */
		if (cli->n > 1 && s == STATUS_USAGE)
			s = STATUS_REFUSED;
		if (s > status)
			status = s;
	}
	*e = (struct err){ .status = status };
	return status ? -ECANCELED : 0;
}

static int rm_one(struct cli *cli, const char *name, struct err *e)
{
	return cat_snapshot_remove(cli->store, name, e);
}

int cli_rm(struct cli *cli, struct err *e)
{
	return cli_each(cli, rm_one, e);
}

int cli_rename(struct cli *cli, struct err *e)
{
	return cat_snapshot_rename(cli->store, cli->names[0], cli->names[1], e);
}

int cli_reindex(struct cli *cli, struct err *e)
{
	return cat_store_reindex(cli->store, cli->args.accept, e);
}
