/*
 * Loading what a machine boots: see boot.h.
 *
 * Both kinds are entered in 64-bit mode with the first 4 GiB mapped to
 * themselves. Guest memory below 1 MiB, as this loader lays it out:
 *
 *	0x00500	GDT
 *	0x07000	boot parameters ("zero page")
 *	0x08000	top of a small stack
 *	0x09000	page tables: PML4, PDPT, four page directories of 2 MiB pages
 *	0x20000	command line
 *	0xe0000	ACPI tables
 *	0xffff0	reset vector
 *
 * Source: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
 */
#define _GNU_SOURCE
#include "boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "acpi.h"
#include "bzimage.h"
#include "demo_guest.h"
#include "power.h"

#define GDT_AT	      0x500
#define BOOT_PARAMS   0x7000
#define STACK_TOP     0x8000
#define PAGE_TABLES   0x9000
#define CMDLINE_AT    0x20000
#define EBDA_START    0x9fc00
#define RESET_VECTOR  0xffff0
#define HIGH_MEMORY   0x100000
#define FILE_MAX      (1ULL << 30)
#define LOADER_OTHER  0xff /* type_of_loader: no assigned number */
#define E820_RAM      1
#define E820_RESERVED 2
#define CODE_SEGMENT  0x10
#define DATA_SEGMENT  0x18
#define TASK_SEGMENT  0x20

#define DEFAULT_CMDLINE "console=ttyS0"

/* ---- descriptions ---- */

static int keep_path(struct boot_file *f, const char *path, const char *flag, struct err *e)
{
	f->path = realpath(path, NULL);
	if (!f->path && errno == ENOENT)
		return err_refuse(e, ENOENT, "%s %s: there is no such file", flag, path);
	return f->path ? 0 : err_sys(e, errno, "%s %s", flag, path);
}

int boot_from_options(struct boot *b, bool demo, const char *kernel, const char *initrd,
		      const char *cmdline, struct err *e)
{
	int rc = 0;

	*b = (struct boot){ .kind = demo ? BOOT_KIND__BOOT_DEMO : BOOT_KIND__BOOT_LINUX };
	if (demo && (kernel || initrd || cmdline))
		return err_usage(e, EINVAL,
				 "--demo-guest is its own kernel: leave --kernel, --initrd and "
				 "--cmdline out");
	if (!demo && !kernel)
		return err_usage(e, EINVAL,
				 "nothing to boot: give --kernel BZIMAGE, --restore-snapshot DIR "
				 "or --demo-guest");
	b->cmdline = strdup(demo ? "" : cmdline ? cmdline : DEFAULT_CMDLINE);
	if (!b->cmdline)
		rc = err_sys(e, ENOMEM, "cannot keep the command line");
	if (rc == 0 && strlen(b->cmdline) > MANIFEST_CMDLINE_MAX)
		rc = err_usage(e, EINVAL, "--cmdline is longer than %d bytes",
			       MANIFEST_CMDLINE_MAX);
	if (rc == 0 && kernel)
		rc = keep_path(&b->kernel, kernel, "--kernel", e);
	if (rc == 0 && initrd)
		rc = keep_path(&b->initrd, initrd, "--initrd", e);
	if (rc < 0)
		boot_free(b);
	return rc;
}

static int file_from_manifest(struct boot_file *f, const BootFile *m)
{
	if (!m || !*m->path)
		return 0;
	f->path = strdup(m->path);
	if (!f->path)
		return -ENOMEM;
	f->size = m->size;
	memcpy(f->sha256, m->sha256.data, DIGEST_SIZE); /* its length the codec has checked */
	f->known = true;
	return 0;
}

int boot_from_manifest(struct boot *b, const Boot *m, struct err *e)
{
	int rc = 0;

	*b = (struct boot){ .kind = m ? m->kind : BOOT_KIND__BOOT_NONE };
	if (!m)
		return 0;
	b->cmdline = strdup(m->cmdline);
	if (!b->cmdline)
		rc = -ENOMEM;
	if (rc == 0)
		rc = file_from_manifest(&b->kernel, m->kernel);
	if (rc == 0)
		rc = file_from_manifest(&b->initrd, m->initrd);
	if (rc < 0) {
		boot_free(b);
		return err_sys(e, -rc, "cannot keep what the snapshot booted");
	}
	return 0;
}

static BootFile *file_to_manifest(const struct boot_file *f)
{
	BootFile *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	boot_file__init(m);
	m->path = strdup(f->path);
	m->size = f->size;
	m->sha256.data = malloc(DIGEST_SIZE);
	if (!m->path || !m->sha256.data) {
		boot_file__free_unpacked(m, NULL);
		return NULL;
	}
	m->sha256.len = DIGEST_SIZE;
	memcpy(m->sha256.data, f->sha256, DIGEST_SIZE);
	return m;
}

