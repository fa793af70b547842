/* The entry to a guest: see entry.h. */
#include "entry.h"

#include <string.h>

#define GDT_AT	     0x500
#define STACK_TOP    0x8000
#define PAGE_TABLES  0x9000
#define CODE_SEGMENT 0x10
#define DATA_SEGMENT 0x18
#define TASK_SEGMENT 0x20

#define CR0_PROTECTED 0x00000011 /* ET PE */
#define CR0_LONG      0x80050033 /* PG AM WP NE ET MP PE */
#define CR4_PAE	      0x20
#define EFER_LONG     0x500 /* LME LMA */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool long_code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.l = long_code,
		.db = !long_code,
		.g = 1,
	};
}

/* The segments, in the GDT and as if they had been loaded from it. */
static int set_segments(struct ram *ram, struct kvm_sregs *s, bool long_mode)
{
	/* null, null, code, data, available TSS (two entries in 64-bit mode) */
	uint64_t gdt[] = { 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0 };

	if (long_mode)
		gdt[2] = 0x00af9b000000ffff;
	s->cs = segment(CODE_SEGMENT, 0xb, long_mode);
	s->ds = s->es = s->ss = s->fs = s->gs = segment(DATA_SEGMENT, 0x3, false);
	s->tr = segment(TASK_SEGMENT, 0xb, false);
	s->tr.s = 0;
	s->tr.db = 0;
	s->tr.g = 0;
	s->tr.limit = 0x67;
	s->gdt.base = GDT_AT;
	s->gdt.limit = sizeof(gdt) - 1;
	return ram_write(ram, GDT_AT, gdt, sizeof(gdt));
}

static int write_page_tables(struct ram *ram)
{
	uint64_t table[512] = { (PAGE_TABLES + 0x1000) | 3 };
	int rc = ram_write(ram, PAGE_TABLES, table, sizeof(table));

	memset(table, 0, sizeof(table));
	for (uint64_t i = 0; i < 4; i++)
		table[i] = (PAGE_TABLES + 0x2000 + i * 0x1000) | 3;
	if (rc == 0)
		rc = ram_write(ram, PAGE_TABLES + 0x1000, table, sizeof(table));
	for (uint64_t d = 0; rc == 0 && d < 4; d++) {
		for (uint64_t i = 0; i < 512; i++)
			table[i] = (d * 512 + i) << 21 | 0x83; /* 2 MiB, writable, present */
		rc = ram_write(ram, PAGE_TABLES + 0x2000 + d * 0x1000, table, sizeof(table));
	}
	return rc;
}

static int set_vcpu(struct ram *ram, const struct vm *vm, struct kvm_regs *regs, bool long_mode)
{
	const int fd = vm->vcpu[0].fd;
	struct kvm_sregs s;
	int rc = kvm_ioctl(fd, KVM_GET_SREGS, &s);

	if (rc == 0)
		rc = set_segments(ram, &s, long_mode);
	if (rc < 0)
		return rc;
	s.cr0 = long_mode ? CR0_LONG : CR0_PROTECTED;
	s.cr3 = long_mode ? PAGE_TABLES : 0;
	s.cr4 = long_mode ? CR4_PAE : 0;
	s.efer = long_mode ? EFER_LONG : 0;
	rc = kvm_ioctl(fd, KVM_SET_SREGS, &s);
	return rc < 0 ? rc : kvm_ioctl(fd, KVM_SET_REGS, regs);
}

int entry_set_64bit(struct ram *ram, struct vm *vm, uint64_t rip, uint64_t rsi)
{
	struct kvm_regs regs = { .rip = rip, .rsi = rsi, .rsp = STACK_TOP, .rflags = 2 };
	int rc = write_page_tables(ram);

	return rc < 0 ? rc : set_vcpu(ram, vm, &regs, true);
}

int entry_set_32bit(struct ram *ram, struct vm *vm, uint32_t eip, uint32_t ebx)
{
	struct kvm_regs regs = { .rip = eip, .rbx = ebx, .rsp = STACK_TOP, .rflags = 2 };

	return set_vcpu(ram, vm, &regs, false);
}
