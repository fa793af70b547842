/*
 * A machine with the demo guest, run in this process on this host's /dev/kvm:
 * holding and releasing, resets, a restore beside it, and RAM that cannot be had.
 *
 * ioctl(2) is this program's own, so that a test can let KVM_RUN fail as a
 * kernel would; all else goes to the kernel.
 */
#include "unit.h"

#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/io.h"
#include "vmm/demo_guest.h"
#include "vmm/fault.h"
#include "vmm/machine.h"
#include "vmm/monitor.h"

#define RAM_SIZE (4ULL << 20)
#define WAIT_S	 30

/* ---- KVM_RUN that fails once, when a test asks for it ---- */

static struct {
	int errnum;	     /* 0: not at all */
	struct kvm_run *run; /* where to say why */
	bool memory_fault;   /* as KVM_EXIT_MEMORY_FAULT of gpa */
	uint64_t gpa;
} inject;

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == KVM_RUN && __atomic_load_n(&inject.errnum, __ATOMIC_ACQUIRE)) {
		errno = __atomic_exchange_n(&inject.errnum, 0, __ATOMIC_ACQ_REL);
		inject.run->exit_reason = 0;
		if (inject.memory_fault) {
			/* struct { u64 flags, gpa, size; } memory_fault, Linux 6.8 */
			uint64_t fault[3] = { 0, inject.gpa, 4096 };

			inject.run->exit_reason = 39;
			memcpy(&inject.run->mmio, fault, sizeof(fault));
		}
		return -1;
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

/* ---- a machine and what its guest has said ---- */

struct rig {
	struct machine m;
	int reader;
	int ram; /* a descriptor of the test's own of the RAM file, -1 */
	size_t len;
	char text[1 << 18];
};

static void start_console(struct rig *r, unsigned ncpus)
{
	struct err e = { 0 };
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	r->reader = pair[0];
	if (machine_init(&r->m, ncpus, pair[1], &e) < 0)
		fail_msg("%s", e.text);
}

static void boot_demo(struct rig *r)
{
	struct err e = { 0 };

	assert_int_equal(boot_from_options(&r->m.boot, true, NULL, NULL, NULL, &e), 0);
	if (machine_boot(&r->m, &e) < 0 || machine_start(&r->m, &e) < 0)
		fail_msg("%s", e.text);
}

static int make(void **state)
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
static int make_shared(void **state)
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

static void finish(struct rig *r)
{
	const int writer = r->m.console.fd;

	machine_destroy(&r->m);
	close(writer);
	close(r->reader);
	if (r->ram >= 0)
		close(r->ram);
	free(r);
}

static int drop(void **state)
{
	finish(*state);
	return 0;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Takes what the guest has said so far; waits for some, a moment at most. */
static void listen_to(struct rig *r)
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
static unsigned long last_tick(const char *text, char nonce[17])
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
static unsigned long wait_for_tick(struct rig *r, unsigned long beyond, char nonce[17])
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
static void wait_for_event(struct rig *r, enum machine_event event)
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

static void assert_silent(struct rig *r)
{
	size_t before;

	listen_to(r); /* what was on its way */
	before = r->len;
	for (int i = 0; i < 5; i++)
		listen_to(r);
	assert_int_equal(r->len, before);
}

/* ---- running ---- */

static void start_is_held_until_it_is_released(void **state)
{
	struct rig *r = *state;

	assert_int_equal(machine_holds(&r->m), HOLD_USER);
	assert_silent(r);
	assert_int_equal(r->len, 0);
	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	assert_memory_equal(r->text, "boot ", 5);
	assert_int_equal(machine_holds(&r->m), 0);
}

static void hold_stops_the_guest_and_release_lets_it_go_on(void **state)
{
	struct rig *r = *state;
	char nonce[17], again[17];
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 2, nonce);
	machine_hold(&r->m, HOLD_USER);
	assert_silent(r);
	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, n, again);
	assert_string_equal(nonce, again);
}

static void release_of_one_of_two_reasons_keeps_it_held(void **state)
{
	struct rig *r = *state;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 1, NULL);
	machine_hold(&r->m, HOLD_USER);
	machine_hold(&r->m, HOLD_SAVE);
	machine_release(&r->m, HOLD_SAVE);
	assert_int_equal(machine_holds(&r->m), HOLD_USER);
	assert_silent(r);
	machine_release(&r->m, HOLD_USER | HOLD_FAULT);
	wait_for_tick(r, 1, NULL);
}

