/*
 * tests/golden/format-1-demo: manifest and state of a demo guest with three
 * vCPUs, saved by vmm 0.1.0 on an AMD host. They must go on being what this
 * program takes; where this host's CPU has what they want, KVM gets to take them.
 */
#include "unit.h"

#include <limits.h>

#include "base/digest.h"
#include "base/merkle.h"
#include "base/io.h"
#include "proto/manifest.h"
#include "vmm/cpuid.h"
#include "vmm/preflight.h"
#include "vmm/vm.h"

#define VCPUS 3

struct rig {
	SnapshotManifest *m;
	VmState *s;
	uint8_t *state;
	size_t state_len;
};

static int read_golden(const char *name, uint8_t **buf, size_t *len)
{
	const char *slash = strrchr(__FILE__, '/');
	const char *given = getenv("SNAPFS_GOLDEN");
	char path[PATH_MAX];
	auto_fd int folder = -1;

	if (given)
		snprintf(path, sizeof(path), "%s/format-1-demo", given);
	else
		snprintf(path, sizeof(path), "%.*s/../golden/format-1-demo",
			 (int)(slash - __FILE__), __FILE__);
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder < 0 ? -1 : io_read_file(folder, name, STATE_MAX, buf, len, NULL);
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	auto_free uint8_t *manifest = NULL;
	size_t len;

	*state = r;
	if (!r || read_golden("manifest.bin", &manifest, &len) < 0 ||
	    proto_manifest_decode(manifest, len, &r->m, NULL) < 0)
		return -1;
	return read_golden("state.bin", &r->state, &r->state_len) < 0
		       ? -1
		       : proto_state_decode(r->state, r->state_len, &r->s, NULL);
}

static int drop(void **state)
{
	struct rig *r = *state;

	proto_manifest_free(r->m);
	proto_state_free(r->s);
	free(r->state);
	free(r);
	return 0;
}

static void golden_is_what_this_program_takes(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	uint8_t digest[DIGEST_SIZE];

	assert_int_equal(r->s->n_vcpu, VCPUS);
	assert_int_equal(r->m->vp_count, VCPUS);
	assert_int_equal(r->m->state_size, r->state_len);
	assert_int_equal(merkle_digest(r->state, r->state_len, digest), 0);
	assert_memory_equal(digest, r->m->state_digest.data, DIGEST_SIZE);
	if (proto_manifest_check(r->m, &e) < 0 || vm_check_state(r->s, &e) < 0 ||
	    preflight_devices(r->m, r->s, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(r->m->cpu->vendor, "AuthenticAMD");
}

static void golden_encodes_to_the_same_bytes(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *again = NULL;
	size_t n;

	assert_int_equal(proto_state_encode(r->s, &again, &n, NULL), 0);
	assert_int_equal(n, r->state_len);
	assert_memory_equal(again, r->state, n);
}

/* A host of just the CPU that it shows passes; what else differs does not. */
static void golden_fits_a_host_like_its_own(void **state)
{
	static struct kvm_msr_list none;
	struct rig *r = *state;
	struct preflight_host h = {
		.supported = cpuid_from_entries(r->m->cpu->cpuid, r->m->cpu->n_cpuid),
		.offered = cpuid_from_entries(r->m->cpu->cpuid, r->m->cpu->n_cpuid),
		.tsc_khz = r->m->tsc_khz,
		.vcpus_max = VCPUS,
		.ram = r->m->memory_size_bytes,
	};
	auto_free struct kvm_msr_list *msrs = NULL;
	const size_t n = r->s->vcpu[0]->n_msr;
	struct err e = { 0 };

	msrs = calloc(1, sizeof(*msrs) + n * sizeof(uint32_t));
	assert_non_null(msrs);
	msrs->nmsrs = (uint32_t)n;
	for (size_t i = 0; i < n; i++)
		msrs->indices[i] = r->s->vcpu[0]->msr[i]->index;
	h.msrs = msrs;
	if (preflight_check(&h, r->m, r->s, &e) < 0)
		fail_msg("%s", e.text);
	h.msrs = &none;
	assert_int_equal(preflight_check(&h, r->m, r->s, &e), -EINVAL);
	assert_says(&e, "which this host's KVM does not have");
	preflight_forget(&h);
}

static bool fits_here(struct rig *r, struct kvm_host *kvm)
{
	struct preflight_host h;
	struct err e = { 0 };
	bool fits;

	assert_int_equal(preflight_ask(kvm, &h, &e), 0);
	if (preflight_wants_probe(&h, r->m, r->s))
		assert_int_equal(preflight_probe(kvm, &h, &e), 0);
	fits = preflight_check(&h, r->m, r->s, &e) == 0;
	if (!fits)
		print_message("KVM is not asked to take it: %s\n", e.text);
	preflight_forget(&h);
	return fits;
}

static void golden_loads_where_preflight_says_so(void **state)
{
	struct rig *r = *state;
	struct kvm_host kvm;
	struct err e = { 0 };
	struct ram ram;
	struct vm vm;

	if (kvm_host_open(&kvm, NULL) < 0)
		skip();
	if (!fits_here(r, &kvm)) {
		kvm_host_close(&kvm);
		skip();
	}
	assert_int_equal(ram_map_memfd(&ram, r->m->memory_size_bytes, NULL), 0);
	assert_int_equal(vm_create(&vm, &kvm, (const struct ram *[]){ &ram }, 1, VCPUS, NULL), 0);
	if (vm_load(&vm, r->s, &e) < 0)
		fail_msg("%s", e.text);
	vm_destroy(&vm);
	ram_unmap(&ram);
	kvm_host_close(&kvm);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(golden_is_what_this_program_takes),
		WITH(golden_encodes_to_the_same_bytes),
		WITH(golden_fits_a_host_like_its_own),
		WITH(golden_loads_where_preflight_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
