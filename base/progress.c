/* Progress of long work: see progress.h. */
#include "progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define SECOND_NS 1000000000LL

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * SECOND_NS + ts.tv_nsec;
}

void progress_start(struct progress *p, const char *what, bool json)
{
	*p = (struct progress){ .what = what, .json = json, .started_ns = now_ns() };
	p->last_ns = p->started_ns;
}

static int show(void *arg, uint64_t done, uint64_t total)
{
	struct progress *p = arg;
	int64_t now = now_ns();
	char have[TEXT_SIZE_MAX], all[TEXT_SIZE_MAX], rate[TEXT_SIZE_MAX];
	double seconds = (double)(now - p->started_ns) / (double)SECOND_NS;
	int64_t pause = p->shown ? SECOND_NS / 5 : SECOND_NS;
	double per_second;

	if (now - p->last_ns < pause || (!p->json && !isatty(STDERR_FILENO)))
		return 0;
	p->last_ns = now;
	p->shown = true;
	per_second = (double)done / seconds;
	if (p->json) {
		fprintf(stderr,
			"{\"progress\": \"%s\", \"bytes_done\": %llu, \"bytes_total\": %llu, "
			"\"seconds\": %.1f}\n",
			p->what, (unsigned long long)done, (unsigned long long)total, seconds);
		return 0;
	}
	fprintf(stderr, "\r\033[K%s: %s of %s, %s/s, %.0f s left", p->what,
		text_format_size(done, have), text_format_size(total, all),
		text_format_size((uint64_t)per_second, rate),
		per_second > 0 ? (double)(total - done) / per_second : 0.0);
	fflush(stderr);
	return 0;
}

struct io_progress progress_io(struct progress *p)
{
	return (struct io_progress){ .fn = show, .arg = p };
}

void progress_end(struct progress *p)
{
	if (p->shown && !p->json)
		fputs("\r\033[K", stderr);
	p->shown = false;
}