static void hold_and_release_a_thousand_times_does_not_lock_up(void **state)
{
	struct rig *r = *state;
	char nonce[17], again[17];
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 1, nonce);
	alarm(100);
	for (int i = 0; i < 1000; i++) {
		machine_hold(&r->m, i % 2 ? HOLD_SAVE : HOLD_USER);
		assert_int_equal(r->m.parked, 1);
		machine_release(&r->m, HOLD_SAVE | HOLD_USER);
		if (i % 10 == 0)
			listen_to(r);
	}
	alarm(0);
	wait_for_tick(r, n, again);
	assert_string_equal(nonce, again);
	assert_int_equal(machine_take_events(&r->m), 0);
}

static void destroy_of_a_running_machine_ends(void **state)
{
	struct rig *r = *state;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 1, NULL); /* and drop() destroys it as it runs */
}

/* ---- resets ---- */

static void assert_boots_again(struct rig *r, const char *first)
{
	struct err e = { 0 };
	char again[17];

	wait_for_event(r, EVENT_RESET);
	assert_int_equal(machine_holds(&r->m), HOLD_RESET);
	machine_hold(&r->m, HOLD_RESET);
	while (listen_to(r), chardev_flush(&r->m.console))
		;
	r->len = 0;
	r->text[0] = '\0';
	if (machine_boot(&r->m, &e) < 0)
		fail_msg("%s", e.text);
	machine_release(&r->m, HOLD_RESET);
	wait_for_tick(r, 1, again);
	assert_non_null(strstr(r->text, "boot "));
	assert_string_not_equal(first, again); /* a boot of its own */
}

static void reset_by_the_keyboard_controller_boots_again(void **state)
{
	struct rig *r = *state;
	uint8_t pulse = 0xfe;
	char nonce[17];

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, nonce);
	machine_port_io(&r->m, true, 0x64, &pulse, 1);
	assert_boots_again(r, nonce);
}

static void reset_by_a_triple_fault_boots_again(void **state)
{
	struct rig *r = *state;
	struct kvm_sregs s;
	char nonce[17];

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, nonce);
	machine_hold(&r->m, HOLD_USER);
	/* No handler for the timer's interrupt, none for that fault, none for the double fault. */
	assert_int_equal(kvm_ioctl(r->m.vm.vcpu[0].fd, KVM_GET_SREGS, &s), 0);
	s.idt.limit = 0;
	assert_int_equal(kvm_ioctl(r->m.vm.vcpu[0].fd, KVM_SET_SREGS, &s), 0);
	machine_release(&r->m, HOLD_USER);
	assert_boots_again(r, nonce);
}

static void reset_by_the_monitor_boots_again(void **state)
{
	struct rig *r = *state;
	struct publisher none = { .sock = -1 };
	struct monitor mon;
	uint8_t pulse = 0xfe;
	char nonce[17], again[17];
	const double end = now() + WAIT_S;

	monitor_init(&mon, &r->m, &none);
	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, nonce);
	machine_port_io(&r->m, true, 0x64, &pulse, 1);
	do
		monitor_on_machine_event(&mon);
	while (machine_holds(&r->m) && now() < end);
	assert_false(mon.quit);
	do
		wait_for_tick(r, 1, again);
	while (strcmp(nonce, again) == 0 && now() < end);
	assert_string_not_equal(nonce, again);
}

/* ---- ports ---- */

static void port_io_wide_access_is_of_neighbouring_bytes(void **state)
{
	struct rig *r = *state;
	uint8_t data[4] = { 0x11, 0x22, 0x33, 0x44 };

	machine_port_io(&r->m, true, 0x3f8 + 7, data, 2); /* the scratch register, and nothing */
	memset(data, 0, sizeof(data));
	machine_port_io(&r->m, false, 0x3f8 + 6, data, 4); /* MSR, scratch, nothing, nothing */
	assert_int_equal(data[0], 0xb0);
	assert_int_equal(data[1], 0x11);
	assert_int_equal(data[2], 0xff);
	assert_int_equal(data[3], 0xff);
	machine_port_io(&r->m, false, 0xffff, data, 4); /* round the end of the ports */
}

