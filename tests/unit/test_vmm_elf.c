/* ELF kernels: parsed, and loaded into RAM. */
#include "unit.h"

#include <elf.h>

#include "vmm/elf.h"
#include "vmm/linux_boot.h"
#include "vmm/vmgenid.h"

#define LOAD_AT 0x1000000
#define ROOM	0x3000

/* A kernel of one segment; the file is its own content. */
struct kernel {
	Elf64_Ehdr h;
	Elf64_Phdr note, load[ELF_SEGMENTS_MAX + 1];
	Elf64_Nhdr other;
	char other_name[4];
	uint8_t other_value[16];
	Elf64_Nhdr entry;
	char entry_name[4];
	uint64_t entry_value;
	uint8_t code[64];
};

static struct kernel good_kernel(void)
{
	struct kernel k = {
		.h = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_machine = EM_X86_64,
			.e_phoff = offsetof(struct kernel, note),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.note = {
			.p_type = PT_NOTE,
			.p_offset = offsetof(struct kernel, other),
			.p_filesz = offsetof(struct kernel, code) - offsetof(struct kernel, other),
		},
		.load[0] = {
			.p_type = PT_LOAD,
			.p_paddr = LOAD_AT,
			.p_filesz = sizeof(k),
			.p_memsz = ROOM,
		},
		.other = { 4, 14, 3 }, /* its value is padded */
		.other_name = "GNU",
		.entry = { 4, 8, 18 },
		.entry_name = "Xen",
		.entry_value = LOAD_AT + offsetof(struct kernel, code),
	};

	return k;
}

static int parse(const struct kernel *k, size_t len, struct elf *elf, struct err *e)
{
	/* On the heap, so that a sanitizer sees a step beyond its end. */
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	assert_non_null(copy);
	memcpy(copy, k, len);
	*e = (struct err){ 0 };
	rc = elf_parse(copy, len, elf, e);
	free(copy);
	return rc;
}

static void kernel_parsed_has_its_segment_and_entry(void **state)
{
	struct kernel k = good_kernel();
	struct elf elf;
	struct err e;

	(void)state;
	assert_int_equal(parse(&k, sizeof(k), &elf, &e), 0);
	assert_int_equal(elf.nsegments, 1);
	assert_int_equal(elf.segment[0].address, LOAD_AT);
	assert_int_equal(elf.segment[0].size, sizeof(k));
	assert_int_equal(elf.segment[0].room, ROOM);
	assert_int_equal(elf.end, LOAD_AT + ROOM);
	assert_int_equal(elf.entry, k.entry_value);
	k.entry.n_descsz = 4; /* a 32-bit kernel's word; what follows is ignored */
	assert_int_equal(parse(&k, sizeof(k), &elf, &e), 0);
	assert_int_equal(elf.entry, k.entry_value);
}

static void kernel_cut_anywhere_is_refused(void **state)
{
	const struct kernel k = good_kernel();
	struct elf elf;
	struct err e;

	(void)state;
	for (size_t len = 0; len < sizeof(k); len++) {
		assert_int_equal(parse(&k, len, &elf, &e), -ENOEXEC);
		assert_true(e.text[0]);
	}
}

static void wrong_class(struct kernel *k)
{
	k->h.e_ident[EI_CLASS] = ELFCLASS32;
}

static void wrong_machine(struct kernel *k)
{
	k->h.e_machine = EM_AARCH64;
}

static void no_headers(struct kernel *k)
{
	k->h.e_phnum = 0;
}

static void far_headers(struct kernel *k)
{
	k->h.e_phoff = UINT64_MAX - 8;
}

static void odd_headers(struct kernel *k)
{
	k->h.e_phentsize = 1;
}

static void far_content(struct kernel *k)
{
	k->load[0].p_offset = UINT64_MAX;
}

static void more_content_than_room(struct kernel *k)
{
	k->load[0].p_memsz = k->load[0].p_filesz - 1;
}

static void low_address(struct kernel *k)
{
	k->load[0].p_paddr = 0xff000;
}

static void wrapping_address(struct kernel *k)
{
	k->load[0].p_paddr = UINT64_MAX - 0xfff;
}

static void beyond_4g(struct kernel *k)
{
	k->load[0].p_memsz = 1ULL << 32;
}

static void many_segments(struct kernel *k)
{
	k->h.e_phnum = ELF_SEGMENTS_MAX + 2;
	for (unsigned i = 1; i <= ELF_SEGMENTS_MAX; i++)
		k->load[i] = k->load[0];
}

static void other_note(struct kernel *k)
{
	k->entry.n_type = 17;
}

static void others_note(struct kernel *k)
{
	k->entry_name[0] = 'Y';
}

static void long_note(struct kernel *k)
{
	k->entry.n_descsz = UINT32_MAX;
}

