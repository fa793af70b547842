/*
 * What a snapshot needs of a host, checked before anything is made: each check
 * adds one sentence to one report. The host is a struct, asked once, so that
 * the checks themselves touch nothing.
 */
#pragma once

#include "kvm.h"
#include "proto/manifest.h"
#include "proto/state.h"

struct preflight_host {
	struct kvm_cpuid2 *supported;	 /* by its KVM, owned */
	struct kvm_cpuid2 *offered;	 /* what vmm shows a guest of that, owned */
	const struct kvm_msr_list *msrs; /* of the struct kvm_host that was asked */
	uint32_t tsc_khz;		 /* 0: KVM does not tell */
	bool tsc_control;
	unsigned vcpus_max;
	uint64_t ram; /* bytes that the host has */
};

/* Asks; preflight_forget() frees, also after a failure. 0 or a negative errno. */
int preflight_ask(struct kvm_host *kvm, struct preflight_host *h, struct err *e);
void preflight_forget(struct preflight_host *h);

/*
 * Whether the snapshot's CPU has features that KVM does not say it supports. Then
 * preflight_probe() finds those that its vCPUs show all the same, as on a KVM that
 * cannot trap CPUID, and adds them to what the host has; it takes a VM and some
 * hundred microseconds, so it is asked for only then.
 */
bool preflight_wants_probe(const struct preflight_host *h, const SnapshotManifest *m,
			   const VmState *s);
int preflight_probe(struct kvm_host *kvm, struct preflight_host *h, struct err *e);

/*
 * Whether the host can run what the manifest (decoded, checked or not) and the
 * state (parsed, its counts in bounds; NULL: not readable) describe: CPU, TSC,
 * MSRs, sizes. MSRs that are left out without harm are logged.
 * 0 or -EINVAL if anything was added.
 */
int preflight_check(const struct preflight_host *h, const SnapshotManifest *m, const VmState *s,
		    struct err *e);

/* Whether this program has the devices of both, in these versions. 0 or -EINVAL. */
int preflight_devices(const SnapshotManifest *m, const VmState *s, struct err *e);

/* Whether a guest of the one frequency notices the other: more than 250 ppm apart. */
bool preflight_tsc_differs(uint32_t saved_khz, uint32_t host_khz);
