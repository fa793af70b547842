/* Where the time goes: see timing.h. */
#define _GNU_SOURCE
#include "timing.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void timing_begin(struct timing *t, const char *what)
{
	if (!t || !t->on)
		return;
	t->what = what;
	t->n = 0;
	t->key = NULL;
	t->begin_ns = t->last_ns = now_ns();
}

void timing_mark(struct timing *t, const char *name)
{
	int64_t now;
	unsigned i;

	if (!t || !t->on)
		return;
	now = now_ns();
	for (i = 0; i < t->n && strcmp(t->phase[i].name, name) != 0; i++)
		;
	/* No room: the time goes to the next phase that has some. */
	if (i == TIMING_PHASES)
		return;
	if (i == t->n) {
		t->n++;
		t->phase[i].name = name;
		t->phase[i].ns = 0;
	}
	t->phase[i].ns += now - t->last_ns;
	t->last_ns = now;
}

void timing_note(struct timing *t, const char *key, const char *value)
{
	if (t) {
		t->key = key;
		t->value = value;
	}
}

void timing_print(const struct timing *t, const struct timing_count *counts, unsigned n)
{
	char line[2048];
	FILE *f;

	if (!t || !t->on)
		return;
	f = fmemopen(line, sizeof(line), "w");
	if (!f)
		return;
	fprintf(f, "{\"timing\": \"%s\", \"us\": {", t->what);
	for (unsigned i = 0; i < t->n; i++)
		fprintf(f, "%s\"%s\": %lld", i ? ", " : "", t->phase[i].name,
			(long long)(t->phase[i].ns / 1000));
	fprintf(f, "}, \"total_us\": %lld", (long long)((t->last_ns - t->begin_ns) / 1000));
	for (unsigned i = 0; i < n; i++)
		fprintf(f, ", \"%s\": %lld", counts[i].key, (long long)counts[i].value);
	if (t->key)
		fprintf(f, ", \"%s\": \"%s\"", t->key, t->value);
	fprintf(f, "}\n");
	fclose(f);
	/* Whole, as a line of the log is. */
	if (write(STDERR_FILENO, line, strlen(line)) < 0)
		return;
}
