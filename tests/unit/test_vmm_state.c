/*
 * KVM's state of a machine, saved and loaded into a fresh one, on this host's
 * /dev/kvm. The guest is the demo guest, stopped after some exits, so that
 * timers, interrupt controllers and registers are not as after power-on.
 */
#include "unit.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vmm/boot.h"
#include "vmm/vm.h"

#define RAM_SIZE (16ULL << 20)
#define EXITS	 200
#define LSR	 (0x3f8 + 5)

struct rig {
	struct kvm_host kvm;
	struct ram ram;
	struct vm vm;
};

/* Answers the demo guest's port accesses: the line has room, all else is nothing. */
static void run_some(struct vm *vm)
{
	struct kvm_run *run = vm->vcpu[0].run;

	for (int i = 0; i < EXITS; i++) {
		assert_int_equal(ioctl(vm->vcpu[0].fd, KVM_RUN, NULL), 0);
		assert_int_equal(run->exit_reason, KVM_EXIT_IO);
		if (run->io.direction == KVM_EXIT_IO_IN)
			((uint8_t *)run)[run->io.data_offset] = run->io.port == LSR ? 0x60 : 0;
	}
	/* Once more, to finish the last access. */
	run->immediate_exit = 1;
	assert_int_equal(ioctl(vm->vcpu[0].fd, KVM_RUN, NULL), -1);
	assert_int_equal(errno, EINTR);
	run->immediate_exit = 0;
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct boot boot;
	struct err e = { 0 };
	int rc;

	*state = r;
	if (!r || boot_from_options(&boot, true, NULL, NULL, NULL, &e) < 0)
		return -1;
	rc = kvm_host_open(&r->kvm, &e);
	if (rc == 0)
		rc = ram_map_memfd(&r->ram, RAM_SIZE, &e);
	if (rc == 0)
		rc = vm_create(&r->vm, &r->kvm, (const struct ram *[]){ &r->ram }, 1, 1, &e);
	if (rc == 0)
		rc = vm_set_host_cpuid(&r->vm, &e);
	if (rc == 0)
		rc = boot_load(&boot, &r->ram, &r->vm, NULL, &e);
	boot_free(&boot);
	if (rc < 0)
		print_error("%s\n", e.text);
	return rc;
}

static int drop(void **state)
{
	struct rig *r = *state;

	vm_destroy(&r->vm);
	ram_unmap(&r->ram);
	kvm_host_close(&r->kvm);
	free(r);
	return 0;
}

