/* One line a message: see log.h. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>

static const char *program = "snapfs";
static bool verbose;
static bool use_syslog;

void log_init(const char *prog)
{
	program = prog;
}

void log_to_syslog(void)
{
	openlog(program, LOG_PID, LOG_DAEMON);
	use_syslog = true;
}

void log_set_verbose(bool on)
{
	verbose = on;
}

static void say(int level, const char *what, const char *fmt, va_list ap)
{
	char line[2048];
	int n, m;

	if (use_syslog) {
		vsyslog(level, fmt, ap);
		return;
	}
	n = snprintf(line, sizeof(line) - 1, "%s: %s", program, what);
	if (n < 0 || (size_t)n >= sizeof(line) - 1)
		return;
	m = vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
	if (m < 0)
		return;
	n += m;
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	/* A log that cannot be written has nowhere to say so. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

#define SAY(level, what)                                                                           \
	do {                                                                                       \
		va_list ap;                                                                        \
		va_start(ap, fmt);                                                                 \
		say((level), (what), fmt, ap);                                                     \
		va_end(ap);                                                                        \
	} while (0)

void log_error(const char *fmt, ...)
{
	SAY(LOG_ERR, "error: ");
}

void log_warn(const char *fmt, ...)
{
	SAY(LOG_WARNING, "warning: ");
}

void log_info(const char *fmt, ...)
{
	SAY(LOG_INFO, "");
}

void log_debug(const char *fmt, ...)
{
	if (verbose)
		SAY(LOG_DEBUG, "");
}
