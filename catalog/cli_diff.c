/* snapctl diff: the guest RAM that differs between two snapshots. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/progress.h"
#include "base/text.h"
#include "catalog/cli.h"
#include "catalog/diff.h"
#include "proto/manifest.h"

static int print_run(void *arg, uint64_t address, uint64_t size)
{
	const uint64_t pages = size / MANIFEST_PAGE_SIZE;

	(void)arg;
	printf("0x%012" PRIx64 "-0x%012" PRIx64 " %8" PRIu64 " page%s\n", address, address + size,
	       pages, pages == 1 ? "" : "s");
	return 0;
}

static int add_run(void *arg, uint64_t address, uint64_t size)
{
	return json_array_append_new(arg, json_pack("{s:o, s:o}", "address", cli_number(address),
						    "bytes", cli_number(size))) < 0
		       ? -ENOMEM
		       : 0;
}

int cli_diff(struct cli *cli, struct err *e)
{
	json_t *runs = cli->args.json ? json_array() : NULL;
	char size[TEXT_SIZE_MAX];
	struct progress progress;
	struct io_progress io;
	struct diff_sum sum;
	int rc;

	progress_start(&progress, "reading", false);
	io = progress_io(&progress);
	rc = cat_diff(cli->store, cli->names[0], cli->names[1], runs ? add_run : print_run, runs,
		      &sum, &io, e);
	progress_end(&progress);
	if (rc == 0 && runs)
		return cli_print_json(
			json_pack("{s:o, s:o, s:o, s:o}", "pages", cli_number(sum.pages),
				  "changed_pages", cli_number(sum.changed), "changed_bytes",
				  cli_number(sum.changed * MANIFEST_PAGE_SIZE), "ranges", runs),
			e);
	json_decref(runs);
	if (rc == 0)
		printf("%" PRIu64 " of %" PRIu64 " pages differ (%s)\n", sum.changed, sum.pages,
		       text_format_size(sum.changed * MANIFEST_PAGE_SIZE, size));
	return rc;
}
