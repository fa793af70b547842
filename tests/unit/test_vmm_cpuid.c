/* What a guest is shown of a host's CPU: the mask, profiles, topology. Asks no KVM. */
#include "unit.h"

#include "vmm/cpuid.h"

#define BIT(n) (1U << (n))

/* A host that has everything, of this vendor. */
struct rig {
	struct kvm_cpuid2 *c;
};

static void add(struct kvm_cpuid2 *c, uint32_t function, int index, uint32_t fill)
{
	struct kvm_cpuid_entry2 *e = &c->entries[c->nent++];

	*e = (struct kvm_cpuid_entry2){
		.function = function, .eax = fill, .ebx = fill, .ecx = fill, .edx = fill
	};
	if (index >= 0) {
		e->index = (uint32_t)index;
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	}
}

static void set_vendor(struct kvm_cpuid2 *c, const char *vendor)
{
	memcpy(&c->entries[0].ebx, vendor, 4);
	memcpy(&c->entries[0].edx, vendor + 4, 4);
	memcpy(&c->entries[0].ecx, vendor + 8, 4);
}

/* Components 2 to 9 and 17, 18, each 256 bytes after the one before. */
static void add_components(struct kvm_cpuid2 *c)
{
	for (int i = 2; i <= 18; i++) {
		struct kvm_cpuid_entry2 *e;

		if (i > 9 && i < 17)
			continue;
		add(c, 0xd, i, 0);
		e = &c->entries[c->nent - 1];
		e->eax = 256;
		e->ebx = 576 + 256 * (uint32_t)(i - 2);
	}
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_CPUID_MAX * sizeof(c->entries[0]));

	if (!r || !c)
		return -1;
	r->c = c;
	*state = r;
	add(c, 0, -1, 0x20);
	set_vendor(c, "GenuineIntel");
	for (uint32_t f = 1; f <= 0x1f; f++) {
		if (f == 0xd) {
			add(c, f, 0, UINT32_MAX);
			add(c, f, 1, UINT32_MAX);
			add_components(c);
		} else if (f == 4 || f == 7) {
			for (int i = 0; i < 3; i++)
				add(c, f, i, UINT32_MAX);
		} else {
			add(c, f, f == 0xb || f == 0x1f ? 0 : -1, UINT32_MAX);
		}
	}
	/* First-level, second-level and last-level caches. */
	for (uint32_t i = 0; i < 3; i++)
		cpuid_find(c, 4, i)->eax = 0xfc00c000U | (i + 1) << 5 | 3;
	add(c, 0x40000001, -1, UINT32_MAX);
	for (uint32_t f = 0x80000001; f <= 0x80000026; f++)
		add(c, f, f == 0x8000001d ? 0 : -1, UINT32_MAX);
	cpuid_find(c, 0x8000001d, 0)->eax = 3 << 5 | 3;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	free(r->c);
	free(r);
	return 0;
}

static void mask_leaves_nothing_that_is_not_saved(void **state)
{
	struct rig *r = *state;
	struct cpu_features f;

	cpuid_mask(r->c, true);
	cpu_features_of(r->c, &f);
	for (size_t i = 0; i < cpu_unsaved_count; i++) {
		if (f.word[cpu_unsaved[i].word] & cpu_unsaved[i].bits)
			fail_msg("offered: %s", cpu_unsaved[i].why);
		assert_true(strlen(cpu_unsaved[i].why) > 5);
	}
	for (size_t i = 0; i < cpu_unsaved_leaves_count; i++) {
		const struct kvm_cpuid_entry2 *c =
			cpuid_find(r->c, cpu_unsaved_leaves[i].function, 0);

		if (c && (c->eax | c->ebx | c->ecx | c->edx))
			fail_msg("shown: %s", cpu_unsaved_leaves[i].what);
	}
	/* By number, so that no table is its own judge: VMX, SVM, PDCM, PT, SGX, AMX, CET. */
	assert_int_equal(cpuid_find(r->c, 1, 0)->ecx & (BIT(5) | BIT(15) | BIT(3)), 0);
	assert_int_equal(cpuid_find(r->c, 0x80000001, 0)->ecx & (BIT(2) | BIT(23)), 0);
	assert_int_equal(cpuid_find(r->c, 7, 0)->ebx & (BIT(25) | BIT(2)), 0);
	assert_int_equal(cpuid_find(r->c, 7, 0)->ecx & (BIT(7) | BIT(30)), 0);
	assert_int_equal(cpuid_find(r->c, 7, 0)->edx & (BIT(19) | BIT(20) | BIT(22) | BIT(24)), 0);
	/* And what is saved stays. */
	assert_int_equal(cpuid_find(r->c, 7, 0)->ebx & BIT(16), BIT(16));
	assert_int_equal(cpuid_find(r->c, 1, 0)->ecx & (BIT(24) | BIT(26) | BIT(31)),
			 BIT(24) | BIT(26) | BIT(31));
}