static void long_name(struct kernel *k)
{
	k->other.n_namesz = UINT32_MAX;
}

static void far_notes(struct kernel *k)
{
	k->note.p_offset = UINT64_MAX - 3;
}

static void entry_outside(struct kernel *k)
{
	k->entry_value = LOAD_AT + ROOM;
}

static void entry_beyond_4g(struct kernel *k)
{
	k->entry_value |= 1ULL << 32;
}

static void no_segment(struct kernel *k)
{
	k->load[0].p_memsz = k->load[0].p_filesz = 0;
}

static void kernel_that_is_wrong_is_one_sentence(void **state)
{
	static const struct {
		void (*spoil)(struct kernel *k);
		const char *says;
	} cases[] = {
		{ wrong_class, "not one for x86-64" },
		{ wrong_machine, "not one for x86-64" },
		{ no_headers, "wrong program headers" },
		{ far_headers, "wrong program headers" },
		{ odd_headers, "wrong program headers" },
		{ far_content, "ends before its content" },
		{ more_content_than_room, "ends before its content" },
		{ low_address, "wants to be loaded at 0xff000" },
		{ wrapping_address, "wants to be loaded at 0xfffffffffffff000" },
		{ beyond_4g, "wants to be loaded at" },
		{ many_segments, "more than 16 segments" },
		{ other_note, "without an entry point for PVH" },
		{ others_note, "without an entry point for PVH" },
		{ long_note, "without an entry point for PVH" },
		{ long_name, "without an entry point for PVH" },
		{ far_notes, "without an entry point for PVH" },
		{ entry_outside, "lies outside of it" },
		{ entry_beyond_4g, "lies outside of it" },
		{ no_segment, "lies outside of it" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kernel k = good_kernel();
		struct elf elf;
		struct err e;

		cases[i].spoil(&k);
		if (parse(&k, sizeof(k), &elf, &e) != -ENOEXEC)
			fail_msg("case %zu", i);
		assert_says(&e, cases[i].says);
	}
}

/* ---- into RAM ---- */

#define START_AT 0x7000

static const uint8_t generation[VMGENID_SIZE];
static const struct acpi_config acpi = { .ncpus = 1, .generation = generation };

/* Without a vCPU: the last step, its registers, fails. */
static int load(const struct linux_files *f, struct ram *ram, struct err *e)
{
	struct vm vm = { .fd = -1, .vcpu[0].fd = -1 };

	*e = (struct err){ 0 };
	return linux_boot_load(f, ram, &vm, &acpi, e);
}

static uint64_t word(const struct ram *ram, uint64_t address)
{
	uint64_t v;

	assert_int_equal(ram_read(ram, address, &v, sizeof(v)), 0);
	return v;
}

static void kernel_in_used_ram_has_zeros_behind_it_and_start_information(void **state)
{
	static const uint8_t old[ROOM] = { [0 ... ROOM - 1] = 0xa5 };
	const struct kernel k = good_kernel();
	const struct linux_files f = {
		.name = "vmlinux",
		.kernel = (const uint8_t *)&k,
		.kernel_size = sizeof(k),
		.initrd = (const uint8_t *)"initrd",
		.initrd_size = 6,
		.cmdline = "quiet ro",
	};
	uint8_t got[ROOM + 8], map[24];
	struct ram ram;
	struct err e;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, 32 << 20, NULL), 0);
	assert_int_equal(ram_write(&ram, LOAD_AT, old, ROOM), 0);
	assert_int_equal(ram_write(&ram, LOAD_AT + ROOM, old, 8), 0);
	assert_int_equal(load(&f, &ram, &e), -EBADF);
	assert_int_equal(ram_read(&ram, LOAD_AT, got, sizeof(got)), 0);
	assert_memory_equal(got, &k, sizeof(k));
	for (size_t i = sizeof(k); i < ROOM; i++)
		assert_int_equal(got[i], 0);
	assert_memory_equal(got + ROOM, old, 8);

	/* mov dx, 0x602; mov al, 1; out dx, al: what a reboot jumps to */
	assert_int_equal(ram_read(&ram, 0xffff0, got, 6), 0);
	assert_memory_equal(got, "\xba\x02\x06\xb0\x01\xee", 6);

	/* struct hvm_start_info: magic and version, one module, where things are */
	assert_int_equal(word(&ram, START_AT), 0x1336ec578);
	assert_int_equal(word(&ram, START_AT + 8), 1ULL << 32);
	assert_int_equal(word(&ram, word(&ram, START_AT + 16) + 8), 6);
	assert_int_equal(ram_read(&ram, word(&ram, word(&ram, START_AT + 16)), got, 6), 0);
	assert_memory_equal(got, "initrd", 6);
	assert_int_equal(ram_read(&ram, word(&ram, START_AT + 24), got, 9), 0);
	assert_memory_equal(got, "quiet ro", 9);
	assert_int_equal(ram_read(&ram, word(&ram, START_AT + 32), got, 8), 0);
	assert_memory_equal(got, "RSD PTR ", 8);
	assert_int_equal(word(&ram, START_AT + 48), 4);
	assert_int_equal(ram_read(&ram, word(&ram, START_AT + 40) + 3 * 24, map, 24), 0);
	assert_memory_equal(map, ((uint64_t[]){ 0x100000, 31 << 20, 1 }), 24);
	ram_unmap(&ram);
}

