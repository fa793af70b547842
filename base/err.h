/*
 * A failure as a person reads it: one sentence each that says what, which
 * path, and what to do, together with the exit status that it means.
 *
 * Functions return a negative errno; the words go into the caller's struct err
 * (which may be NULL). Only main() prints them and exits.
 */
#pragma once

/* Exit status of every program of the project. */
enum exit_status {
	STATUS_DONE = 0,
	STATUS_REFUSED = 1,	/* the thing asked about is damaged, missing or refused */
	STATUS_USAGE = 2,	/* the command line is wrong */
	STATUS_ENVIRONMENT = 3, /* I/O error, no KVM, locked, out of memory */
};

struct err {
	int status;	 /* enum exit_status, 0 while there is no failure */
	char text[3072]; /* sentences without a final newline, one a line */
};

#define ERR_PRINTF __attribute__((format(printf, 3, 4)))

/*
 * Each sets *e (if not NULL), replacing what was there, and returns -errnum.
 * err_refuse: the thing asked about is at fault. err_usage: the command line.
 * err_env: the environment. err_sys: the environment, and the words for errnum
 * are appended after ": ".
 */
int err_refuse(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF;
int err_usage(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF;
int err_env(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF;
int err_sys(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF;

/*
 * Adds one more sentence, as err_refuse, on a line of its own: for checks that
 * report all they find together. Returns -errnum.
 */
int err_also(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF;

/*
 * Puts "words: " in front of what is there, or of the words for rc where nothing
 * is: who was doing it. Returns rc.
 */
int err_prefix(struct err *e, int rc, const char *fmt, ...) ERR_PRINTF;

/*
 * The exit status for rc (0 or a negative errno) with its words: prints each
 * line of e->text as "prog: line" to standard error. For main() only.
 */
int err_exit(const char *prog, const struct err *e, int rc);

/*
 * For clang's analyzer, which does not see into err.c and would take it that
 * one of these may return 0: a path that there is not.
 */
#if defined(__clang_analyzer__) && !defined(ERR_C)
void err_words(const char *fmt, ...);
static inline int err_negative(int errnum)
{
	int rc = -errnum;

	if (rc >= 0)
		__builtin_unreachable();
	return rc;
}
#define err_refuse(e, errnum, ...) ((void)(e), err_words(__VA_ARGS__), err_negative(errnum))
#define err_usage(e, errnum, ...)  ((void)(e), err_words(__VA_ARGS__), err_negative(errnum))
#define err_env(e, errnum, ...)	   ((void)(e), err_words(__VA_ARGS__), err_negative(errnum))
#define err_sys(e, errnum, ...)	   ((void)(e), err_words(__VA_ARGS__), err_negative(errnum))
#define err_also(e, errnum, ...)   ((void)(e), err_words(__VA_ARGS__), err_negative(errnum))
#endif