static void mask_without_a_deadline_timer_offers_none(void **state)
{
	struct rig *r = *state;

	cpuid_mask(r->c, false);
	assert_int_equal(cpuid_find(r->c, 1, 0)->ecx & BIT(24), 0);
}

static void mask_sizes_the_xsave_area_by_what_is_left(void **state)
{
	struct rig *r = *state;
	const struct kvm_cpuid_entry2 *c;

	cpuid_mask(r->c, true);
	c = cpuid_find(r->c, 0xd, 0);
	assert_int_equal(c->eax, 0x2ff); /* x87 to avx512, no pt, pku; no tiles */
	assert_int_equal(c->edx, 0);
	assert_int_equal(c->ecx, 576 + 256 * 8);
	assert_int_equal(c->ebx, 576);
	assert_int_equal(cpuid_find(r->c, 0xd, 1)->eax & BIT(4), 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 1)->ecx, 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 8)->eax, 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 18)->eax, 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 9)->eax, 256);
}

static void mask_without_xsave_shows_no_components(void **state)
{
	struct rig *r = *state;

	cpuid_find(r->c, 1, 0)->ecx &= ~BIT(26);
	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_find(r->c, 0xd, 0)->eax, 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 0)->ecx, 0);
	assert_int_equal(cpuid_find(r->c, 0xd, 2)->eax, 0);
}

static void profile_v3_has_its_features_and_no_others(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_apply_profile(r->c, cpu_profile_find("x86-64-v3"), &e), 0);
	assert_int_equal(cpuid_find(r->c, 1, 0)->ecx, 0xb5f83201 & ~BIT(25));
	assert_int_equal(cpuid_find(r->c, 1, 0)->edx, 0x078bfbfd);
	/* bmi1, avx2, bmi2; tsc_adjust; what the FPU does not do */
	assert_int_equal(cpuid_find(r->c, 7, 0)->ebx,
			 BIT(3) | BIT(5) | BIT(8) | BIT(1) | BIT(6) | BIT(13));
	assert_int_equal(cpuid_find(r->c, 0xd, 0)->eax, 7);
	assert_int_equal(cpuid_find(r->c, 0xd, 0)->ecx, 576 + 256);
	assert_int_equal(cpuid_find(r->c, 0xd, 1)->eax, 0);
	assert_int_equal(cpuid_find(r->c, 0x40000001, 0)->eax & BIT(5), 0);
}

static void profile_v4_adds_avx512_to_v3(void **state)
{
	struct rig *r = *state;

	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_apply_profile(r->c, cpu_profile_find("x86-64-v4"), NULL), 0);
	assert_int_equal(cpuid_find(r->c, 7, 0)->ebx & 0xd0030000, 0xd0030000);
	assert_int_equal(cpuid_find(r->c, 0xd, 0)->eax, 0xe7);
}

