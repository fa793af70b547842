/* A vCPU's MSRs, saved and loaded: see msr.h. */
#define _GNU_SOURCE
#include "msr.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

#define MSR_BATCH 128 /* KVM takes fewer than 256 at a time */
#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))

struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSR_BATCH];
};

static const struct {
	uint32_t index;
	const char *name;
} msr_names[] = {
	{ 0x10, "TSC" },
	{ 0x1b, "APIC_BASE" },
	{ 0x34, "SMI_COUNT" },
	{ 0x3a, "FEATURE_CONTROL" },
	{ 0x3b, "TSC_ADJUST" },
	{ 0x48, "SPEC_CTRL" },
	{ 0x8b, "UCODE_REV" },
	{ 0xce, "PLATFORM_INFO" },
	{ 0xe1, "UMWAIT_CONTROL" },
	{ 0x10a, "ARCH_CAPABILITIES" },
	{ 0x122, "TSX_CTRL" },
	{ 0x140, "MISC_FEATURES_ENABLES" },
	{ 0x174, "SYSENTER_CS" },
	{ 0x175, "SYSENTER_ESP" },
	{ 0x176, "SYSENTER_EIP" },
	{ 0x17a, "MCG_STATUS" },
	{ 0x17b, "MCG_CTL" },
	{ 0x1a0, "MISC_ENABLE" },
	{ 0x1d9, "DEBUGCTL" },
	{ 0x1fc, "POWER_CTL" },
	{ 0x277, "PAT" },
	{ 0x345, "PERF_CAPABILITIES" },
	{ 0x4d0, "MCG_EXT_CTL" },
	{ 0x6e0, "TSC_DEADLINE" },
	{ 0xd90, "BNDCFGS" },
	{ 0xda0, "XSS" },
	{ 0x4b564d00, "KVM_WALL_CLOCK_NEW" },
	{ 0x4b564d01, "KVM_SYSTEM_TIME_NEW" },
	{ 0x4b564d02, "KVM_ASYNC_PF_EN" },
	{ 0x4b564d03, "KVM_STEAL_TIME" },
	{ 0x4b564d04, "KVM_PV_EOI_EN" },
	{ 0x4b564d05, "KVM_POLL_CONTROL" },
	{ 0x4b564d06, "KVM_ASYNC_PF_INT" },
	{ 0x4b564d07, "KVM_ASYNC_PF_ACK" },
	{ 0xc0000080, "EFER" },
	{ 0xc0000081, "STAR" },
	{ 0xc0000082, "LSTAR" },
	{ 0xc0000083, "CSTAR" },
	{ 0xc0000084, "SYSCALL_MASK" },
	{ 0xc0000100, "FS_BASE" },
	{ 0xc0000101, "GS_BASE" },
	{ 0xc0000102, "KERNEL_GS_BASE" },
	{ 0xc0000103, "TSC_AUX" },
	{ 0xc0010015, "HWCR" },
	{ 0xc001011f, "VIRT_SPEC_CTRL" },
};

char *msr_name(uint32_t index, char room[MSR_NAME_MAX])
{
	for (size_t i = 0; i < COUNT(msr_names); i++) {
		if (msr_names[i].index != index)
			continue;
		snprintf(room, MSR_NAME_MAX, "%s (0x%x)", msr_names[i].name, index);
		return room;
	}
	snprintf(room, MSR_NAME_MAX, "0x%x", index);
	return room;
}

/* What the masked features have, and what KVM lists of interfaces that no guest is shown. */
static const struct {
	uint32_t first, last;
	const char *what;
} unsaved[] = {
	{ 0x8c, 0x8f, "SGX launch control" },
	{ 0xc1, 0xc8, "performance counters" },
	{ 0xe7, 0xe8, "MPERF and APERF, the host's own" },
	{ 0x186, 0x18d, "performance event selectors" },
	{ 0x1c4, 0x1c5, "XFD, of AMX" },
	{ 0x1cc, 0x1d4, "FRED" },
	{ 0x309, 0x30c, "fixed performance counters" },
	{ 0x345, 0x345, "PMU capabilities" },
	{ 0x38d, 0x390, "PMU control" },
	{ 0x3f1, 0x3f2, "PEBS" },
	{ 0x480, 0x491, "VMX capabilities" },
	{ 0x4c1, 0x4c8, "performance counters, wide" },
	{ 0x560, 0x587, "processor trace" },
	{ 0x600, 0x600, "debug store" },
	{ 0x6a0, 0x6a8, "shadow stacks, branch tracking" },
	{ 0x6e1, 0x6e1, "supervisor protection keys" },
	{ 0x14ce, 0x14cf, "last branch records" },
	{ 0x40000000, 0x400001ff, "Hyper-V's interface" },
	{ 0xc0000104, 0xc0000104, "nested TSC ratio" },
	{ 0xc0000300, 0xc0000303, "performance counters (AMD, 2)" },
	{ 0xc0010000, 0xc0010007, "performance counters (AMD)" },
	{ 0xc0010114, 0xc0010114, "nested virtualization" },
	{ 0xc0010117, 0xc0010117, "nested virtualization" },
	{ 0xc0010200, 0xc001020b, "performance counters (AMD, core)" },
};

