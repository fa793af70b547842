/*
 * Whether a vCPU failed for want of a RAM page: see lost_page.h.
 *
 * Source: Intel SDM 3A, 4.5 "4-level paging and 5-level paging"; 10.8.4
 * "Interrupt acceptance" (ISR).
 */
#define _GNU_SOURCE
#include "lost_page.h"

#include <errno.h>
#include <string.h>

#include "kvm.h"

#define CR0_PG	     (1ULL << 31)
#define CR4_LA57     (1ULL << 12)
#define EFER_LMA     (1ULL << 10)
#define RFLAGS_IF    (1ULL << 9)
#define ENTRY_MASK   0x000ffffffffff000ULL
#define ENTRY_HERE   0x01
#define ENTRY_LARGE  0x80
#define LONGEST_CODE 15 /* bytes of an instruction */
#define LAPIC_ISR    0x100
#define NO_VECTOR    (-1)

static bool is_lost(const struct ram *ram, uint64_t guest_address, uint64_t *address)
{
	uint8_t byte;

	*address = guest_address;
	return ram_read(ram, guest_address, &byte, 1) == -EFAULT;
}

/* Looks at the page tables on the way to a linear address, and at its page. */
static bool is_lost_linear(const struct ram *ram, const struct kvm_sregs *s, uint64_t linear,
			   uint64_t *address)
{
	uint64_t table = s->cr3 & ENTRY_MASK;

	if (!(s->cr0 & CR0_PG))
		return is_lost(ram, linear, address);
	if (!(s->efer & EFER_LMA)) /* 32-bit paging, which is not followed */
		return is_lost(ram, table, address);
	for (unsigned level = s->cr4 & CR4_LA57 ? 5 : 4;; level--) {
		const unsigned shift = 12 + 9 * (level - 1);
		const uint64_t within = linear & ((1ULL << shift) - 1);
		uint64_t entry;

		*address = table + (linear >> shift) % 512 * sizeof(entry);
		switch (ram_read(ram, *address, &entry, sizeof(entry))) {
		case 0:
			break;
		case -EFAULT:
			return true;
		default:
			return false;
		}
		if (!(entry & ENTRY_HERE))
			return false;
		table = entry & ENTRY_MASK;
		if (level == 1 || (level <= 3 && (entry & ENTRY_LARGE)))
			return is_lost(ram, (table & ~((1ULL << shift) - 1)) | within, address);
	}
}

bool lost_page_find(const struct ram *ram, int vcpu_fd, uint64_t *address)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (kvm_ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return false;

	const uint64_t needed[] = {
		r.rip,	    r.rip + LONGEST_CODE - 1, r.rsp - 1,  r.rsp,
		s.idt.base, s.idt.base + s.idt.limit, s.gdt.base, s.gdt.base + s.gdt.limit,
		s.tr.base,  s.tr.base + s.tr.limit,
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (is_lost_linear(ram, &s, needed[i], address))
			return true;
	return false;
}

/* The highest vector that the local APIC has in service. */
static int in_service(const struct kvm_lapic_state *lapic)
{
	for (int word = 7; word >= 0; word--) {
		uint32_t bits;

		memcpy(&bits, lapic->regs + LAPIC_ISR + 16 * word, sizeof(bits));
		if (bits)
			return 32 * word + 31 - __builtin_clz(bits);
	}
	return NO_VECTOR;
}

void lost_page_undo(int vcpu_fd)
{
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events e;
	struct kvm_regs r;

	if (kvm_ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0 ||
	    kvm_ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) < 0 ||
	    kvm_ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return;
	/* A handler that had been entered would run with interrupts off. */
	if (e.interrupt.injected || !(r.rflags & RFLAGS_IF) || in_service(&lapic) != e.interrupt.nr)
		return;
	e.interrupt.injected = 1;
	e.interrupt.soft = 0;
	kvm_ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &e);
}