/* The point of a profile: two hosts that differ show the same. */
static void profile_of_two_hosts_is_the_same(void **state)
{
	struct rig *r = *state;
	void *more = NULL;
	struct cpu_features a, b;

	assert_int_equal(make(&more), 0);
	if (!more) /* for the analyzer */
		return;
	cpuid_find(r->c, 7, 0)->ebx &= ~(BIT(16) | BIT(18) | BIT(29));
	cpuid_find(r->c, 1, 0)->ecx &= ~(BIT(25) | BIT(30));
	cpuid_find(r->c, 0xd, 0)->eax = 7;
	for (int i = 0; i < 2; i++) {
		struct kvm_cpuid2 *c = i ? r->c : ((struct rig *)more)->c;

		cpuid_mask(c, true);
		assert_int_equal(cpuid_apply_profile(c, cpu_profile_find("x86-64-v2"), NULL), 0);
		cpu_features_of(c, i ? &a : &b);
	}
	assert_memory_equal(&a, &b, sizeof(a));
	drop(&more);
}

static void profile_that_the_host_cannot_give_is_refused_by_name(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	cpuid_mask(r->c, true);
	cpuid_find(r->c, 7, 0)->ebx &= ~(BIT(5) | BIT(16));
	cpuid_find(r->c, 0x80000001, 0)->ecx &= ~BIT(5);
	assert_int_equal(cpuid_apply_profile(r->c, cpu_profile_find("x86-64-v3"), &e), -ENOTSUP);
	assert_says(&e,
		    "--cpu x86-64-v3 needs avx2 and lzcnt, which this host's KVM does not have");
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_int_equal(cpuid_apply_profile(r->c, cpu_profile_find("x86-64-v2"), &e), 0);
}

static void profile_find_knows_its_names_only(void **state)
{
	(void)state;
	for (size_t i = 0; i < cpu_profiles_count; i++)
		assert_ptr_equal(cpu_profile_find(cpu_profiles[i].name), &cpu_profiles[i]);
	assert_null(cpu_profile_find("x86-64"));
	assert_null(cpu_profile_find(""));
}

static void topology_of_6_vcpus_is_one_package_of_6_cores(void **state)
{
	struct rig *r = *state;
	const struct kvm_cpuid_entry2 *c;

	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_set_topology(r->c, 6), 0);
	cpuid_set_vcpu(r->c, 5);
	c = cpuid_find(r->c, 1, 0);
	assert_int_equal(c->ebx >> 16, 5 << 8 | 6);
	assert_int_equal(c->edx & BIT(28), BIT(28));
	for (uint32_t f = 0xb; f <= 0x1f; f += 0x1f - 0xb) {
		c = cpuid_find(r->c, f, 0);
		assert_int_equal(c->eax, 0);
		assert_int_equal(c->ebx, 1);
		assert_int_equal(c->ecx, 0x100);
		c = cpuid_find(r->c, f, 1);
		assert_int_equal(c->eax, 3);
		assert_int_equal(c->ebx, 6);
		assert_int_equal(c->ecx, 0x201);
		assert_int_equal(c->edx, 5);
		c = cpuid_find(r->c, f, 2);
		assert_int_equal(c->ebx, 0);
		assert_int_equal(c->ecx, 2);
		assert_int_equal(c->edx, 5);
	}
	/* 8 numbers for cores; the first caches nobody's else, the last all of them's */
	assert_int_equal(cpuid_find(r->c, 4, 0)->eax, 7U << 26 | 1 << 5 | 3);
	assert_int_equal(cpuid_find(r->c, 4, 1)->eax, 7U << 26 | 2 << 5 | 3);
	assert_int_equal(cpuid_find(r->c, 4, 2)->eax, 7U << 26 | 7 << 14 | 3 << 5 | 3);
}

static void topology_of_amd_has_its_own_leaves(void **state)
{
	struct rig *r = *state;

	set_vendor(r->c, "AuthenticAMD");
	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_set_topology(r->c, 3), 0);
	cpuid_set_vcpu(r->c, 2);
	assert_int_equal(cpuid_find(r->c, 0x80000008, 0)->ecx & 0xf0ff, 2 << 12 | 2);
	assert_int_equal(cpuid_find(r->c, 0x8000001e, 0)->eax, 2);
	assert_int_equal(cpuid_find(r->c, 0x8000001e, 0)->ebx, 2);
	assert_int_equal(cpuid_find(r->c, 0x8000001e, 0)->ecx, 0);
	assert_int_equal(cpuid_find(r->c, 0x8000001d, 0)->eax, 3 << 14 | 3 << 5 | 3);
	assert_int_equal(cpuid_find(r->c, 0x80000001, 0)->ecx & BIT(1), BIT(1));
	assert_int_equal(cpuid_find(r->c, 0x80000026, 0)->eax, 0);
}

