/*
 * Progress of long work, shown to whoever watches: a line that is redrawn on a
 * terminal (bytes, rate, time left), JSON lines for a program, nothing on a
 * pipe. Appears only once the work has taken a second.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io.h"

struct progress {
	const char *what; /* "verifying base", kept */
	bool json;
	bool shown;
	int64_t started_ns, last_ns;
};

/* Starts it; `json` asks for JSON lines on standard error. */
void progress_start(struct progress *p, const char *what, bool json);

/* As an io_progress, for the functions that take one. p must outlive it. */
struct io_progress progress_io(struct progress *p);

/* Wipes the line, so that what is printed next starts clean. */
void progress_end(struct progress *p);
