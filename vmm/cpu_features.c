/* The features of CPUID as tables: see cpu_features.h. */
#include "cpu_features.h"

#include <stdio.h>
#include <string.h>

#define BIT(n)	 (1U << (n))
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ALL_BITS UINT32_MAX

/*
 * Ours: OSXSAVE and OSPKE mirror CR4; HTT and CMP_LEGACY go with the number of
 * vCPUs; TOPOEXT only says that there is a leaf for it.
 */
const struct cpu_word_place cpu_word_places[CPU_WORDS] = {
	[WORD_1_ECX] = { 1, 0, CPU_ECX, BIT(27) },
	[WORD_1_EDX] = { 1, 0, CPU_EDX, BIT(28) },
	[WORD_6_EAX] = { 6, 0, CPU_EAX, 0 },
	[WORD_6_ECX] = { 6, 0, CPU_ECX, 0 },
	[WORD_7_EBX] = { 7, 0, CPU_EBX, 0 },
	[WORD_7_ECX] = { 7, 0, CPU_ECX, BIT(4) },
	[WORD_7_EDX] = { 7, 0, CPU_EDX, 0 },
	[WORD_7_1_EAX] = { 7, 1, CPU_EAX, 0 },
	[WORD_7_1_ECX] = { 7, 1, CPU_ECX, 0 },
	[WORD_7_1_EDX] = { 7, 1, CPU_EDX, 0 },
	[WORD_7_2_EDX] = { 7, 2, CPU_EDX, 0 },
	[WORD_XCR0] = { 0xd, 0, CPU_EAX, 0 },
	[WORD_XCR0_HIGH] = { 0xd, 0, CPU_EDX, 0 },
	[WORD_XSAVE] = { 0xd, 1, CPU_EAX, 0 },
	[WORD_XSS] = { 0xd, 1, CPU_ECX, 0 },
	[WORD_XSS_HIGH] = { 0xd, 1, CPU_EDX, 0 },
	[WORD_KVM] = { 0x40000001, 0, CPU_EAX, 0 },
	[WORD_EXT_ECX] = { 0x80000001, 0, CPU_ECX, BIT(1) | BIT(22) },
	[WORD_EXT_EDX] = { 0x80000001, 0, CPU_EDX, 0 },
	[WORD_EXT7_EDX] = { 0x80000007, 0, CPU_EDX, 0 },
	[WORD_EXT8_EBX] = { 0x80000008, 0, CPU_EBX, 0 },
	[WORD_EXT21_EAX] = { 0x80000021, 0, CPU_EAX, 0 },
	[WORD_EXT21_ECX] = { 0x80000021, 0, CPU_ECX, 0 },
};

/* ---- names, as Linux has them in /proc/cpuinfo ---- */

