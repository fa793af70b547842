/* Failures in words: see err.h. */
#define _GNU_SOURCE
#define ERR_C
#include "err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "text.h"

static void set(struct err *e, int status, const char *fmt, va_list ap)
{
	if (!e)
		return;
	e->status = status;
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
}

#define SET(status)                                                                                \
	do {                                                                                       \
		va_list ap;                                                                        \
		va_start(ap, fmt);                                                                 \
		set(e, (status), fmt, ap);                                                         \
		va_end(ap);                                                                        \
	} while (0)

int err_refuse(struct err *e, int errnum, const char *fmt, ...)
{
	SET(STATUS_REFUSED);
	return -errnum;
}

int err_usage(struct err *e, int errnum, const char *fmt, ...)
{
	SET(STATUS_USAGE);
	return -errnum;
}

int err_env(struct err *e, int errnum, const char *fmt, ...)
{
	SET(STATUS_ENVIRONMENT);
	return -errnum;
}

int err_sys(struct err *e, int errnum, const char *fmt, ...)
{
	size_t n;

	SET(STATUS_ENVIRONMENT);
	if (e) {
		n = strlen(e->text);
		snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerror(errnum));
	}
	return -errnum;
}

int err_also(struct err *e, int errnum, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (!e)
		return -errnum;
	n = strlen(e->text);
	if (n && n + 1 < sizeof(e->text))
		e->text[n++] = '\n';
	va_start(ap, fmt);
	vsnprintf(e->text + n, sizeof(e->text) - n, fmt, ap);
	va_end(ap);
	e->status = STATUS_REFUSED;
	return -errnum;
}

int err_prefix(struct err *e, int rc, const char *fmt, ...)
{
	char was[sizeof(e->text)];
	va_list ap;
	size_t n;

	if (!e)
		return rc;
	memcpy(was, e->text, sizeof(was));
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	n = strlen(e->text);
	snprintf(e->text + n, sizeof(e->text) - n, ": %s", *was ? was : strerror(-rc));
	return rc;
}

int err_exit(const char *prog, const struct err *e, int rc)
{
	const char *line = e->text;

	if (rc >= 0)
		return STATUS_DONE;
	if (!*line) {
		fprintf(stderr, "%s: %s\n", prog, strerror(-rc));
		return STATUS_ENVIRONMENT;
	}
	while (*line) {
		size_t n = strcspn(line, "\n");
		auto_free char *one = strndup(line, n);
		auto_free char *clean = one ? text_clean(one) : NULL;

		/* It may quote what others wrote: a terminal must not obey that. */
		fprintf(stderr, "%s: %s\n", prog, clean ? clean : strerror(-rc));
		line += n + (line[n] == '\n');
	}
	return e->status ? e->status : STATUS_ENVIRONMENT;
}
