/*
 * Runs a fuzz target over the files of the directories given, in the place of
 * libFuzzer. Says how many; none at all is a failure.
 */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/io.h"

#define INPUT_MAX (64U << 20)

static int run_file(int at, const char *name)
{
	auto_free uint8_t *buf = NULL;
	struct err e = { 0 };
	size_t len;
	int rc = io_read_file(at, name, INPUT_MAX, &buf, &len, &e);

	if (rc < 0)
		return err_exit("replay", &e, rc);
	LLVMFuzzerTestOneInput(buf, len);
	return 0;
}

/* The number of inputs, or -1. */
static long run_directory(const char *path)
{
	auto_dir DIR *d = opendir(path);
	const struct dirent *entry;
	long n = 0;

	if (!d) {
		perror(path);
		return -1;
	}
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		if (run_file(dirfd(d), entry->d_name) != 0)
			return -1;
		n++;
	}
	return n;
}

int main(int argc, char **argv)
{
	long all = 0;

	for (int i = 1; i < argc; i++) {
		long n = run_directory(argv[i]);

		if (n < 0)
			return 1;
		all += n;
	}
	/* Not by stdio: a target may have let go of standard output. */
	dprintf(STDOUT_FILENO, "%ld inputs\n", all);
	return all > 0 ? 0 : 1;
}
