/* An ELF kernel's headers and notes. */
#include "fuzz.h"

#include "vmm/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct elf elf;
	struct err e = { 0 };
	int rc = elf_parse(data, size, &elf, &e);
	bool entered = false;

	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc < 0)
		return 0;
	MUST(elf.nsegments >= 1 && elf.nsegments <= ELF_SEGMENTS_MAX);
	for (unsigned i = 0; i < elf.nsegments; i++) {
		const struct elf_segment *s = &elf.segment[i];

		MUST(s->offset <= size && s->size <= size - s->offset);
		MUST(s->size <= s->room);
		MUST(s->address >= 0x100000 && s->address + s->room <= elf.end);
		entered |= elf.entry >= s->address && elf.entry < s->address + s->room;
	}
	MUST(entered && elf.end <= 1ULL << 32);
	return 0;
}