static VmState *save(const struct vm *vm)
{
	VmState *s = malloc(sizeof(*s));
	struct err e = { 0 };

	assert_non_null(s);
	vm_state__init(s);
	if (vm_save(vm, s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

/* Saves, encodes and decodes: as restore gets it. */
static VmState *saved(const struct vm *vm)
{
	VmState *s = save(vm), *out;
	auto_free uint8_t *buf = NULL;
	struct err e = { 0 };
	size_t len;

	assert_int_equal(proto_state_encode(s, &buf, &len, &e), 0);
	proto_state_free(s);
	if (proto_state_decode(buf, len, &out, &e) < 0)
		fail_msg("%s", e.text);
	return out;
}

/* A fresh VM over the same RAM with `s` loaded. */
static int load(struct rig *r, const VmState *s, struct vm *vm, struct err *e)
{
	int rc = vm_create(vm, &r->kvm, (const struct ram *[]){ &r->ram }, 1, 1, e);

	if (rc < 0)
		return rc;
	rc = vm_load(vm, s, e);
	if (rc < 0)
		vm_destroy(vm);
	return rc;
}

/* ---- comparing ---- */

static void assert_part(const char *name, const ProtobufCBinaryData *a,
			const ProtobufCBinaryData *b)
{
	if (a->len != b->len)
		fail_msg("%s: %zu and %zu bytes", name, a->len, b->len);
	for (size_t i = 0; i < a->len; i++)
		if (a->data[i] != b->data[i])
			fail_msg("%s: byte %zu is 0x%02x and 0x%02x", name, i, a->data[i],
				 b->data[i]);
}

/* MSRs that count time, which has passed between the two. */
static bool is_clock(uint32_t msr)
{
	switch (msr) {
	case 0x10:	 /* TSC */
	case 0x3b:	 /* TSC_ADJUST: KVM makes it what the written TSC implies */
	case 0xe7:	 /* MPERF */
	case 0xe8:	 /* APERF */
	case 0x40000020: /* Hyper-V's reference counter */
		return true;
	}
	return false;
}

static void assert_msrs(const VcpuState *a, const VcpuState *b)
{
	assert_int_equal(a->n_msr, b->n_msr);
	assert_true(a->n_msr > 10);
	for (size_t i = 0; i < a->n_msr; i++) {
		assert_int_equal(a->msr[i]->index, b->msr[i]->index);
		if (!is_clock(a->msr[i]->index) && a->msr[i]->data != b->msr[i]->data)
			fail_msg("MSR 0x%x is 0x%llx and 0x%llx", a->msr[i]->index,
				 (unsigned long long)a->msr[i]->data,
				 (unsigned long long)b->msr[i]->data);
	}
}

/* The timer's current count goes on; all other registers stand still. */
static void assert_lapic(ProtobufCBinaryData *a, ProtobufCBinaryData *b)
{
	const size_t current_count = 0x390;

	assert_int_equal(a->len, sizeof(struct kvm_lapic_state));
	memset(a->data + current_count, 0, 4);
	memset(b->data + current_count, 0, 4);
	assert_part("local APIC", a, b);
}

static void assert_vcpu(const VcpuState *a, const VcpuState *b)
{
	assert_int_equal(a->mp_state, b->mp_state);
	assert_int_equal(a->tsc_khz, b->tsc_khz);
	assert_part("registers", &a->regs, &b->regs);
	assert_part("special registers", &a->sregs2, &b->sregs2);
	assert_part("XSAVE", &a->xsave, &b->xsave);
	assert_part("XCRs", &a->xcrs, &b->xcrs);
	assert_part("debug registers", &a->debugregs, &b->debugregs);
	assert_lapic((ProtobufCBinaryData *)(uintptr_t)&a->lapic,
		     (ProtobufCBinaryData *)(uintptr_t)&b->lapic);
	assert_msrs(a, b);
	assert_part("events", &a->events, &b->events);
	assert_int_equal(a->n_cpuid, b->n_cpuid);
	assert_true(a->n_cpuid > 5);
	for (size_t i = 0; i < a->n_cpuid; i++)
		assert_memory_equal(&a->cpuid[i]->function, &b->cpuid[i]->function,
				    7 * sizeof(uint32_t));
}

static void assert_pit(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	struct kvm_pit_state2 *x = (void *)a->data, *y = (void *)b->data;

	assert_int_equal(a->len, sizeof(*x));
	for (int i = 0; i < 3; i++) /* the host's time when it was loaded */
		x->channels[i].count_load_time = y->channels[i].count_load_time = 0;
	assert_part("timer", a, b);
}

static void assert_state(const VmState *a, const VmState *b)
{
	assert_int_equal(a->n_vcpu, b->n_vcpu);
	for (size_t i = 0; i < a->n_vcpu; i++)
		assert_vcpu(a->vcpu[i], b->vcpu[i]);
	assert_pit(&a->kvm->pit2, &b->kvm->pit2);
	assert_part("first PIC", &a->kvm->pic_master, &b->kvm->pic_master);
	assert_part("second PIC", &a->kvm->pic_slave, &b->kvm->pic_slave);
	assert_part("IOAPIC", &a->kvm->ioapic, &b->kvm->ioapic);
	assert_int_equal(a->kvm->clock.len, sizeof(struct kvm_clock_data));
}

/* ---- tests ---- */

static void load_of_saved_gives_equal_state(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	VmState *a, *b;
	struct vm other;

	run_some(&r->vm);
	a = saved(&r->vm);
	if (load(r, a, &other, &e) < 0)
		fail_msg("%s", e.text);
	b = saved(&other);
	assert_state(a, b);
	proto_state_free(a);
	proto_state_free(b);
	vm_destroy(&other);
}

static void save_twice_of_a_quiet_vm_is_equal(void **state)
{
	struct rig *r = *state;
	VmState *a, *b;

	run_some(&r->vm);
	a = saved(&r->vm);
	b = saved(&r->vm);
	assert_state(a, b);
	proto_state_free(a);
	proto_state_free(b);
}

/* That the comparison can fail: one exit more is another state. */
static void save_after_more_exits_differs(void **state)
{
	struct rig *r = *state;
	VmState *a, *b;

	run_some(&r->vm);
	a = saved(&r->vm);
	run_some(&r->vm);
	b = saved(&r->vm);
	assert_memory_not_equal(a->vcpu[0]->regs.data, b->vcpu[0]->regs.data, a->vcpu[0]->regs.len);
	proto_state_free(a);
	proto_state_free(b);
}

static void load_goes_on_from_where_it_was_saved(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	struct vm other;
	VmState *a;

	run_some(&r->vm);
	a = saved(&r->vm);
	if (load(r, a, &other, &e) < 0)
		fail_msg("%s", e.text);
	run_some(&other); /* its accesses are all to ports: it runs as before */
	proto_state_free(a);
	vm_destroy(&other);
}

static void load_keeps_the_clock_going(void **state)
{
	struct rig *r = *state;
	struct kvm_clock_data x, y;
	struct vm other;
	VmState *a, *b;

	a = saved(&r->vm);
	assert_int_equal(load(r, a, &other, NULL), 0);
	b = saved(&other);
	memcpy(&x, a->kvm->clock.data, sizeof(x));
	memcpy(&y, b->kvm->clock.data, sizeof(y));
	/* It goes on from the saved value: no jump back, and none by the time in between. */
	assert_true(y.clock >= x.clock);
	assert_true(y.clock - x.clock < 10000000000ULL);
	proto_state_free(a);
	proto_state_free(b);
	vm_destroy(&other);
}

/* ---- hostile state ---- */

typedef void (*change_fn)(VmState *s);

static void short_regs(VmState *s)
{
	s->vcpu[0]->regs.len--;
}

static void no_sregs(VmState *s)
{
	s->vcpu[0]->sregs2.len = 0;
}

static void short_xsave(VmState *s)
{
	s->vcpu[0]->xsave.len = 100;
}

static void short_lapic(VmState *s)
{
	s->vcpu[0]->lapic.len = 1;
}

static void short_events(VmState *s)
{
	s->vcpu[0]->events.len = 3;
}

static void short_pit(VmState *s)
{
	s->kvm->pit2.len = 4;
}

static void short_clock(VmState *s)
{
	s->kvm->clock.len = 4;
}

static void no_ioapic(VmState *s)
{
	s->kvm->ioapic.len = 0;
}

static void chips_swapped(VmState *s)
{
	ProtobufCBinaryData t = s->kvm->ioapic;

	s->kvm->ioapic = s->kvm->pic_master;
	s->kvm->pic_master = t;
}

static void unknown_msr(VmState *s)
{
	s->vcpu[0]->msr[0]->index = 0xdeadbeef;
	s->vcpu[0]->msr[0]->data = 1;
}

static void bad_mp_state(VmState *s)
{
	s->vcpu[0]->mp_state = 0x7fffffff;
}

static void bad_cr4(VmState *s)
{
	struct kvm_sregs2 *sregs = (void *)s->vcpu[0]->sregs2.data;

	sregs->cr4 = UINT64_MAX;
}

static void load_of_hostile_state_is_refused_by_name(void **state)
{
	static const struct {
		change_fn change;
		const char *says;
	} cases[] = {
		{ short_regs, "saved registers have" },
		{ no_sregs, "special registers have 0 bytes" },
		{ short_xsave, "XSAVE area has 100 bytes" },
		{ short_lapic, "local APIC have 1 bytes" },
		{ short_events, "events have 3 bytes" },
		{ short_pit, "timer have 4 bytes" },
		{ short_clock, "clock has 4 bytes" },
		{ no_ioapic, "IOAPIC have 0 bytes" },
		{ chips_swapped, "another chip" },
		{ unknown_msr, "MSR 0xdeadbeef" },
		{ bad_mp_state, "vCPU state 2147483647" },
		{ bad_cr4, "special registers" },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const unsigned before = open_descriptors();
		VmState *s = saved(&r->vm);
		struct err e = { 0 };
		struct vm other;

		cases[i].change(s);
		if (load(r, s, &other, &e) >= 0)
			fail_msg("case %zu is taken", i);
		assert_says(&e, cases[i].says);
		proto_state_free(s);
		assert_int_equal(open_descriptors(), before);
	}
}

static void load_of_more_vcpus_than_the_vm_has_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	struct vm other;
	VmState *s = saved(&r->vm);

	assert_int_equal(vm_create(&other, &r->kvm, (const struct ram *[]){ &r->ram }, 1, 2, &e),
			 0);
	assert_int_equal(vm_load(&other, s, &e), -EINVAL);
	assert_says(&e, "state.bin has 1 vCPUs, the manifest says 2");
	vm_destroy(&other);
	proto_state_free(s);
}

static void move_ram_lets_the_guest_go_on(void **state)
{
	struct rig *r = *state;
	struct ram frozen = { .fd = -1 };
	struct ram_mapping old;
	struct err e = { 0 };

	run_some(&r->vm);
	r->ram.backing = RAM_SHARED;
	assert_int_equal(ram_freeze_prepare(&r->ram, &frozen, &e), 0);
	ram_freeze_commit(&r->ram, &frozen, &old);
	if (vm_move_ram(&r->vm, 0, &r->ram, &e) < 0)
		fail_msg("%s", e.text);
	ram_release(&old); /* nothing uses it any more, or the guest would fault */
	run_some(&r->vm);
}

static void stat_of_an_unknown_name_is_minus_one(void **state)
{
	struct rig *r = *state;

	assert_int_equal(vm_stat(&r->vm, "no such statistic"), -1);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(load_of_saved_gives_equal_state),
		WITH(save_twice_of_a_quiet_vm_is_equal),
		WITH(save_after_more_exits_differs),
		WITH(load_goes_on_from_where_it_was_saved),
		WITH(load_keeps_the_clock_going),
		WITH(load_of_hostile_state_is_refused_by_name),
		WITH(load_of_more_vcpus_than_the_vm_has_is_refused),
		WITH(move_ram_lets_the_guest_go_on),
		WITH(stat_of_an_unknown_name_is_minus_one),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
