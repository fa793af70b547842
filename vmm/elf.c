/* An ELF kernel: see elf.h. */
#include "elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define LOWEST	      0x100000ULL
#define HIGHEST	      (1ULL << 32)
#define HEADERS_MAX   64
#define NOTE_PHYS32   18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTE_NAME     "Xen"
#define NOTE_NAME_LEN 4 /* with its NUL */

struct file {
	const uint8_t *buf;
	size_t len;
};

bool elf_is(const uint8_t *buf, size_t len)
{
	return len >= SELFMAG && memcmp(buf, ELFMAG, SELFMAG) == 0;
}

static bool within(const struct file *f, uint64_t offset, uint64_t size)
{
	return offset <= f->len && size <= f->len - offset;
}

static int parse_header(const struct file *f, Elf64_Ehdr *h, struct err *e)
{
	if (f->len < sizeof(*h) || !elf_is(f->buf, f->len))
		return err_refuse(e, ENOEXEC, "it is not an ELF kernel");
	memcpy(h, f->buf, sizeof(*h));
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    h->e_machine != EM_X86_64)
		return err_refuse(e, ENOEXEC, "it is an ELF file, but not one for x86-64");
	if (h->e_phnum == 0 || h->e_phnum > HEADERS_MAX || h->e_phentsize != sizeof(Elf64_Phdr) ||
	    !within(f, h->e_phoff, (uint64_t)h->e_phnum * sizeof(Elf64_Phdr)))
		return err_refuse(e, ENOEXEC, "it is an ELF file with wrong program headers");
	return 0;
}

static int add_segment(const struct file *f, const Elf64_Phdr *p, struct elf *out, struct err *e)
{
	uint64_t end;

	if (p->p_memsz == 0)
		return 0;
	if (p->p_filesz > p->p_memsz || !within(f, p->p_offset, p->p_filesz))
		return err_refuse(e, ENOEXEC, "it is an ELF file that ends before its content");
	if (__builtin_add_overflow(p->p_paddr, p->p_memsz, &end) || p->p_paddr < LOWEST ||
	    end > HIGHEST)
		return err_refuse(e, ENOEXEC, "it wants to be loaded at 0x%llx",
				  (unsigned long long)p->p_paddr);
	if (out->nsegments == ELF_SEGMENTS_MAX)
		return err_refuse(e, ENOEXEC, "it has more than %d segments", ELF_SEGMENTS_MAX);
	out->segment[out->nsegments++] =
		(struct elf_segment){ p->p_offset, p->p_filesz, p->p_paddr, p->p_memsz };
	if (end > out->end)
		out->end = end;
	return 0;
}

/* The value of a note, which is as long as the kernel's words; 0: it is no such note. */
static uint64_t note_value(const Elf64_Nhdr *n, const uint8_t *name, const uint8_t *value)
{
	uint64_t v = 0;

	if (n->n_type == NOTE_PHYS32 && n->n_namesz == NOTE_NAME_LEN &&
	    memcmp(name, NOTE_NAME, NOTE_NAME_LEN) == 0 && (n->n_descsz == 4 || n->n_descsz == 8))
		memcpy(&v, value, n->n_descsz);
	return v;
}

/* Walks a segment of notes: header, name, value, each padded to a multiple of four. */
static uint64_t find_entry(const struct file *f, const Elf64_Phdr *p)
{
	uint64_t at = p->p_offset, left = p->p_filesz;

	if (!within(f, at, left))
		return 0;
	while (left >= sizeof(Elf64_Nhdr)) {
		const uint8_t *name = f->buf + at + sizeof(Elf64_Nhdr);
		uint64_t names, size, value;
		Elf64_Nhdr n;

		memcpy(&n, f->buf + at, sizeof(n));
		names = ((uint64_t)n.n_namesz + 3) & ~3ULL;
		size = sizeof(n) + names + (((uint64_t)n.n_descsz + 3) & ~3ULL);
		if (size > left)
			return 0;
		value = note_value(&n, name, name + names);
		if (value)
			return value;
		at += size;
		left -= size;
	}
	return 0;
}

static bool in_a_segment(const struct elf *elf, uint64_t address)
{
	for (unsigned i = 0; i < elf->nsegments; i++)
		if (address >= elf->segment[i].address &&
		    address - elf->segment[i].address < elf->segment[i].room)
			return true;
	return false;
}

static Elf64_Phdr header(const struct file *f, const Elf64_Ehdr *h, unsigned i)
{
	Elf64_Phdr p;

	memcpy(&p, f->buf + h->e_phoff + i * sizeof(p), sizeof(p));
	return p;
}

int elf_parse(const uint8_t *buf, size_t len, struct elf *out, struct err *e)
{
	const struct file f = { buf, len };
	uint64_t entry = 0;
	Elf64_Ehdr h;
	int rc = parse_header(&f, &h, e);

	*out = (struct elf){ 0 };
	if (rc < 0)
		return rc;
	for (unsigned i = 0; !entry && i < h.e_phnum; i++) {
		const Elf64_Phdr p = header(&f, &h, i);

		if (p.p_type == PT_NOTE)
			entry = find_entry(&f, &p);
	}
	if (!entry)
		return err_refuse(e, ENOEXEC,
				  "it is an ELF file without an entry point for PVH: "
				  "a kernel has one with CONFIG_PVH");
	for (unsigned i = 0; rc == 0 && i < h.e_phnum; i++) {
		const Elf64_Phdr p = header(&f, &h, i);

		if (p.p_type == PT_LOAD)
			rc = add_segment(&f, &p, out, e);
	}
	if (rc == 0 && !in_a_segment(out, entry))
		rc = err_refuse(e, ENOEXEC, "its entry point for PVH lies outside of it");
	out->entry = (uint32_t)entry;
	return rc;
}
