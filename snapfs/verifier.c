/*
 * Verification of whole files, once for all who wait: see verifier.h. A job is
 * on one list from its start to its end; a few threads take the ones that no
 * thread has yet, and end when there are none.
 */
#define _GNU_SOURCE
#include "verifier.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "catalog/verify.h"

#define THREADS_MAX 4 /* hashing is bound by the processor, reading by the disk */

struct verify_job {
	struct snap *snap; /* owned reference */
	struct view *view; /* owned reference */
	size_t file;	   /* its number in the view's manifest */
	struct identity id;
	int fd; /* owned, the file's */
	/* Guarded by the verifier's lock. */
	bool taken; /* by a thread */
	bool idle;  /* nobody waited for it then: it is done in idle time */
	struct verify_waiter *waiters;
	struct verify_job *next;
};

struct verifier {
	struct store *store;
	pthread_mutex_t lock;
	/* Guarded by lock. */
	struct verify_job *jobs; /* in the order they came */
	unsigned threads;
	bool stopping;
};

int sfs_verifier_start(struct verifier **out, struct store *store)
{
	struct verifier *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->store = store;
	pthread_mutex_init(&v->lock, NULL);
	*out = v;
	return 0;
}

static void free_job(struct verify_job *job)
{
	sfs_view_put(job->snap, job->view);
	sfs_snap_put(job->snap);
	close(job->fd);
	free(job);
}

static int hash(struct verifier *v, const struct verify_job *job)
{
	char name[CAT_NAME_MAX + 1], problem[SNAPDIR_DAMAGE_MAX];
	struct io_progress progress = { .idle = job->idle };
	struct snapdir_file f;
	struct err e = { 0 };
	int rc;

	proto_snapdir_file(job->view->dir.manifest, job->view->dir.layered, job->file, &f);
	sfs_snap_name(job->snap, name);
	/* Another one of it may have ended just when this was asked for. */
	if (cat_stamp_holds(v->store, job->fd, f.digest))
		return 0;
	log_debug("verifying %s/%s", name, f.path);
	rc = cat_stamp_verify(v->store, job->fd, f.size, f.digest, -1, &progress, &e);
	if (rc == 0) {
		sfs_snap_settle(job->snap, job->view);
	} else if (rc == -EBADMSG) {
		proto_snapdir_tell_damage(&job->view->dir, &f, job->fd, problem);
		sfs_snap_set_bad(job->snap, job->file, &job->id, problem);
		sfs_snap_report(job->snap, job->view, CAT_DAMAGED, problem);
	} else {
		log_error("cannot verify %s/%s: %s", name, f.path,
			  *e.text ? e.text : strerror(-rc));
	}
	return rc;
}

static void remove_job(struct verifier *v, struct verify_job *job)
{
	struct verify_job **p = &v->jobs;

	while (*p != job)
		p = &(*p)->next;
	*p = job->next;
}

static void *run(void *arg)
{
	struct verifier *v = arg;

	pthread_mutex_lock(&v->lock);
	for (;;) {
		struct verify_job *job = v->jobs;
		struct verify_waiter *w, *next;
		int rc;

		while (job && job->taken)
			job = job->next;
		if (!job || v->stopping)
			break;
		job->taken = true;
		/* Those who read the file meanwhile have it hashed as well, and come first. */
		job->idle = !job->waiters;
		pthread_mutex_unlock(&v->lock);
		rc = hash(v, job);
		pthread_mutex_lock(&v->lock);
		remove_job(v, job);
		w = job->waiters;
		for (struct verify_waiter *i = w; i; i = i->next)
			i->job = NULL;
		pthread_mutex_unlock(&v->lock);
		for (; w; w = next) {
			next = w->next;
			w->done(w, rc);
		}
		free_job(job);
		pthread_mutex_lock(&v->lock);
	}
	v->threads--;
	pthread_mutex_unlock(&v->lock);
	return NULL;
}

/* Called with the lock held. Fails only where there is no thread at all. */
static int add_thread(struct verifier *v)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	if (v->threads >= THREADS_MAX)
		return 0;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attr, run, v);
	pthread_attr_destroy(&attr);
	if (rc == 0)
		v->threads++;
	return rc == 0 || v->threads ? 0 : -rc;
}

static struct verify_job *new_job(struct snap *s, struct view *view, size_t file, int fd,
				  const struct identity *id)
{
	struct verify_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (job->fd < 0) {
		free(job);
		return NULL;
	}
	job->snap = sfs_snap_get(s);
	job->view = sfs_view_get(s, view);
	job->file = file;
	job->id = *id;
	return job;
}

/*
 * Called with the lock held. The job of this file and digest, or NULL. Who waits takes none that
 * is being done in idle time, of which there may be little.
 */
static struct verify_job *find(struct verifier *v, const struct identity *id, size_t file,
			       const struct view *view, bool waits)
{
	for (struct verify_job *job = v->jobs; job; job = job->next)
		if (!(waits && job->idle) && job->file == file &&
		    sfs_identity_equal(&job->id, id) &&
		    memcmp(job->view->dir.manifest_digest, view->dir.manifest_digest,
			   DIGEST_SIZE) == 0)
			return job;
	return NULL;
}

static void append_job(struct verifier *v, struct verify_job *job)
{
	struct verify_job **p = &v->jobs;

	while (*p)
		p = &(*p)->next;
	*p = job;
}

/* Called with the lock held. `w` NULL: nobody waits. */
static int join(struct verifier *v, struct snap *s, struct view *view, size_t file, int fd,
		const struct identity *id, struct verify_waiter *w)
{
	struct verify_job *job;
	int rc;

	if ((w && w->cancelled) || v->stopping)
		return -EINTR;
	job = find(v, id, file, view, w);
	if (!job) {
		rc = add_thread(v);
		if (rc < 0)
			return rc;
		job = new_job(s, view, file, fd, id);
		if (!job)
			return -ENOMEM;
		append_job(v, job);
	}
	if (!w)
		return 0;
	w->job = job;
	w->next = job->waiters;
	job->waiters = w;
	return 0;
}

int sfs_verifier_wait(struct verifier *v, struct snap *s, struct view *view, size_t file, int fd,
		      struct verify_waiter *w)
{
	struct identity id;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	id = sfs_identity_of(&st);
	pthread_mutex_lock(&v->lock);
	rc = join(v, s, view, file, fd, &id, w);
	pthread_mutex_unlock(&v->lock);
	return rc;
}

int sfs_verifier_begin(struct verifier *v, struct snap *s, struct view *view, size_t file, int fd)
{
	return sfs_verifier_wait(v, s, view, file, fd, NULL);
}

bool sfs_verifier_cancel(struct verifier *v, struct verify_waiter *w)
{
	bool waiting;

	pthread_mutex_lock(&v->lock);
	waiting = w->job != NULL;
	if (waiting) {
		struct verify_waiter **p = &w->job->waiters;

		while (*p != w)
			p = &(*p)->next;
		*p = w->next;
		w->job = NULL;
	}
	w->cancelled = true;
	pthread_mutex_unlock(&v->lock);
	return waiting;
}

bool sfs_verifier_stop(struct verifier *v)
{
	bool idle;

	pthread_mutex_lock(&v->lock);
	v->stopping = true;
	idle = v->threads == 0;
	pthread_mutex_unlock(&v->lock);
	if (!idle)
		return false;
	/* Those that no thread has taken, and for which nobody waits. */
	while (v->jobs) {
		struct verify_job *job = v->jobs;

		v->jobs = job->next;
		free_job(job);
	}
	pthread_mutex_destroy(&v->lock);
	free(v);
	return true;
}