static const char *const names[CPU_WORDS][32] = {
	[WORD_1_ECX] = { "sse3",   "pclmulqdq", "dtes64",  "monitor", "ds_cpl",
			 "vmx",	   "smx",	"est",	   "tm2",     "ssse3",
			 "cid",	   "sdbg",	"fma",	   "cx16",    "xtpr",
			 "pdcm",   NULL,	"pcid",	   "dca",     "sse4_1",
			 "sse4_2", "x2apic",	"movbe",   "popcnt",  "tsc_deadline_timer",
			 "aes",	   "xsave",	"osxsave", "avx",     "f16c",
			 "rdrand", "hypervisor" },
	[WORD_1_EDX] = { "fpu",	 "vme",	  "de",	  "pse",     "tsc",  "msr", "pae",  "mce",
			 "cx8",	 "apic",  NULL,	  "sep",     "mtrr", "pge", "mca",  "cmov",
			 "pat",	 "pse36", "pn",	  "clflush", NULL,   "dts", "acpi", "mmx",
			 "fxsr", "sse",	  "sse2", "ss",	     "ht",   "tm",  "ia64", "pbe" },
	[WORD_6_EAX] = { [2] = "arat" },
	[WORD_6_ECX] = { [0] = "aperfmperf", [3] = "epb" },
	[WORD_7_EBX] = { "fsgsbase",
			 "tsc_adjust",
			 "sgx",
			 "bmi1",
			 "hle",
			 "avx2",
			 "fdp_excptn_only",
			 "smep",
			 "bmi2",
			 "erms",
			 "invpcid",
			 "rtm",
			 "cqm",
			 "zero_fcs_fds",
			 "mpx",
			 "rdt_a",
			 "avx512f",
			 "avx512dq",
			 "rdseed",
			 "adx",
			 "smap",
			 "avx512ifma",
			 "pcommit",
			 "clflushopt",
			 "clwb",
			 "intel_pt",
			 "avx512pf",
			 "avx512er",
			 "avx512cd",
			 "sha_ni",
			 "avx512bw",
			 "avx512vl" },
	[WORD_7_ECX] = { "prefetchwt1",
			 "avx512vbmi",
			 "umip",
			 "pku",
			 "ospke",
			 "waitpkg",
			 "avx512_vbmi2",
			 "shstk",
			 "gfni",
			 "vaes",
			 "vpclmulqdq",
			 "avx512_vnni",
			 "avx512_bitalg",
			 "tme",
			 "avx512_vpopcntdq",
			 NULL,
			 "la57",
			 [22] = "rdpid",
			 [23] = "key_locker",
			 [24] = "bus_lock_detect",
			 [25] = "cldemote",
			 [27] = "movdiri",
			 [28] = "movdir64b",
			 [29] = "enqcmd",
			 [30] = "sgx_lc",
			 [31] = "pks" },
	[WORD_7_EDX] = { [2] = "avx512_4vnniw",
			 [3] = "avx512_4fmaps",
			 [4] = "fsrm",
			 [5] = "uintr",
			 [8] = "avx512_vp2intersect",
			 [9] = "srbds_ctrl",
			 [10] = "md_clear",
			 [11] = "rtm_always_abort",
			 [14] = "serialize",
			 [15] = "hybrid",
			 [16] = "tsxldtrk",
			 [18] = "pconfig",
			 [19] = "arch_lbr",
			 [20] = "ibt",
			 [22] = "amx_bf16",
			 [23] = "avx512_fp16",
			 [24] = "amx_tile",
			 [25] = "amx_int8",
			 [26] = "spec_ctrl",
			 [27] = "intel_stibp",
			 [28] = "flush_l1d",
			 [29] = "arch_capabilities",
			 [30] = "core_capabilities",
			 [31] = "spec_ctrl_ssbd" },
	[WORD_7_1_EAX] = { [0] = "sha512",
			   [1] = "sm3",
			   [2] = "sm4",
			   [4] = "avx_vnni",
			   [5] = "avx512_bf16",
			   [7] = "cmpccxadd",
			   [8] = "arch_perfmon_ext",
			   [10] = "fzrm",
			   [11] = "fsrs",
			   [12] = "fsrc",
			   [17] = "fred",
			   [18] = "lkgs",
			   [19] = "wrmsrns",
			   [21] = "amx_fp16",
			   [22] = "hreset",
			   [23] = "avx_ifma",
			   [26] = "lam",
			   [27] = "msrlist" },
	[WORD_7_1_EDX] = { [4] = "avx_vnni_int8",
			   [5] = "avx_ne_convert",
			   [8] = "amx_complex",
			   [10] = "avx_vnni_int16",
			   [14] = "prefetchiti",
			   [15] = "user_msr",
			   [19] = "avx10" },
	[WORD_7_2_EDX] = { "intel_psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl",
			   "mcdt_no" },
	[WORD_XCR0] = { "x87 state", "sse state", "avx state", "mpx bound registers",
			"mpx bound configuration", "avx512 mask registers", "avx512 upper halves",
			"avx512 upper registers", "pt state",
			"protection keys", [17] = "amx tile configuration", [18] = "amx tile data",
			[19] = "apx registers" },
	[WORD_XCR0_HIGH] = { [30] = "lwp state" },
	[WORD_XSAVE] = { "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" },
	[WORD_XSS] = { [8] = "pt supervisor state",
		       [10] = "pasid state",
		       [11] = "cet user state",
		       [12] = "cet supervisor state",
		       [13] = "hdc state",
		       [14] = "uintr state",
		       [15] = "lbr state",
		       [16] = "hwp state" },
	[WORD_KVM] = { "kvmclock", "kvm_nop_io_delay", "kvm_mmu_op", "kvmclock2", "kvm_async_pf",
		       "kvm_steal_time", "kvm_pv_eoi", "kvm_pv_unhalt", NULL, "kvm_pv_tlb_flush",
		       "kvm_async_pf_vmexit", "kvm_pv_send_ipi", "kvm_poll_control",
		       "kvm_pv_sched_yield", "kvm_async_pf_int", "kvm_msi_ext_dest_id",
		       "kvm_hc_map_gpa_range", "kvm_migration_control", [24] = "kvmclock_stable" },
	[WORD_EXT_ECX] = { "lahf_lm",	 "cmp_legacy",	"svm",
			   "extapic",	 "cr8_legacy",	"lzcnt",
			   "sse4a",	 "misalignsse", "3dnowprefetch",
			   "osvw",	 "ibs",		"xop",
			   "skinit",	 "wdt",		NULL,
			   "lwp",	 "fma4",	"tce",
			   NULL,	 "nodeid_msr",	NULL,
			   "tbm",	 "topoext",	"perfctr_core",
			   "perfctr_nb", NULL,		"bpext",
			   "ptsc",	 "perfctr_llc", "mwaitx" },
	/* The others are the same as in leaf 1. */
	[WORD_EXT_EDX] = { [11] = "syscall",
			   [19] = "mp",
			   [20] = "nx",
			   [22] = "mmxext",
			   [25] = "fxsr_opt",
			   [26] = "pdpe1gb",
			   [27] = "rdtscp",
			   [29] = "lm",
			   [30] = "3dnowext",
			   [31] = "3dnow" },
	[WORD_EXT7_EDX] = { [7] = "hw_pstate", [8] = "constant_tsc" },
	[WORD_EXT8_EBX] = { [0] = "clzero",
			    [1] = "irperf",
			    [2] = "xsaveerptr",
			    [4] = "rdpru",
			    [9] = "wbnoinvd",
			    [12] = "ibpb",
			    [14] = "ibrs",
			    [15] = "stibp",
			    [16] = "ibrs_always",
			    [17] = "stibp_always",
			    [18] = "ibrs_preferred",
			    [24] = "ssbd",
			    [25] = "virt_ssbd",
			    [26] = "ssb_no",
			    [28] = "psfd",
			    [29] = "btc_no",
			    [30] = "ibpb_ret" },
	[WORD_EXT21_EAX] = { [0] = "no_nested_data_bp",
			     [2] = "lfence_rdtsc",
			     [5] = "verw_clear",
			     [6] = "null_sel_clr_base",
			     [8] = "autoibrs",
			     [9] = "no_smm_ctl_msr",
			     [10] = "fsrs_amd",
			     [11] = "fsrc_amd",
			     [27] = "sbpb",
			     [28] = "ibpb_brtype",
			     [29] = "srso_no",
			     [30] = "srso_user_kernel_no" },
	[WORD_EXT21_ECX] = { [1] = "tsa_sq_no", [2] = "tsa_l1_no" },
};

