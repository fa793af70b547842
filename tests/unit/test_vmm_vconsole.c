/* virtio-console: its Unix socket, both directions, backpressure, and its state. */
#include "virtio_driver.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "vmm/virtio/kinds.h"

enum { RX, TX };

#define INPUT_MAX 4096

struct rig {
	struct driver d;
	Device config;
	char folder[64], path[96], other[96];
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	strcpy(r->folder, "/tmp/snapfs-unit-XXXXXX");
	if (!mkdtemp(r->folder))
		return -1;
	snprintf(r->path, sizeof(r->path), "%s/hvc0", r->folder);
	snprintf(r->other, sizeof(r->other), "%s/other", r->folder);
	r->config = (Device)DEVICE__INIT;
	r->config.path = r->path;
	driver_open(&r->d, &virtio_console_ops, &r->config);
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	driver_close(&r->d);
	/* The socket has gone with its device. */
	if (access(r->path, F_OK) == 0 || rmdir(r->folder) < 0)
		return -1;
	free(r);
	return 0;
}

static int try_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static int connect_to(struct driver *d, const char *path)
{
	int fd = try_connect(path);

	driver_run(d);
	return fd;
}

/* Gives the device a buffer for input; its address. */
static uint64_t give_buffer(struct driver *d, uint32_t len)
{
	const struct driver_buf buf = { driver_alloc(d, len), len };

	driver_offer(&d->queue[RX], &buf, 0, 1);
	driver_kick(d, RX);
	driver_run(d);
	return buf.address;
}

/* Output of `len` bytes from `seed`, offered and not waited for. */
static void put_output(struct driver *d, uint32_t len, uint32_t seed)
{
	const struct driver_buf buf = { driver_alloc(d, len), len };
	auto_free uint8_t *bytes = malloc(len);

	assert_non_null(bytes);
	fill_random(bytes, len, seed);
	guest_write(&d->ram, buf.address, bytes, len);
	driver_offer(&d->queue[TX], &buf, 1, 0);
	driver_kick(d, TX);
	driver_run(d);
}

/* Reads what the socket has, letting the device go on, until it has no more. */
static size_t drain(struct driver *d, int fd, uint8_t *to, size_t room)
{
	size_t all = 0;
	ssize_t n;

	while ((n = recv(fd, to + all, room - all, 0)) > 0) {
		all += (size_t)n;
		driver_run(d);
	}
	return all;
}

static unsigned taken(struct driver_queue *q)
{
	unsigned n = 0;

	while (driver_take(q, NULL) != NO_HEAD)
		n++;
	return n;
}

static void vconsole_output_reaches_the_client(void **state)
{
	struct rig *r = *state;
	char text[32] = "";
	int fd = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(driver_request(&r->d, TX, "login: ", 7, NULL, 0), 0);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 7);
	assert_string_equal(text, "login: ");
	assert_int_equal(driver_interrupts(&r->d), 1);
	close(fd);
}

static void vconsole_input_reaches_the_guest(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	int fd = connect_to(d, r->path);
	char text[8] = "";
	uint64_t at[3];
	uint32_t len;

	driver_start(d, ALL_FEATURES);
	for (int i = 0; i < 3; i++)
		at[i] = give_buffer(d, 4);
	assert_int_equal(send(fd, "abcdef", 6, 0), 6);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[RX], &len), NO_HEAD);
	assert_int_equal(len, 4);
	guest_read(&d->ram, at[0], text, 4);
	assert_string_equal(text, "abcd");
	assert_int_not_equal(driver_take(&d->queue[RX], &len), NO_HEAD);
	assert_int_equal(len, 2);
	guest_read(&d->ram, at[1], text, 2);
	assert_memory_equal(text, "ef", 2);
	assert_int_equal(driver_take(&d->queue[RX], &len), NO_HEAD);
	close(fd);
}