/* ---- a restore in the same process ---- */

/* The state of `from`, held, and a copy of its RAM as a snapshot would be. */
static VmState *take_snapshot(struct rig *from, int *ram)
{
	auto_free uint8_t *buf = NULL;
	struct err e = { 0 };
	VmState *s;
	size_t len;

	machine_hold(&from->m, HOLD_SAVE);
	if (machine_save_state(&from->m, &buf, &len, &e) < 0)
		fail_msg("%s", e.text);
	*ram = memfd_create("snapshot", MFD_CLOEXEC);
	if (ram_write_out(&from->m.ram, *ram, &e) < 0)
		fail_msg("%s", e.text);
	machine_release(&from->m, HOLD_SAVE);
	if (proto_state_decode(buf, len, &s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

static struct rig *restore_into_new(const VmState *s, int ram)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct err e = { 0 };

	assert_non_null(r);
	r->ram = -1;
	start_console(r, 1);
	r->m.boot.kind = BOOT_KIND__BOOT_DEMO;
	assert_int_equal(
		ram_map(&r->m.ram, RAM_PRIVATE, fcntl(ram, F_DUPFD_CLOEXEC, 0), RAM_SIZE, &e), 0);
	if (machine_load_state(&r->m, s, &e) < 0 || machine_start(&r->m, &e) < 0)
		fail_msg("%s", e.text);
	return r;
}

static void restore_beside_the_first_goes_on_from_the_save(void **state)
{
	struct rig *r = *state, *other;
	uint8_t before[DIGEST_SIZE], after[DIGEST_SIZE];
	char nonce[17], again[17];
	unsigned long n, first;
	auto_fd int ram = -1;
	VmState *s;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 5, nonce);
	s = take_snapshot(r, &ram);
	n = wait_for_tick(r, 0, NULL); /* at or after the save */
	assert_int_equal(digest_sha256_fd(ram, before), 0);
	for (int i = 0; i < 2; i++) { /* any number of times */
		other = restore_into_new(s, ram);
		machine_release(&other->m, HOLD_USER);
		first = wait_for_tick(other, 0, again);
		assert_string_equal(nonce, again);
		assert_in_range(first, 5, n + 20);
		assert_null(strstr(other->text, "boot "));
		wait_for_tick(other, first + 3, NULL);
		finish(other);
	}
	/* Neither guest has changed the snapshot, and the first runs on. */
	assert_int_equal(digest_sha256_fd(ram, after), 0);
	assert_memory_equal(before, after, DIGEST_SIZE);
	wait_for_tick(r, n, again);
	assert_string_equal(nonce, again);
	proto_state_free(s);
}

static void restore_held_says_nothing_until_it_is_released(void **state)
{
	struct rig *r = *state, *other;
	auto_fd int ram = -1;
	VmState *s;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	s = take_snapshot(r, &ram);
	other = restore_into_new(s, ram);
	assert_silent(other);
	assert_int_equal(other->len, 0);
	finish(other);
	proto_state_free(s);
}

static void load_state_of_unknown_or_missing_devices_is_refused(void **state)
{
	struct rig *r = *state, *other = calloc(1, sizeof(*other));
	auto_fd int ram = -1;
	struct err e = { 0 };
	size_t devices;
	VmState *s = take_snapshot(r, &ram);

	other->ram = -1;
	start_console(other, 1);
	assert_int_equal(ram_map_memfd(&other->m.ram, RAM_SIZE, NULL), 0);
	devices = s->n_device;
	s->n_device = 1;
	assert_int_equal(machine_load_state(&other->m, s, &e), -EINVAL);
	assert_says(&e, "state.bin has nothing of device");
	vm_destroy(&other->m.vm);
	s->n_device = devices;
	s->device[0]->version = 99;
	assert_int_equal(machine_load_state(&other->m, s, &e), -EINVAL);
	assert_says(&e, "version 99");
	vm_destroy(&other->m.vm);
	s->device[0]->name[0] = 'X';
	assert_int_equal(machine_load_state(&other->m, s, &e), -EINVAL);
	assert_says(&e, "unknown");
	finish(other);
	proto_state_free(s);
}

/* ---- RAM that cannot be had ---- */

static void shorten_ram(struct rig *r, uint8_t *copy, uint64_t to)
{
	assert_int_equal(io_pread_full(r->ram, copy, RAM_SIZE, 0), 0);
	assert_int_equal(ftruncate(r->ram, (off_t)to), 0);
}

static void mend_ram(struct rig *r, const uint8_t *copy)
{
	assert_int_equal(ftruncate(r->ram, RAM_SIZE), 0);
	assert_int_equal(io_pwrite_full(r->ram, copy, RAM_SIZE, 0), 0);
}

static void assert_fault_stands(struct rig *r)
{
	wait_for_event(r, EVENT_FAULT);
	assert_true(machine_holds(&r->m) & HOLD_FAULT);
	assert_non_null(r->m.fault.form);
	machine_hold(&r->m, HOLD_FAULT); /* until the vCPU stands */
	assert_silent(r);
}

/*
 * Shortened while the guest stands, so that a copy of its RAM is exact: all of
 * it, its page tables and what lies above, its code. Which form the fault takes
 * depends on what the guest does next and on the KVM.
 */
static void fault_of_a_shortened_file_holds_and_goes_on_when_mended(void **state)
{
	static const uint64_t to[] = { 0, 0x9000, DEMO_GUEST_AT };
	auto_free uint8_t *copy = malloc(RAM_SIZE);
	struct rig *r = *state;
	char nonce[17], again[17];
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 3, nonce);
	for (int round = 0; round < 30; round++) {
		machine_hold(&r->m, HOLD_USER);
		shorten_ram(r, copy, to[round % 3]);
		machine_release(&r->m, HOLD_USER);
		assert_fault_stands(r);
		if (round < 3)
			print_message("host-memory-fault by: %s, guest address 0x%llx\n",
				      r->m.fault.form, (unsigned long long)r->m.fault.address);
		if (r->m.fault.address != UINT64_MAX)
			assert_in_range(r->m.fault.address, to[round % 3], RAM_SIZE - 1);
		mend_ram(r, copy);
		machine_release(&r->m, HOLD_FAULT);
		n = wait_for_tick(r, n, again);
		assert_string_equal(nonce, again);
		assert_int_equal(machine_holds(&r->m), 0);
	}
}

