/*
 * The log of a program: one line a message on standard error, with the
 * program's name in front, or to syslog once a daemon has let go of its
 * terminal. This and main() are the only owners of file-scope state.
 * Any thread; a line is written whole.
 */
#pragma once

#include <stdbool.h>

/* prog is kept, not copied. */
void log_init(const char *prog);

/* From now on to syslog(3), for a daemon without a terminal. */
void log_to_syslog(void);

/* Says more: log_debug() lines appear. */
void log_set_verbose(bool on);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