static void vconsole_output_without_a_client_is_dropped(void **state)
{
	struct rig *r = *state;
	uint8_t bytes[64];
	int fd;

	driver_start(&r->d, ALL_FEATURES);
	put_output(&r->d, 1 << 20, 1);
	put_output(&r->d, 100, 2);
	assert_int_equal(taken(&r->d.queue[TX]), 2);
	fd = connect_to(&r->d, r->path);
	assert_int_equal(recv(fd, bytes, sizeof(bytes), 0), -1);
	close(fd);
}

static void vconsole_client_that_does_not_read_holds_the_output(void **state)
{
	struct rig *r = *state;
	const uint32_t len = 1 << 20;
	auto_free uint8_t *sent = malloc(len), *got = malloc(2 * len);
	int fd = connect_to(&r->d, r->path);

	assert_true(sent && got);
	driver_start(&r->d, ALL_FEATURES);
	put_output(&r->d, len, 3);
	put_output(&r->d, 5, 4);
	assert_int_equal(taken(&r->d.queue[TX]), 0);
	assert_int_equal(drain(&r->d, fd, got, 2 * len), len + 5);
	fill_random(sent, len, 3);
	assert_memory_equal(got, sent, len);
	fill_random(sent, 5, 4);
	assert_memory_equal(got + len, sent, 5);
	assert_int_equal(taken(&r->d.queue[TX]), 2);
	close(fd);
}

static void vconsole_client_that_goes_frees_the_output(void **state)
{
	struct rig *r = *state;
	int fd = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	put_output(&r->d, 1 << 20, 5);
	assert_int_equal(taken(&r->d.queue[TX]), 0);
	close(fd);
	driver_run(&r->d);
	assert_int_equal(taken(&r->d.queue[TX]), 1);
}

/* Takes `len` bytes of input in buffers of 512 bytes. */
static void take_input(struct driver *d, uint8_t *to, size_t len)
{
	for (size_t all = 0; all < len;) {
		const uint64_t before = d->next, at = give_buffer(d, 512);
		uint32_t n;

		assert_int_not_equal(driver_take(&d->queue[RX], &n), NO_HEAD);
		guest_read(&d->ram, at, to + all, n);
		all += n;
		d->next = before;
	}
}

static void vconsole_guest_that_does_not_read_holds_the_input(void **state)
{
	struct rig *r = *state;
	const size_t len = 100000;
	auto_free uint8_t *sent = malloc(len), *got = malloc(len + 512);
	int fd = connect_to(&r->d, r->path);

	assert_true(sent && got);
	driver_start(&r->d, ALL_FEATURES);
	fill_random(sent, len, 6);
	assert_int_equal(send(fd, sent, len, 0), len);
	driver_run(&r->d);
	take_input(&r->d, got, len);
	assert_memory_equal(got, sent, len);
	close(fd);
}

static void vconsole_input_of_a_client_that_has_gone_still_comes(void **state)
{
	struct rig *r = *state;
	const size_t len = 20000;
	auto_free uint8_t *sent = malloc(len), *got = malloc(len + 512);
	char text[4] = "";
	int fd = connect_to(&r->d, r->path);

	assert_true(sent && got);
	driver_start(&r->d, ALL_FEATURES);
	fill_random(sent, len, 7);
	assert_int_equal(send(fd, sent, len, 0), len);
	close(fd);
	driver_run(&r->d);
	take_input(&r->d, got, len);
	assert_memory_equal(got, sent, len);
	/* Then it is the next one's turn. */
	fd = connect_to(&r->d, r->path);
	assert_int_equal(driver_request(&r->d, TX, "ok", 2, NULL, 0), 0);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 2);
	close(fd);
}

static void vconsole_next_client_ends_what_the_gone_one_left(void **state)
{
	struct rig *r = *state;
	static uint8_t left[20000];
	char text[4] = "";
	int fd = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(send(fd, left, sizeof(left), 0), sizeof(left));
	close(fd);
	driver_run(&r->d);
	fd = connect_to(&r->d, r->path);
	assert_int_equal(driver_request(&r->d, TX, "ok", 2, NULL, 0), 0);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 2);
	close(fd);
}

