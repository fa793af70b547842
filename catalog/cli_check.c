/* snapctl check: what is wrong, and the command that mends it. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/check.h"
#include "catalog/cli.h"

struct report {
	json_t *array; /* NULL: lines */
	size_t n;
};

static int print_finding(void *arg, const struct finding *f)
{
	struct report *r = arg;

	/* Of a file that somebody put there not even the name is to be believed. */
	auto_free char *about = text_clean(f->about);
	auto_free char *problem = text_clean(f->problem);
	auto_free char *mend = text_clean(f->mend);

	if (!about || !problem || !mend)
		return -ENOMEM;
	r->n++;
	if (r->array)
		return json_array_append_new(r->array, json_pack("{s:s, s:s, s:s?}", "about", about,
								 "problem", problem, "mend",
								 *mend ? mend : NULL))
			       ? -ENOMEM
			       : 0;
	printf("%s: %s\n", about, problem);
	if (*mend)
		printf("    mended by: %s\n", mend);
	return 0;
}

int cli_check(struct cli *cli, struct err *e)
{
	struct report r = { .array = cli->args.json ? json_array() : NULL };
	const char *health = cat_index_health(cli->store);
	struct finding damaged = { "catalog.db", health, "snapctl reindex" };
	int rc = 0;

	/* A damaged index was made anew by looking at it; what is left is worth saying. */
	if (health[0] != 'o' && health[0] != 'i')
		rc = print_finding(&r, &damaged);
	if (rc == 0)
		rc = cat_store_check(cli->store, print_finding, &r, e);
	if (r.array && rc == 0)
		rc = cli_print_json(r.array, e);
	else
		json_decref(r.array);
	if (rc == 0 && r.n) {
		*e = (struct err){ .status = STATUS_REFUSED };
		return -ECANCELED;
	}
	if (rc == 0 && !cli->args.json)
		printf("nothing is wrong\n");
	return rc;
}
