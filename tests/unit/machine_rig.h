/*
 * A machine with the demo guest, run in the test's own process on this host's
 * /dev/kvm, and what its guest says: for the tests of machine and of faults.
 */
#pragma once

#include "unit.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "base/io.h"
#include "vmm/fault.h"
#include "vmm/machine.h"

#define RAM_SIZE (4ULL << 20)
#define WAIT_S	 30 /* seconds until what has to come has not come */

struct rig {
	struct machine m;
	int reader;
	int ram; /* a descriptor of the test's own of the RAM file, -1 */
	size_t len;
	char text[1 << 18];
};

UNUSED static void start_console(struct rig *r, unsigned ncpus)
{
	struct err e = { 0 };
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	r->reader = pair[0];
	if (machine_init(&r->m, ncpus, pair[1], &e) < 0 || kvm_host_open(&r->m.kvm, &e) < 0)
		fail_msg("%s", e.text);
}

UNUSED static void boot_demo(struct rig *r)
{
	struct err e = { 0 };

	assert_int_equal(boot_from_options(&r->m.boot, true, NULL, NULL, NULL, &e), 0);
	if (machine_boot(&r->m, &e) < 0 || machine_start(&r->m, &e) < 0)
		fail_msg("%s", e.text);
}

UNUSED static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	r->ram = -1;
	start_console(r, 1);
	if (ram_map_memfd(&r->m.ram, RAM_SIZE, NULL) < 0)
		return -1;
	boot_demo(r);
	return 0;
}

/* RAM is a file, mapped shared, that the test can shorten. */
UNUSED static int make_shared(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	start_console(r, 1);
	r->ram = memfd_create("ram", MFD_CLOEXEC);
	if (r->ram < 0 || ftruncate(r->ram, RAM_SIZE) < 0 ||
	    ram_map(&r->m.ram, RAM_SHARED, fcntl(r->ram, F_DUPFD_CLOEXEC, 0), RAM_SIZE, NULL) < 0)
		return -1;
	boot_demo(r);
	return 0;
}

UNUSED static void finish(struct rig *r)
{
	const int writer = r->m.console.fd;

	machine_destroy(&r->m);
	close(writer);
	close(r->reader);
	if (r->ram >= 0)
		close(r->ram);
	free(r);
}

UNUSED static int drop(void **state)
{
	finish(*state);
	return 0;
}

UNUSED static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Takes what the guest has said so far; waits for some, a moment at most. */
UNUSED static void listen_to(struct rig *r)
{
	struct pollfd p = { .fd = r->reader, .events = POLLIN };
	ssize_t n;

	chardev_flush(&r->m.console);
	if (poll(&p, 1, 20) != 1)
		return;
	assert_true(r->len < sizeof(r->text) - 1);
	n = read(r->reader, r->text + r->len, sizeof(r->text) - 1 - r->len);
	assert_true(n > 0);
	r->len += (size_t)n;
	r->text[r->len] = '\0';
}

/* The last whole line "tick N NONCE" from text on: N, or 0; the nonce into `nonce`. */
UNUSED static unsigned long last_tick(const char *text, char nonce[17])
{
	unsigned long n = 0, found;
	char word[17];

	for (const char *p = text; (p = strstr(p, "tick ")); p++)
		if (strchr(p, '\n') && sscanf(p, "tick %lu %16[0-9a-f]", &found, word) == 2) {
			n = found;
			if (nonce)
				memcpy(nonce, word, sizeof(word));
		}
	return n;
}

/* Waits until the guest has ticked beyond `beyond`, in what it says from now on. */
UNUSED static unsigned long wait_for_tick(struct rig *r, unsigned long beyond, char nonce[17])
{
	const double end = now() + WAIT_S;
	const size_t from = r->len;

	for (;;) {
		unsigned long n = last_tick(r->text + from, nonce);

		if (n > beyond)
			return n;
		if (now() > end)
			fail_msg("the guest does not tick beyond %lu; it said: %s", beyond,
				 r->text + from);
		listen_to(r);
	}
}

/* Waits until a vCPU thread has posted this event, and no other. */
UNUSED static void wait_for_event(struct rig *r, enum machine_event event)
{
	const double end = now() + WAIT_S;

	while (now() < end) {
		unsigned events = machine_take_events(&r->m);

		if (events == (unsigned)event)
			return;
		if (events)
			fail_msg("event %u, not %u: %s", events, event, r->m.failure);
		listen_to(r);
	}
	fail_msg("event %u does not come", event);
}

UNUSED static void assert_silent(struct rig *r)
{
	size_t before;

	listen_to(r); /* what was on its way */
	before = r->len;
	for (int i = 0; i < 5; i++)
		listen_to(r);
	assert_int_equal(r->len, before);
}

/*
 * cmocka puts its own SIGBUS handler in place for every test, and the machines'
 * RAM needs ours: each test runs behind this.
 */
#define WRAP(name)                                                                                 \
	static void run_##name(void **state)                                                       \
	{                                                                                          \
		assert_int_equal(fault_install(), 0);                                              \
		name(state);                                                                       \
	}
#define TEST(name, setup)                                                                          \
	{                                                                                          \
#name, run_##name, setup, drop, NULL                                               \
	}

/* 0, or what main() returns where there is no KVM. */
UNUSED static int need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	return 0;
}