static void vconsole_client_that_ends_its_input_still_reads(void **state)
{
	struct rig *r = *state;
	char text[8] = "";
	int fd = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	driver_run(&r->d);
	assert_int_equal(driver_request(&r->d, TX, "bye", 3, NULL, 0), 0);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 3);
	close(fd);
}

static void vconsole_second_client_waits_for_the_first(void **state)
{
	struct rig *r = *state;
	char text[8] = "";
	int first = connect_to(&r->d, r->path), second = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	driver_request(&r->d, TX, "one", 3, NULL, 0);
	assert_int_equal(recv(first, text, sizeof(text), 0), 3);
	assert_int_equal(recv(second, text, sizeof(text), 0), -1);
	close(first);
	driver_run(&r->d);
	driver_request(&r->d, TX, "two", 3, NULL, 0);
	assert_int_equal(recv(second, text, sizeof(text), 0), 3);
	assert_string_equal(text, "two");
	close(second);
}

static void vconsole_client_before_the_driver_is_kept(void **state)
{
	struct rig *r = *state;
	int early = connect_to(&r->d, r->path), fd = -1;
	uint8_t got[512];

	assert_int_equal(send(early, "x", 1, 0), 1);
	driver_run(&r->d);
	close(early);
	driver_run(&r->d);
	fd = connect_to(&r->d, r->path);
	assert_int_equal(send(fd, "y", 1, 0), 1);
	driver_run(&r->d);
	driver_start(&r->d, ALL_FEATURES);
	take_input(&r->d, got, 1);
	assert_int_equal(got[0], 'y');
	close(fd);
}

static void assert_refused(struct driver *d, unsigned q, struct driver_buf buf, unsigned nout,
			   unsigned nin)
{
	driver_start(d, 0);
	driver_offer(&d->queue[q], &buf, nout, nin);
	driver_kick(d, q);
	driver_run(d);
	assert_true(driver_needs_reset(d));
	assert_int_equal(driver_take(&d->queue[q], NULL), NO_HEAD);
}

static void vconsole_senseless_request_needs_a_reset(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	const uint64_t address = driver_alloc(d, 64);
	int fd = connect_to(d, r->path);

	assert_refused(d, TX, (struct driver_buf){ address, 8 }, 0, 1);
	assert_refused(d, TX, (struct driver_buf){ DRIVER_RAM - 8, 64 }, 1, 0);
	assert_int_equal(send(fd, "abc", 3, 0), 3);
	assert_refused(d, RX, (struct driver_buf){ address, 8 }, 1, 0);
	assert_int_equal(send(fd, "abc", 3, 0), 3);
	assert_refused(d, RX, (struct driver_buf){ address, 0 }, 0, 1);
	assert_int_equal(send(fd, "abc", 3, 0), 3);
	assert_refused(d, RX, (struct driver_buf){ UINT64_MAX - 1, 8 }, 0, 1);
	close(fd);
}

static void vconsole_saved_goes_on_where_it_was(void **state)
{
	struct rig *r = *state;
	Device config = DEVICE__INIT;
	const uint32_t len = 1 << 20;
	auto_free uint8_t *sent = malloc(len), *got = malloc(len), *rest = malloc(len);
	const size_t input = 9000;
	struct driver to;
	size_t n, m;
	int fd = connect_to(&r->d, r->path), other;

	assert_true(sent && got && rest);
	driver_start(&r->d, ALL_FEATURES);
	put_output(&r->d, len, 8);
	fill_random(sent, input, 9);
	assert_int_equal(send(fd, sent, input, 0), input);
	driver_run(&r->d);

	config.path = r->other;
	driver_open(&to, &virtio_console_ops, &config);
	/* Connected before the state is there, so that the output is not dropped. */
	other = connect_to(&to, r->other);
	assert_int_equal(driver_move(&to, &r->d, NULL), 0);

	/* What was read ahead comes; what lay in the socket is the saved machine's. */
	take_input(&to, got, INPUT_MAX);
	assert_memory_equal(got, sent, INPUT_MAX);
	give_buffer(&to, 512);
	assert_int_equal(driver_take(&to.queue[RX], NULL), NO_HEAD);

	/* The same output goes on for both, from where the first client had got it. */
	n = drain(&r->d, fd, got, len);
	assert_int_equal(n, len);
	m = drain(&to, other, rest, len);
	assert_in_range(m, 1, len - 1);
	assert_memory_equal(rest, got + len - m, m);
	assert_int_equal(taken(&to.queue[TX]), 1);
	close(fd);
	close(other);
	driver_close(&to);
}

