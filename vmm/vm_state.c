/*
 * The state of a KVM VM, saved and loaded.
 *
 * What is taken, and in which order, is a table: MP_STATE before REGS (reading
 * it can change CS and RIP), events last; on loading the MSRs after the LAPIC,
 * and of them TSC_DEADLINE after all others. Each structure is kept as KVM
 * lays it out; its size is checked before it is given back to KVM.
 *
 * Sources: Documentation/virt/kvm/api.rst; arch/x86/kvm/x86.c.
 */
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cpuid.h"
#include "msr.h"
#include "preflight.h"
#include "vm_time.h"

#define PART_VERSION  1
#define XSAVE_MAX     (1U << 20)
#define XSTATE_BV_AT  512 /* in an XSAVE area (Intel SDM 1, 13.4.2) */
#define XSTATE_LEGACY 3	  /* x87 and SSE: every CPU has them */

/* struct kvm_sregs2 is an extension of struct kvm_sregs that ends otherwise. */
#define VCPU_PART(field_, type_, get_, set_, name_)                                                \
	{                                                                                          \
		.offset = offsetof(VcpuState, field_), .size = sizeof(type_), .get = (get_),       \
		.set = (set_), .name = (name_)                                                     \
	}

struct part {
	size_t offset; /* of the ProtobufCBinaryData in the message */
	size_t size;   /* bytes of KVM's structure */
	unsigned long get, set;
	const char *name;
};

/* In the order of loading; saving wants no other. */
static const struct part vcpu_parts[] = {
	VCPU_PART(regs, struct kvm_regs, KVM_GET_REGS, KVM_SET_REGS, "registers"),
	VCPU_PART(sregs2, struct kvm_sregs2, KVM_GET_SREGS2, KVM_SET_SREGS2, "special registers"),
	VCPU_PART(xcrs, struct kvm_xcrs, KVM_GET_XCRS, KVM_SET_XCRS, "XCRs"),
	VCPU_PART(debugregs, struct kvm_debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
		  "debug registers"),
	VCPU_PART(lapic, struct kvm_lapic_state, KVM_GET_LAPIC, KVM_SET_LAPIC, "local APIC"),
};

static const struct part vcpu_events = VCPU_PART(
	events, struct kvm_vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, "events");

static ProtobufCBinaryData *binary_at(const void *message, size_t offset)
{
	return (ProtobufCBinaryData *)((uintptr_t)message + offset);
}

static int get_part(int fd, const struct part *p, void *message)
{
	ProtobufCBinaryData *out = binary_at(message, p->offset);

	out->data = calloc(1, p->size);
	if (!out->data)
		return -ENOMEM;
	out->len = p->size;
	return kvm_ioctl(fd, p->get, out->data);
}

static int set_part(int fd, const struct part *p, const void *message, struct err *e)
{
	const ProtobufCBinaryData *in = binary_at(message, p->offset);
	int rc;

	if (in->len != p->size)
		return err_refuse(e, EINVAL,
				  "the saved %s have %zu bytes, this host's KVM wants %zu", p->name,
				  in->len, p->size);
	rc = kvm_ioctl(fd, p->set, in->data);
	if (rc < 0)
		return err_sys(e, -rc, "this host's KVM does not take the saved %s", p->name);
	return 0;
}

/* ---- XSAVE: as long as the VM's features need ---- */

static size_t xsave_size(const struct vm *vm)
{
	int size = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size < (int)sizeof(struct kvm_xsave) ? sizeof(struct kvm_xsave) : (size_t)size;
}

/*
 * Takes the components that the guest was not offered out of an area's XSTATE_BV:
 * older KVMs list what the host has, and a host without it would refuse that.
 */
static void trim_xsave(const VcpuState *s, uint8_t *area)
{
	uint64_t offered = XSTATE_LEGACY, bv;

	for (size_t i = 0; i < s->n_cpuid; i++)
		if (s->cpuid[i]->function == 0xd && s->cpuid[i]->index == 0)
			offered |= s->cpuid[i]->eax | (uint64_t)s->cpuid[i]->edx << 32;
	memcpy(&bv, area + XSTATE_BV_AT, sizeof(bv));
	bv &= offered;
	memcpy(area + XSTATE_BV_AT, &bv, sizeof(bv));
}

static int get_xsave(const struct vm *vm, int fd, VcpuState *s)
{
	size_t size = xsave_size(vm);
	int rc;

	s->xsave.data = calloc(1, size);
	if (!s->xsave.data)
		return -ENOMEM;
	s->xsave.len = size;
	rc = kvm_ioctl(fd, size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		       s->xsave.data);
	if (rc == 0)
		trim_xsave(s, s->xsave.data);
	return rc;
}

