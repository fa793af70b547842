/*
 * The header of a Linux bzImage, parsed.
 * Source: Documentation/arch/x86/boot.rst, "The real-mode kernel header".
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bzimage {
	size_t header_offset, header_size; /* of the setup header in the file */
	size_t kernel_offset, kernel_size; /* of the protected-mode part in the file */
	uint64_t load_address;		   /* where the kernel wants to be, guest physical */
	uint64_t init_size;   /* bytes from there that it needs before it can look around */
	uint64_t initrd_max;  /* highest address a byte of the initrd may have */
	uint32_t cmdline_max; /* bytes, without the NUL */
};

/*
 * Parses the file's first bytes; `len` is the whole file. Only kernels with the
 * 64-bit entry point (protocol 2.12 and later) are taken. 0 or -ENOEXEC.
 */
int bzimage_parse(const uint8_t *buf, size_t len, struct bzimage *out, struct err *e);
