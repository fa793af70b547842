/* The command line of vmm. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/opt.h"

/* What becomes of writable disks when a snapshot is taken. */
enum disk_policy {
	DISK_KEEP,     /* they are kept with it */
	DISK_EXTERNAL, /* the user sees to them */
};

/* How a save freezes RAM that is a file of the machine's own. */
enum freeze_way {
	FREEZE_HANDOVER, /* a second VM takes over (handover.h); else by slots */
	FREEZE_SLOTS,	 /* the memory slots are moved, at a cost that grows with RAM */
};

struct options {
	const char *kernel, *initrd, *cmdline;
	uint64_t memory;				 /* bytes, 0: not given */
	uint32_t processors;				 /* 0: not given */
	uint32_t clones;				 /* 0: not given */
	uint32_t record_s;				 /* --record-working-set, 0: not given */
	struct opt_list disk, net, pmem, vsock, console; /* devices.h tells how they are read */
	bool rng, balloon;
	uint32_t disk_policy; /* enum disk_policy */
	uint32_t freeze;      /* enum freeze_way */
	const char *serial, *control, *memory_backing_file, *store, *restore;
	const char *cpu; /* NULL: host */
	unsigned clock;	 /* enum clock_mode */
	bool private_memory, no_reserve, paused, check, trust_memory, wait_verified;
	bool no_prefetch, demo_guest, check_host, json, version;
	bool no_sandbox, timing;
};

extern const struct opt options_table[];

#define OPTIONS_DEFAULT_MEMORY (512ULL << 20)

/*
 * Parses and checks what can be checked by itself. -ECANCELED: --help was
 * printed. 0 or a negative errno with err_usage or err_refuse words.
 */
int options_parse(struct options *o, int argc, char **argv, struct err *e);