static void kernel_without_room_or_in_a_wrapping_is_one_sentence(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *says;
	} packed[] = {
		{ "\x1f\x8b\x08", 3, "compressed with gzip: unpack it first" },
		{ "\xfd\x37\x7aXZ\0", 6, "compressed with xz" },
		{ "\x28\xb5\x2f\xfd", 4, "compressed with zstd" },
		{ "\x02\x21\x4c\x18", 4, "compressed with lz4" },
		{ "BZh91", 5, "compressed with bzip2" },
		{ "\x5d\0\0", 3, "compressed with lzma" },
		{ "\x89LZO", 4, "compressed with lzop" },
		{ "\x1f", 1, "not a Linux bzImage" },
		{ "\x7f"
		  "ELF",
		  4, "not an ELF kernel" },
		{ "", 0, "not a Linux bzImage" },
	};
	const struct kernel k = good_kernel();
	struct linux_files f = { .name = "kernel", .cmdline = "" };
	struct ram ram;
	struct err e;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, LOAD_AT, NULL), 0);
	for (size_t i = 0; i < sizeof(packed) / sizeof(packed[0]); i++) {
		f.kernel = (const uint8_t *)packed[i].bytes;
		f.kernel_size = packed[i].len;
		assert_int_equal(load(&f, &ram, &e), -ENOEXEC);
		assert_says(&e, "--kernel kernel");
		assert_says(&e, packed[i].says);
	}
	f.kernel = (const uint8_t *)&k;
	f.kernel_size = sizeof(k);
	assert_int_equal(load(&f, &ram, &e), -ENOSPC);
	assert_says(&e, "too small");
	ram_unmap(&ram);
}

static void kernel_with_an_initrd_that_meets_it_is_too_large(void **state)
{
	const struct kernel k = good_kernel();
	struct linux_files f = {
		.name = "vmlinux",
		.kernel = (const uint8_t *)&k,
		.kernel_size = sizeof(k),
		.cmdline = "",
	};
	struct ram ram;
	struct err e;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, LOAD_AT + ROOM + 0x2000, NULL), 0);
	f.initrd = calloc(1, 0x2001);
	assert_non_null(f.initrd);
	f.initrd_size = 0x2000;
	assert_int_equal(load(&f, &ram, &e), -EBADF);
	f.initrd_size = 0x2001;
	assert_int_equal(load(&f, &ram, &e), -ENOSPC);
	free((void *)f.initrd);
	ram_unmap(&ram);
}

static void initrd_of_a_machine_beyond_the_hole_lies_below_it(void **state)
{
	const struct kernel k = good_kernel();
	const struct linux_files f = {
		.name = "vmlinux",
		.kernel = (const uint8_t *)&k,
		.kernel_size = sizeof(k),
		.initrd = (const uint8_t *)"initrd",
		.initrd_size = 6,
		.cmdline = "",
	};
	uint64_t map;
	struct ram ram;
	struct err e;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, 8ULL << 30, NULL), 0);
	assert_int_equal(load(&f, &ram, &e), -EBADF);
	assert_int_equal(word(&ram, word(&ram, START_AT + 16)), RAM_HOLE_START - RAM_PAGE);
	assert_int_equal(word(&ram, START_AT + 48), 5);
	map = word(&ram, START_AT + 40);
	assert_int_equal(word(&ram, map + 3 * 24), 0x100000);
	assert_int_equal(word(&ram, map + 3 * 24 + 8), RAM_HOLE_START - 0x100000);
	assert_int_equal(word(&ram, map + 4 * 24), RAM_HOLE_END);
	assert_int_equal(word(&ram, map + 4 * 24 + 8), 5ULL << 30);
	ram_unmap(&ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_parsed_has_its_segment_and_entry),
		cmocka_unit_test(kernel_cut_anywhere_is_refused),
		cmocka_unit_test(kernel_that_is_wrong_is_one_sentence),
		cmocka_unit_test(kernel_in_used_ram_has_zeros_behind_it_and_start_information),
		cmocka_unit_test(kernel_without_room_or_in_a_wrapping_is_one_sentence),
		cmocka_unit_test(kernel_with_an_initrd_that_meets_it_is_too_large),
		cmocka_unit_test(initrd_of_a_machine_beyond_the_hole_lies_below_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
