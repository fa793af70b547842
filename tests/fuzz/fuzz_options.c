/* vmm's command line: the input's lines are its words. */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/options.h"

#define WORDS_MAX 40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	char *argv[WORDS_MAX + 2] = { (char[]){ "vmm" } };
	char *rest = text;
	struct options o;
	struct err e = { 0 };
	int argc = 1, rc;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	while (argc <= WORDS_MAX && rest) /* a NUL ends it, as in any argv */
		argv[argc++] = strsep(&rest, "\n");
	if (!stdout || fileno(stdout) == STDOUT_FILENO)
		stdout = fopen("/dev/null", "w"); /* --help */
	rc = options_parse(&o, argc, argv, &e);
	if (rc == -ECANCELED)
		MUST(e.text[0] == '\0');
	else
		MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc == 0 && !o.version && !o.check_host)
		MUST(o.restore || (o.memory >= (2U << 20) && o.memory % 4096 == 0));
	return 0;
}
