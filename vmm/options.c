/* The command line of vmm: see options.h. */
#define _GNU_SOURCE
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "clones.h"
#include "cpu_features.h"
#include "proto/manifest.h"
#include "ram.h"
#include "unix_socket.h"

#define AT(field) offsetof(struct options, field)

const struct opt options_table[] = {
	{ "kernel", 0, OPT_STRING, AT(kernel), "FILE", "Linux kernel to boot: bzImage or vmlinux" },
	{ "initrd", 0, OPT_STRING, AT(initrd), "FILE", "its initial RAM disk" },
	{ "cmdline", 0, OPT_STRING, AT(cmdline), "TEXT", "its command line (console=ttyS0)" },
	{ "memory", 'm', OPT_SIZE, AT(memory), "SIZE", "guest RAM (512M)" },
	{ "processors", 'p', OPT_UINT, AT(processors), "N", "vCPUs (1)" },
	{ "disk", 0, OPT_LIST, AT(disk), "PATH[,ro][,overlay=FILE]", "a disk; any number" },
	{ "net", 0, OPT_LIST, AT(net), "tap=NAME[,mac=MAC]", "a network card on a tap interface" },
	{ "pmem", 0, OPT_LIST, AT(pmem), "PATH[,ro]", "a file as persistent memory" },
	{ "rng", 0, OPT_FLAG, AT(rng), NULL, "a source of random numbers" },
	{ "vsock", 0, OPT_LIST, AT(vsock), "cid=N,path=SOCKET", "sockets between host and guest" },
	{ "console", 0, OPT_LIST, AT(console), "path=SOCKET", "a virtio console on a Unix socket" },
	{ "balloon", 0, OPT_FLAG, AT(balloon), NULL, "give memory that the guest frees back" },
	{ "disk-policy", 0, OPT_CHOICE, AT(disk_policy), "keep|external",
	  "whether snapshots keep writable disks (keep)" },
	{ "freeze", 0, OPT_CHOICE, AT(freeze), "handover|slots",
	  "how a save freezes RAM: by a second VM, or by moving its slots (handover)" },
	{ "cpu", 0, OPT_STRING, AT(cpu), "MODEL",
	  "host, or x86-64-v1 to -v4 for mixed hosts (host)" },
	{ "clock", 0, OPT_CHOICE, AT(clock), "freeze|advance",
	  "a restored guest's clocks: as saved, or with the time since (freeze)" },
	{ "restore-snapshot", 0, OPT_STRING, AT(restore), "DIR",
	  "go on from a snapshot: in the mount, the store, or a copy" },
	{ "clones", 0, OPT_UINT, AT(clones), "N",
	  "restore N machines; {n} in their options is the number of each" },
	{ "record-working-set", 0, OPT_UINT, AT(record_s), "SECONDS",
	  "note beside the snapshot what the restored guest touches in that time" },
	{ "no-prefetch", 0, OPT_FLAG, AT(no_prefetch), NULL,
	  "do not read ahead what was noted so" },
	{ "paused", 0, OPT_FLAG, AT(paused), NULL, "do not run before `resume`" },
	{ "check", 0, OPT_FLAG, AT(check), NULL,
	  "with --restore-snapshot: say whether it can be restored here, and stop" },
	{ "trust-memory", 0, OPT_FLAG, AT(trust_memory), NULL,
	  "restore without verifying memory.bin" },
	{ "wait-verified", 0, OPT_FLAG, AT(wait_verified), NULL,
	  "do not start before all of it is verified, from the mount either" },
	{ "memory-backing-file", 0, OPT_STRING, AT(memory_backing_file), "FILE",
	  "guest RAM in this file, made if missing (in the store)" },
	{ "private-memory", 0, OPT_FLAG, AT(private_memory), NULL,
	  "guest RAM in anonymous memory; a save writes it out" },
	{ "no-reserve", 0, OPT_FLAG, AT(no_reserve), NULL,
	  "do not reserve the disk space of guest RAM at start" },
	{ "store", 0, OPT_STRING, AT(store), "DIR", "the snapshot store" },
	{ "serial", 0, OPT_STRING, AT(serial), "WHERE", "stdio, file=PATH or none (stdio)" },
	{ "control", 0, OPT_STRING, AT(control), "PATH", "listen for commands on a Unix socket" },
	{ "demo-guest", 0, OPT_FLAG, AT(demo_guest), NULL, "run the built-in guest" },
	{ "timing", 0, OPT_FLAG, AT(timing), NULL,
	  "say on standard error how long each phase of start and saves took" },
	{ "no-sandbox", 0, OPT_FLAG, AT(no_sandbox), NULL,
	  "for debugging vmm: a guest that breaks out is not confined" },
	{ "check-host", 0, OPT_FLAG, AT(check_host), NULL, "say what this host's KVM can do" },
	{ "json", 0, OPT_FLAG, AT(json), NULL, "with --check-host, --clones: for programs" },
	{ "version", 0, OPT_FLAG, AT(version), NULL, "print the version" },
	{ 0 },
};