/* What the guest may lose where the host does not take it. */
static const struct {
	uint32_t first, last;
	const char *why;
} trifles[] = {
	{ 0x11, 0x12,
	  "kvmclock's old numbers: a guest that uses the new ones leaves a trace here" },
	{ 0x34, 0x34, "a count of SMIs" },
	{ 0x8b, 0x8b, "the microcode's number" },
	{ 0xce, 0xce, "what the platform can do: read once at boot" },
	{ 0x10a, 0x10a, "which defences the CPU needs: read once at boot" },
	{ 0x1db, 0x1de, "the last branch and exception: for debuggers" },
};

static bool is_unsaved(uint32_t index)
{
	for (size_t i = 0; i < COUNT(unsaved); i++)
		if (index >= unsaved[i].first && index <= unsaved[i].last)
			return true;
	return false;
}

static bool is_trifle(uint32_t index)
{
	for (size_t i = 0; i < COUNT(trifles); i++)
		if (index >= trifles[i].first && index <= trifles[i].last)
			return true;
	return false;
}

static bool host_has(const struct kvm_msr_list *host, uint32_t index)
{
	for (uint32_t i = 0; i < host->nmsrs; i++)
		if (host->indices[i] == index)
			return true;
	return false;
}

/* Those whose value after a reset is not 0, and is the same on every CPU. */
static uint64_t reset_value(uint32_t index)
{
	if (index == 0x277) /* PAT: Intel SDM 3A, 12.12.4 */
		return 0x0007040600070406;
	return index == 0x4b564d05; /* KVM_POLL_CONTROL: KVM polls */
}

enum msr_fate msr_fate(const struct kvm_msr_list *host, const Msr *m)
{
	if (is_unsaved(m->index))
		return MSR_UNSAVED;
	if (host_has(host, m->index))
		return MSR_LOAD;
	if (m->data == 0 || m->data == reset_value(m->index))
		return MSR_IDLE;
	return is_trifle(m->index) ? MSR_TRIFLE : MSR_MISSING;
}

/* ---- saving ---- */

/*
 * AMD's SYSENTER is not for long mode, and of these two KVM loads the low halves
 * alone there, whatever the guest has written: they are saved as they are loaded.
 */
static bool is_half(uint32_t index, bool amd)
{
	return amd && (index == 0x175 || index == 0x176);
}

static int keep(const struct msr_batch *batch, int n, bool amd, VcpuState *s)
{
	for (int i = 0; i < n; i++) {
		const struct kvm_msr_entry *from = &batch->entry[i];
		Msr *m = malloc(sizeof(*m));

		if (!m)
			return -ENOMEM;
		msr__init(m);
		m->index = from->index;
		m->data = is_half(from->index, amd) ? from->data & UINT32_MAX : from->data;
		s->msr[s->n_msr++] = m;
	}
	return 0;
}

/* As KVM tells AMD: by the vendor that the guest is shown. */
static bool is_amd(const VcpuState *s)
{
	for (size_t i = 0; i < s->n_cpuid; i++)
		if (s->cpuid[i]->function == 0)
			return s->cpuid[i]->ecx == 0x444d4163 || s->cpuid[i]->ecx == 0x656e6975;
	return false;
}

/* The next run of the host's list from *at on, without what is not saved. */
static void fill(const struct kvm_msr_list *list, uint32_t *at, struct msr_batch *batch)
{
	uint32_t n = 0;

	for (; *at < list->nmsrs && n < MSR_BATCH; (*at)++)
		if (!is_unsaved(list->indices[*at]))
			batch->entry[n++].index = list->indices[*at];
	batch->head.nmsrs = n;
}

/* Takes the first n out of the batch: they are done with. */
static void drop(struct msr_batch *batch, uint32_t n)
{
	batch->head.nmsrs -= n;
	memmove(batch->entry, batch->entry + n, batch->head.nmsrs * sizeof(batch->entry[0]));
}

/*
 * KVM stops at one that it lists but cannot read on this CPU. That one is left
 * out, and said.
 */
static int save_batch(int fd, struct msr_batch *batch, VcpuState *s)
{
	const bool amd = is_amd(s);

	while (batch->head.nmsrs) {
		const uint32_t n = batch->head.nmsrs;
		const int got = kvm_ioctl(fd, KVM_GET_MSRS, batch);
		const int rc = got < 0 ? got : keep(batch, got, amd, s);

		if (rc < 0)
			return rc;
		if ((uint32_t)got >= n)
			return 0;
		log_debug("MSR 0x%x cannot be read on this host", batch->entry[got].index);
		drop(batch, (uint32_t)got + 1);
	}
	return 0;
}

