/*
 * Handing the guest over to a second KVM VM: how a save freezes RAM in a pause
 * that does not grow with RAM.
 *
 * A memory slot that is moved costs KVM every page-table entry of it before the
 * call returns, with the guest at a stand. A second VM whose slots show the
 * private mapping from the start costs nothing of that: it is made while the
 * guest runs, and in the pause it is given the state that was just taken for the
 * snapshot, by the code that restores. Its page tables fill as the guest goes on,
 * as after a move.
 *
 *	prepare	the guest runs: a VM over the frozen mappings, its vCPUs with their
 *		CPUID, the devices' eventfds
 *	commit	all is held and the state is taken: loads it, exchanges the VMs
 *	finish	the guest runs again: what is not used any more is closed, by a
 *		thread, since the end of a VM takes milliseconds a gigabyte
 *
 * Devices are the machine's and stay as they are: only their eventfds change.
 * What was on its way through the old ones, machine_release() sends again.
 *
 * The state is that of KVM's calls. Beyond it KVM keeps, unseen: how long a vCPU's
 * thread had waited for a CPU (put right in the guest's steal time), the phase of
 * the PIT (its period begins anew), the levels of interrupt lines (a device that
 * raises its line again makes an edge once too often, which is harmless).
 *
 * Main thread only.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "vm.h"

struct machine;
struct virtio_binding;

struct handover {
	bool made;     /* vm and binding are there: prepared, or, after a commit, left behind */
	bool prepared; /* they are for a commit */
	struct vm vm;
	struct virtio_binding *binding; /* one a device, owned */
	unsigned nbindings;
	struct ram *ram; /* the first of the memories that vm shows, the caller's */
	bool closing;	 /* a thread closes them */
	pthread_t closer;
};

/*
 * Prepares a VM that shows `memory` (n, in the order of machine_memories()), which
 * stay as they are until commit or finish. 0, or a negative errno: then there is none.
 */
int handover_prepare(struct machine *m, struct ram *const memory[], unsigned n, struct err *e);

/*
 * Everything is held, and `state` was taken since. 0: the prepared VM is the machine's;
 * the memories it shows are to become the machine's as well. -ENOENT, no words: none
 * is prepared. Or another negative errno: the machine is as it was.
 */
int handover_commit(struct machine *m, const VmState *state, struct err *e);

/* Closes what is not the machine's, if there is anything; does not wait for its end. */
void handover_finish(struct machine *m);

/* As that, and waits. */
void handover_end(struct machine *m);

/*
 * A guest's steal time, where KVM has added `waited` ns to it and will add all of
 * them again, on top of what is to come.
 */
uint64_t handover_steal(uint64_t steal, uint64_t waited);