static bool xsave_holds(const VcpuState *s)
{
	return s->xsave.len >= sizeof(struct kvm_xsave) && s->xsave.len <= XSAVE_MAX;
}

static int set_xsave(const struct vm *vm, int fd, const VcpuState *s, struct err *e)
{
	size_t size = xsave_size(vm);
	auto_free uint8_t *area = NULL;
	int rc;

	if (!xsave_holds(s))
		return err_refuse(e, EINVAL, "the saved XSAVE area has %zu bytes", s->xsave.len);
	/* KVM reads as much as this VM needs, however much was saved. */
	area = calloc(1, size > s->xsave.len ? size : s->xsave.len);
	if (!area)
		return err_sys(e, ENOMEM, "cannot load the XSAVE area");
	memcpy(area, s->xsave.data, s->xsave.len);
	trim_xsave(s, area);
	rc = kvm_ioctl(fd, KVM_SET_XSAVE, area);
	if (rc < 0)
		return err_sys(e, -rc, "this host's KVM does not take the saved XSAVE area");
	return 0;
}

/* ---- CPUID ---- */

/* As the vCPU has it now: KVM changes some of it at run time. */
static int get_cpuid(int fd, VcpuState *s)
{
	auto_free struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + KVM_CPUID_MAX * sizeof(cpuid->entries[0]));
	int rc;

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = KVM_CPUID_MAX;
	rc = kvm_ioctl(fd, KVM_GET_CPUID2, cpuid);
	if (rc < 0)
		return rc;
	s->cpuid = calloc(cpuid->nent ? cpuid->nent : 1, sizeof(*s->cpuid));
	if (!s->cpuid)
		return -ENOMEM;
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *c = &cpuid->entries[i];
		CpuidEntry *out = malloc(sizeof(*out));

		if (!out)
			return -ENOMEM;
		cpuid_entry__init(out);
		out->function = c->function;
		out->index = c->index;
		out->flags = c->flags;
		out->eax = c->eax;
		out->ebx = c->ebx;
		out->ecx = c->ecx;
		out->edx = c->edx;
		s->cpuid[s->n_cpuid++] = out;
	}
	return 0;
}

static int set_cpuid(int fd, const VcpuState *s, struct err *e)
{
	auto_free struct kvm_cpuid2 *cpuid = cpuid_from_entries(s->cpuid, s->n_cpuid);
	int rc;

	if (!cpuid)
		return err_sys(e, ENOMEM, "cannot load the CPUID");
	rc = kvm_ioctl(fd, KVM_SET_CPUID2, cpuid);
	if (rc < 0)
		return err_sys(e, -rc, "this host's KVM does not take the saved CPUID");
	return 0;
}

/* ---- one vCPU ---- */

static int save_vcpu(const struct vm *vm, unsigned id, VcpuState *s)
{
	const int fd = vm->vcpu[id].fd;
	struct kvm_mp_state mp = { 0 };
	int rc = kvm_ioctl(fd, KVM_GET_MP_STATE, &mp);

	s->version = PART_VERSION;
	s->id = id;
	s->mp_state = mp.mp_state;
	for (size_t i = 0; rc >= 0 && i < sizeof(vcpu_parts) / sizeof(vcpu_parts[0]); i++)
		rc = get_part(fd, &vcpu_parts[i], s);
	if (rc >= 0)
		rc = get_cpuid(fd, s);
	if (rc >= 0)
		rc = get_xsave(vm, fd, s);
	if (rc >= 0)
		rc = msr_save(vm->host, fd, s);
	if (rc >= 0)
		rc = get_part(fd, &vcpu_events, s);
	if (rc < 0)
		return rc;
	rc = kvm_ioctl(fd, KVM_GET_TSC_KHZ, NULL);
	s->tsc_khz = rc > 0 ? (uint32_t)rc : 0; /* not every KVM tells */
	return 0;
}

/* Within 250 ppm the guest's own clock discipline copes: no scaling is asked for. */
static int set_tsc_khz(const struct vm *vm, int fd, uint32_t saved, struct err *e)
{
	int host = kvm_ioctl(fd, KVM_GET_TSC_KHZ, NULL);
	int rc;

	if (host <= 0 || !preflight_tsc_differs(saved, (uint32_t)host))
		return 0;
	if (!vm->host->tsc_control)
		return err_refuse(
			e, ENOTSUP,
			"the snapshot's TSC runs at %u kHz, this host's at %d kHz, and its "
			"KVM cannot scale it",
			saved, host);
	rc = kvm_ioctl(fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)saved);
	return rc < 0 ? err_sys(e, -rc, "cannot set the TSC to %u kHz", saved) : 0;
}

