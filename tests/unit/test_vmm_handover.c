/*
 * Hand-overs of a machine with the demo guest to a second VM, on this host's
 * /dev/kvm: the guest goes on with its ticks, its clocks go on too, RAM stays
 * frozen, and what fails leaves the machine as it was.
 */
#include "machine_rig.h"

#include <linux/kvm.h>

#include "vmm/msr.h"
#include "vmm/vm_time.h"

#define MANY 40

static int make_of(void **state, unsigned ncpus)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	start_console(r, ncpus);
	r->ram = memfd_create("ram", MFD_CLOEXEC);
	if (r->ram < 0 || ftruncate(r->ram, RAM_SIZE) < 0 ||
	    ram_map(&r->m.ram, RAM_SHARED, fcntl(r->ram, F_DUPFD_CLOEXEC, 0), RAM_SIZE, NULL) < 0)
		return -1;
	boot_demo(r);
	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	return 0;
}

static int make_one(void **state)
{
	return make_of(state, 1);
}

static int make_four(void **state)
{
	return make_of(state, 4);
}

static VmState *take(struct rig *r)
{
	VmState *s = NULL;
	struct err e = { 0 };

	machine_hold(&r->m, HOLD_SAVE);
	if (machine_take_state(&r->m, &s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

static void prepare(struct rig *r, struct ram *ram)
{
	struct err e = { 0 };

	if (handover_prepare(&r->m, (struct ram *[]){ ram }, 1, &e) < 0)
		fail_msg("%s", e.text);
}

static void commit(struct rig *r, const VmState *s)
{
	struct err e = { 0 };

	if (handover_commit(&r->m, s, &e) < 0)
		fail_msg("%s", e.text);
}

/* To a VM over the same mapping. */
static void hand_over(struct rig *r)
{
	VmState *s;

	prepare(r, &r->m.ram);
	s = take(r);
	commit(r, s);
	machine_release(&r->m, HOLD_SAVE);
	handover_finish(&r->m);
	proto_state_free(s);
}

/* All ticks that were said are in order, and the guest has booted once. */
static void assert_one_life(struct rig *r)
{
	unsigned long last = 0, n;
	char *line = r->text, *end;

	assert_memory_equal(line, "boot ", 5);
	while ((end = strchr(line, '\n'))) {
		if (sscanf(line, "tick %lu ", &n) == 1) {
			assert_int_equal(n, last + 1);
			last = n;
		} else {
			assert_ptr_equal(line, r->text);
		}
		line = end + 1;
	}
	assert_true(last > 2);
}

static void commit_has_the_guest_go_on_and_ram_stay(void **state)
{
	struct rig *r = *state;
	uint8_t before[DIGEST_SIZE], after[DIGEST_SIZE];
	char nonce[17], again[17];
	struct ram frozen;
	struct ram_mapping old;
	unsigned long n;
	VmState *s;
	int fd;

	n = wait_for_tick(r, 3, nonce);
	assert_int_equal(ram_freeze_prepare(&r->m.ram, &frozen, NULL), 0);
	prepare(r, &frozen);
	s = take(r);
	fd = r->m.vm.fd;
	commit(r, s);
	assert_int_not_equal(r->m.vm.fd, fd);
	ram_freeze_commit(&r->m.ram, &frozen, &old);
	assert_int_equal(digest_sha256_fd(r->ram, before), 0);
	machine_release(&r->m, HOLD_SAVE);
	handover_finish(&r->m);
	ram_release(&old);
	wait_for_tick(r, n + 20, again);
	assert_string_equal(nonce, again);
	assert_one_life(r);
	assert_int_equal(digest_sha256_fd(r->ram, after), 0);
	assert_memory_equal(before, after, DIGEST_SIZE);
	proto_state_free(s);
}

static void commit_again_and_again_misses_no_tick(void **state)
{
	struct rig *r = *state;
	unsigned long n = 0;

	for (int i = 0; i < MANY; i++) {
		hand_over(r);
		n = wait_for_tick(r, n, NULL);
	}
	wait_for_tick(r, n + 5, NULL);
	assert_one_life(r);
}

static int64_t clock_of(const struct vm *vm)
{
	struct kvm_clock_data clock = { 0 };

	assert_int_equal(kvm_ioctl(vm->fd, KVM_GET_CLOCK, &clock), 0);
	return (int64_t)clock.clock;
}

static void commit_has_clock_and_tsc_go_on(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 5; i++) {
		int64_t clock[3];
		uint64_t tsc[3];
		VmState *s;

		prepare(r, &r->m.ram);
		s = take(r);
		usleep(50000); /* time that has passed since the state was taken counts */
		commit(r, s);
		/* The old VM is in its place still. */
		clock[0] = clock_of(&r->m.handover.vm);
		clock[1] = clock_of(&r->m.vm);
		clock[2] = clock_of(&r->m.handover.vm);
		assert_in_range(clock[1], clock[0] - 1000000, clock[2] + 1000000);
		for (unsigned cpu = 0; cpu < r->m.ncpus; cpu++) {
			assert_int_equal(vm_time_tsc(&r->m.handover.vm, cpu, &tsc[0]), 0);
			assert_int_equal(vm_time_tsc(&r->m.vm, cpu, &tsc[1]), 0);
			assert_int_equal(vm_time_tsc(&r->m.handover.vm, cpu, &tsc[2]), 0);
			/* To a millisecond, where a TSC has a kHz of millions. */
			assert_in_range(tsc[1], tsc[0] - s->vcpu[0]->tsc_khz,
					tsc[2] + s->vcpu[0]->tsc_khz);
		}
		machine_release(&r->m, HOLD_SAVE);
		handover_finish(&r->m);
		proto_state_free(s);
	}
	wait_for_tick(r, 0, NULL);
}

static void commit_without_prepare_changes_nothing(void **state)
{
	struct rig *r = *state;
	VmState *s = take(r);

	assert_int_equal(handover_commit(&r->m, s, NULL), -ENOENT);
	prepare(r, &r->m.ram);
	handover_end(&r->m);
	assert_int_equal(handover_commit(&r->m, s, NULL), -ENOENT);
	machine_release(&r->m, HOLD_SAVE);
	wait_for_tick(r, 0, NULL);
	proto_state_free(s);
}

static void commit_of_a_state_that_kvm_refuses_leaves_the_machine_as_it_was(void **state)
{
	struct rig *r = *state;
	const int fd = r->m.vm.fd;
	struct err e = { 0 };
	struct kvm_sregs2 *sregs;
	VmState *s;

	prepare(r, &r->m.ram);
	s = take(r);
	sregs = (void *)s->vcpu[0]->sregs2.data;
	sregs->cr4 |= 1ULL << 63;
	assert_true(handover_commit(&r->m, s, &e) < 0);
	assert_says(&e, "special registers");
	assert_int_equal(r->m.vm.fd, fd);
	machine_release(&r->m, HOLD_SAVE);
	handover_finish(&r->m);
	wait_for_tick(r, 5, NULL);
	hand_over(r);
	wait_for_tick(r, 10, NULL);
	assert_one_life(r);
	proto_state_free(s);
}

static void destroy_with_a_vm_prepared_ends(void **state)
{
	prepare(*state, &((struct rig *)*state)->m.ram);
}

static void steal_of_a_thread_that_waited_is_counted_once(void **state)
{
	(void)state;
	assert_int_equal(handover_steal(5000, 3000) + 3000, 5000);
	assert_int_equal(handover_steal(10, 3000) + 3500, 510);
}

WRAP(commit_has_the_guest_go_on_and_ram_stay)
WRAP(commit_again_and_again_misses_no_tick)
WRAP(commit_has_clock_and_tsc_go_on)
WRAP(commit_without_prepare_changes_nothing)
WRAP(commit_of_a_state_that_kvm_refuses_leaves_the_machine_as_it_was)
WRAP(destroy_with_a_vm_prepared_ends)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steal_of_a_thread_that_waited_is_counted_once),
		TEST(commit_has_the_guest_go_on_and_ram_stay, make_one),
		TEST(commit_has_the_guest_go_on_and_ram_stay, make_four),
		TEST(commit_again_and_again_misses_no_tick, make_one),
		TEST(commit_again_and_again_misses_no_tick, make_four),
		TEST(commit_has_clock_and_tsc_go_on, make_one),
		TEST(commit_has_clock_and_tsc_go_on, make_four),
		TEST(commit_without_prepare_changes_nothing, make_one),
		TEST(commit_of_a_state_that_kvm_refuses_leaves_the_machine_as_it_was, make_one),
		TEST(destroy_with_a_vm_prepared_ends, make_four),
	};
	const int skipped = need_kvm();

	return skipped ? skipped : cmocka_run_group_tests(tests, NULL, NULL);
}
