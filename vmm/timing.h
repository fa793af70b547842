/*
 * Where the time goes (--timing): phases one after the other, printed as one
 * line of JSON on standard error:
 *
 *	{"timing": "restore", "us": {"options": 31, "publisher": 88}, "total_us": 120}
 *
 * A phase is what passed since the mark before it, so that they add up to the
 * total. One thread's own. A struct timing that is off, or NULL, costs nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define TIMING_PHASES 20

struct timing {
	bool on;
	const char *what; /* "boot", "restore", "save" */
	int64_t begin_ns, last_ns;
	const char *key, *value; /* of a note, NULL: there is none */
	unsigned n;
	struct {
		const char *name;
		int64_t ns;
	} phase[TIMING_PHASES];
};

/* Starts anew; `what` and the names of phases are kept, not copied. */
void timing_begin(struct timing *t, const char *what);

/* Ends the phase `name`; a name that is there already gets the time added. */
void timing_mark(struct timing *t, const char *name);

/* A word beside the numbers; key and value are kept, not copied. */
void timing_note(struct timing *t, const char *key, const char *value);

/* Prints the line, with n more values. */
struct timing_count {
	const char *key;
	int64_t value;
};
void timing_print(const struct timing *t, const struct timing_count *counts, unsigned n);
