/*
 * What a machine boots: a Linux kernel with initrd and command line, or the
 * demo guest that vmm carries within itself. A reset of the guest loads it
 * again, also in a restored machine, so it goes into the manifest.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "proto/manifest.h"
#include "acpi.h"
#include "ram.h"
#include "vm.h"

/* A file that is loaded, and what it was when it was first loaded. */
struct boot_file {
	char *path; /* absolute, owned; NULL: none */
	uint64_t size;
	uint8_t sha256[DIGEST_SIZE];
	bool known; /* size and sha256 are set: another content is refused */
};

struct boot {
	BootKind kind;
	struct boot_file kernel, initrd;
	char *cmdline; /* owned */
};

/* What --kernel, --initrd and --cmdline say (NULL: not given), or the demo guest. */
int boot_from_options(struct boot *b, bool demo, const char *kernel, const char *initrd,
		      const char *cmdline, struct err *e);

/* As the manifest says. 0 or a negative errno. */
int boot_from_manifest(struct boot *b, const Boot *m, struct err *e);

/* Into a message allocated for proto_manifest_free(). NULL: no memory. */
Boot *boot_to_manifest(const struct boot *b);

void boot_free(struct boot *b);

/*
 * Loads it into RAM and sets vCPU 0 of a fresh VM to its entry point. A kernel
 * finds ACPI tables that tell of `acpi`; the demo guest has no use for them.
 * Files that are not what they were when first loaded are refused (-ESTALE).
 * 0 or a negative errno, with words.
 */
int boot_load(struct boot *b, struct ram *ram, struct vm *vm, const struct acpi_config *acpi,
	      struct err *e);