static void help(void)
{
	puts("usage: vmm --kernel FILE [OPTION..]\n"
	     "       vmm --restore-snapshot DIR [OPTION..]\n"
	     "       vmm --demo-guest [OPTION..]\n\n"
	     "Runs a virtual machine on KVM, saves it to a snapshot and restores it.\n");
	opt_help(stdout, options_table);
	puts("\nConsole: Ctrl-a c for the prompt and back, Ctrl-a x to quit; `help` there.\n"
	     "Exit status: 0 done, 1 refused, 2 usage, 3 the environment failed.");
}

static int check_memory(uint64_t size, struct err *e)
{
	const uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char want[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];

	if (size < RAM_MIN)
		return err_usage(e, EINVAL, "--memory %s is too small: the least is %s",
				 text_format_size(size, want), text_format_size(RAM_MIN, have));
	if (size % RAM_PAGE)
		return err_usage(e, EINVAL, "--memory %llu is not a multiple of 4096 bytes",
				 (unsigned long long)size);
	if (size > host)
		return err_refuse(e, ENOMEM, "--memory %s is more than the %s that this host has",
				  text_format_size(size, want), text_format_size(host, have));
	return 0;
}

static int exclude(bool a, bool b, const char *words, struct err *e)
{
	return a && b ? err_usage(e, EINVAL, "%s exclude each other", words) : 0;
}

static int check_serial(const char *where, struct err *e)
{
	if (strcmp(where, "stdio") == 0 || strcmp(where, "none") == 0 ||
	    (strncmp(where, "file=", 5) == 0 && where[5]))
		return 0;
	return err_usage(e, EINVAL, "--serial takes stdio, file=PATH or none, not '%s'", where);
}

static int check_control(const char *path, struct err *e)
{
	if (!path || (*path && strlen(path) <= UNIX_PATH_MAX))
		return 0;
	return err_usage(e, EINVAL, "--control %s: the path must have 1 to %zu bytes", path,
			 UNIX_PATH_MAX);
}

static int check_cpu(const struct options *o, struct err *e)
{
	char known[128] = "host";

	if (!o->cpu || strcmp(o->cpu, "host") == 0 || cpu_profile_find(o->cpu))
		return 0;
	for (size_t i = 0; i < cpu_profiles_count; i++)
		snprintf(known + strlen(known), sizeof(known) - strlen(known), ", %s",
			 cpu_profiles[i].name);
	return err_usage(e, EINVAL, "--cpu %s is not known; there are %s", o->cpu, known);
}

static int check_combination(struct options *o, bool memory_given, struct err *e)
{
	int rc = exclude(o->private_memory, o->memory_backing_file,
			 "--private-memory and --memory-backing-file", e);

	if (rc == 0)
		rc = check_serial(o->serial, e);
	if (rc == 0)
		rc = check_control(o->control, e);
	if (rc == 0)
		rc = exclude(o->restore, o->memory_backing_file,
			     "--restore-snapshot and --memory-backing-file", e);
	if (rc == 0)
		rc = exclude(o->restore, o->private_memory,
			     "--restore-snapshot and --private-memory", e);
	if (rc == 0)
		rc = exclude(o->restore, o->kernel || o->demo_guest || o->initrd || o->cmdline,
			     "--restore-snapshot and what a machine boots from", e);
	if (rc == 0)
		rc = exclude(o->restore, o->cpu, "--restore-snapshot, which has its CPU, and --cpu",
			     e);
	if (rc == 0 && o->clock && !o->restore)
		rc = err_usage(e, EINVAL, "--clock advance goes with --restore-snapshot DIR");
	if (rc == 0)
		rc = clones_check(o, e);
	if (rc == 0)
		rc = check_cpu(o, e);
	if (rc == 0 && o->record_s && !o->restore)
		rc = err_usage(e, EINVAL, "--record-working-set goes with --restore-snapshot DIR");
	if (rc == 0 && o->check && !o->restore)
		rc = err_usage(e, EINVAL, "--check goes with --restore-snapshot DIR");
	if (rc == 0 && o->processors > MANIFEST_VCPUS_MAX)
		rc = err_usage(e, EINVAL, "--processors %u: a machine has 1 to %u vCPUs",
			       o->processors, MANIFEST_VCPUS_MAX);
	/* The snapshot says how much; 0 would be taken for not given. */
	if (rc == 0 && o->restore && memory_given)
		rc = check_memory(o->memory, e);
	if (rc < 0 || o->restore)
		return rc;
	if (!memory_given)
		o->memory = OPTIONS_DEFAULT_MEMORY;
	return check_memory(o->memory, e);
}

int options_parse(struct options *o, int argc, char **argv, struct err *e)
{
	/* Parsed twice over different defaults: what was given is the same in both. */
	struct options other = { .memory = 1, .processors = 1 };
	int operand, rc;
	bool memory_given;

	*o = (struct options){ .serial = "stdio" };
	rc = opt_parse(options_table, o, argc, argv, &operand, e);
	if (rc == 0)
		rc = opt_parse(options_table, &other, argc, argv, &operand, e);
	if (rc == -ECANCELED)
		help();
	if (rc < 0)
		return rc;
	if (operand < argc)
		return err_usage(e, EINVAL, "'%s' is not an option; --help lists them",
				 argv[operand]);
	if (o->processors == 0 && other.processors == 0)
		return err_usage(e, EINVAL, "--processors must be at least 1");
	memory_given = o->memory == other.memory;
	if (o->version || o->check_host)
		return 0;
	return check_combination(o, memory_given, e);
}
