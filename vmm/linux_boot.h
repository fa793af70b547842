/*
 * Loading a Linux kernel, told apart by its content:
 *
 *	bzImage		by the 64-bit boot protocol (bzimage.h)
 *	ELF, vmlinux	by PVH's, in 32-bit protected mode (elf.h)
 *
 * Guest memory below 1 MiB, as this loader lays it out, beside entry.h's:
 *
 *	0x07000	boot parameters ("zero page"), or PVH's start information
 *	0x20000	command line
 *	0xe0000	ACPI tables (acpi.h)
 *	0xffff0	reset vector
 *
 * Sources: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; Xen's
 * docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "acpi.h"
#include "ram.h"
#include "vm.h"

/* What is loaded; the caller's. */
struct linux_files {
	const char *name; /* of the kernel, for words */
	const uint8_t *kernel, *initrd;
	size_t kernel_size, initrd_size; /* bytes; initrd_size 0: none */
	const char *cmdline;
};

/*
 * Loads them into RAM with ACPI tables that tell of `acpi`, and sets vCPU 0 of
 * a fresh VM to the kernel's entry. 0; -ENOEXEC: it is no kernel that can be
 * booted; -ENOSPC: RAM is too small; -EINVAL or another errno; with words.
 */
int linux_boot_load(const struct linux_files *f, struct ram *ram, struct vm *vm,
		    const struct acpi_config *acpi, struct err *e);
