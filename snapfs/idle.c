/* Verification in idle time: see idle.h. */
#define _GNU_SOURCE
#include "idle.h"

#include <errno.h>
#include <linux/ioprio.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "catalog/index.h"
#include "catalog/verify.h"

/* Disks do rot: what was seen so long ago is looked at again. */
#define OLD_SECONDS (30 * 86400)

/* A snapshot that could not be read is tried again after so many looks. */
#define PATIENCE 60

struct idle {
	struct store *store;
	unsigned after; /* seconds */
	pthread_t thread;
	atomic_bool stopping;
	pthread_mutex_t mutex;
	pthread_cond_t stop;
	unsigned patience; /* looks that are left out; the thread's own */
};

/* The threads that it has hash for it inherit both. */
static void be_idle(void)
{
	const struct sched_param none = { 0 };
	const int idle = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0);

	pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, idle);
}

/* False: it is to stop. */
static bool wait(struct idle *i)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += i->after;
	pthread_mutex_lock(&i->mutex);
	while (!atomic_load(&i->stopping) &&
	       pthread_cond_timedwait(&i->stop, &i->mutex, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&i->mutex);
	return !atomic_load(&i->stopping);
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct idle *i = arg;

	(void)done;
	(void)total;
	return atomic_load(&i->stopping) ? -ECANCELED : 0;
}

struct names {
	char (*name)[CAT_NAME_MAX + 1]; /* owned */
	size_t n, room;
	int64_t old; /* verified before this it is verified again, Unix seconds */
};

static int add(void *arg, const struct cat_row *row)
{
	struct names *names = arg;

	if (row->status != CAT_UNVERIFIED &&
	    (row->status != CAT_VALID || row->verified_at > names->old))
		return 0;
	if (names->n == names->room) {
		size_t room = names->room ? 2 * names->room : 64;
		void *v = reallocarray(names->name, room, sizeof(*names->name));

		if (!v)
			return -ENOMEM;
		names->name = v;
		names->room = room;
	}
	memcpy(names->name[names->n++], row->name, sizeof(row->name));
	return 0;
}

/* One of them. Who was verified long ago is read whole, whatever its stamps say. */
static int verify(struct idle *i, const char *name, int64_t old)
{
	struct io_progress progress = { .fn = on_progress, .arg = i };
	struct cat_row row;
	struct err e = { 0 };
	int rc = cat_index_find(i->store, name, &row, NULL);

	/* It is gone, or somebody else has verified it. */
	if (rc < 0 || (row.status != CAT_UNVERIFIED && row.verified_at > old))
		return 0;
	log_debug("verifying snapshot %s, for there is time", name);
	rc = cat_verify_snapshot(i->store, name, row.status == CAT_VALID, &progress, &e);
	if (rc == -EBADMSG)
		log_error("%s", e.text);
	else if (rc < 0 && rc != -ECANCELED && rc != -EAGAIN)
		log_warn("%s", e.text);
	return rc == -EBADMSG || rc == -EAGAIN ? 0 : rc;
}

static void look(struct idle *i)
{
	struct names names = { .old = (int64_t)time(NULL) - OLD_SECONDS };
	bool failed = false;

	if (cat_index_list(i->store, add, &names, NULL) == 0)
		for (size_t k = 0; k < names.n && !atomic_load(&i->stopping); k++)
			failed |= verify(i, names.name[k], names.old) < 0;
	free(names.name);
	i->patience = failed ? PATIENCE : 0;
}

static void *run(void *arg)
{
	struct idle *i = arg;

	be_idle();
	while (wait(i)) {
		if (i->patience)
			i->patience--;
		else
			look(i);
	}
	return NULL;
}

int sfs_idle_start(struct idle **out, struct store *store, unsigned after)
{
	struct idle *i = calloc(1, sizeof(*i));
	pthread_condattr_t clock;
	int rc;

	if (!i)
		return -ENOMEM;
	i->store = store;
	i->after = after;
	pthread_mutex_init(&i->mutex, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&i->stop, &clock);
	pthread_condattr_destroy(&clock);
	rc = pthread_create(&i->thread, NULL, run, i);
	if (rc) {
		pthread_cond_destroy(&i->stop);
		pthread_mutex_destroy(&i->mutex);
		free(i);
		return -rc;
	}
	*out = i;
	return 0;
}

void sfs_idle_stop(struct idle *i)
{
	if (!i)
		return;
	pthread_mutex_lock(&i->mutex);
	atomic_store(&i->stopping, true);
	pthread_cond_signal(&i->stop);
	pthread_mutex_unlock(&i->mutex);
	pthread_join(i->thread, NULL);
	pthread_cond_destroy(&i->stop);
	pthread_mutex_destroy(&i->mutex);
	free(i);
}