/* `from`: the VM whose place this one takes, NULL: it is a restored one. */
static int load_vcpu(struct vm *vm, const VcpuState *s, const struct vm *from, struct err *e)
{
	const int fd = vm->vcpu[s->id].fd;
	struct kvm_mp_state mp = { .mp_state = s->mp_state };
	uint64_t tsc = 0;
	int rc = set_tsc_khz(vm, fd, s->tsc_khz, e);

	if (rc == 0 && !from)
		rc = set_cpuid(fd, s, e);
	if (rc == 0) {
		rc = kvm_ioctl(fd, KVM_SET_MP_STATE, &mp);
		if (rc < 0)
			return err_sys(e, -rc, "this host's KVM does not take vCPU state %u",
				       s->mp_state);
	}
	for (size_t i = 0; rc == 0 && i < sizeof(vcpu_parts) / sizeof(vcpu_parts[0]); i++) {
		rc = set_part(fd, &vcpu_parts[i], s, e);
		/* XSAVE stands between the special registers and the XCRs. */
		if (rc == 0 && vcpu_parts[i].set == KVM_SET_SREGS2)
			rc = set_xsave(vm, fd, s, e);
	}
	if (rc == 0 && from && vm_time_tsc(from, s->id, &tsc) < 0)
		tsc = 0;
	if (rc == 0)
		rc = msr_load(vm->host, fd, s, tsc ? &tsc : NULL, e);
	if (rc == 0)
		rc = set_part(fd, &vcpu_events, s, e);
	return rc;
}

/* ---- the VM's own ---- */

static const struct part pit_part = { offsetof(KvmState, pit2), sizeof(struct kvm_pit_state2),
				      KVM_GET_PIT2, KVM_SET_PIT2, "timer" };
static const struct part clock_part = { offsetof(KvmState, clock), sizeof(struct kvm_clock_data),
					KVM_GET_CLOCK, KVM_SET_CLOCK, "clock" };

static const struct {
	struct part part;
	uint32_t chip;
} chips[] = {
	{ { offsetof(KvmState, pic_master), sizeof(struct kvm_irqchip), KVM_GET_IRQCHIP,
	    KVM_SET_IRQCHIP, "first PIC" },
	  KVM_IRQCHIP_PIC_MASTER },
	{ { offsetof(KvmState, pic_slave), sizeof(struct kvm_irqchip), KVM_GET_IRQCHIP,
	    KVM_SET_IRQCHIP, "second PIC" },
	  KVM_IRQCHIP_PIC_SLAVE },
	{ { offsetof(KvmState, ioapic), sizeof(struct kvm_irqchip), KVM_GET_IRQCHIP,
	    KVM_SET_IRQCHIP, "IOAPIC" },
	  KVM_IRQCHIP_IOAPIC },
};

