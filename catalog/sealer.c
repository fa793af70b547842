/* Seals published files in the background: see sealer.h. */
#define _GNU_SOURCE
#include "catalog/sealer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioprio.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/seal.h"

/* Whoever still has it open for writing is about to close it, or never will. */
#define TRIES	     20
#define TRY_AGAIN_NS 250000000L

struct wanted {
	struct wanted *next;
	int fd; /* owned */
};

struct sealer {
	pthread_mutex_t mutex; /* guards the rest */
	pthread_cond_t more;
	pthread_t thread;
	bool running, finishing;
	bool without; /* the file system has no seals: nothing is tried any more */
	struct wanted *first, **last;
};

static void be_idle(void)
{
	const int idle = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0);

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, idle);
}

/*
 * Who is not root may seal what it may write, and published files are read-only: so
 * that is lifted for as long as it takes. The seal itself keeps writers out meanwhile.
 */
static int seal_own(int fd)
{
	struct stat st;
	int rc = seal_enable(fd);

	if (rc != -EACCES || fstat(fd, &st) < 0 || fchmod(fd, st.st_mode | S_IWUSR) < 0)
		return rc;
	rc = seal_enable(fd);
	fchmod(fd, st.st_mode & 07777);
	return rc;
}

static int seal(int fd)
{
	const struct timespec pause = { .tv_nsec = TRY_AGAIN_NS };
	int rc = -ETXTBSY;

	for (int i = 0; i < TRIES && (rc == -ETXTBSY || rc == -EBUSY); i++) {
		if (i)
			nanosleep(&pause, NULL);
		rc = seal_own(fd);
	}
	return rc;
}

static void *run(void *arg)
{
	struct sealer *s = arg;

	be_idle();
	pthread_mutex_lock(&s->mutex);
	for (;;) {
		struct wanted *w = s->first;
		bool without = s->without;

		if (!w) {
			if (s->finishing)
				break;
			pthread_cond_wait(&s->more, &s->mutex);
			continue;
		}
		s->first = w->next;
		if (!s->first)
			s->last = &s->first;
		pthread_mutex_unlock(&s->mutex);
		without = without || seal(w->fd) == -EOPNOTSUPP;
		close(w->fd);
		free(w);
		pthread_mutex_lock(&s->mutex);
		s->without = without;
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

struct sealer *cat_sealer_new(void)
{
	struct sealer *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->more, NULL);
	s->last = &s->first;
	return s;
}

void cat_sealer_add(struct sealer *s, int fd)
{
	struct wanted *w = calloc(1, sizeof(*w));

	if (!w)
		return;
	w->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_lock(&s->mutex);
	if (!s->running && w->fd >= 0)
		s->running = pthread_create(&s->thread, NULL, run, s) == 0;
	if (s->running && w->fd >= 0 && !s->without) {
		*s->last = w;
		s->last = &w->next;
		w = NULL;
		pthread_cond_signal(&s->more);
	}
	pthread_mutex_unlock(&s->mutex);
	if (!w)
		return;
	if (w->fd >= 0)
		close(w->fd);
	free(w);
}

void cat_sealer_finish(struct sealer *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->mutex);
	s->finishing = true;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->mutex);
	if (s->running)
		pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->more);
	pthread_mutex_destroy(&s->mutex);
	free(s);
}
