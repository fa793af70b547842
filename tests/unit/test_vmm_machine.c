/*
 * A machine with the demo guest: holding and releasing, resets, and a restore
 * beside it.
 */
#include "machine_rig.h"

#include <linux/kvm.h>

#include "vmm/monitor.h"
#include "vmm/ram_out.h"

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
	};
	const int skipped = need_kvm();

	return skipped ? skipped : cmocka_run_group_tests(tests, NULL, NULL);
}
