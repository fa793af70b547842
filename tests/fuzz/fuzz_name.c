/* Names of snapshots: what is accepted is exactly what the rule says, and words are clean. */
#include "fuzz.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "catalog/index.h"

/* The rule, as store.h has it. */
static bool is_name(const char *s)
{
	static const char set[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+:@";
	const size_t n = strlen(s);

	return n >= 1 && n <= CAT_NAME_MAX && strspn(s, set) == n && *s != '.' && *s != '-' &&
	       strcmp(s, "latest") != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	struct err e = { 0 };
	int rc;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	rc = cat_name_check(text, &e);
	MUST(rc == (is_name(text) ? 0 : -EINVAL));
	MUST(cat_name_check(text, NULL) == rc);
	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc < 0)
		MUST(e.status == STATUS_USAGE);
	for (const char *p = e.text; *p; p++)
		MUST((uint8_t)*p >= 0x20 && *p != 0x7f);
	/* Nobody leaves the folder of the snapshots by such a name. */
	if (rc == 0)
		MUST(!strchr(text, '/') && strcmp(text, "..") != 0);
	return 0;
}
