/* What a machine boots: see boot.h. */
#define _GNU_SOURCE
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "demo_guest.h"
#include "entry.h"
#include "linux_boot.h"

#define FILE_MAX	(1ULL << 30)
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
				 "nothing to boot: give --kernel FILE, --restore-snapshot DIR "
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

static int load_linux(struct boot *b, struct ram *ram, struct vm *vm,
		      const struct acpi_config *acpi, struct err *e)
{
	auto_free uint8_t *kernel = NULL, *initrd = NULL;
	struct linux_files f = { .name = b->kernel.path, .cmdline = b->cmdline };
	int rc = read_boot_file(&b->kernel, &kernel, &f.kernel_size, e);

	if (rc == 0 && b->initrd.path)
		rc = read_boot_file(&b->initrd, &initrd, &f.initrd_size, e);
	if (rc < 0)
		return rc;
	f.kernel = kernel;
	f.initrd = initrd;
	return linux_boot_load(&f, ram, vm, acpi, e);
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
		rc = entry_set_64bit(ram, vm, DEMO_GUEST_AT, 0);
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
