/* Loading a Linux kernel: see linux_boot.h. */
#include "linux_boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "bzimage.h"
#include "elf.h"
#include "entry.h"
#include "power.h"

#define BOOT_PARAMS  0x7000
#define CMDLINE_AT   0x20000
#define EBDA_START   0x9fc00
#define RESET_VECTOR 0xffff0
#define HIGH_MEMORY  0x100000
#define LOADER_OTHER 0xff  /* type_of_loader: no assigned number */
#define ENTRY_64     0x200 /* from the start of a bzImage's kernel */

/* What both kinds of kernel come down to. */
struct image {
	bool is_elf;
	struct bzimage z;
	struct elf elf;
	uint64_t end;	      /* first guest address that the kernel does not want for itself */
	uint64_t initrd_end;  /* first guest address behind where an initrd may lie */
	uint32_t cmdline_max; /* bytes, without the NUL */
};

/* ---- what it is ---- */

#define PVH_CMDLINE_MAX 2047 /* Linux's own limit; by PVH it cuts what is longer */

/* A kernel as distributions keep it for other machines: what its first bytes say. */
static const char *compression(const uint8_t *buf, size_t len)
{
	static const struct {
		const char *name;
		size_t len;
		const char *magic;
	} kinds[] = {
		{ "gzip", 2, "\x1f\x8b" },	   { "xz", 6, "\xfd\x37\x7aXZ" },
		{ "zstd", 4, "\x28\xb5\x2f\xfd" }, { "lz4", 4, "\x02\x21\x4c\x18" },
		{ "lz4", 4, "\x04\x22\x4d\x18" },  { "bzip2", 3, "BZh" },
		{ "lzma", 3, "\x5d\0\0" },	   { "lzop", 4, "\x89LZO" },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (len >= kinds[i].len && memcmp(buf, kinds[i].magic, kinds[i].len) == 0)
			return kinds[i].name;
	return NULL;
}

static int parse(const struct linux_files *f, struct image *out, struct err *e)
{
	const char *packed = compression(f->kernel, f->kernel_size);
	int rc;

	*out = (struct image){ .is_elf = elf_is(f->kernel, f->kernel_size) };
	if (packed)
		return err_refuse(e, ENOEXEC, "it is compressed with %s: unpack it first", packed);
	if (out->is_elf) {
		rc = elf_parse(f->kernel, f->kernel_size, &out->elf, e);
		out->end = out->elf.end;
		out->initrd_end = RAM_HOLE_START;
		out->cmdline_max = PVH_CMDLINE_MAX;
	} else {
		rc = bzimage_parse(f->kernel, f->kernel_size, &out->z, e);
		out->end = out->z.load_address + out->z.init_size;
		out->initrd_end = out->z.initrd_max + 1;
		out->cmdline_max = out->z.cmdline_max;
	}
	return rc;
}

/* ---- where it goes ---- */

/* As high as the kernel allows: what lies low, it wants for itself. */
static int place_initrd(const struct image *k, const struct ram *ram, size_t size, uint64_t *at)
{
	uint64_t top = ram->region[0].size;

	if (k->initrd_end < top)
		top = k->initrd_end;
	if (size > top)
		return -ENOSPC;
	*at = (top - size) & ~(RAM_PAGE - 1);
	return *at < k->end ? -ENOSPC : 0;
}

static int too_small(const struct ram *ram, uint64_t need, struct err *e)
{
	char have[TEXT_SIZE_MAX], want[TEXT_SIZE_MAX];

	return err_refuse(
		e, ENOSPC,
		"RAM of %s is too small for this kernel and initrd, which need more than %s",
		text_format_size(ram->size, have), text_format_size(need, want));
}

/* The map of memory, as e820 and PVH have it. */
#define MAP_RAM	     1
#define MAP_RESERVED 2
#define MAP_MAX	     5

struct map_entry {
	uint64_t address, size;
	uint32_t type;
};

static uint32_t map_memory(const struct ram *ram, struct map_entry map[MAP_MAX])
{
	const struct ram_region *low = &ram->region[0], *high = &ram->region[1];
	const uint64_t vector = RESET_VECTOR & ~(RAM_PAGE - 1);

	map[0] = (struct map_entry){ 0, EBDA_START, MAP_RAM };
	map[1] = (struct map_entry){ ACPI_AT, ACPI_ROOM, MAP_RESERVED };
	map[2] = (struct map_entry){ vector, HIGH_MEMORY - vector, MAP_RESERVED };
	map[3] = (struct map_entry){ HIGH_MEMORY, low->size - HIGH_MEMORY, MAP_RAM };
	if (ram->nregions < 2)
		return 4;
	map[4] = (struct map_entry){ high->guest_address, high->size, MAP_RAM };
	return 5;
}

/* ---- bzImage ---- */

static int load_bzimage(const struct linux_files *f, const struct bzimage *z, uint64_t initrd_at,
			struct ram *ram, struct vm *vm)
{
	struct boot_params params = { 0 };
	struct map_entry map[MAP_MAX];
	int rc;

	memcpy(&params.hdr, f->kernel + z->header_offset,
	       z->header_size < sizeof(params.hdr) ? z->header_size : sizeof(params.hdr));
	params.hdr.type_of_loader = LOADER_OTHER;
	params.hdr.ramdisk_image = (uint32_t)initrd_at;
	params.hdr.ramdisk_size = (uint32_t)f->initrd_size;
	params.hdr.cmd_line_ptr = CMDLINE_AT;
	params.acpi_rsdp_addr = ACPI_AT;
	params.e820_entries = (uint8_t)map_memory(ram, map);
	for (unsigned i = 0; i < params.e820_entries; i++)
		params.e820_table[i] = (struct boot_e820_entry){ .addr = map[i].address,
								 .size = map[i].size,
								 .type = map[i].type };

	rc = ram_write(ram, BOOT_PARAMS, &params, sizeof(params));
	if (rc == 0)
		rc = ram_write(ram, z->load_address, f->kernel + z->kernel_offset, z->kernel_size);
	return rc < 0 ? rc : entry_set_64bit(ram, vm, z->load_address + ENTRY_64, BOOT_PARAMS);
}

/* ---- ELF ---- */

#define PVH_MAGIC 0x336ec578

/* What lies at BOOT_PARAMS: struct hvm_start_info and the lists it points to. */
struct pvh {
	struct {
		uint32_t magic, version, flags, nmodules;
		uint64_t modules, cmdline, rsdp, map;
		uint32_t nmap, reserved;
	} start;
	struct {
		uint64_t address, size, cmdline, reserved;
	} module;
	struct {
		uint64_t address, size;
		uint32_t type, reserved;
	} map[MAP_MAX];
};

_Static_assert(sizeof(((struct pvh *)0)->start) == 56, "struct hvm_start_info");

static int write_zeros(struct ram *ram, uint64_t address, uint64_t len)
{
	static const uint8_t zeros[1 << 16];
	int rc = 0;

	for (uint64_t n; rc == 0 && len; address += n, len -= n) {
		n = len < sizeof(zeros) ? len : sizeof(zeros);
		rc = ram_write(ram, address, zeros, n);
	}
	return rc;
}

/* After a reset RAM is what the guest left behind: what is to be zero is written, too. */
static int load_segments(const struct linux_files *f, const struct elf *elf, struct ram *ram)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < elf->nsegments; i++) {
		const struct elf_segment *s = &elf->segment[i];

		rc = ram_write(ram, s->address, f->kernel + s->offset, s->size);
		if (rc == 0)
			rc = write_zeros(ram, s->address + s->size, s->room - s->size);
	}
	return rc;
}

