/* What a snapshot needs of a host: forged manifests and states against forged hosts. No KVM. */
#include "unit.h"

#include <limits.h>

#include "base/io.h"
#include "samples.h"
#include "vmm/clock.h"
#include "vmm/cpuid.h"
#include "vmm/msr.h"
#include "vmm/preflight.h"

#define BIT(n) (1U << (n))

struct rig {
	struct sample_manifest m;
	struct sample_state s;
	CpuidEntry cpuid[4], *cpuids[4];
	struct preflight_host h;
	uint8_t clock[sizeof(struct kvm_clock_data)];
	struct {
		struct kvm_msr_list head;
		uint32_t index[3];
	} msrs;
};

/* As the sample's CPU: vendor, some features of leaf 7, AVX by XSAVE, nothing else. */
static struct kvm_cpuid2 *host_cpuid(const struct rig *r)
{
	return cpuid_from_entries((CpuidEntry *const *)r->cpuids, 4);
}

static void set_cpuid(struct rig *r)
{
	static const struct {
		uint32_t function, index, flags, eax, ebx, ecx, edx;
	} leaves[4] = {
		{ 0, 0, 0, 0x16, 0x68747541, 0x444d4163, 0x69746e65 },
		{ 1, 0, 0, 0, 0, BIT(26) | BIT(28) | BIT(31), 0 },
		{ 0xd, 2, 1, 256, 576, 0, 0 },
		{ 7, 0, 1, 0, BIT(3), 0, 0 },
	};

	for (int i = 0; i < 4; i++) {
		CpuidEntry *c = &r->cpuid[i];

		cpuid_entry__init(c);
		c->function = leaves[i].function;
		c->index = leaves[i].index;
		c->flags = leaves[i].flags;
		c->eax = leaves[i].eax;
		c->ebx = leaves[i].ebx;
		c->ecx = leaves[i].ecx;
		c->edx = leaves[i].edx;
		r->cpuids[i] = c;
	}
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	*state = r;
	sample_manifest(&r->m);
	sample_state(&r->s);
	set_cpuid(r);
	r->m.cpu.cpuid = r->cpuids;
	r->m.cpu.n_cpuid = 4;
	for (int i = 0; i < 2; i++)
		r->s.vcpu[i].n_cpuid = 0;
	r->h.supported = host_cpuid(r);
	r->h.offered = host_cpuid(r);
	r->msrs.head.nmsrs = 2;
	r->msrs.head.indices[0] = 0x10;
	r->msrs.head.indices[1] = 0xc0000080;
	r->h.msrs = &r->msrs.head;
	r->h.tsc_khz = 2450000;
	r->h.vcpus_max = 32;
	r->h.ram = 64ULL << 30;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	r->h.msrs = NULL;
	preflight_forget(&r->h);
	free(r);
	return 0;
}

