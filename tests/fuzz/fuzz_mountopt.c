/* The mount's -o list and its file mode: the input's first line is the mode, others are lists. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "snapfs/mountopt.h"

static void parse_mode(const char *text)
{
	struct err e = { 0 };
	mode_t mode = 0;
	int rc = sfs_mode_parse(text, &mode, &e);

	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc < 0)
		return;
	/* Reading alone, and by the owner at least. */
	MUST((mode & ~(mode_t)0444) == 0 && (mode & 0400));
	MUST((sfs_mode_of_dir(mode) & ~(mode_t)0555) == 0);
}

/*
 * What libfuse is given is what was asked for, of the words that are for it: the
 * same again when it is sorted again.
 */
static void parse_again(const struct mount_options *o)
{
	struct mount_options again = { 0 };

	MUST(sfs_mountopt_parse(&again, o->fuse, NULL) == 0);
	MUST(again.fuse && strcmp(again.fuse, o->fuse) == 0);
	MUST(again.allow_other == o->allow_other);
	MUST(!again.mode && !again.nopassthrough && !again.noverify && !again.verify_after);
	sfs_mountopt_free(&again);
}

/* Nothing that makes the mount writable, or that is refused, comes through. */
static void must_be_harmless(const char *fuse)
{
	static const char *const never[] = { "rw", "suid", "dev", "auto_unmount" };

	while (*fuse) {
		const size_t len = strcspn(fuse, ",");

		MUST(len > 0);
		for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
			MUST(len != strlen(never[i]) || memcmp(fuse, never[i], len) != 0);
		fuse += len + (fuse[len] == ',');
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	struct mount_options o = { 0 };
	struct err e = { 0 };
	char *rest = text;
	int rc = 0;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	parse_mode(strsep(&rest, "\n"));
	while (rc == 0 && rest)
		rc = sfs_mountopt_parse(&o, strsep(&rest, "\n"), &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	MUST(o.verify_after <= 86400);
	MUST(!o.mode || (*o.mode && !strchr(o.mode, ',')));
	if (o.fuse) {
		must_be_harmless(o.fuse);
		parse_again(&o);
	}
	sfs_mountopt_free(&o);
	return 0;
}
