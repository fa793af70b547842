/*
 * A vCPU's MSRs, saved and loaded: the host's index list and the memory types,
 * without those of features that a guest is not offered (cpu_features.h).
 *
 * Sources: Intel SDM 4, AMD APM 2 (appendix A), arch/x86/kvm/x86.c.
 */
#pragma once

#include "kvm.h"
#include "proto/state.h"

#define MSR_TSC		   0x10
#define MSR_TSC_ADJUST	   0x3b
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_KVM_STEAL_TIME 0x4b564d03

/* "IA32_XSS (0xda0)", or its number alone, into room; returns it. */
#define MSR_NAME_MAX 48
char *msr_name(uint32_t index, char room[MSR_NAME_MAX]);

/* What becomes of a saved MSR. */
enum msr_fate {
	MSR_LOAD,    /* the host's KVM keeps it */
	MSR_UNSAVED, /* of a feature that is not offered: never saved, not loaded */
	MSR_IDLE,    /* the host does not know it, and it holds what it holds after a reset */
	MSR_TRIFLE,  /* the host does not know it, and no guest goes wrong without it */
	MSR_MISSING, /* the host does not know it, and the guest uses it */
};

enum msr_fate msr_fate(const struct kvm_msr_list *host, const Msr *m);

/* All that can be read, into s->msr; s->cpuid is there already. 0 or a negative errno. */
int msr_save(const struct kvm_host *host, int vcpu_fd, VcpuState *s);

/*
 * The reverse, TSC_DEADLINE last. `tsc`: in place of the saved TSC, NULL: that one.
 * One that this host does not take is left out and logged where that is of no
 * consequence. 0, or a negative errno with words that name the MSR.
 */
int msr_load(const struct kvm_host *host, int vcpu_fd, const VcpuState *s, const uint64_t *tsc,
	     struct err *e);

/* TSC_DEADLINE once more, when the TSC has been set in another way. 0 or a negative errno. */
int msr_load_deadline(int vcpu_fd, const VcpuState *s);

/* One MSR of a vCPU. 0 or a negative errno. */
int msr_read(int vcpu_fd, uint32_t index, uint64_t *value);