static void passes(struct rig *r)
{
	struct err e = { 0 };

	if (preflight_check(&r->h, &r->m.m, &r->s.s, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(e.text, "");
}

/* One sentence, with these words in it. */
static void says(struct rig *r, const char *words)
{
	struct err e = { 0 };

	assert_int_equal(preflight_check(&r->h, &r->m.m, &r->s.s, &e), -EINVAL);
	assert_says(&e, words);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_int_equal(preflight_check(&r->h, &r->m.m, &r->s.s, NULL), -EINVAL);
}

static void check_on_the_same_host_passes(void **state)
{
	passes(*state);
}

static void check_without_a_state_or_cpu_passes(void **state)
{
	struct rig *r = *state;

	r->m.m.cpu = NULL;
	assert_int_equal(preflight_check(&r->h, &r->m.m, NULL, NULL), 0);
}

static void check_a_missing_feature_is_named(void **state)
{
	struct rig *r = *state;

	r->cpuid[3].ebx |= BIT(16);
	says(r, "the snapshot uses avx512f, which this host has not");
	r->cpuid[3].ebx |= BIT(5);
	says(r, "the snapshot uses avx2 and avx512f, which this host has not");
}

/* The manifest is one thing; what is loaded is the state's. */
static void check_a_feature_of_the_last_vcpu_counts(void **state)
{
	static CpuidEntry more = CPUID_ENTRY__INIT;
	static CpuidEntry *list[] = { &more };
	struct rig *r = *state;

	more.function = 1;
	more.ecx = BIT(25);
	r->s.vcpu[1].cpuid = list;
	r->s.vcpu[1].n_cpuid = 1;
	says(r, "the snapshot uses aes, which this host has not");
}

/* KVM takes an entry without the flag for every index: so does the check. */
static void check_an_entry_of_any_index_counts(void **state)
{
	struct rig *r = *state;

	r->cpuid[3].flags = 0;
	r->cpuid[3].index = 77;
	r->cpuid[3].ebx = BIT(5);
	says(r, "avx2");
}

static void check_more_features_on_the_host_pass(void **state)
{
	struct rig *r = *state;

	r->cpuid[3].ebx = 0;
	r->cpuid[1].eax = 0x12345; /* family, model and stepping are no features */
	passes(r);
}

static void check_what_the_host_has_but_is_not_saved_is_refused(void **state)
{
	struct rig *r = *state;

	r->cpuid[1].ecx |= BIT(5);
	cpuid_find(r->h.supported, 1, 0)->ecx |= BIT(5);
	says(r, "the snapshot uses vmx, which this program does not save");
}

static void check_a_leaf_that_is_not_saved_is_refused(void **state)
{
	struct rig *r = *state;

	r->cpuid[2].function = 0xa;
	r->cpuid[2].eax = 2;
	says(r, "the snapshot's CPU shows performance counters");
}

static void check_another_vendor_is_refused(void **state)
{
	struct rig *r = *state;

	memcpy(&cpuid_find(r->h.supported, 0, 0)->ecx, "lied", 4);
	says(r, "the snapshot's CPU is of 'AuthenticAMD', this host's of 'Authentilied'");
}

static void check_another_vendor_in_the_manifest_alone_is_refused(void **state)
{
	struct rig *r = *state;

	r->m.cpu.vendor = sample_string("GenuineIntelWithAVeryLongNameThatIsCutOff");
	says(r, "the snapshot's CPU is of 'GenuineIntel'");
}

static void check_a_state_component_elsewhere_is_refused(void **state)
{
	struct rig *r = *state;

	r->cpuid[2].ebx = 832;
	says(r, "XSAVE area has avx state at another place");
}

static void check_the_tsc_within_250_ppm_passes(void **state)
{
	struct rig *r = *state;

	r->s.vcpu[0].tsc_khz = r->s.vcpu[1].tsc_khz = r->m.m.tsc_khz;
	r->h.tsc_khz = 2450000 + 2450000 / 4000;
	passes(r);
	r->h.tsc_khz = 2450000 + 2450000 / 3000;
	says(r, "TSC runs at 2450000 kHz, this host's at 2450816 kHz");
	r->h.tsc_control = true;
	passes(r);
	r->h.tsc_control = false;
	r->h.tsc_khz = 0; /* not told */
	passes(r);
}

static void check_a_vcpu_with_a_tsc_of_its_own_is_refused(void **state)
{
	struct rig *r = *state;

	r->s.vcpu[1].tsc_khz = 1;
	says(r, "TSC runs at 1 kHz");
}

static void check_msrs_by_what_becomes_of_them(void **state)
{
	struct rig *r = *state;

	r->s.msr[1].index = 0x48;
	r->s.msr[1].data = 1;
	says(r, "the snapshot uses the MSR SPEC_CTRL (0x48), which this host's KVM does not have");
	r->s.msr[1].data = 0; /* as after a reset */
	passes(r);
	r->s.msr[1].index = 0x277;
	r->s.msr[1].data = 0x0007040600070406; /* PAT, as after a reset */
	passes(r);
	r->s.msr[1].index = 0xce; /* of no consequence */
	r->s.msr[1].data = 1;
	passes(r);
	r->s.msr[1].index = 0xc1; /* not saved: a performance counter */
	passes(r);
}

static void check_many_missing_msrs_are_one_sentence(void **state)
{
	static Msr msr[500], *msrs[500];
	struct rig *r = *state;

	for (uint32_t i = 0; i < 500; i++) {
		msr__init(&msr[i]);
		msr[i].index = 0x10000 + i;
		msr[i].data = 1;
		msrs[i] = &msr[i];
	}
	r->s.vcpu[0].msr = r->s.vcpu[1].msr = msrs;
	r->s.vcpu[0].n_msr = r->s.vcpu[1].n_msr = 500;
	says(r, "0x10007 and 492 more");
}

static void check_sizes_against_the_host(void **state)
{
	struct rig *r = *state;

	r->h.ram = 4ULL << 30;
	says(r, "the snapshot has 5 GiB of RAM, this host 4 GiB");
	r->h.ram = 64ULL << 30;
	r->h.vcpus_max = 1;
	says(r, "the snapshot has 2 vCPUs, this host's KVM takes 1");
	r->h.vcpus_max = 32;
	r->m.range[1].guest_address = 1ULL << 40;
	says(r, "addresses have 36 bits");
	r->m.range[1].guest_address = UINT64_MAX;
	says(r, "addresses have 36 bits");
}

static void check_reports_all_together(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->cpuid[3].ebx |= BIT(16);
	r->m.cpu.vendor = sample_string("GenuineIntel");
	r->s.msr[1].index = 0x48;
	r->h.tsc_khz = 1000000;
	r->h.vcpus_max = 1;
	r->h.ram = 1;
	assert_int_equal(preflight_check(&r->h, &r->m.m, &r->s.s, &e), -EINVAL);
	assert_int_equal(lines_in(e.text), 6);
}

/* Everything set, everywhere, in as many entries as there may be. */
static void check_a_hostile_list_is_bounded(void **state)
{
	static CpuidEntry entry[256], *list[256];
	struct rig *r = *state;
	struct err e = { 0 };

	for (uint32_t i = 0; i < 256; i++) {
		const uint32_t f = cpu_word_places[i % CPU_WORDS].function;

		cpuid_entry__init(&entry[i]);
		entry[i].function = i < 128 ? f : i - 128;
		entry[i].index = i;
		entry[i].eax = entry[i].ebx = entry[i].ecx = entry[i].edx = UINT32_MAX;
		list[i] = &entry[i];
	}
	r->m.cpu.cpuid = list;
	r->m.cpu.n_cpuid = 256;
	assert_int_equal(preflight_check(&r->h, &r->m.m, &r->s.s, &e), -EINVAL);
	assert_true(strlen(e.text) < sizeof(e.text) - 1);
	assert_non_null(strstr(e.text, " more, which this host has not"));
}

/* ---- clocks ---- */

static void away_is_the_time_since(void **state)
{
	struct rig *r = *state;
	struct timespec now = { r->m.clock.seconds + 10, r->m.clock.nanos };

	assert_int_equal(clock_away(&r->m.m, &now), 10000000000);
	now.tv_nsec -= 5;
	assert_int_equal(clock_away(&r->m.m, &now), 9999999995);
	now.tv_sec -= 10;
	assert_int_equal(clock_away(&r->m.m, &now), 0); /* never backwards */
	now.tv_sec -= 1000;
	assert_int_equal(clock_away(&r->m.m, &now), 0);
}

static void away_of_no_time_is_out_of_range(void **state)
{
	struct rig *r = *state;
	const struct timespec now = { 2000000000, 0 };

	r->m.clock.seconds = INT64_MIN;
	assert_int_equal(clock_away(&r->m.m, &now), -ERANGE);
	r->m.clock.seconds = -2000000000;
	assert_int_equal(clock_away(&r->m.m, &now), -ERANGE);
	r->m.clock.seconds = 0;
	r->m.clock.nanos = -1;
	assert_int_equal(clock_away(&r->m.m, &now), -ERANGE);
	r->m.m.clock = NULL;
	assert_int_equal(clock_away(&r->m.m, &now), -ERANGE);
}

static void advance_moves_kvmclock_and_tsc_alike(void **state)
{
	struct rig *r = *state;
	struct kvm_clock_data clock = { .clock = 1000 };

	memcpy(r->clock, &clock, sizeof(clock));
	r->s.kvm.clock = (ProtobufCBinaryData){ sizeof(r->clock), r->clock };
	r->s.msr[0].data = 5;
	r->s.s.n_vcpu = 1;
	clock_advance(&r->s.s, 3600ULL * 1000000000);
	memcpy(&clock, r->clock, sizeof(clock));
	assert_int_equal(clock.clock, 3600ULL * 1000000000 + 1000);
	assert_int_equal(r->s.msr[0].data, 3600ULL * 2450000000 + 5);
	assert_int_equal(r->s.msr[1].data, 0x500);
}

static void advance_of_a_hundred_years_does_not_overflow(void **state)
{
	struct rig *r = *state;
	const uint64_t ns = (uint64_t)CLOCK_AWAY_MAX_S * 1000000000;

	r->s.kvm.clock = (ProtobufCBinaryData){ sizeof(r->clock), r->clock };
	r->s.msr[0].data = 0;
	r->s.s.n_vcpu = 1;
	clock_advance(&r->s.s, ns);
	assert_int_equal(r->s.msr[0].data, (uint64_t)CLOCK_AWAY_MAX_S * 2450000000);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(check_on_the_same_host_passes),
		WITH(check_without_a_state_or_cpu_passes),
		WITH(check_a_missing_feature_is_named),
		WITH(check_a_feature_of_the_last_vcpu_counts),
		WITH(check_an_entry_of_any_index_counts),
		WITH(check_more_features_on_the_host_pass),
		WITH(check_what_the_host_has_but_is_not_saved_is_refused),
		WITH(check_a_leaf_that_is_not_saved_is_refused),
		WITH(check_another_vendor_is_refused),
		WITH(check_another_vendor_in_the_manifest_alone_is_refused),
		WITH(check_a_state_component_elsewhere_is_refused),
		WITH(check_the_tsc_within_250_ppm_passes),
		WITH(check_a_vcpu_with_a_tsc_of_its_own_is_refused),
		WITH(check_msrs_by_what_becomes_of_them),
		WITH(check_many_missing_msrs_are_one_sentence),
		WITH(check_sizes_against_the_host),
		WITH(check_reports_all_together),
		WITH(check_a_hostile_list_is_bounded),
		WITH(away_is_the_time_since),
		WITH(away_of_no_time_is_out_of_range),
		WITH(advance_moves_kvmclock_and_tsc_alike),
		WITH(advance_of_a_hundred_years_does_not_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
