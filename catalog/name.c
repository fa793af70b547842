/* The rules for a snapshot's name: see store.h. */
#include "catalog/store.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/index.h"

static bool allowed(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("._-+:@", c));
}

int cat_name_check(const char *name, struct err *e)
{
	auto_free char *head = e ? strndup(name, CAT_NAME_MAX) : NULL;
	auto_free char *clean = head ? text_clean(head) : NULL;
	const char *shown = clean ? clean : "";
	size_t n = strlen(name);

	if (n == 0)
		return err_usage(e, EINVAL, "a snapshot's name cannot be empty");
	if (n > CAT_NAME_MAX)
		return err_usage(
			e, EINVAL,
			"'%s' is too long for a snapshot's name: %zu bytes, %d are allowed", shown,
			n, CAT_NAME_MAX);
	if (name[0] == '.' || name[0] == '-')
		return err_usage(e, EINVAL,
				 "a snapshot's name cannot start with '%c', as '%s' does", name[0],
				 shown);
	for (size_t i = 0; i < n; i++)
		if (!allowed(name[i]))
			return err_usage(e, EINVAL,
					 "'%s' is no snapshot name: only letters, digits and "
					 "._-+:@ are allowed",
					 shown);
	if (strcmp(name, "latest") == 0)
		return err_usage(
			e, EINVAL,
			"no snapshot can be called 'latest': that name follows the newest");
	return 0;
}
