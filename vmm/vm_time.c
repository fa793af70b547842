/* The times of a KVM VM: see vm_time.h. */
#define _GNU_SOURCE
#include "vm_time.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "msr.h"

#define TSC_APART_MS 10000 /* no restore takes longer from one call to the next */

#ifndef KVM_CLOCK_REALTIME
#define KVM_CLOCK_REALTIME (1 << 2) /* Linux 5.16 */
#endif

/* ---- kvmclock ---- */

/* The flags of KVM_GET_CLOCK, kept, would make the clock jump by the time away. */
int vm_time_load_clock(const struct vm *vm, const KvmState *k, struct err *e)
{
	struct kvm_clock_data clock;
	int rc;

	if (k->clock.len != sizeof(clock))
		return err_refuse(e, EINVAL, "the saved clock has %zu bytes, not %zu", k->clock.len,
				  sizeof(clock));
	memcpy(&clock, k->clock.data, sizeof(clock));
	clock.flags = 0;
	rc = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock);
	return rc < 0 ? err_sys(e, -rc, "this host's KVM does not take the saved clock") : 0;
}

/* ---- the vCPUs' TSCs, beside each other ---- */

/* A vCPU's TSC offset, got or set. -ENXIO: this KVM does not let it be seen. */
static int tsc_offset(const struct vm *vm, unsigned id, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};
	int rc = kvm_ioctl(vm->vcpu[id].fd, request, &attr);

	return rc < 0 && request == KVM_GET_DEVICE_ATTR ? -ENXIO : rc;
}

static int read_offsets(const struct vm *vm, uint64_t offset[VM_VCPUS_MAX])
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < vm->nvcpus; i++)
		rc = tsc_offset(vm, i, KVM_GET_DEVICE_ATTR, &offset[i]);
	return rc;
}

/*
 * The vCPUs' TSC MSRs are read one after the other, so their values say nothing
 * of how the TSCs stand to each other; the offsets do. On a host whose own TSC
 * is unstable KVM computes them anew at each ioctl: what changes from one look to
 * the next is noise, and such TSCs are taken for equal.
 */
void vm_time_save_apart(const struct vm *vm, VmState *s)
{
	uint64_t offset[VM_VCPUS_MAX], again[VM_VCPUS_MAX];

	if (vm->nvcpus < 2 || read_offsets(vm, offset) < 0 || read_offsets(vm, again) < 0 ||
	    memcmp(offset, again, vm->nvcpus * sizeof(offset[0])) != 0)
		return;
	for (unsigned i = 1; i < vm->nvcpus; i++)
		s->vcpu[i]->tsc_apart = (int64_t)(offset[i] - offset[0]);
}

/*
 * Written by MSR, each vCPU's TSC would stand a little apart, and clocks run
 * backwards between them: all stand to vCPU 0's as they did. Where KVM does not
 * let the offset be set, it takes MSR writes within a second of each other for
 * equal ones (kvm_synchronize_tsc()).
 */
int vm_time_load_apart(const struct vm *vm, const VmState *s, struct err *e)
{
	uint64_t first;
	int rc = vm->nvcpus < 2 ? -ENXIO : tsc_offset(vm, 0, KVM_GET_DEVICE_ATTR, &first);

	if (rc == -ENXIO)
		return 0;
	for (unsigned i = 1; rc == 0 && i < vm->nvcpus; i++) {
		uint64_t offset = first + (uint64_t)s->vcpu[i]->tsc_apart;

		rc = tsc_offset(vm, i, KVM_SET_DEVICE_ATTR, &offset);
	}
	return rc < 0 ? err_sys(e, -rc, "cannot set the vCPUs' TSC offsets") : 0;
}

/*
 * A KVM that cannot trap RDTSC (PVM) leaves the guest the host's TSC, whatever is
 * written: no failure, for kvmclock is right all the same, but worth saying.
 */
void vm_time_check(const struct vm *vm, const VmState *s)
{
	const VcpuState *v = s->vcpu[0];
	uint64_t now, apart;

	for (size_t i = 0; i < v->n_msr; i++) {
		if (v->msr[i]->index != MSR_TSC || v->tsc_khz == 0 || vm_time_tsc(vm, 0, &now) < 0)
			continue;
		apart = now > v->msr[i]->data ? now - v->msr[i]->data : v->msr[i]->data - now;
		if (apart / v->tsc_khz > TSC_APART_MS)
			log_info("this host's KVM keeps its own TSC: the guest's has jumped by "
				 "%llu s",
				 (unsigned long long)(apart / v->tsc_khz / 1000));
	}
}

/* ---- in another's place ---- */

int vm_time_tsc(const struct vm *vm, unsigned id, uint64_t *tsc)
{
	return msr_read(vm->vcpu[id].fd, MSR_TSC, tsc);
}

/*
 * The old VM's clock runs on while this one is loaded. Where KVM tells of which
 * moment of real time its answer is, it adds what passes from that call to this one,
 * some microseconds; else they are lost, while the guest stands still anyway.
 */
int vm_time_take_over_clock(const struct vm *vm, const struct vm *from, struct err *e)
{
	struct kvm_clock_data clock = { 0 };
	int rc = kvm_ioctl(from->fd, KVM_GET_CLOCK, &clock);

	clock.flags &= KVM_CLOCK_REALTIME;
	if (rc == 0)
		rc = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock);
	return rc < 0 ? err_sys(e, -rc, "cannot hand the guest's clock over") : 0;
}

/*
 * The offset to the host's TSC is what makes a TSC: with the same one it is the same.
 * Of an unstable host's, which are noise (above), all get the one that is ahead, so
 * that none goes backwards. -ENXIO: this KVM does not let them be seen.
 */
static int offsets_now(const struct vm *vm, uint64_t offset[VM_VCPUS_MAX])
{
	uint64_t again[VM_VCPUS_MAX] = { 0 }, ahead;
	int rc = read_offsets(vm, offset);

	if (rc == 0)
		rc = read_offsets(vm, again);
	if (rc < 0 || memcmp(offset, again, vm->nvcpus * sizeof(offset[0])) == 0)
		return rc;
	ahead = again[0];
	for (unsigned i = 1; i < vm->nvcpus; i++)
		ahead = (int64_t)(again[i] - ahead) > 0 ? again[i] : ahead;
	for (unsigned i = 0; i < vm->nvcpus; i++)
		offset[i] = ahead;
	return 0;
}

int vm_time_take_over(const struct vm *vm, const struct vm *from, const VmState *s, struct err *e)
{
	uint64_t offset[VM_VCPUS_MAX];
	int rc = offsets_now(from, offset);
	/* Not to be seen: then the MSR has it, to some microseconds (vm_time_tsc()). */
	const bool seen = rc == 0;

	if (rc == -ENXIO)
		rc = 0;
	for (unsigned i = 0; rc == 0 && i < vm->nvcpus; i++) {
		if (seen)
			rc = tsc_offset(vm, i, KVM_SET_DEVICE_ATTR, &offset[i]);
		/* Armed before, it would wait too long: against a TSC that stood still. */
		if (rc == 0)
			rc = msr_load_deadline(vm->vcpu[i].fd, s->vcpu[i]);
	}
	if (rc < 0)
		return err_sys(e, -rc, "cannot hand the vCPUs' TSCs over");
	return vm_time_take_over_clock(vm, from, e);
}