/* The guest runs on over `incq COUNTER; jmp` from now on, in pages of their own. */
#define CODE	0x200000ULL
#define COUNTER 0x300000ULL
static void run_counter(struct rig *r)
{
	static const uint8_t code[] = { 0x48, 0xff, 0x04, 0x25, 0, 0, 0x30, 0, 0xeb, 0xf6 };
	struct kvm_regs regs;

	machine_hold(&r->m, HOLD_USER);
	assert_int_equal(ram_write(&r->m.ram, CODE, code, sizeof(code)), 0);
	assert_int_equal(kvm_ioctl(r->m.vm.vcpu[0].fd, KVM_GET_REGS, &regs), 0);
	regs.rip = CODE;
	assert_int_equal(kvm_ioctl(r->m.vm.vcpu[0].fd, KVM_SET_REGS, &regs), 0);
	machine_release(&r->m, HOLD_USER);
}

static uint64_t counter(struct rig *r)
{
	uint64_t value;

	assert_int_equal(ram_read(&r->m.ram, COUNTER, &value, sizeof(value)), 0);
	return value;
}

static uint64_t wait_for_count(struct rig *r, uint64_t beyond)
{
	const double end = now() + WAIT_S;

	while (counter(r) <= beyond && now() < end)
		usleep(1000);
	assert_true(counter(r) > beyond);
	return counter(r);
}

/* Only what the guest works on: its code is there, and the access is what fails. */
static void fault_of_a_data_page_alone_names_that_page(void **state)
{
	auto_free uint8_t *copy = malloc(RAM_SIZE);
	struct rig *r = *state;
	uint64_t n, stood;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	run_counter(r);
	n = wait_for_count(r, 1000);
	for (int round = 0; round < 10; round++) {
		machine_hold(&r->m, HOLD_USER);
		stood = counter(r);
		assert_true(stood >= n);
		shorten_ram(r, copy, COUNTER);
		machine_release(&r->m, HOLD_USER);
		assert_fault_stands(r);
		if (round == 0)
			print_message("host-memory-fault by: %s, guest address 0x%llx\n",
				      r->m.fault.form, (unsigned long long)r->m.fault.address);
		if (r->m.fault.address != UINT64_MAX)
			assert_int_equal(r->m.fault.address & ~(RAM_PAGE - 1), COUNTER);
		mend_ram(r, copy);
		assert_int_equal(counter(r), stood);
		machine_release(&r->m, HOLD_FAULT);
		n = wait_for_count(r, stood + 1000);
	}
}