static const char *const reg_names[] = { "EAX", "EBX", "ECX", "EDX" };

char *cpu_feature_name(enum cpu_word w, unsigned bit, char room[CPU_NAME_MAX])
{
	const struct cpu_word_place *p = &cpu_word_places[w];

	if (names[w][bit])
		snprintf(room, CPU_NAME_MAX, "%s", names[w][bit]);
	else
		snprintf(room, CPU_NAME_MAX, "CPUID 0x%x.%u %s bit %u", p->function, p->index,
			 reg_names[p->reg], bit);
	return room;
}

static unsigned count_features(const struct cpu_features *f)
{
	unsigned n = 0;

	for (unsigned w = 0; w < CPU_WORDS; w++)
		n += (unsigned)__builtin_popcount(f->word[w]);
	return n;
}

bool cpu_features_any(const struct cpu_features *f)
{
	return count_features(f) > 0;
}

/* Room for the words that end a list that is cut off. */
#define TAIL_MAX 24

char *cpu_feature_names(const struct cpu_features *f, char *room, size_t size)
{
	const unsigned all = count_features(f);
	unsigned said = 0;
	size_t n = 0;

	room[0] = '\0';
	for (unsigned at = 0; at < CPU_WORDS * 32; at++) {
		const unsigned w = at / 32, bit = at % 32;
		const char *comma = said == 0 ? "" : said + 1 == all ? " and " : ", ";
		char name[CPU_NAME_MAX];

		if (!(f->word[w] & BIT(bit)))
			continue;
		cpu_feature_name((enum cpu_word)w, bit, name);
		if (n + strlen(comma) + strlen(name) + TAIL_MAX > size) {
			snprintf(room + n, size - n, " and %u more", all - said);
			break;
		}
		n += (size_t)snprintf(room + n, size - n, "%s%s", comma, name);
		said++;
	}
	return room;
}

