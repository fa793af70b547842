/* Iothreads and their loops. */
#include "unit.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#include "vmm/iothread.h"

static int make(void **state)
{
	struct iothread *t = calloc(1, sizeof(*t));

	*state = t;
	return t ? iothread_init(t, NULL) : -1;
}

static int drop(void **state)
{
	iothread_destroy(*state);
	free(*state);
	return 0;
}

static int event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

static void post(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* ---- the loop ---- */

struct counter {
	struct loop *loop;
	int fd;
	unsigned calls;
	struct counter *removes; /* what it removes when it is called */
};

static void on_event(void *arg, uint32_t events)
{
	struct counter *c = arg;
	uint64_t count;

	assert_true(events & EPOLLIN);
	assert_int_equal(read(c->fd, &count, sizeof(count)), sizeof(count));
	c->calls++;
	if (c->removes) {
		loop_remove(c->loop, c->removes->fd);
		close(c->removes->fd);
	}
}

static void loop_of_a_thousand_watches_calls_each_once(void **state)
{
	enum { N = 1000 };
	static struct counter c[N];
	struct loop l;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	for (int i = 0; i < N; i++) {
		c[i] = (struct counter){ .loop = &l, .fd = event() };
		assert_int_equal(loop_add(&l, c[i].fd, EPOLLIN, on_event, &c[i]), 0);
		assert_int_equal(loop_add(&l, c[i].fd, EPOLLIN, on_event, &c[i]), -EEXIST);
		post(c[i].fd);
	}
	for (int i = 0; i < N + 10; i++)
		assert_int_equal(loop_step(&l, 0), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(c[i].calls, 1);
		loop_remove(&l, c[i].fd);
		loop_remove(&l, c[i].fd);
		close(c[i].fd);
	}
	loop_destroy(&l);
}

static void loop_watch_removed_by_a_callback_is_not_called(void **state)
{
	struct counter a = { .fd = event() }, b = { .fd = event() };
	struct loop l;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	a.loop = b.loop = &l;
	a.removes = &b;
	b.removes = &a;
	assert_int_equal(loop_add(&l, a.fd, EPOLLIN, on_event, &a), 0);
	assert_int_equal(loop_add(&l, b.fd, EPOLLIN, on_event, &b), 0);
	post(a.fd);
	post(b.fd);
	for (int i = 0; i < 5; i++)
		assert_int_equal(loop_step(&l, 0), 0);
	assert_int_equal(a.calls + b.calls, 1);
	loop_destroy(&l);
	close(a.calls ? a.fd : b.fd);
}

static void loop_of_what_is_not_there_refuses(void **state)
{
	int folder = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct loop l;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	assert_int_equal(loop_add(&l, -1, EPOLLIN, on_event, NULL), -EBADF);
	assert_int_equal(loop_add(&l, 999, EPOLLIN, on_event, NULL), -EBADF);
	assert_int_equal(loop_add(&l, folder, EPOLLIN, on_event, NULL), -EPERM);
	assert_int_equal(loop_change(&l, 999, EPOLLIN), -ENOENT);
	assert_int_equal(loop_change(&l, -1, EPOLLIN), -ENOENT);
	assert_int_equal(loop_change(&l, 1 << 20, EPOLLIN), -ENOENT);
	loop_remove(&l, -1);
	loop_remove(&l, 1 << 20);
	loop_destroy(&l);
	close(folder);
}

static void loop_changed_to_no_events_is_silent_until_changed_back(void **state)
{
	struct counter c = { .fd = event() };
	struct loop l;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	assert_int_equal(loop_add(&l, c.fd, 0, on_event, &c), 0);
	post(c.fd);
	assert_int_equal(loop_step(&l, 0), 0);
	assert_int_equal(c.calls, 0);
	assert_int_equal(loop_change(&l, c.fd, EPOLLIN), 0);
	assert_int_equal(loop_step(&l, 0), 0);
	assert_int_equal(c.calls, 1);
	loop_remove(&l, c.fd);
	loop_destroy(&l);
	close(c.fd);
}

/* ---- holding ---- */

static void hold_without_a_thread_returns_at_once(void **state)
{
	struct iothread *t = *state;

	iothread_hold(t);
	iothread_release(t);
	iothread_hold(t);
	iothread_ask_hold(t);
	/* Asked to wake, it is not stuck. */
	assert_int_equal(loop_step(&t->loop, 0), 0);
}

/* A callback that is always ready, and says whether it runs. */
struct busy {
	struct iothread *t;
	int fd;
	unsigned inside, calls;
	bool holds_itself;
};

static void on_busy(void *arg, uint32_t events)
{
	struct busy *b = arg;

	(void)events;
	__atomic_store_n(&b->inside, 1, __ATOMIC_SEQ_CST);
	if (__atomic_add_fetch(&b->calls, 1, __ATOMIC_SEQ_CST) % 16 == 0)
		usleep(200);
	if (b->holds_itself)
		iothread_ask_hold(b->t);
	__atomic_store_n(&b->inside, 0, __ATOMIC_SEQ_CST);
}

static unsigned calls(struct busy *b)
{
	return __atomic_load_n(&b->calls, __ATOMIC_SEQ_CST);
}

static void wait_for_calls(struct busy *b, unsigned beyond)
{
	for (int i = 0; calls(b) <= beyond; i++) {
		assert_true(i < 30000);
		usleep(1000);
	}
}

static void start_busy(struct busy *b, struct iothread *t)
{
	*b = (struct busy){ .t = t, .fd = event() };
	post(b->fd);
	assert_int_equal(loop_add(&t->loop, b->fd, EPOLLIN, on_busy, b), 0);
	assert_int_equal(iothread_start(t, NULL), 0);
}

static void started_thread_stands_until_released(void **state)
{
	struct iothread *t = *state;
	struct busy b;

	start_busy(&b, t);
	iothread_hold(t);
	usleep(20000);
	assert_int_equal(calls(&b), 0);
	iothread_release(t);
	wait_for_calls(&b, 10);
	iothread_hold(t);
	loop_remove(&t->loop, b.fd);
	close(b.fd);
}

static void hold_under_load_is_outside_every_callback(void **state)
{
	struct iothread *t = *state;
	struct busy b;
	unsigned before;

	start_busy(&b, t);
	for (int round = 0; round < 300; round++) {
		before = calls(&b);
		iothread_release(t);
		if (round % 3)
			wait_for_calls(&b, before);
		iothread_hold(t);
		assert_int_equal(__atomic_load_n(&b.inside, __ATOMIC_SEQ_CST), 0);
		before = calls(&b);
		if (round % 50 == 0)
			usleep(5000);
		/* Its loop is the holder's. */
		loop_remove(&t->loop, b.fd);
		assert_int_equal(loop_add(&t->loop, b.fd, EPOLLIN, on_busy, &b), 0);
		assert_int_equal(calls(&b), before);
	}
	loop_remove(&t->loop, b.fd);
	close(b.fd);
}

static void asked_from_its_own_callback_holds_after_it(void **state)
{
	struct iothread *t = *state;
	struct busy b;

	start_busy(&b, t);
	b.holds_itself = true;
	for (unsigned n = 0; n < 50; n++) {
		iothread_release(t);
		wait_for_calls(&b, n);
		iothread_hold(t);
		assert_int_equal(calls(&b), n + 1);
	}
	loop_remove(&t->loop, b.fd);
	close(b.fd);
}

static void *hold_and_release(void *arg)
{
	struct iothread *t = arg;

	for (int i = 0; i < 500; i++) {
		iothread_ask_hold(t);
		iothread_release(t);
	}
	return NULL;
}

static void asked_from_many_threads_ends_as_it_was_asked_last(void **state)
{
	struct iothread *t = *state;
	pthread_t asker[3];
	unsigned before;
	struct busy b;

	start_busy(&b, t);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&asker[i], NULL, hold_and_release, t), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(asker[i], NULL);
	wait_for_calls(&b, calls(&b));
	iothread_hold(t);
	before = calls(&b);
	usleep(5000);
	assert_int_equal(calls(&b), before);
	loop_remove(&t->loop, b.fd);
	close(b.fd);
}

static void destroyed_while_it_runs_or_stands_ends(void **state)
{
	(void)state;
	for (int round = 0; round < 40; round++) {
		unsigned before = open_descriptors();
		struct iothread t;
		struct busy b;

		assert_int_equal(iothread_init(&t, NULL), 0);
		start_busy(&b, &t);
		if (round % 2)
			iothread_release(&t);
		if (round % 4 == 3)
			wait_for_calls(&b, 0);
		iothread_destroy(&t);
		close(b.fd);
		assert_int_equal(open_descriptors(), before);
	}
}

#define HELD(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loop_of_a_thousand_watches_calls_each_once),
		cmocka_unit_test(loop_watch_removed_by_a_callback_is_not_called),
		cmocka_unit_test(loop_of_what_is_not_there_refuses),
		cmocka_unit_test(loop_changed_to_no_events_is_silent_until_changed_back),
		HELD(hold_without_a_thread_returns_at_once),
		HELD(started_thread_stands_until_released),
		HELD(hold_under_load_is_outside_every_callback),
		HELD(asked_from_its_own_callback_holds_after_it),
		HELD(asked_from_many_threads_ends_as_it_was_asked_last),
		cmocka_unit_test(destroyed_while_it_runs_or_stands_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
