/* The CPUID that a guest is shown: see cpuid.h. */
#define _GNU_SOURCE
#include "cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "vm.h"

#define BIT(n)	     (1U << (n))
#define TSC_DEADLINE BIT(24) /* of WORD_1_ECX */
#define HYPERVISOR   BIT(31)
#define HTT	     BIT(28) /* of WORD_1_EDX */
#define CMP_LEGACY   BIT(1)  /* of WORD_EXT_ECX */
#define LEGACY_AREA  576     /* bytes of an XSAVE area without extended components */
#define COMPONENTS   32

static struct kvm_cpuid2 *new_list(void)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_CPUID_MAX * sizeof(c->entries[0]));

	if (c)
		c->nent = KVM_CPUID_MAX;
	return c;
}

int cpuid_ask(const struct kvm_host *host, struct kvm_cpuid2 **out, struct err *e)
{
	auto_free struct kvm_cpuid2 *cpuid = new_list();
	int rc = cpuid ? kvm_ioctl(host->fd, KVM_GET_SUPPORTED_CPUID, cpuid) : -ENOMEM;

	if (rc < 0)
		return err_sys(e, -rc, "cannot ask KVM for its CPUID");
	*out = take_ptr(&cpuid);
	return 0;
}

struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *c = &cpuid->entries[i];

		if (c->function == function &&
		    (!(c->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || c->index == index))
			return c;
	}
	return NULL;
}

static uint32_t *find_word(struct kvm_cpuid2 *cpuid, enum cpu_word w)
{
	const struct cpu_word_place *p = &cpu_word_places[w];
	struct kvm_cpuid_entry2 *c = cpuid_find(cpuid, p->function, p->index);

	return c ? cpu_entry_reg(c, p->reg) : NULL;
}

static void change_word(struct kvm_cpuid2 *cpuid, enum cpu_word w, uint32_t keep, uint32_t add)
{
	uint32_t *reg = find_word(cpuid, w);

	if (reg)
		*reg = (*reg & keep) | add;
}

char *cpuid_vendor(const struct kvm_cpuid2 *cpuid, char vendor[13])
{
	memset(vendor, 0, 13);
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *c = &cpuid->entries[i];

		if (c->function != 0)
			continue;
		memcpy(vendor, &c->ebx, 4);
		memcpy(vendor + 4, &c->edx, 4);
		memcpy(vendor + 8, &c->ecx, 4);
		break;
	}
	return vendor;
}

static bool is_amd(const struct kvm_cpuid2 *cpuid)
{
	char vendor[13];

	cpuid_vendor(cpuid, vendor);
	return strcmp(vendor, "AuthenticAMD") == 0 || strcmp(vendor, "HygonGenuine") == 0;
}

/* ---- what is not saved is not offered ---- */

static void clear(struct kvm_cpuid_entry2 *c)
{
	c->eax = c->ebx = c->ecx = c->edx = 0;
}

static void hide_leaves(struct kvm_cpuid2 *cpuid)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		for (size_t j = 0; j < cpu_unsaved_leaves_count; j++)
			if (cpuid->entries[i].function == cpu_unsaved_leaves[j].function)
				clear(&cpuid->entries[i]);
}

/* State components and the features that they are of (Intel SDM 1, 13.1). */
static uint32_t wanted_components(const struct cpu_features *f)
{
	uint32_t xcr0 = BIT(0) | BIT(1);

	if (!(f->word[WORD_1_ECX] & BIT(26))) /* no XSAVE */
		return 0;
	if (f->word[WORD_1_ECX] & BIT(28)) /* avx */
		xcr0 |= BIT(2);
	if (f->word[WORD_7_EBX] & BIT(14)) /* mpx */
		xcr0 |= BIT(3) | BIT(4);
	if (f->word[WORD_7_EBX] & BIT(16)) /* avx512f */
		xcr0 |= BIT(5) | BIT(6) | BIT(7);
	if (f->word[WORD_7_ECX] & BIT(3)) /* pku */
		xcr0 |= BIT(9);
	return xcr0;
}

/*
 * Leaf 0xd agrees with the features: the components that are left, the size of
 * an area that holds them, and no word of the others. What the guest has
 * switched on at the moment (0xd.0 EBX, 0xd.1 EBX) KVM itself keeps up to date.
 * (Where KVM is itself a guest of QEMU 7.2 it cannot: see tests/rig/run.sh.)
 */
static void fit_xsave(struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid_entry2 *main_leaf = cpuid_find(cpuid, 0xd, 0);
	struct cpu_features f;
	uint32_t xcr0, size = LEGACY_AREA;

	cpu_features_of(cpuid, &f);
	xcr0 = f.word[WORD_XCR0] & wanted_components(&f);
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *c = &cpuid->entries[i];

		if (c->function != 0xd)
			continue;
		if (!xcr0 || (c->index >= 2 && (c->index >= COMPONENTS || !(xcr0 & BIT(c->index)))))
			clear(c);
		else if (c->index >= 2 && c->ebx + c->eax > size)
			size = c->ebx + c->eax;
	}
	if (!main_leaf || !xcr0)
		return;
	main_leaf->eax = xcr0;
	main_leaf->edx = 0;
	main_leaf->ebx = LEGACY_AREA;
	main_leaf->ecx = size;
}