/* ---- what a list shows ---- */

uint32_t *cpu_entry_reg(struct kvm_cpuid_entry2 *c, enum cpu_reg reg)
{
	uint32_t *const regs[] = { &c->eax, &c->ebx, &c->ecx, &c->edx };

	return regs[reg];
}

void cpu_features_of(const struct kvm_cpuid2 *cpuid, struct cpu_features *out)
{
	*out = (struct cpu_features){ 0 };
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 c = cpuid->entries[i];

		for (unsigned w = 0; w < CPU_WORDS; w++) {
			const struct cpu_word_place *p = &cpu_word_places[w];

			if (c.function != p->function)
				continue;
			if ((c.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && c.index != p->index)
				continue;
			out->word[w] |= *cpu_entry_reg(&c, p->reg);
		}
	}
}

/* ---- what is not offered ---- */

const struct cpu_unsaved cpu_unsaved[] = {
	{ WORD_1_ECX, BIT(5), "nested virtualization: the inner guest's state" },
	{ WORD_EXT_ECX, BIT(2) | BIT(12), "nested virtualization: the inner guest's state" },
	{ WORD_1_ECX, BIT(6), "measured launch: the chipset's state" },
	{ WORD_1_ECX, BIT(3), "MONITOR: an armed address; KVM makes MWAIT a no-op" },
	{ WORD_EXT_ECX, BIT(29), "MONITORX: an armed address" },
	{ WORD_1_ECX, BIT(2) | BIT(4), "debug store: the PMU's buffer" },
	{ WORD_1_EDX, BIT(21), "debug store: the PMU's buffer" },
	{ WORD_1_ECX, BIT(15), "performance counters: they count on another CPU" },
	{ WORD_EXT_ECX, BIT(23) | BIT(24) | BIT(28), "performance counters: as above" },
	{ WORD_7_1_EAX, BIT(8), "performance counters: as above" },
	{ WORD_6_ECX, BIT(0), "APERF and MPERF: counters of the host's own" },
	{ WORD_EXT8_EBX, BIT(1) | BIT(4), "IRPERF, RDPRU: counters of the host's own" },
	{ WORD_EXT_ECX, BIT(10), "instruction sampling: its registers" },
	{ WORD_EXT_ECX, BIT(15), "lightweight profiling: its buffer and state" },
	{ WORD_7_EBX, BIT(12) | BIT(15), "cache and bandwidth control: the host's own" },
	{ WORD_7_EBX, BIT(25), "processor trace: its buffer and state" },
	{ WORD_7_EDX, BIT(19), "last branch records" },
	{ WORD_7_EBX, BIT(2), "SGX: enclave pages are bound to their CPU" },
	{ WORD_7_ECX, BIT(30), "SGX: enclave pages are bound to their CPU" },
	{ WORD_7_ECX, BIT(7), "shadow stacks: KVM keeps SSP in no saved structure" },
	{ WORD_7_EDX, BIT(20), "indirect branch tracking: with shadow stacks" },
	{ WORD_7_ECX, BIT(23), "key locker: the wrapping key cannot be read" },
	{ WORD_7_ECX, BIT(29), "ENQCMD: the PASID, and the device behind it" },
	{ WORD_7_ECX, BIT(31), "supervisor protection keys: PKRS" },
	{ WORD_7_EDX, BIT(5), "user interrupts: their state and vectors" },
	{ WORD_7_EDX, BIT(15), "kinds of cores: the host's own" },
	{ WORD_7_EDX, BIT(18), "memory encryption keys of the platform" },
	{ WORD_7_EDX, BIT(22) | BIT(24) | BIT(25),
	  "AMX: tiles of 8 KiB that KVM hands out on demand" },
	{ WORD_7_1_EAX, BIT(21), "AMX: as above" },
	{ WORD_7_1_EDX, BIT(8), "AMX: as above" },
	{ WORD_XCR0, BIT(17) | BIT(18), "AMX: as above" },
	{ WORD_XSAVE, BIT(4), "XFD: it goes with AMX" },
	{ WORD_7_1_EAX, BIT(17), "FRED: event data that KVM's saved events lack" },
	{ WORD_7_1_EAX, BIT(22), "HRESET: history that cannot be read" },
	{ WORD_7_1_EDX, BIT(15), "user access to MSRs: its bitmap" },
	/* All supervisor components are of features above; APX has none that is tested. */
	{ WORD_XCR0, BIT(8) | BIT(19), "state components that are not known here" },
	{ WORD_XCR0_HIGH, ALL_BITS, "state components that are not known here" },
	{ WORD_XSS, ALL_BITS, "supervisor state: KVM_GET_XSAVE leaves it out" },
	{ WORD_XSS_HIGH, ALL_BITS, "supervisor state: KVM_GET_XSAVE leaves it out" },
	/* They need a monitor that handles their exits. */
	{ WORD_KVM, BIT(15) | BIT(16) | BIT(17), "KVM's calls that want a monitor's answer" },
};
const size_t cpu_unsaved_count = COUNT(cpu_unsaved);