int msr_save(const struct kvm_host *host, int vcpu_fd, VcpuState *s)
{
	const struct kvm_msr_list *list = host->msrs;
	auto_free struct msr_batch *batch = calloc(1, sizeof(*batch));
	uint32_t at = 0;
	int rc = 0;

	s->msr = calloc(list->nmsrs ? list->nmsrs : 1, sizeof(*s->msr));
	if (!batch || !s->msr)
		return -ENOMEM;
	while (rc == 0 && at < list->nmsrs) {
		fill(list, &at, batch);
		rc = save_batch(vcpu_fd, batch, s);
	}
	return rc;
}

/* ---- loading ---- */

/* One that KVM has listed and does not take, all the same: is the guest whole without it? */
static int refused(const struct kvm_msr_entry *m, struct err *e)
{
	char name[MSR_NAME_MAX];

	msr_name(m->index, name);
	if (m->data == 0 || m->data == reset_value(m->index) || is_trifle(m->index)) {
		log_info("this host's KVM does not take the saved MSR %s: left as it is", name);
		return 0;
	}
	return err_env(e, EINVAL, "this host's KVM does not take the saved MSR %s (value 0x%llx)",
		       name, (unsigned long long)m->data);
}

/* Sets what is in the batch, and empties it. */
static int load_batch(int fd, struct msr_batch *batch, struct err *e)
{
	while (batch->head.nmsrs) {
		const uint32_t n = batch->head.nmsrs;
		const int done = kvm_ioctl(fd, KVM_SET_MSRS, batch);
		int rc;

		if (done < 0)
			return err_sys(e, -done, "this host's KVM does not take the saved MSRs");
		if ((uint32_t)done >= n)
			break;
		rc = refused(&batch->entry[done], e);
		if (rc < 0)
			return rc;
		drop(batch, (uint32_t)done + 1);
	}
	batch->head.nmsrs = 0;
	return 0;
}

/* A missing one is tried: KVM has the last word, and gives the failure. */
static bool wanted(const struct kvm_host *host, const Msr *m)
{
	const enum msr_fate fate = msr_fate(host->msrs, m);

	return fate == MSR_LOAD || fate == MSR_MISSING;
}

/* The saved MSR of that index, or NULL. */
static const Msr *find(const VcpuState *s, uint32_t index)
{
	for (size_t i = 0; i < s->n_msr; i++)
		if (s->msr[i]->index == index)
			return s->msr[i];
	return NULL;
}

/*
 * One of 0 has perhaps just fired, and the interrupt is nowhere in the state: the
 * saved TSC, which has passed, makes it fire again. One too many is harmless.
 */
static struct kvm_msr_entry deadline_of(const VcpuState *s)
{
	const Msr *deadline = find(s, MSR_TSC_DEADLINE), *tsc = find(s, MSR_TSC);
	struct kvm_msr_entry m = { .index = MSR_TSC_DEADLINE };

	m.data = deadline && deadline->data ? deadline->data : tsc ? tsc->data : 0;
	return m;
}

int msr_load_deadline(int vcpu_fd, const VcpuState *s)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry = deadline_of(s) };
	int rc = find(s, MSR_TSC_DEADLINE) ? kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &one) : 1;

	/* One that is refused was so before: msr_load() has said what there is to say. */
	return rc < 0 ? rc : 0;
}

/* TSC_DEADLINE is armed against the TSC: it goes in when all others are there. */
int msr_load(const struct kvm_host *host, int vcpu_fd, const VcpuState *s, const uint64_t *tsc,
	     struct err *e)
{
	auto_free struct msr_batch *batch = calloc(1, sizeof(*batch));
	int rc = 0;

	if (!batch)
		return err_sys(e, ENOMEM, "cannot load the MSRs");
	for (size_t i = 0; rc == 0 && i < s->n_msr; i++) {
		const Msr *m = s->msr[i];

		if (m->index == MSR_TSC_DEADLINE || !wanted(host, m))
			continue;
		batch->entry[batch->head.nmsrs].index = m->index;
		batch->entry[batch->head.nmsrs].data = tsc && m->index == MSR_TSC ? *tsc : m->data;
		if (++batch->head.nmsrs == MSR_BATCH)
			rc = load_batch(vcpu_fd, batch, e);
	}
	if (rc == 0)
		rc = load_batch(vcpu_fd, batch, e);
	if (rc < 0 || !find(s, MSR_TSC_DEADLINE))
		return rc;
	batch->head.nmsrs = 1;
	batch->entry[0] = deadline_of(s);
	return load_batch(vcpu_fd, batch, e);
}

int msr_read(int vcpu_fd, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry.index = index };
	int rc = kvm_ioctl(vcpu_fd, KVM_GET_MSRS, &one);

	if (rc != 1)
		return rc < 0 ? rc : -EINVAL;
	*value = one.entry.data;
	return 0;
}
