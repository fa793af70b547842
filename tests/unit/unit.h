/*
 * What the unit tests share: cmocka with what it needs, a folder of the test's
 * own, and looks at what a failure says and at open descriptors. Included first.
 */
#pragma once

#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

#define UNUSED __attribute__((unused))

/* ---- a folder of the test's own: an int with its descriptor is the fixture ---- */

struct folder {
	char path[64];
	int fd;
};

UNUSED static int folder_make(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	strcpy(f->path, "/tmp/snapfs-unit-XXXXXX");
	if (!mkdtemp(f->path))
		return -1;
	f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return f->fd < 0 ? -1 : 0;
}

static int folder_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

UNUSED static int folder_remove(void **state)
{
	struct folder *f = *state;
	int rc = nftw(f->path, folder_remove_one, 8, FTW_DEPTH | FTW_PHYS);

	close(f->fd);
	free(f);
	return rc;
}

/* A file `name` with these bytes; its descriptor, open for reading and writing. */
UNUSED static int folder_file(const struct folder *f, const char *name, const void *bytes,
			      size_t len)
{
	int fd = openat(f->fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	return fd;
}

UNUSED static void folder_put(const struct folder *f, const char *name, const void *bytes,
			      size_t len)
{
	close(folder_file(f, name, bytes, len));
}

/* ---- what is open, what is said ---- */

UNUSED static unsigned open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* One sentence, no more, with these words in it. */
UNUSED static void assert_says(const struct err *e, const char *words)
{
	if (!strstr(e->text, words))
		fail_msg("'%s' does not say '%s'", e->text, words);
	if (strchr(e->text, '\n'))
		fail_msg("more than one sentence: %s", e->text);
	assert_int_not_equal(e->status, STATUS_DONE);
}

UNUSED static unsigned lines_in(const char *text)
{
	unsigned n = *text != '\0';

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

/* A generator of bytes that is the same in each run. */
UNUSED static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

UNUSED static void fill_random(void *to, size_t n, uint32_t seed)
{
	uint8_t *p = to;

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)next_random(&seed);
}
