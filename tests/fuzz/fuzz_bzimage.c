/* A kernel image's header. */
#include "fuzz.h"

#include "vmm/bzimage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bzimage z;
	struct err e = { 0 };
	int rc = bzimage_parse(data, size, &z, &e);

	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc < 0)
		return 0;
	MUST(z.header_offset + z.header_size <= size);
	MUST(z.kernel_offset < size && z.kernel_size == size - z.kernel_offset);
	MUST(z.init_size >= z.kernel_size);
	MUST(z.load_address >= 0x100000 && z.load_address <= UINT32_MAX);
	return 0;
}
