/*
 * A KVM virtual machine: descriptors, memory slots, interrupt controllers and
 * the vCPUs' run areas. It knows nothing of devices, boot or snapshots: that is
 * struct machine's (machine.h), which can exchange one struct vm for another
 * (a reset builds a fresh one over the same RAM, a save one over frozen RAM).
 *
 * Any thread may set it up; KVM_RUN is only called by a vCPU's own thread.
 */
#pragma once

#include <stdint.h>

#include "kvm.h"
#include "ram.h"
#include "proto/state.h"

#define VM_VCPUS_MAX	32
#define VM_PMEM_MAX	8
#define VM_MEMORIES_MAX (1 + VM_PMEM_MAX) /* RAM, then pmem */

struct vm_vcpu {
	int fd;		     /* owned */
	struct kvm_run *run; /* owned mapping of host->run_size bytes */
};

struct vm {
	const struct kvm_host *host;
	int fd; /* owned */
	unsigned nvcpus;
	struct vm_vcpu vcpu[VM_VCPUS_MAX];
};

/*
 * Makes a VM over n memories (RAM first, then pmem; at most VM_MEMORIES_MAX, whose
 * regions do not overlap) with nvcpus vCPUs, an in-kernel irqchip and a PIT, in
 * their state after power-on, without CPUID. What the guest writes to read_only
 * memory is an MMIO exit. 0 or a negative errno.
 */
int vm_create(struct vm *vm, struct kvm_host *host, const struct ram *const memory[], unsigned n,
	      unsigned nvcpus, struct err *e);
void vm_destroy(struct vm *vm);

/*
 * Points the slots of memory `which` (its index in vm_create()'s list) at where
 * `ram` is mapped now; its regions are the same. The vCPUs must be outside
 * KVM_RUN. 0 or a negative errno: then some have been moved, and moving them to
 * where they were makes the VM whole again.
 */
int vm_move_ram(struct vm *vm, unsigned which, const struct ram *ram, struct err *e);

/*
 * Memory whose ram->log_dirty is set is logged by KVM: which pages the guest, and KVM
 * itself, writes. vm_log_ram: as the flag is now, in a VM that may run. vm_take_dirty: adds
 * the pages logged since the last call to bits[], one bit a page of the flat run, and logs
 * them anew. Any thread. 0 or a negative errno.
 */
int vm_log_ram(const struct vm *vm, unsigned which, const struct ram *ram);
int vm_take_dirty(const struct vm *vm, unsigned which, const struct ram *ram, uint64_t *bits);

/* Sets the level of an interrupt line (GSI). Any thread. */
void vm_set_irq(const struct vm *vm, uint32_t gsi, bool level);

/*
 * The kernel's own paths past the monitor, as long as the VM lives: a write to
 * the eventfd `fd` pulses interrupt line gsi; a guest's write of the 32-bit
 * `value` at a guest address counts up the eventfd and makes no exit. An eventfd
 * serves one VM. 0 or a negative errno.
 */
int vm_add_irqfd(const struct vm *vm, uint32_t gsi, int fd);
int vm_add_ioeventfd(const struct vm *vm, uint64_t address, uint32_t value, int fd);

/* Gives every vCPU all that this host can offer it (cpuid.h). 0 or a negative errno. */
int vm_set_host_cpuid(struct vm *vm, struct err *e);

/* The value of a statistic of the VM, "pages_4k", or -1 where KVM does not tell it. */
int64_t vm_stat(const struct vm *vm, const char *name);

/*
 * The complete state of the VM, in the order that KVM wants (vm_state.c), into
 * the message's kvm and vcpu parts (allocated for proto_state_free()). All
 * vCPUs outside KVM_RUN with no exit pending. 0 or a negative errno.
 */
int vm_save(const struct vm *vm, VmState *state, struct err *e);

/*
 * Adds (err_also) a sentence for each part of a decoded state that has not the
 * size of KVM's structure. 0 or -EINVAL if anything was added. Asks no KVM.
 */
int vm_check_state(const VmState *state, struct err *e);

/* The reverse, into a VM fresh from vm_create(). 0, -EINVAL or another errno. */
int vm_load(struct vm *vm, const VmState *state, struct err *e);

/*
 * As vm_load(), where this VM takes the place of `from`, whose state was just taken:
 * TSCs and kvmclock go on from `from`'s as they are now, and the vCPUs have been given
 * their CPUID. `from` is not changed. 0 or a negative errno.
 */
int vm_take_over(struct vm *vm, const struct vm *from, const VmState *state, struct err *e);
