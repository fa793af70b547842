/* MSRs that KVM does not list are kept, and those that do not fit one call. Needs /dev/kvm. */
#include "unit.h"

#include "vmm/vm.h"

#define MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLED  0xc06 /* on, fixed ranges too; write-back */
#define SYSENTER_EIP  0x176

struct rig {
	struct kvm_host host;
	struct ram ram;
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || kvm_host_open(&r->host, NULL) < 0 || ram_map_memfd(&r->ram, RAM_MIN, NULL) < 0)
		return -1;
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	ram_unmap(&r->ram);
	kvm_host_close(&r->host);
	free(r);
	return 0;
}

static struct vm make_vm(struct rig *r)
{
	struct vm vm;

	assert_int_equal(vm_create(&vm, &r->host, (const struct ram *[]){ &r->ram }, 1, 1, NULL),
			 0);
	return vm;
}

static uint64_t access_msr(const struct vm *vm, unsigned long request, uint32_t index,
			   uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	assert_int_equal(kvm_ioctl(vm->vcpu[0].fd, request, &m), 1);
	return m.entry.data;
}

static void load_into_fresh(struct rig *r, const VmState *s, struct vm *vm)
{
	struct err e = { 0 };

	*vm = make_vm(r);
	if (vm_load(vm, s, &e) < 0)
		fail_msg("%s", e.text);
}

static void save_keeps_the_memory_types(void **state)
{
	struct rig *r = *state;
	VmState *s = malloc(sizeof(*s));
	struct vm vm = make_vm(r);

	vm_state__init(s);
	assert_int_equal(vm_set_host_cpuid(&vm, NULL), 0);
	access_msr(&vm, KVM_SET_MSRS, MTRR_DEF_TYPE, MTRR_ENABLED);
	assert_int_equal(vm_save(&vm, s, NULL), 0);
	vm_destroy(&vm);
	load_into_fresh(r, s, &vm);
	assert_int_equal(access_msr(&vm, KVM_GET_MSRS, MTRR_DEF_TYPE, 0), MTRR_ENABLED);
	vm_destroy(&vm);
	proto_state_free(s);
}

/* More than one call of KVM takes; the last of them counts. */
static void load_of_many_msrs_takes_all(void **state)
{
	const size_t more = 600;
	struct rig *r = *state;
	VmState *s = malloc(sizeof(*s));
	struct vm vm = make_vm(r);
	VcpuState *v;

	vm_state__init(s);
	assert_int_equal(vm_set_host_cpuid(&vm, NULL), 0);
	assert_int_equal(vm_save(&vm, s, NULL), 0);
	vm_destroy(&vm);
	v = s->vcpu[0];
	v->msr = realloc(v->msr, (v->n_msr + more) * sizeof(*v->msr));
	for (size_t i = 1; i <= more; i++) {
		Msr *m = malloc(sizeof(*m));

		msr__init(m);
		m->index = SYSENTER_EIP;
		m->data = i;
		v->msr[v->n_msr++] = m;
	}
	load_into_fresh(r, s, &vm);
	assert_int_equal(access_msr(&vm, KVM_GET_MSRS, SYSENTER_EIP, 0), more);
	vm_destroy(&vm);
	proto_state_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(save_keeps_the_memory_types, make, drop),
		cmocka_unit_test_setup_teardown(load_of_many_msrs_takes_all, make, drop),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		puts("skipped: /dev/kvm cannot be opened here");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
