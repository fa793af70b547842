/*
 * The host's KVM: what it offers, asked once. Never assumed: the programs run
 * on VMX, SVM and software backends alike.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <linux/kvm.h>

#include "base/err.h"

#define KVM_CPUID_MAX 256
#define KVM_MSRS_MAX  512

struct kvm_host {
	int fd;		   /* /dev/kvm, owned */
	uint32_t run_size; /* bytes of a vCPU's struct kvm_run mapping */
	bool tsc_control;
	bool manual_dirty_log;	   /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	struct kvm_msr_list *msrs; /* MSRs that KVM keeps and the MTRRs, owned */
	int spare_vm; /* a bare VM, made to ask what /dev/kvm does not tell, owned; or -1 */
	int probe_vm; /* one that has served its purpose, owned; or -1 */
};

#define KVM_HOST_NONE ((struct kvm_host){ .fd = -1, .spare_vm = -1, .probe_vm = -1 })

/* Opens /dev/kvm and asks what is needed to run. 0 or a negative errno. */
int kvm_host_open(struct kvm_host *host, struct err *e);
void kvm_host_close(struct kvm_host *host);

/* The frequency of a guest's TSC, 0: KVM does not tell. Makes a VM to ask, and keeps it. */
uint32_t kvm_host_tsc_khz(struct kvm_host *host);

/* A bare VM, the caller's: the one made to ask, or a new one. Or a negative errno. */
int kvm_host_take_vm(struct kvm_host *host);

/* Closes what has served its purpose: half a millisecond, for when nobody waits for it. */
void kvm_host_tidy(struct kvm_host *host);

/* ioctl(2) that returns a negative errno instead of -1, retried on EINTR. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