static int save_chips(int fd, KvmState *k)
{
	for (size_t i = 0; i < sizeof(chips) / sizeof(chips[0]); i++) {
		ProtobufCBinaryData *out = binary_at(k, chips[i].part.offset);
		int rc;

		out->data = calloc(1, chips[i].part.size);
		if (!out->data)
			return -ENOMEM;
		out->len = chips[i].part.size;
		((struct kvm_irqchip *)out->data)->chip_id = chips[i].chip;
		rc = kvm_ioctl(fd, KVM_GET_IRQCHIP, out->data);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int load_chips(int fd, const KvmState *k, struct err *e)
{
	for (size_t i = 0; i < sizeof(chips) / sizeof(chips[0]); i++) {
		const ProtobufCBinaryData *in = binary_at(k, chips[i].part.offset);
		int rc;

		/* The number says which chip is overwritten: it has to be the one meant. */
		if (in->len == sizeof(struct kvm_irqchip) &&
		    ((const struct kvm_irqchip *)in->data)->chip_id != chips[i].chip)
			return err_refuse(e, EINVAL, "the saved %s is another chip's",
					  chips[i].part.name);
		rc = set_part(fd, &chips[i].part, k, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- all of it ---- */

static int allocate(const struct vm *vm, VmState *s)
{
	s->version = STATE_VERSION;
	s->kvm = malloc(sizeof(*s->kvm));
	s->vcpu = calloc(vm->nvcpus, sizeof(*s->vcpu));
	if (!s->kvm || !s->vcpu)
		return -ENOMEM;
	kvm_state__init(s->kvm);
	s->kvm->version = PART_VERSION;
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		s->vcpu[i] = malloc(sizeof(*s->vcpu[i]));
		if (!s->vcpu[i])
			return -ENOMEM;
		vcpu_state__init(s->vcpu[i]);
		s->n_vcpu++;
	}
	return 0;
}

int vm_save(const struct vm *vm, VmState *state, struct err *e)
{
	int rc = allocate(vm, state);

	for (unsigned i = 0; rc >= 0 && i < vm->nvcpus; i++)
		rc = save_vcpu(vm, i, state->vcpu[i]);
	if (rc >= 0)
		vm_time_save_apart(vm, state);
	if (rc >= 0)
		rc = get_part(vm->fd, &pit_part, state->kvm);
	if (rc >= 0)
		rc = get_part(vm->fd, &clock_part, state->kvm);
	if (rc >= 0)
		rc = save_chips(vm->fd, state->kvm);
	return rc < 0 ? err_sys(e, -rc, "cannot take the machine's state") : 0;
}

/* Says it of the first vCPU only: the others are alike. */
static int check_vcpu_part(const struct part *p, const VmState *s, struct err *e)
{
	for (size_t i = 0; i < s->n_vcpu; i++) {
		const ProtobufCBinaryData *in = binary_at(s->vcpu[i], p->offset);

		if (in->len != p->size)
			return err_also(e, EINVAL,
					"state.bin: the %s of vCPU %zu have %zu bytes, "
					"not %zu",
					p->name, i, in->len, p->size);
	}
	return 0;
}

static int check_kvm_part(const struct part *p, const KvmState *k, struct err *e)
{
	const ProtobufCBinaryData *in = binary_at(k, p->offset);

	return in->len == p->size
		       ? 0
		       : err_also(e, EINVAL, "state.bin: the saved %s has %zu bytes, not %zu",
				  p->name, in->len, p->size);
}

int vm_check_state(const VmState *state, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < sizeof(vcpu_parts) / sizeof(vcpu_parts[0]); i++)
		rc |= check_vcpu_part(&vcpu_parts[i], state, e);
	rc |= check_vcpu_part(&vcpu_events, state, e);
	for (size_t i = 0; i < state->n_vcpu; i++) {
		if (xsave_holds(state->vcpu[i]))
			continue;
		rc |= err_also(e, EINVAL, "state.bin: the XSAVE area of vCPU %zu has %zu bytes", i,
			       state->vcpu[i]->xsave.len);
		break;
	}
	rc |= check_kvm_part(&pit_part, state->kvm, e);
	rc |= check_kvm_part(&clock_part, state->kvm, e);
	for (size_t i = 0; i < sizeof(chips) / sizeof(chips[0]); i++)
		rc |= check_kvm_part(&chips[i].part, state->kvm, e);
	return rc ? -EINVAL : 0;
}

static int load_vcpus(struct vm *vm, const VmState *state, const struct vm *from, struct err *e)
{
	int rc = 0;

	if (state->n_vcpu != vm->nvcpus)
		return err_refuse(e, EINVAL, "state.bin has %zu vCPUs, the manifest says %u",
				  state->n_vcpu, vm->nvcpus);
	for (unsigned i = 0; rc == 0 && i < vm->nvcpus; i++)
		rc = load_vcpu(vm, state->vcpu[i], from, e);
	return rc;
}

int vm_load(struct vm *vm, const VmState *state, struct err *e)
{
	int rc = load_vcpus(vm, state, NULL, e);

	if (rc == 0)
		rc = vm_time_load_apart(vm, state, e);
	if (rc == 0)
		rc = set_part(vm->fd, &pit_part, state->kvm, e);
	if (rc == 0)
		rc = vm_time_load_clock(vm, state->kvm, e);
	if (rc == 0)
		rc = load_chips(vm->fd, state->kvm, e);
	if (rc == 0)
		vm_time_check(vm, state);
	return rc;
}

int vm_take_over(struct vm *vm, const struct vm *from, const VmState *state, struct err *e)
{
	int rc = load_vcpus(vm, state, from, e);

	if (rc == 0)
		rc = set_part(vm->fd, &pit_part, state->kvm, e);
	if (rc == 0)
		rc = load_chips(vm->fd, state->kvm, e);
	if (rc == 0)
		rc = vm_time_take_over(vm, from, state, e);
	return rc;
}
