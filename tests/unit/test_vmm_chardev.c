/* A serial line's end on the host: it never blocks the guest and loses nothing that it took. */
#include "unit.h"

#include <pthread.h>
#include <signal.h>

#include "vmm/chardev.h"

struct rig {
	struct chardev c;
	int reader;
};

static int make(void **state)
{
	struct rig *r = malloc(sizeof(*r));
	int pair[2];

	if (!r || pipe(pair) < 0)
		return -1;
	r->reader = pair[0];
	chardev_init(&r->c, pair[1]);
	alarm(20); /* whatever blocks is a failure */
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	alarm(0);
	if (r->c.fd >= 0)
		close(r->c.fd);
	if (r->reader >= 0)
		close(r->reader);
	free(r);
	return 0;
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + i / 256);
}

/* Puts until it is full; how many were taken since `from`. */
static size_t fill(struct rig *r, size_t from)
{
	size_t n = 0;

	while (chardev_put(&r->c, byte_at(from + n)))
		n++;
	return n;
}

/* Reads what is in the pipe; it must go on from byte `from`. */
static size_t drain_pipe(struct rig *r, size_t from)
{
	static uint8_t buf[1 << 20];
	ssize_t n = read(r->reader, buf, sizeof(buf));

	assert_true(n > 0);
	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(buf[i], byte_at(from + (size_t)i));
	return (size_t)n;
}

static void put_to_nowhere_is_always_taken(void **state)
{
	struct chardev c;

	(void)state;
	chardev_init(&c, -1);
	for (int i = 0; i < 2 * CHARDEV_BUFFER; i++)
		assert_true(chardev_put(&c, 'x'));
	assert_true(chardev_has_room(&c));
	assert_false(chardev_flush(&c));
}

static void put_to_a_free_pipe_is_written_at_once(void **state)
{
	struct rig *r = *state;
	char got[2];

	assert_true(chardev_put(&r->c, 'a'));
	assert_true(chardev_put(&r->c, 'b'));
	assert_int_equal(read(r->reader, got, 2), 2);
	assert_memory_equal(got, "ab", 2);
	assert_false(chardev_flush(&r->c));
}

static void put_to_a_full_pipe_waits_in_the_buffer_then_is_refused(void **state)
{
	struct rig *r = *state;
	size_t n = fill(r, 0);

	/* The pipe's own room (some of it may stay unused) and the whole buffer. */
	assert_true(n > CHARDEV_BUFFER);
	assert_false(chardev_has_room(&r->c));
	assert_true(chardev_flush(&r->c));
	assert_false(chardev_put(&r->c, 'x'));
	assert_int_equal(r->c.len, CHARDEV_BUFFER);
}

static void drained_pipe_gets_all_bytes_in_order(void **state)
{
	struct rig *r = *state;
	size_t put = 0, got = 0;

	for (int round = 0; round < 5; round++) {
		put += fill(r, put);
		got += drain_pipe(r, got);
		chardev_flush(&r->c);
		assert_true(chardev_has_room(&r->c));
	}
	while (got < put) {
		got += drain_pipe(r, got);
		chardev_flush(&r->c);
	}
	assert_int_equal(got, put);
	assert_false(chardev_flush(&r->c));
}

static void reader_that_has_gone_does_not_stall_the_guest(void **state)
{
	struct rig *r = *state;

	fill(r, 0);
	close(r->reader);
	r->reader = -1;
	chardev_flush(&r->c);
	for (int i = 0; i < 2 * CHARDEV_BUFFER; i++)
		assert_true(chardev_put(&r->c, 'x'));
	assert_false(chardev_flush(&r->c));
}

static void full_disk_does_not_stall_the_guest(void **state)
{
	struct chardev c;
	auto_fd int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	(void)state;
	chardev_init(&c, full);
	for (int i = 0; i < 2 * CHARDEV_BUFFER; i++)
		assert_true(chardev_put(&c, 'x'));
}

/* As when the program was started with its standard output closed. */
static void closed_descriptor_does_not_stall_the_guest(void **state)
{
	struct rig *r = *state;
	const int fd = r->c.fd;

	close(fd);
	for (int i = 0; i < 2 * CHARDEV_BUFFER; i++)
		assert_true(chardev_put(&r->c, 'x'));
	r->c.fd = -1;
}

static void *put_many(void *arg)
{
	struct rig *r = arg;

	for (int i = 0; i < 20000;)
		i += chardev_put(&r->c, 'x');
	return NULL;
}

static void put_from_several_threads_loses_nothing(void **state)
{
	static uint8_t buf[1 << 16];
	struct rig *r = *state;
	pthread_t thread[3];
	size_t got = 0;

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, put_many, r), 0);
	while (got < 60000) {
		ssize_t n = read(r->reader, buf, sizeof(buf));

		assert_true(n > 0);
		got += (size_t)n;
		chardev_flush(&r->c);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(got, 60000);
	assert_false(chardev_flush(&r->c));
}

#define ON_PIPE(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put_to_nowhere_is_always_taken),
		ON_PIPE(put_to_a_free_pipe_is_written_at_once),
		ON_PIPE(put_to_a_full_pipe_waits_in_the_buffer_then_is_refused),
		ON_PIPE(drained_pipe_gets_all_bytes_in_order),
		ON_PIPE(reader_that_has_gone_does_not_stall_the_guest),
		cmocka_unit_test(full_disk_does_not_stall_the_guest),
		ON_PIPE(closed_descriptor_does_not_stall_the_guest),
		ON_PIPE(put_from_several_threads_loses_nothing),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
