/* Iothreads: see iothread.h. */
#include "iothread.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Being woken is all: the thread looks at what it is to do after each callback. */
static void on_wake(void *arg, uint32_t events)
{
	const struct iothread *t = arg;
	uint64_t count;

	(void)events;
	if (read(t->wake_fd, &count, sizeof(count)) < 0)
		return;
}

int iothread_init(struct iothread *t, struct err *e)
{
	int rc;

	/* Where there is no thread, there is none inside a callback. */
	*t = (struct iothread){ .hold = true, .parked = true, .wake_fd = -1 };
	rc = loop_init(&t->loop);
	if (rc < 0)
		return err_sys(e, -rc, "cannot make an event loop");
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = t->wake_fd < 0 ? -errno : loop_add(&t->loop, t->wake_fd, EPOLLIN, on_wake, t);
	if (rc < 0) {
		if (t->wake_fd >= 0)
			close(t->wake_fd);
		loop_destroy(&t->loop);
		return err_sys(e, -rc, "cannot make an eventfd");
	}
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	return 0;
}

/* Stands as long as it is to be held; false where it shall end. */
static bool go_on(struct iothread *t)
{
	bool quit;

	pthread_mutex_lock(&t->lock);
	while ((t->hold || t->pause) && !t->quit) {
		t->parked = true;
		pthread_cond_broadcast(&t->changed);
		pthread_cond_wait(&t->changed, &t->lock);
	}
	t->parked = false;
	quit = t->quit;
	pthread_mutex_unlock(&t->lock);
	return !quit;
}

static void *run(void *arg)
{
	struct iothread *t = arg;

	while (go_on(t))
		loop_step(&t->loop, -1);
	return NULL;
}

int iothread_start(struct iothread *t, struct err *e)
{
	sigset_t all, before;
	int rc;

	/* The process's signals are the main thread's; a lost RAM page is this one's. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&t->thread, NULL, run, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	t->started = rc == 0;
	return rc ? err_sys(e, rc, "cannot start a thread for devices") : 0;
}

/* It can only fail when the counter is full: then the thread is awake already. */
static void wake(const struct iothread *t)
{
	const uint64_t one = 1;

	if (write(t->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void iothread_destroy(struct iothread *t)
{
	pthread_mutex_lock(&t->lock);
	t->quit = true;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	wake(t);
	if (t->started)
		pthread_join(t->thread, NULL);
	t->started = false;
	loop_destroy(&t->loop);
	close(t->wake_fd);
	t->wake_fd = -1;
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->changed);
}

void iothread_ask_hold(struct iothread *t)
{
	pthread_mutex_lock(&t->lock);
	t->hold = true;
	pthread_mutex_unlock(&t->lock);
	wake(t);
}

void iothread_hold(struct iothread *t)
{
	iothread_ask_hold(t);
	pthread_mutex_lock(&t->lock);
	while (!t->parked)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void iothread_release(struct iothread *t)
{
	pthread_mutex_lock(&t->lock);
	t->hold = false;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

void iothread_pause(struct iothread *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->pause)
		pthread_cond_wait(&t->changed, &t->lock);
	t->pause = true;
	wake(t);
	while (!t->parked)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void iothread_unpause(struct iothread *t)
{
	pthread_mutex_lock(&t->lock);
	t->pause = false;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}