static void topology_of_one_vcpu_is_no_package_of_many(void **state)
{
	struct rig *r = *state;

	set_vendor(r->c, "AuthenticAMD");
	cpuid_mask(r->c, true);
	assert_int_equal(cpuid_set_topology(r->c, 1), 0);
	cpuid_set_vcpu(r->c, 0);
	assert_int_equal(cpuid_find(r->c, 1, 0)->edx & BIT(28), 0);
	assert_int_equal(cpuid_find(r->c, 1, 0)->ebx >> 16, 1);
	assert_int_equal(cpuid_find(r->c, 0xb, 1)->eax, 0);
	assert_int_equal(cpuid_find(r->c, 0x80000008, 0)->ecx & 0xf0ff, 0);
	assert_int_equal(cpuid_find(r->c, 0x80000001, 0)->ecx & BIT(1), 0);
}

/* A host that fills the list leaves no room for levels: said, not written beyond. */
static void topology_of_a_full_list_is_an_error(void **state)
{
	struct rig *r = *state;

	while (r->c->nent < KVM_CPUID_MAX)
		add(r->c, 0x90000000, -1, 0);
	assert_int_equal(cpuid_set_topology(r->c, 2), -E2BIG);
	assert_int_equal(r->c->nent, KVM_CPUID_MAX);
}

static void names_say_what_is_not_said_by_a_count(void **state)
{
	struct cpu_features f = { .word[WORD_7_EBX] = BIT(16) };
	char room[128];

	(void)state;
	assert_string_equal(cpu_feature_names(&f, room, sizeof(room)), "avx512f");
	f.word[WORD_7_EBX] |= BIT(5);
	assert_string_equal(cpu_feature_names(&f, room, sizeof(room)), "avx2 and avx512f");
	f.word[WORD_7_1_ECX] = BIT(9);
	assert_string_equal(cpu_feature_names(&f, room, sizeof(room)),
			    "avx2, avx512f and CPUID 0x7.1 ECX bit 9");
	memset(&f, 0xff, sizeof(f));
	cpu_feature_names(&f, room, sizeof(room));
	assert_true(strlen(room) < sizeof(room));
	assert_non_null(strstr(room, " more"));
}

static void entries_more_than_a_list_holds_are_left_out(void **state)
{
	static CpuidEntry entry = CPUID_ENTRY__INIT;
	static CpuidEntry *entries[1000];
	auto_free struct kvm_cpuid2 *c = NULL;

	(void)state;
	for (int i = 0; i < 1000; i++)
		entries[i] = &entry;
	c = cpuid_from_entries(entries, 1000);
	assert_non_null(c);
	assert_int_equal(c->nent, KVM_CPUID_MAX);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(mask_leaves_nothing_that_is_not_saved),
		WITH(mask_without_a_deadline_timer_offers_none),
		WITH(mask_sizes_the_xsave_area_by_what_is_left),
		WITH(mask_without_xsave_shows_no_components),
		WITH(profile_v3_has_its_features_and_no_others),
		WITH(profile_v4_adds_avx512_to_v3),
		WITH(profile_of_two_hosts_is_the_same),
		WITH(profile_that_the_host_cannot_give_is_refused_by_name),
		WITH(profile_find_knows_its_names_only),
		WITH(topology_of_6_vcpus_is_one_package_of_6_cores),
		WITH(topology_of_amd_has_its_own_leaves),
		WITH(topology_of_one_vcpu_is_no_package_of_many),
		WITH(topology_of_a_full_list_is_an_error),
		cmocka_unit_test(names_say_what_is_not_said_by_a_count),
		cmocka_unit_test(entries_more_than_a_list_holds_are_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
