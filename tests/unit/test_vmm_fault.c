/*
 * RAM that the host cannot give to a running guest, in each form: the guest
 * stands, nothing is made up, and it goes on when the page is back.
 *
 * ioctl(2) is this program's own, so that a test can let KVM_RUN fail as a
 * kernel would; all else goes to the kernel.
 */
#include "machine_rig.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "vmm/demo_guest.h"
#include "vmm/monitor.h"

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
	const int skipped = need_kvm();

	return skipped ? skipped : cmocka_run_group_tests(tests, NULL, NULL);
}