static void vconsole_reset_forgets_what_was_under_way(void **state)
{
	struct rig *r = *state;
	uint8_t got[512];
	int fd = connect_to(&r->d, r->path);

	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(send(fd, "old", 3, 0), 3);
	put_output(&r->d, 1 << 20, 10);
	driver_start(&r->d, ALL_FEATURES);
	driver_run(&r->d);
	assert_int_equal(send(fd, "new", 3, 0), 3);
	driver_run(&r->d);
	take_input(&r->d, got, 3);
	assert_memory_equal(got, "new", 3);
	close(fd);
}

/* The transport's message with this private part. */
static int load_private(struct driver *d, const ConsoleState *m, struct err *e)
{
	const size_t len = console_state__get_packed_size(m);
	auto_free uint8_t *buf = malloc(len + 1);

	assert_non_null(buf);
	console_state__pack(m, buf);
	return d->v->ops->load(d->v, 1, buf, len, e);
}

static void vconsole_state_out_of_bounds_is_refused(void **state)
{
	struct rig *r = *state;
	static uint8_t input[INPUT_MAX + 1];
	ConsoleState m = CONSOLE_STATE__INIT;
	struct err e = { 0 };

	m.input = (ProtobufCBinaryData){ sizeof(input), input };
	assert_int_equal(load_private(&r->d, &m, &e), -EINVAL);
	assert_says(&e, "too much input");
	e = (struct err){ 0 };
	assert_int_equal(r->d.v->ops->load(r->d.v, 1, (const uint8_t *)"\x0a\xff", 2, &e), -EINVAL);
	assert_says(&e, "cannot be parsed");

	/* A request of which more is done than it has: done with. */
	driver_start(&r->d, ALL_FEATURES);
	m = (ConsoleState)CONSOLE_STATE__INIT;
	m.output_done = UINT64_MAX;
	assert_int_equal(load_private(&r->d, &m, NULL), 0);
	put_output(&r->d, 100, 11);
	assert_int_equal(taken(&r->d.queue[TX]), 1);
}

static void vconsole_path_in_use_is_refused(void **state)
{
	struct rig *r = *state;
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct driver d;
	struct stat st;

	assert_int_equal(stat(r->path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0600);
	config.path = r->path;
	assert_true(driver_try_open(&d, &virtio_console_ops, &config, &e) < 0);
	assert_says(&e, "in use");
	config.path = (char *)(uintptr_t) "";
	e = (struct err){ 0 };
	assert_true(driver_try_open(&d, &virtio_console_ops, &config, &e) < 0);
	assert_says(&e, "the path must have");
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(vconsole_output_reaches_the_client),
		T(vconsole_input_reaches_the_guest),
		T(vconsole_output_without_a_client_is_dropped),
		T(vconsole_client_that_does_not_read_holds_the_output),
		T(vconsole_client_that_goes_frees_the_output),
		T(vconsole_guest_that_does_not_read_holds_the_input),
		T(vconsole_input_of_a_client_that_has_gone_still_comes),
		T(vconsole_next_client_ends_what_the_gone_one_left),
		T(vconsole_client_that_ends_its_input_still_reads),
		T(vconsole_second_client_waits_for_the_first),
		T(vconsole_client_before_the_driver_is_kept),
		T(vconsole_senseless_request_needs_a_reset),
		T(vconsole_saved_goes_on_where_it_was),
		T(vconsole_reset_forgets_what_was_under_way),
		T(vconsole_state_out_of_bounds_is_refused),
		T(vconsole_path_in_use_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