bool cpuid_host_has_deadline(const struct kvm_host *host)
{
	return ioctl(host->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

/*
 * What KVM leaves to the monitor: that there is a hypervisor, without which a
 * guest does not look for kvmclock; the deadline timer of the in-kernel APIC.
 */
void cpuid_mask(struct kvm_cpuid2 *cpuid, bool tsc_deadline)
{
	for (size_t i = 0; i < cpu_unsaved_count; i++)
		change_word(cpuid, cpu_unsaved[i].word, ~cpu_unsaved[i].bits, 0);
	change_word(cpuid, WORD_1_ECX, ~(uint32_t)TSC_DEADLINE,
		    HYPERVISOR | (tsc_deadline ? TSC_DEADLINE : 0));
	hide_leaves(cpuid);
	fit_xsave(cpuid);
}

/* ---- profiles ---- */

int cpuid_apply_profile(struct kvm_cpuid2 *cpuid, const struct cpu_profile *p, struct err *e)
{
	struct cpu_features has, needed, as_host, missing;
	char names[1024];

	cpu_features_of(cpuid, &has);
	cpu_profile_features(p, &needed, &as_host);
	for (unsigned w = 0; w < CPU_WORDS; w++)
		missing.word[w] = needed.word[w] & ~has.word[w];
	if (cpu_features_any(&missing))
		return err_refuse(e, ENOTSUP,
				  "--cpu %s needs %s, which this host's KVM does not have", p->name,
				  cpu_feature_names(&missing, names, sizeof(names)));
	for (unsigned w = 0; w < CPU_WORDS; w++)
		change_word(cpuid, (enum cpu_word)w, needed.word[w] | as_host.word[w], 0);
	fit_xsave(cpuid);
	return 0;
}

/* ---- topology ---- */

/* Bits that hold the numbers 0 to n - 1. */
static uint32_t bits_for(unsigned n)
{
	uint32_t bits = 0;

	while (1U << bits < n)
		bits++;
	return bits;
}

static void remove_leaf(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function != function)
			cpuid->entries[n++] = cpuid->entries[i];
	cpuid->nent = n;
}

/* Threads, of which a core has one; then cores, of which the package has all. */
static int add_levels(struct kvm_cpuid2 *cpuid, uint32_t function, unsigned nvcpus)
{
	const struct kvm_cpuid_entry2 level[] = {
		{ .eax = 0, .ebx = 1, .ecx = 1 << 8 },
		{ .eax = bits_for(nvcpus), .ebx = nvcpus, .ecx = 2 << 8 | 1 },
		{ .eax = 0, .ebx = 0, .ecx = 2 },
	};

	remove_leaf(cpuid, function);
	for (uint32_t i = 0; i < sizeof(level) / sizeof(level[0]); i++) {
		struct kvm_cpuid_entry2 *c = &cpuid->entries[cpuid->nent];

		if (cpuid->nent == KVM_CPUID_MAX)
			return -E2BIG;
		*c = level[i];
		c->function = function;
		c->index = i;
		c->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		cpuid->nent++;
	}
	return 0;
}

/* Who shares a cache (leaf 4 and AMD's 0x8000001d): the last level all, the others nobody. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *c, unsigned nvcpus, bool intel)
{
	const uint32_t level = c->eax >> 5 & 7, all = (1U << bits_for(nvcpus)) - 1;

	if (!(c->eax & 0x1f)) /* no cache */
		return;
	c->eax = (c->eax & 0x3fff) | (level >= 3 ? all : 0) << 14;
	if (intel)
		c->eax |= all << 26;
}

static void set_amd_size(struct kvm_cpuid_entry2 *c, unsigned nvcpus)
{
	c->ecx = (c->ecx & ~0xf0ffU) | bits_for(nvcpus) << 12 | (nvcpus - 1);
}

int cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned nvcpus)
{
	const struct kvm_cpuid_entry2 *first = cpuid_find(cpuid, 0, 0);
	const uint32_t last = first ? first->eax : 0;
	const bool amd = is_amd(cpuid);
	int rc = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *c = &cpuid->entries[i];

		if (c->function == 1)
			c->ebx = (c->ebx & 0xff00ffff) | nvcpus << 16;
		else if (c->function == 4)
			set_cache_sharing(c, nvcpus, true);
		else if (c->function == 0x80000008 && amd)
			set_amd_size(c, nvcpus);
		else if (c->function == 0x8000001d)
			set_cache_sharing(c, nvcpus, false);
		else if (c->function == 0x8000001e || c->function == 0x80000026)
			clear(c); /* one node, one thread a core; 0xb has the levels */
	}
	change_word(cpuid, WORD_1_EDX, ~(uint32_t)HTT, nvcpus > 1 ? HTT : 0);
	change_word(cpuid, WORD_EXT_ECX, ~(uint32_t)CMP_LEGACY, amd && nvcpus > 1 ? CMP_LEGACY : 0);
	if (last >= 0xb)
		rc = add_levels(cpuid, 0xb, nvcpus);
	if (rc == 0 && last >= 0x1f)
		rc = add_levels(cpuid, 0x1f, nvcpus);
	return rc;
}

