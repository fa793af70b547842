/*
 * The CPUID that a guest is shown: what the host's KVM supports, less what is
 * not saved (cpu_features.h), less what a profile leaves out, with the machine's
 * own vCPUs as its topology: one package of as many cores, one thread each, the
 * APIC id of a vCPU being its number.
 *
 * A list (struct kvm_cpuid2) has room for KVM_CPUID_MAX entries and is its
 * holder's to free. Any thread.
 */
#pragma once

#include "cpu_features.h"
#include "kvm.h"
#include "proto/state.h"

struct vm;

/* What the host's KVM supports, as it says. 0 or a negative errno. */
int cpuid_ask(const struct kvm_host *host, struct kvm_cpuid2 **out, struct err *e);

/*
 * Makes of what KVM supports what a guest may be shown on this host: without what
 * is not saved, with what KVM leaves to the monitor to say.
 */
void cpuid_mask(struct kvm_cpuid2 *cpuid, bool tsc_deadline);

/*
 * Leaves what the profile has. -ENOTSUP: the host lacks some of it; the words
 * name that.
 */
int cpuid_apply_profile(struct kvm_cpuid2 *cpuid, const struct cpu_profile *p, struct err *e);

/* The leaves that tell of nvcpus vCPUs; and of which of them this one is. */
int cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned nvcpus);
void cpuid_set_vcpu(struct kvm_cpuid2 *cpuid, unsigned id);

/*
 * All of the above for a new machine. profile NULL or "host": all that the host
 * can offer. 0 or a negative errno with words.
 */
int cpuid_make(const struct kvm_host *host, const char *profile, unsigned nvcpus,
	       struct kvm_cpuid2 **out, struct err *e);

/* A saved list; entries beyond KVM_CPUID_MAX are left out. NULL: no memory. */
struct kvm_cpuid2 *cpuid_from_entries(CpuidEntry *const *entries, size_t n);

/* Gives every vCPU the list, each with its own id in it. 0 or a negative errno. */
int cpuid_set(struct vm *vm, struct kvm_cpuid2 *cpuid, struct err *e);

/*
 * The features that a vCPU shows beyond the list that it was given: a KVM that
 * cannot trap CPUID (PVM) shows the hardware's. 0 or a negative errno.
 */
int cpuid_forced(int vcpu_fd, const struct kvm_cpuid2 *given, struct cpu_features *out);

/*
 * As above, of a vCPU made to look, for nothing else: its VM is left for
 * kvm_host_tidy() to close.
 */
int cpuid_probe_forced(struct kvm_host *host, struct kvm_cpuid2 *given, struct cpu_features *out);

/* Adds features to the leaves that a list has. */
void cpuid_add(struct kvm_cpuid2 *cpuid, const struct cpu_features *f);

/* The entry of a leaf, NULL: there is none. */
struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index);

/* "AuthenticAMD", of leaf 0; "" if there is none. Returns vendor. */
char *cpuid_vendor(const struct kvm_cpuid2 *cpuid, char vendor[13]);

/* Whether the KVM of this host has TSC_DEADLINE in its APIC. */
bool cpuid_host_has_deadline(const struct kvm_host *host);
