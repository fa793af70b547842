/*
 * Many small things done by several threads: see internal.h. What it is for
 * (looking at files, reading small ones) waits for the kernel and the disk most
 * of the time, so that even a few threads are worth it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "catalog/internal.h"

#define THREADS_MAX 8
#define GRAIN	    16 /* taken at a time: fewer do not pay for a thread */

struct work {
	cat_share_fn fn;
	void *arg;
	size_t n;
	atomic_size_t next;
};

static void *run(void *arg)
{
	struct work *w = arg;
	size_t from;

	while ((from = atomic_fetch_add(&w->next, GRAIN)) < w->n)
		for (size_t i = from; i < from + GRAIN && i < w->n; i++)
			w->fn(w->arg, i);
	return NULL;
}

void cat_share(size_t n, cat_share_fn fn, void *arg)
{
	struct work w = { .fn = fn, .arg = arg, .n = n };
	const long processors = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t thread[THREADS_MAX];
	size_t started = 0;

	while (started + 1 < THREADS_MAX && (long)started + 1 < processors &&
	       (started + 1) * GRAIN < n && pthread_create(&thread[started], NULL, run, &w) == 0)
		started++;
	run(&w);
	while (started)
		pthread_join(thread[--started], NULL);
}