void cpuid_set_vcpu(struct kvm_cpuid2 *cpuid, unsigned id)
{
	const bool amd = is_amd(cpuid);

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *c = &cpuid->entries[i];

		if (c->function == 1) {
			c->ebx = (c->ebx & 0x00ffffff) | id << 24;
		} else if (c->function == 0xb || c->function == 0x1f) {
			c->edx = id;
		} else if (c->function == 0x8000001e && amd) {
			c->eax = id;
			c->ebx = id; /* its core; one thread each */
		}
	}
}

/* ---- for a machine ---- */

int cpuid_make(const struct kvm_host *host, const char *profile, unsigned nvcpus,
	       struct kvm_cpuid2 **out, struct err *e)
{
	const struct cpu_profile *p = profile ? cpu_profile_find(profile) : NULL;
	auto_free struct kvm_cpuid2 *cpuid = NULL;
	int rc = cpuid_ask(host, &cpuid, e);

	if (rc < 0)
		return rc;
	cpuid_mask(cpuid, cpuid_host_has_deadline(host));
	if (p)
		rc = cpuid_apply_profile(cpuid, p, e);
	if (rc < 0)
		return rc;
	rc = cpuid_set_topology(cpuid, nvcpus);
	if (rc < 0)
		return err_sys(e, -rc, "cannot describe %u vCPUs in CPUID", nvcpus);
	*out = take_ptr(&cpuid);
	return 0;
}

struct kvm_cpuid2 *cpuid_from_entries(CpuidEntry *const *entries, size_t n)
{
	struct kvm_cpuid2 *cpuid = new_list();

	if (!cpuid)
		return NULL;
	cpuid->nent = (uint32_t)(n < KVM_CPUID_MAX ? n : KVM_CPUID_MAX);
	for (uint32_t i = 0; i < cpuid->nent; i++)
		cpuid->entries[i] = (struct kvm_cpuid_entry2){
			.function = entries[i]->function,
			.index = entries[i]->index,
			.flags = entries[i]->flags,
			.eax = entries[i]->eax,
			.ebx = entries[i]->ebx,
			.ecx = entries[i]->ecx,
			.edx = entries[i]->edx,
		};
	return cpuid;
}

int cpuid_set(struct vm *vm, struct kvm_cpuid2 *cpuid, struct err *e)
{
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		int rc;

		/* Each vCPU's turn overwrites what differs from the one before. */
		cpuid_set_vcpu(cpuid, i);
		rc = kvm_ioctl(vm->vcpu[i].fd, KVM_SET_CPUID2, cpuid);
		if (rc < 0)
			return err_sys(e, -rc, "cannot set the CPUID of vCPU %u", i);
	}
	return 0;
}

/* ---- what KVM shows all the same ---- */

int cpuid_forced(int vcpu_fd, const struct kvm_cpuid2 *given, struct cpu_features *out)
{
	auto_free struct kvm_cpuid2 *shown = new_list();
	struct cpu_features asked;
	int rc = shown ? kvm_ioctl(vcpu_fd, KVM_GET_CPUID2, shown) : -ENOMEM;

	if (rc < 0)
		return rc;
	cpu_features_of(given, &asked);
	cpu_features_of(shown, out);
	for (unsigned w = 0; w < CPU_WORDS; w++)
		out->word[w] &= ~asked.word[w] & ~cpu_word_places[w].ours;
	return 0;
}

int cpuid_probe_forced(struct kvm_host *host, struct kvm_cpuid2 *given, struct cpu_features *out)
{
	/* A vCPU without a local APIC has the kernel patch its own code, and once more at its end.
	 */
	struct kvm_enable_cap apic = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	auto_fd int vm = kvm_ioctl(host->fd, KVM_CREATE_VM, NULL);
	auto_fd int vcpu = -1;
	int rc;

	if (vm >= 0)
		kvm_ioctl(vm, KVM_ENABLE_CAP, &apic);
	vcpu = vm < 0 ? vm : kvm_ioctl(vm, KVM_CREATE_VCPU, NULL);
	rc = vcpu < 0 ? vcpu : kvm_ioctl(vcpu, KVM_SET_CPUID2, given);

	if (rc == 0)
		rc = cpuid_forced(vcpu, given, out);
	kvm_host_tidy(host);
	host->probe_vm = vm < 0 ? -1 : take_fd(&vm);
	return rc;
}

void cpuid_add(struct kvm_cpuid2 *cpuid, const struct cpu_features *f)
{
	for (unsigned w = 0; w < CPU_WORDS; w++)
		change_word(cpuid, (enum cpu_word)w, UINT32_MAX, f->word[w]);
}