const struct cpu_unsaved_leaf cpu_unsaved_leaves[] = {
	{ 0x5, "MONITOR" },
	{ 0xa, "performance counters" },
	{ 0xf, "cache monitoring" },
	{ 0x10, "cache allocation" },
	{ 0x12, "SGX" },
	{ 0x14, "processor trace" },
	{ 0x19, "key locker" },
	{ 0x1a, "kinds of cores" },
	{ 0x1b, "memory encryption keys" },
	{ 0x1c, "last branch records" },
	{ 0x1d, "AMX tiles" },
	{ 0x1e, "AMX multiplication" },
	{ 0x21, "TDX" },
	{ 0x23, "performance counters (2)" },
	{ 0x8000000a, "nested virtualization" },
	{ 0x8000001b, "instruction sampling" },
	{ 0x8000001c, "lightweight profiling" },
	{ 0x8000001f, "encrypted memory" },
	{ 0x80000020, "cache and bandwidth control" },
	{ 0x80000022, "performance counters (AMD, 2)" },
	{ 0x80000023, "memory encryption keys (AMD)" },
};
const size_t cpu_unsaved_leaves_count = COUNT(cpu_unsaved_leaves);

/* ---- profiles ---- */

const struct cpu_profile cpu_profiles[] = {
	{ "x86-64-v1", 1 },
	{ "x86-64-v2", 2 },
	{ "x86-64-v3", 3 },
	{ "x86-64-v4", 4 },
};
const size_t cpu_profiles_count = COUNT(cpu_profiles);