static void fault_released_unmended_faults_again(void **state)
{
	auto_free uint8_t *copy = malloc(RAM_SIZE);
	struct rig *r = *state;
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 3, NULL);
	machine_hold(&r->m, HOLD_USER);
	shorten_ram(r, copy, 0);
	machine_release(&r->m, HOLD_USER);
	for (int i = 0; i < 20; i++) {
		assert_fault_stands(r);
		machine_release(&r->m, HOLD_FAULT);
	}
	assert_fault_stands(r);
	mend_ram(r, copy);
	machine_release(&r->m, HOLD_FAULT);
	wait_for_tick(r, n, NULL);
}

/* Shortened while it runs: its RAM is lost, but it stands and does not run on over 0xff. */
static void fault_under_a_running_guest_holds_it(void **state)
{
	struct rig *r = *state;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 3, NULL);
	assert_int_equal(ftruncate(r->ram, DEMO_GUEST_AT), 0);
	assert_fault_stands(r);
	assert_null(strstr(r->text, "\xff"));
	/* And it can be destroyed like that. */
}

/* The monitor's part: it says which page, and `resume` tries again. */
static void fault_by_the_monitor_is_reported_and_resumed(void **state)
{
	auto_free uint8_t *copy = malloc(RAM_SIZE);
	struct rig *r = *state;
	struct publisher none = { .sock = -1 };
	const double end = now() + WAIT_S;
	struct monitor mon;
	unsigned long n;

	monitor_init(&mon, &r->m, &none);
	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 3, NULL);
	machine_hold(&r->m, HOLD_USER);
	shorten_ram(r, copy, 0);
	machine_release(&r->m, HOLD_USER);
	do
		monitor_on_machine_event(&mon);
	while (!(machine_holds(&r->m) & HOLD_FAULT) && now() < end);
	monitor_on_machine_event(&mon);
	assert_false(mon.quit);
	assert_true(machine_holds(&r->m) & HOLD_FAULT);
	mend_ram(r, copy);
	machine_release(&r->m, HOLD_USER | HOLD_FAULT);
	wait_for_tick(r, n, NULL);
}

/* What the vCPU thread makes of one KVM_RUN that fails like this. */
static void fail_kvm_run(struct rig *r, int errnum, bool memory_fault, uint64_t gpa)
{
	machine_hold(&r->m, HOLD_USER);
	inject.run = r->m.vm.vcpu[0].run;
	inject.memory_fault = memory_fault;
	inject.gpa = gpa;
	__atomic_store_n(&inject.errnum, errnum, __ATOMIC_RELEASE);
	machine_release(&r->m, HOLD_USER);
}

static void fault_as_kvm_exit_memory_fault_names_the_page(void **state)
{
	struct rig *r = *state;
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 2, NULL);
	fail_kvm_run(r, EFAULT, true, 0x123000);
	assert_fault_stands(r);
	assert_string_equal(r->m.fault.form, "KVM_EXIT_MEMORY_FAULT");
	assert_int_equal(r->m.fault.address, 0x123000);
	machine_release(&r->m, HOLD_FAULT);
	wait_for_tick(r, n, NULL);
}

static void fault_as_plain_efault_or_ehwpoison_is_one_too(void **state)
{
	static const int errnums[] = { EFAULT, EHWPOISON };
	struct rig *r = *state;
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 2, NULL);
	for (int i = 0; i < 2; i++) {
		fail_kvm_run(r, errnums[i], false, 0);
		assert_fault_stands(r);
		assert_string_equal(r->m.fault.form, "EFAULT of KVM_RUN");
		assert_int_equal(r->m.fault.address, UINT64_MAX);
		machine_release(&r->m, HOLD_FAULT);
		n = wait_for_tick(r, n, NULL);
	}
}

