/*
 * The times of a KVM VM: its vCPUs' TSCs and kvmclock, as far as they are more
 * than values to be loaded. A part of vm_state.c, for no others.
 *
 * A restored VM goes on with the time that was saved. One that takes another's
 * place (a hand-over) goes on with that one's, which has run on since the state
 * was taken: the guest sees neither a jump nor a step backwards.
 */
#pragma once

#include "vm.h"

/* How the TSCs stand to vCPU 0's, into the message. */
void vm_time_save_apart(const struct vm *vm, VmState *s);

/* After the vCPUs are loaded: their TSCs stand to each other as saved. 0 or a negative errno. */
int vm_time_load_apart(const struct vm *vm, const VmState *s, struct err *e);

/* kvmclock as saved; after the vCPUs are loaded. 0 or a negative errno. */
int vm_time_load_clock(const struct vm *vm, const KvmState *k, struct err *e);

/* Says where the host's KVM has not taken the saved TSC. */
void vm_time_check(const struct vm *vm, const VmState *s);

/*
 * The TSC of a vCPU at this moment, for vCPUs that are loaded by the next call.
 * 0 or a negative errno.
 */
int vm_time_tsc(const struct vm *vm, unsigned id, uint64_t *tsc);

/*
 * After the vCPUs are loaded, in place of the three above: TSCs, what waits for
 * them (TSC_DEADLINE), and kvmclock go on from those of `from`. 0 or a negative errno.
 */
int vm_time_take_over(const struct vm *vm, const struct vm *from, const VmState *s, struct err *e);

/* kvmclock alone. */
int vm_time_take_over_clock(const struct vm *vm, const struct vm *from, struct err *e);