static int load_elf(const struct linux_files *f, const struct elf *elf, uint64_t initrd_at,
		    struct ram *ram, struct vm *vm)
{
	struct map_entry map[MAP_MAX];
	struct pvh p = {
		.start = {
			.magic = PVH_MAGIC,
			.version = 1,
			.nmodules = f->initrd_size ? 1 : 0,
			.modules = BOOT_PARAMS + offsetof(struct pvh, module),
			.cmdline = CMDLINE_AT,
			.rsdp = ACPI_AT,
			.map = BOOT_PARAMS + offsetof(struct pvh, map),
			.nmap = map_memory(ram, map),
		},
		.module = { .address = initrd_at, .size = f->initrd_size },
	};
	int rc;

	for (unsigned i = 0; i < p.start.nmap; i++) {
		p.map[i].address = map[i].address;
		p.map[i].size = map[i].size;
		p.map[i].type = map[i].type;
	}
	rc = ram_write(ram, BOOT_PARAMS, &p, sizeof(p));
	if (rc == 0)
		rc = load_segments(f, elf, ram);
	return rc < 0 ? rc : entry_set_32bit(ram, vm, elf->entry, BOOT_PARAMS);
}

/* ---- both ---- */

/*
 * The one piece of a BIOS that is missed: on reduced hardware Linux resets by
 * EFI, and without EFI not by ACPI's reset register but by a jump to f000:fff0.
 *
 *	mov dx, port; mov al, value; out dx, al; again: hlt; jmp again
 */
static int write_reset_vector(struct ram *ram)
{
	enum { PORT = POWER_PORT + POWER_RESET };
	static const uint8_t code[] = { 0xba, PORT & 0xff, PORT >> 8, 0xb0, POWER_RESET_VALUE,
					0xee, 0xf4,	   0xeb,      0xfd };

	return ram_write(ram, RESET_VECTOR, code, sizeof(code));
}

static int load_others(const struct linux_files *f, uint64_t initrd_at, struct ram *ram,
		       const struct acpi_config *acpi)
{
	int rc = ram_write(ram, CMDLINE_AT, f->cmdline, strlen(f->cmdline) + 1);

	if (rc == 0 && f->initrd_size)
		rc = ram_write(ram, initrd_at, f->initrd, f->initrd_size);
	if (rc == 0)
		rc = acpi_write_tables(ram, acpi);
	return rc < 0 ? rc : write_reset_vector(ram);
}

int linux_boot_load(const struct linux_files *f, struct ram *ram, struct vm *vm,
		    const struct acpi_config *acpi, struct err *e)
{
	uint64_t initrd_at = 0;
	struct image k;
	int rc = parse(f, &k, e);

	if (rc < 0)
		return err_prefix(e, rc, "--kernel %s", f->name);
	if (k.end > ram->region[0].size ||
	    (f->initrd_size && place_initrd(&k, ram, f->initrd_size, &initrd_at) < 0))
		return too_small(ram, k.end + f->initrd_size, e);
	if (strlen(f->cmdline) > k.cmdline_max)
		return err_refuse(e, EINVAL,
				  "--cmdline is longer than the %u bytes this kernel takes",
				  k.cmdline_max);
	rc = load_others(f, initrd_at, ram, acpi);
	if (rc == 0)
		rc = k.is_elf ? load_elf(f, &k.elf, initrd_at, ram, vm)
			      : load_bzimage(f, &k.z, initrd_at, ram, vm);
	return rc < 0 ? err_sys(e, -rc, "cannot load the kernel into RAM") : 0;
}