static void kvm_run_that_fails_otherwise_ends_the_machine(void **state)
{
	struct rig *r = *state;

	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	fail_kvm_run(r, EINVAL, false, 0);
	wait_for_event(r, EVENT_FAILED);
	assert_true(machine_holds(&r->m) & HOLD_END);
	assert_non_null(strstr(r->m.failure, strerror(EINVAL)));
}

static void kvm_run_that_is_interrupted_goes_on(void **state)
{
	static const int errnums[] = { EINTR, EAGAIN };
	struct rig *r = *state;
	unsigned long n;

	machine_release(&r->m, HOLD_USER);
	n = wait_for_tick(r, 2, NULL);
	for (int i = 0; i < 2; i++) {
		fail_kvm_run(r, errnums[i], false, 0);
		n = wait_for_tick(r, n, NULL);
		assert_int_equal(machine_take_events(&r->m), 0);
	}
}

/* ---- main ---- */

/*
 * cmocka puts its own SIGBUS handler in place for every test, and the tests'
 * RAM needs ours: each test runs behind this.
 */
#define TEST(name, setup)                                                                          \
	{                                                                                          \
#name, run_##name, setup, drop, NULL                                               \
	}
#define WRAP(name)                                                                                 \
	static void run_##name(void **state)                                                       \
	{                                                                                          \
		assert_int_equal(fault_install(), 0);                                              \
		name(state);                                                                       \
	}

WRAP(start_is_held_until_it_is_released)
WRAP(hold_stops_the_guest_and_release_lets_it_go_on)
WRAP(release_of_one_of_two_reasons_keeps_it_held)
WRAP(hold_and_release_a_thousand_times_does_not_lock_up)
WRAP(destroy_of_a_running_machine_ends)
WRAP(reset_by_the_keyboard_controller_boots_again)
WRAP(reset_by_a_triple_fault_boots_again)
WRAP(reset_by_the_monitor_boots_again)
WRAP(port_io_wide_access_is_of_neighbouring_bytes)
WRAP(restore_beside_the_first_goes_on_from_the_save)
WRAP(restore_held_says_nothing_until_it_is_released)
WRAP(load_state_of_unknown_or_missing_devices_is_refused)
WRAP(fault_of_a_shortened_file_holds_and_goes_on_when_mended)
WRAP(fault_of_a_data_page_alone_names_that_page)
WRAP(fault_released_unmended_faults_again)
WRAP(fault_under_a_running_guest_holds_it)
WRAP(fault_by_the_monitor_is_reported_and_resumed)
WRAP(fault_as_kvm_exit_memory_fault_names_the_page)
WRAP(fault_as_plain_efault_or_ehwpoison_is_one_too)
WRAP(kvm_run_that_fails_otherwise_ends_the_machine)
WRAP(kvm_run_that_is_interrupted_goes_on)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(start_is_held_until_it_is_released, make),
		TEST(hold_stops_the_guest_and_release_lets_it_go_on, make),
		TEST(release_of_one_of_two_reasons_keeps_it_held, make),
		TEST(hold_and_release_a_thousand_times_does_not_lock_up, make),
		TEST(destroy_of_a_running_machine_ends, make),
		TEST(reset_by_the_keyboard_controller_boots_again, make),
		TEST(reset_by_a_triple_fault_boots_again, make),
		TEST(reset_by_the_monitor_boots_again, make),
		TEST(port_io_wide_access_is_of_neighbouring_bytes, make),
		TEST(restore_beside_the_first_goes_on_from_the_save, make),
		TEST(restore_held_says_nothing_until_it_is_released, make),
		TEST(load_state_of_unknown_or_missing_devices_is_refused, make),
		TEST(fault_of_a_shortened_file_holds_and_goes_on_when_mended, make_shared),
		TEST(fault_of_a_data_page_alone_names_that_page, make_shared),
		TEST(fault_released_unmended_faults_again, make_shared),
		TEST(fault_under_a_running_guest_holds_it, make_shared),
		TEST(fault_by_the_monitor_is_reported_and_resumed, make_shared),
		TEST(fault_as_kvm_exit_memory_fault_names_the_page, make),
		TEST(fault_as_plain_efault_or_ehwpoison_is_one_too, make),
		TEST(kvm_run_that_fails_otherwise_ends_the_machine, make),
		TEST(kvm_run_that_is_interrupted_goes_on, make),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