/*
 * x86-64 psABI, 3.1.1, and what KVM has emulated or offered since Linux 5.14 on
 * every host. Steal time is not among it: it hangs on how the host was built.
 */
static const struct {
	unsigned level;
	enum cpu_word word;
	uint32_t bits;
} profile_needs[] = {
	/* fpu, de to apic, sep to pse36, clflush, mmx, fxsr, sse, sse2; not vme: some hosts lack it
	 */
	{ 1, WORD_1_EDX, 0x078bfbfd },
	{ 1, WORD_EXT_EDX, BIT(11) | BIT(20) | BIT(29) }, /* syscall, nx, lm */
	{ 1, WORD_1_ECX, BIT(21) | BIT(31) },		  /* x2apic, hypervisor */
	{ 1, WORD_KVM, BIT(0) | BIT(3) | BIT(24) },	  /* kvmclock */
	/* nop_io_delay, async_pf, pv_eoi, unhalt, tlb_flush, send_ipi, poll, yield, async_pf_int */
	{ 1, WORD_KVM,
	  BIT(1) | BIT(4) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(14) },
	/* sse3, ssse3, cx16, sse4_1, sse4_2, popcnt; lahf_lm */
	{ 2, WORD_1_ECX, BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23) },
	{ 2, WORD_EXT_ECX, BIT(0) },
	/* fma, movbe, xsave, avx, f16c; bmi1, avx2, bmi2; lzcnt */
	{ 3, WORD_1_ECX, BIT(12) | BIT(22) | BIT(26) | BIT(28) | BIT(29) },
	{ 3, WORD_7_EBX, BIT(3) | BIT(5) | BIT(8) },
	{ 3, WORD_EXT_ECX, BIT(5) },
	/* avx512f, dq, cd, bw, vl */
	{ 4, WORD_7_EBX, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31) },
};

/* State components follow their features (cpuid.c); defences are passed as the host has them. */
static const struct {
	enum cpu_word word;
	uint32_t bits;
} profile_as_host[] = {
	{ WORD_1_ECX, BIT(24) },	    /* tsc_deadline_timer: KVM's own */
	{ WORD_6_EAX, BIT(2) },		    /* arat: KVM's own */
	{ WORD_7_EBX, BIT(1) },		    /* tsc_adjust: KVM's own */
	{ WORD_7_EBX, BIT(6) | BIT(13) },   /* they say what the FPU does not do */
	{ WORD_EXT_ECX, BIT(1) | BIT(22) }, /* cmp_legacy, topoext: the vCPUs' places */
	{ WORD_EXT_EDX, 0x0183f3fd },	    /* AMD's copy of leaf 1 */
	{ WORD_XCR0, ALL_BITS },	    /* what is left follows the features */
	{ WORD_7_EDX, BIT(9) | BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31) },
	{ WORD_7_2_EDX, 0x3f },
	{ WORD_EXT8_EBX, BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(18) | BIT(24) |
				 BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30) },
	{ WORD_EXT21_EAX,
	  BIT(2) | BIT(5) | BIT(6) | BIT(8) | BIT(27) | BIT(28) | BIT(29) | BIT(30) },
	{ WORD_EXT21_ECX, BIT(1) | BIT(2) },
};

const struct cpu_profile *cpu_profile_find(const char *name)
{
	for (size_t i = 0; i < COUNT(cpu_profiles); i++)
		if (strcmp(cpu_profiles[i].name, name) == 0)
			return &cpu_profiles[i];
	return NULL;
}

void cpu_profile_features(const struct cpu_profile *p, struct cpu_features *needed,
			  struct cpu_features *as_host)
{
	*needed = *as_host = (struct cpu_features){ 0 };
	for (size_t i = 0; i < COUNT(profile_needs); i++)
		if (profile_needs[i].level <= p->level)
			needed->word[profile_needs[i].word] |= profile_needs[i].bits;
	for (size_t i = 0; i < COUNT(profile_as_host); i++)
		as_host->word[profile_as_host[i].word] |= profile_as_host[i].bits;
}