Boot *boot_to_manifest(const struct boot *b)
{
	Boot *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	boot__init(m);
	m->kind = b->kind;
	m->cmdline = strdup(b->cmdline ? b->cmdline : "");
	if (b->kernel.path)
		m->kernel = file_to_manifest(&b->kernel);
	if (b->initrd.path)
		m->initrd = file_to_manifest(&b->initrd);
	if (m->cmdline && !m->kernel == !b->kernel.path && !m->initrd == !b->initrd.path)
		return m;
	boot__free_unpacked(m, NULL);
	return NULL;
}

void boot_free(struct boot *b)
{
	free(b->kernel.path);
	free(b->initrd.path);
	free(b->cmdline);
	*b = (struct boot){ 0 };
}

/* ---- entry ---- */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.l = code,
		.db = !code,
		.g = 1,
	};
}

static int write_tables(struct ram *ram)
{
	/* null, null, 64-bit code, data, available 64-bit TSS (two entries) */
	static const uint64_t gdt[] = {
		0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0,
	};
	uint64_t table[512] = { (PAGE_TABLES + 0x1000) | 3 };
	int rc = ram_write(ram, GDT_AT, gdt, sizeof(gdt));

	if (rc == 0)
		rc = ram_write(ram, PAGE_TABLES, table, sizeof(table));
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

static int enter(struct ram *ram, struct vm *vm, uint64_t rip, uint64_t rsi)
{
	const int fd = vm->vcpu[0].fd;
	struct kvm_regs regs = { .rip = rip, .rsi = rsi, .rsp = STACK_TOP, .rflags = 2 };
	struct kvm_sregs s;
	int rc = write_tables(ram);

	if (rc == 0)
		rc = kvm_ioctl(fd, KVM_GET_SREGS, &s);
	if (rc < 0)
		return rc;
	s.cs = segment(CODE_SEGMENT, 0xb, true);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(DATA_SEGMENT, 0x3, false);
	s.tr = segment(TASK_SEGMENT, 0xb, false);
	s.tr.s = 0;
	s.tr.db = 0;
	s.tr.limit = 0x67;
	s.gdt.base = GDT_AT;
	s.gdt.limit = 6 * 8 - 1;
	s.cr3 = PAGE_TABLES;
	s.cr4 = 0x20;	    /* PAE */
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.efer |= 0x500;    /* LME LMA */
	rc = kvm_ioctl(fd, KVM_SET_SREGS, &s);
	return rc < 0 ? rc : kvm_ioctl(fd, KVM_SET_REGS, &regs);
}

/* ---- loading ---- */

/* Reads the file whole, and notes or compares what it is. */
static int read_boot_file(struct boot_file *f, uint8_t **buf, size_t *len, struct err *e)
{
	uint8_t sha256[DIGEST_SIZE];
	int rc = io_read_file(AT_FDCWD, f->path, FILE_MAX, buf, len, e);

	if (rc < 0)
		return rc;
	rc = digest_sha256(*buf, *len, sha256);
	if (rc < 0)
		return err_sys(e, -rc, "cannot digest %s", f->path);
	if (f->known && (*len != f->size || memcmp(sha256, f->sha256, DIGEST_SIZE) != 0))
		return err_refuse(e, ESTALE, "%s is not the file that this machine booted from",
				  f->path);
	f->size = *len;
	memcpy(f->sha256, sha256, DIGEST_SIZE);
	f->known = true;
	return 0;
}

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

static void add_e820(struct boot_params *p, uint64_t from, uint64_t to, uint32_t type)
{
	p->e820_table[p->e820_entries++] =
		(struct boot_e820_entry){ .addr = from, .size = to - from, .type = type };
}

static void describe_ram(struct boot_params *p, const struct ram *ram)
{
	add_e820(p, 0, EBDA_START, E820_RAM);
	add_e820(p, ACPI_AT, ACPI_AT + ACPI_ROOM, E820_RESERVED);
	add_e820(p, RESET_VECTOR & ~(RAM_PAGE - 1), HIGH_MEMORY, E820_RESERVED);
	add_e820(p, HIGH_MEMORY, ram->region[0].size, E820_RAM);
	if (ram->nregions > 1)
		add_e820(p, ram->region[1].guest_address,
			 ram->region[1].guest_address + ram->region[1].size, E820_RAM);
}

/* As high as the kernel allows: what lies low, it wants for itself. */
static int place_initrd(const struct bzimage *z, const struct ram *ram, size_t size, uint64_t *at)
{
	uint64_t top = ram->region[0].size;

	if (z->initrd_max < top - 1)
		top = z->initrd_max + 1;
	if (size > top)
		return -ENOSPC;
	*at = (top - size) & ~(RAM_PAGE - 1);
	return *at < z->load_address + z->init_size ? -ENOSPC : 0;
}

static int too_small(const struct ram *ram, uint64_t need, struct err *e)
{
	char have[TEXT_SIZE_MAX], want[TEXT_SIZE_MAX];

	return err_refuse(
		e, ENOSPC,
		"RAM of %s is too small for this kernel and initrd, which need more than %s",
		text_format_size(ram->size, have), text_format_size(need, want));
}

struct linux_files {
	uint8_t *kernel, *initrd;
	size_t kernel_size, initrd_size;
};

static int load_linux_files(struct boot *b, const struct linux_files *f, struct ram *ram,
			    struct vm *vm, const struct acpi_config *acpi, struct err *e)
{
	struct boot_params params = { 0 };
	uint64_t initrd_at = 0;
	struct bzimage z;
	int rc = bzimage_parse(f->kernel, f->kernel_size, &z, e);

	if (rc < 0)
		return err_prefix(e, rc, "--kernel %s", b->kernel.path);
	if (z.load_address + z.init_size > ram->region[0].size ||
	    (f->initrd_size && place_initrd(&z, ram, f->initrd_size, &initrd_at) < 0))
		return too_small(ram, z.load_address + z.init_size + f->initrd_size, e);
	if (strlen(b->cmdline) > z.cmdline_max)
		return err_refuse(e, EINVAL,
				  "--cmdline is longer than the %u bytes this kernel takes",
				  z.cmdline_max);

	memcpy(&params.hdr, f->kernel + z.header_offset,
	       z.header_size < sizeof(params.hdr) ? z.header_size : sizeof(params.hdr));
	params.hdr.type_of_loader = LOADER_OTHER;
	params.hdr.ramdisk_image = (uint32_t)initrd_at;
	params.hdr.ramdisk_size = (uint32_t)f->initrd_size;
	params.hdr.cmd_line_ptr = CMDLINE_AT;
	describe_ram(&params, ram);
	params.acpi_rsdp_addr = ACPI_AT;

	rc = ram_write(ram, z.load_address, f->kernel + z.kernel_offset, z.kernel_size);
	if (rc == 0 && f->initrd_size)
		rc = ram_write(ram, initrd_at, f->initrd, f->initrd_size);
	if (rc == 0)
		rc = ram_write(ram, CMDLINE_AT, b->cmdline, strlen(b->cmdline) + 1);
	if (rc == 0)
		rc = ram_write(ram, BOOT_PARAMS, &params, sizeof(params));
	if (rc == 0)
		rc = acpi_write_tables(ram, acpi);
	if (rc == 0)
		rc = write_reset_vector(ram);
	if (rc == 0)
		rc = enter(ram, vm, z.load_address + 0x200, BOOT_PARAMS);
	return rc < 0 ? err_sys(e, -rc, "cannot load the kernel into RAM") : 0;
}

static int load_linux(struct boot *b, struct ram *ram, struct vm *vm,
		      const struct acpi_config *acpi, struct err *e)
{
	auto_free uint8_t *kernel = NULL, *initrd = NULL;
	struct linux_files f = { 0 };
	int rc = read_boot_file(&b->kernel, &kernel, &f.kernel_size, e);

	if (rc == 0 && b->initrd.path)
		rc = read_boot_file(&b->initrd, &initrd, &f.initrd_size, e);
	if (rc < 0)
		return rc;
	f.kernel = kernel;
	f.initrd = initrd;
	return load_linux_files(b, &f, ram, vm, acpi, e);
}

static int load_demo(struct ram *ram, struct vm *vm, struct err *e)
{
	const size_t size = (size_t)(demo_guest_end - demo_guest_start);
	uint8_t random[8];
	char nonce[2 * sizeof(random) + 1];
	int rc;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return err_sys(e, errno, "cannot make a nonce");
	text_format_hex(random, sizeof(random), nonce);
	rc = ram_write(ram, DEMO_GUEST_AT, demo_guest_start, size);
	if (rc == 0)
		rc = ram_write(ram, DEMO_GUEST_AT + (uint64_t)(demo_guest_nonce - demo_guest_start),
			       nonce, sizeof(nonce) - 1);
	if (rc == 0)
		rc = enter(ram, vm, DEMO_GUEST_AT, 0);
	return rc < 0 ? err_sys(e, -rc, "cannot load the demo guest into RAM") : 0;
}

int boot_load(struct boot *b, struct ram *ram, struct vm *vm, const struct acpi_config *acpi,
	      struct err *e)
{
	switch (b->kind) {
	case BOOT_KIND__BOOT_LINUX:
		if (b->kernel.path)
			return load_linux(b, ram, vm, acpi, e);
		break;
	case BOOT_KIND__BOOT_DEMO:
		return load_demo(ram, vm, e);
	default:
		break;
	}
	return err_refuse(e, ESTALE, "the snapshot does not say what this machine booted from");
}
