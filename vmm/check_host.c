/*
 * --check-host: see check_host.h.
 *
 * Whether KVM only emulates is measured, not asked: a bare guest counts down a
 * register for some milliseconds. Hardware does a loop step in about a
 * nanosecond, an emulator in about a microsecond.
 */
#define _GNU_SOURCE
#include "check_host.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "vm.h"

#define PROBE_LOOPS  20000
#define PROBE_ROUNDS 4
#define PROBE_AT     0x1000
#define SLOW_MIPS    20.0 /* below, Linux takes minutes to boot */

static const struct {
	int cap;
	const char *name;
	const char *use;
} capabilities[] = {
	{ KVM_CAP_IRQFD, "irqfd", "device interrupts without a system call" },
	{ KVM_CAP_IOEVENTFD, "ioeventfd", "device doorbells without an exit" },
	{ KVM_CAP_XSAVE2, "xsave2", "CPUs with large registers" },
	{ KVM_CAP_READONLY_MEM, "readonly_mem", "read-only memory slots" },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "manual_dirty_log", "saving only what changed" },
	{ KVM_CAP_TSC_CONTROL, "tsc_control", "restoring on a CPU of another frequency" },
	{ KVM_CAP_GET_TSC_KHZ, "get_tsc_khz", "knowing the TSC's frequency" },
	{ KVM_CAP_BINARY_STATS_FD, "stats", "counting page tables" },
};

/* Real mode: count ecx down, exit by an out to a port, and again. */
static const uint8_t probe_code[] = {
	0x66, 0xb9, PROBE_LOOPS & 0xff, PROBE_LOOPS >> 8, 0, 0, /* mov $N, %ecx */
	0x66, 0x49,						/* dec %ecx */
	0x75, 0xfc,						/* jnz back */
	0xb0, 0x01,						/* mov $1, %al */
	0xe6, 0x80,						/* out %al, $0x80 */
	0xeb, 0xf0,						/* jmp to the start */
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int start_at_probe(const struct vm *vm)
{
	const int fd = vm->vcpu[0].fd;
	struct kvm_regs regs = { .rip = PROBE_AT, .rflags = 2 };
	struct kvm_sregs s;
	int rc = kvm_ioctl(fd, KVM_GET_SREGS, &s);

	if (rc < 0)
		return rc;
	s.cs.base = 0;
	s.cs.selector = 0;
	rc = kvm_ioctl(fd, KVM_SET_SREGS, &s);
	return rc < 0 ? rc : kvm_ioctl(fd, KVM_SET_REGS, &regs);
}

/*
 * Millions of instructions a second, or a negative errno. The first round pays
 * for the first entry and the first page faults, and is not counted; of the
 * others the quickest counts, for what else this host does only slows them.
 */
static int measure(struct vm *vm, double *mips)
{
	int rc = start_at_probe(vm);

	for (int round = 0; rc == 0 && round < PROBE_ROUNDS; round++) {
		const int64_t start = now_ns();
		double rate;

		rc = kvm_ioctl(vm->vcpu[0].fd, KVM_RUN, NULL);
		rate = 2.0 * PROBE_LOOPS * 1000 / (double)(now_ns() - start);
		if (rc == 0 && vm->vcpu[0].run->exit_reason != KVM_EXIT_IO)
			rc = -EPROTO;
		if (round > 0 && rate > *mips)
			*mips = rate;
	}
	return rc;
}

static int probe(struct kvm_host *host, double *mips, struct err *e)
{
	struct ram ram;
	struct vm vm;
	int rc = ram_map_memfd(&ram, RAM_MIN, e);

	if (rc < 0)
		return rc;
	rc = vm_create(&vm, host, (const struct ram *[]){ &ram }, 1, 1, e);
	if (rc == 0) {
		rc = vm_set_host_cpuid(&vm, e);
		if (rc == 0)
			rc = ram_write(&ram, PROBE_AT, probe_code, sizeof(probe_code));
		if (rc == 0)
			rc = measure(&vm, mips);
		if (rc < 0 && e && !*e->text)
			err_sys(e, -rc, "a probe guest does not run on this KVM");
		vm_destroy(&vm);
	}
	ram_unmap(&ram);
	return rc;
}

static void print_text(const struct kvm_host *host, double mips)
{
	printf("/dev/kvm: works\n");
	printf("speed: %.0f million instructions a second%s\n", mips,
	       mips < SLOW_MIPS ? ": this KVM emulates, Linux will not be usable here" : "");
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		printf("%s: %s (%s)\n", capabilities[i].name,
		       ioctl(host->fd, KVM_CHECK_EXTENSION, capabilities[i].cap) > 0 ? "yes" : "no",
		       capabilities[i].use);
}

static int print_json(const struct kvm_host *host, double mips)
{
	json_t *caps = json_object();
	json_t *j = json_pack("{s:b, s:f, s:b, s:o}", "kvm", 1, "mips", mips, "emulates",
			      mips < SLOW_MIPS, "capabilities", caps);
	int rc;

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		json_object_set_new(caps, capabilities[i].name,
				    json_boolean(ioctl(host->fd, KVM_CHECK_EXTENSION,
						       capabilities[i].cap) > 0));
	rc = json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
	return rc < 0 ? -ENOMEM : 0;
}

int check_host(int json, struct err *e)
{
	struct kvm_host host;
	double mips = 0;
	int rc = kvm_host_open(&host, e);

	if (rc < 0)
		return rc;
	rc = probe(&host, &mips, e);
	if (rc == 0 && json)
		rc = print_json(&host, mips);
	else if (rc == 0)
		print_text(&host, mips);
	kvm_host_close(&host);
	return rc;
}
