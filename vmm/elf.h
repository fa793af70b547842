/*
 * An ELF kernel (vmlinux) with an entry point for PVH, parsed.
 * Sources: the ELF-64 object file format; Xen's docs/misc/pvh.pandoc and
 * xen/include/public/elfnote.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define ELF_SEGMENTS_MAX 16

struct elf_segment {
	size_t offset, size; /* in the file */
	uint64_t address;    /* guest physical */
	uint64_t room;	     /* bytes there; what is more than size is zeros */
};

struct elf {
	unsigned nsegments; /* at least 1 */
	struct elf_segment segment[ELF_SEGMENTS_MAX];
	uint64_t end;	/* first guest address behind all segments, at most 4 GiB */
	uint32_t entry; /* guest physical, in a segment; 32-bit protected mode */
};

/* Whether the file begins as an ELF file does. */
bool elf_is(const uint8_t *buf, size_t len);

/* Parses a whole file. Nothing is loaded below 1 MiB or above 4 GiB. 0 or -ENOEXEC. */
int elf_parse(const uint8_t *buf, size_t len, struct elf *out, struct err *e);
