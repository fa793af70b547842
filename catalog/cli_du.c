/* snapctl du: what each snapshot takes on the disk. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/cli.h"
#include "catalog/usage.h"

struct du {
	struct cli *cli;
	json_t *array; /* NULL: a table */
	struct cat_inodes all;
	size_t n;
};

static int show(struct du *d, const struct cat_row *row, struct cat_usage u)
{
	char stored[TEXT_SIZE_MAX], unique[TEXT_SIZE_MAX], shared[TEXT_SIZE_MAX];

	if (d->array)
		return json_array_append_new(
			       d->array,
			       json_pack("{s:s, s:o, s:o, s:o}", "name", row->name, "stored_bytes",
					 cli_number(u.stored), "unique_bytes", cli_number(u.unique),
					 "shared_bytes", cli_number(u.stored - u.unique))) < 0
			       ? -ENOMEM
			       : 0;
	if (d->n++ == 0)
		printf("%-24s %10s %10s %10s\n", "NAME", "STORED", "UNIQUE", "SHARED");
	printf("%-24s %10s %10s %10s\n", row->name, text_format_size(u.stored, stored),
	       text_format_size(u.unique, unique), text_format_size(u.stored - u.unique, shared));
	return 0;
}

static int add_row(void *arg, const struct cat_row *row)
{
	struct du *d = arg;
	struct cat_inodes files = { 0 };
	auto_fd int fd = openat(cat_store_snapshots_fd(d->cli->store), row->name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int rc;

	/* Missing, or removed meanwhile: it takes nothing. */
	if (fd < 0)
		return 0;
	rc = cat_inodes_add(&files, fd);
	if (rc == 0)
		rc = cat_inodes_merge(&d->all, &files);
	if (rc == 0)
		rc = show(d, row, cat_inodes_sum(&files));
	cat_inodes_free(&files);
	return rc;
}

int cli_du(struct cli *cli, struct err *e)
{
	struct du d = { .cli = cli, .array = cli->args.json ? json_array() : NULL };
	int rc = cat_index_list(cli->store, add_row, &d, e);
	struct cat_usage all = cat_inodes_sum(&d.all);
	char stored[TEXT_SIZE_MAX];

	cat_inodes_free(&d.all);
	if (rc == -ENOMEM)
		rc = err_sys(e, ENOMEM, "cannot add up the snapshots");
	if (rc == 0 && d.array)
		return cli_print_json(json_pack("{s:o, s:o}", "snapshots", d.array, "stored_bytes",
						cli_number(all.stored)),
				      e);
	json_decref(d.array);
	/* What is shared is counted once. */
	if (rc == 0 && d.n)
		printf("%-24s %10s\n", "together", text_format_size(all.stored, stored));
	return rc;
}
