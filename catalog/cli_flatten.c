/* snapctl flatten: snapshots in layers made ones of a single memory.bin. */
#include <stdio.h>

#include "base/progress.h"
#include "base/text.h"
#include "catalog/change.h"
#include "catalog/cli.h"

static int flatten_one(struct cli *cli, const char *name, struct err *e)
{
	struct progress progress;
	struct io_progress io;
	int rc;

	progress_start(&progress, "flattening", cli->args.json);
	io = progress_io(&progress);
	rc = cat_snapshot_flatten(cli->store, name, &io, e);
	progress_end(&progress);
	if (rc < 0)
		return rc;
	if (cli->args.json)
		return cli_print_json(json_pack("{s:s, s:b}", "name", name, "was_flat", rc == 1),
				      e);
	printf("%s: %s\n", name, rc == 1 ? "is flat already" : "flat");
	return 0;
}

int cli_flatten(struct cli *cli, struct err *e)
{
	return cli_each(cli, flatten_one, e);
}
