/* The host's KVM: see kvm.h. */
#define _GNU_SOURCE
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* All that vmm cannot do without; the newest, SREGS2, is of Linux 5.14. */
static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
	{ KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_SREGS2, "KVM_CAP_SREGS2" },
};

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static int check_capabilities(struct kvm_host *host, struct err *e)
{
	int rc = 0, rc2;

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (ioctl(host->fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			rc = err_also(e, ENOTSUP, "this host's KVM lacks %s", needed[i].name);
	if (rc < 0 && e)
		e->status = STATUS_ENVIRONMENT;
	rc2 = ioctl(host->fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	host->manual_dirty_log = rc2 > 0 && (rc2 & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	host->tsc_control = ioctl(host->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
	return rc;
}

/*
 * The memory types (Intel SDM 3A, 12.11): KVM keeps them, eight variable ranges,
 * and leaves them out of its list.
 */
static const struct {
	uint32_t first, last;
} mtrrs[] = {
	{ 0x200, 0x20f }, { 0x250, 0x250 }, { 0x258, 0x259 }, { 0x268, 0x26f }, { 0x2ff, 0x2ff },
};

#define MTRRS_MAX 32

static int read_msr_list(struct kvm_host *host, struct err *e)
{
	int rc;

	host->msrs = calloc(1, sizeof(*host->msrs) + (KVM_MSRS_MAX + MTRRS_MAX) * sizeof(uint32_t));
	if (!host->msrs)
		return err_sys(e, ENOMEM, "cannot ask KVM what it offers");
	host->msrs->nmsrs = KVM_MSRS_MAX;
	rc = kvm_ioctl(host->fd, KVM_GET_MSR_INDEX_LIST, host->msrs);
	if (rc < 0)
		return err_sys(e, -rc, "cannot ask KVM for its list of MSRs");
	for (size_t i = 0; i < sizeof(mtrrs) / sizeof(mtrrs[0]); i++)
		for (uint32_t msr = mtrrs[i].first; msr <= mtrrs[i].last; msr++)
			host->msrs->indices[host->msrs->nmsrs++] = msr;
	return 0;
}

static int open_device(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == ENOENT)
		return err_env(e, ENOENT,
			       "there is no /dev/kvm: load kvm-intel or kvm-amd, or switch "
			       "virtualization on in the firmware");
	if (errno == EACCES)
		return err_env(e, EACCES,
			       "/dev/kvm may not be opened by this user: join the group kvm");
	return err_sys(e, errno, "cannot open /dev/kvm");
}

int kvm_host_open(struct kvm_host *host, struct err *e)
{
	int rc;

	*host = KVM_HOST_NONE;
	rc = open_device(e);
	if (rc < 0)
		return rc;
	host->fd = rc;
	rc = kvm_ioctl(host->fd, KVM_GET_API_VERSION, NULL);
	if (rc != KVM_API_VERSION)
		rc = err_env(e, ENOTSUP, "/dev/kvm speaks API version %d, not %d", rc,
			     KVM_API_VERSION);
	else
		rc = check_capabilities(host, e);
	if (rc == 0) {
		rc = kvm_ioctl(host->fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
		if (rc < (int)sizeof(struct kvm_run))
			rc = err_env(e, ENOTSUP, "/dev/kvm has no run area for a vCPU");
		else
			host->run_size = (uint32_t)rc;
	}
	if (rc >= 0)
		rc = read_msr_list(host, e);
	if (rc < 0)
		kvm_host_close(host);
	return rc;
}

uint32_t kvm_host_tsc_khz(struct kvm_host *host)
{
	int khz;

	if (host->spare_vm < 0)
		host->spare_vm = kvm_ioctl(host->fd, KVM_CREATE_VM, NULL);
	khz = host->spare_vm < 0 ? -1 : kvm_ioctl(host->spare_vm, KVM_GET_TSC_KHZ, NULL);
	return khz > 0 ? (uint32_t)khz : 0;
}

int kvm_host_take_vm(struct kvm_host *host)
{
	const int fd = host->spare_vm;

	host->spare_vm = -1;
	return fd >= 0 ? fd : kvm_ioctl(host->fd, KVM_CREATE_VM, NULL);
}

void kvm_host_tidy(struct kvm_host *host)
{
	if (host->probe_vm >= 0)
		close(host->probe_vm);
	host->probe_vm = -1;
}

void kvm_host_close(struct kvm_host *host)
{
	kvm_host_tidy(host);
	if (host->spare_vm >= 0)
		close(host->spare_vm);
	if (host->fd >= 0)
		close(host->fd);
	free(host->msrs);
	*host = KVM_HOST_NONE;
}
