/* A KVM virtual machine: see vm.h. */
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "cpuid.h"

/* Three pages that Intel's KVM wants for itself, in the device hole. */
#define TSS_ADDRESS 0xfffbd000UL

/* Region `i` of memory `which`: each memory has RAM_REGIONS numbers to itself. */
static int set_slot(const struct vm *vm, unsigned which, const struct ram *ram, unsigned i,
		    bool remove)
{
	const struct ram_region *r = &ram->region[i];
	struct kvm_userspace_memory_region slot = {
		.slot = which * RAM_REGIONS + i,
		.flags = (ram->read_only ? KVM_MEM_READONLY : 0) |
			 /* pmem is kept by its file */
			 (ram->log_dirty && which == 0 ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = r->guest_address,
		.memory_size = remove ? 0 : r->size,
		.userspace_addr = (uintptr_t)ram->base + r->offset,
	};

	return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int set_slots(const struct vm *vm, const struct ram *const memory[], unsigned n)
{
	int rc = 0;

	for (unsigned which = 0; which < n; which++)
		for (unsigned i = 0; rc == 0 && i < memory[which]->nregions; i++)
			rc = set_slot(vm, which, memory[which], i, false);
	return rc;
}

int vm_move_ram(struct vm *vm, unsigned which, const struct ram *ram, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < ram->nregions; i++) {
		/* A slot's address is not to be changed. One that is missing is no harm. */
		set_slot(vm, which, ram, i, true);
		rc = set_slot(vm, which, ram, i, false);
	}
	return rc < 0 ? err_sys(e, -rc, "cannot move the guest's RAM") : 0;
}

int vm_log_ram(const struct vm *vm, unsigned which, const struct ram *ram)
{
	int rc = 0;

	/* Only the flags differ: KVM leaves the slot where it is. */
	for (unsigned i = 0; rc == 0 && i < ram->nregions; i++)
		rc = set_slot(vm, which, ram, i, false);
	return rc;
}

/* Without KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 the log is cleared by being fetched. */
static int clear_log(const struct vm *vm, uint32_t slot, uint64_t *bits, uint64_t pages)
{
	struct kvm_clear_dirty_log clear = {
		.slot = slot,
		.num_pages = (uint32_t)pages,
		.dirty_bitmap = bits,
	};

	return vm->host->manual_dirty_log ? kvm_ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear) : 0;
}

int vm_take_dirty(const struct vm *vm, unsigned which, const struct ram *ram, uint64_t *bits)
{
	auto_free uint64_t *log = calloc((ram->size / RAM_PAGE + 63) / 64, sizeof(*log));
	int rc = log ? 0 : -ENOMEM;

	for (unsigned i = 0; rc == 0 && i < ram->nregions; i++) {
		const struct ram_region *r = &ram->region[i];
		const uint64_t pages = r->size / RAM_PAGE, words = (pages + 63) / 64;
		struct kvm_dirty_log get = { .slot = which * RAM_REGIONS + i, .dirty_bitmap = log };

		rc = kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &get);
		if (rc == 0)
			rc = clear_log(vm, get.slot, log, pages);
		/* A region begins at a whole word: ram_layout(). */
		for (uint64_t w = 0; rc == 0 && w < words; w++)
			bits[r->offset / RAM_PAGE / 64 + w] |= log[w];
	}
	return rc;
}

static int create_vcpu(struct vm *vm, unsigned id)
{
	struct vm_vcpu *v = &vm->vcpu[id];
	void *run;
	int rc = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)id);

	if (rc < 0)
		return rc;
	v->fd = rc;
	vm->nvcpus = id + 1;
	run = mmap(NULL, vm->host->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	v->run = run;
	return 0;
}

/* Slots before the irqchip: with it, each slot costs a grace period of milliseconds. */
static int build(struct vm *vm, struct kvm_host *host, const struct ram *const memory[], unsigned n,
		 unsigned nvcpus)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_enable_cap log = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE },
	};
	int rc = kvm_host_take_vm(host);

	if (rc < 0)
		return rc;
	vm->fd = rc;
	rc = host->manual_dirty_log ? kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &log) : 0;
	if (rc == 0)
		rc = set_slots(vm, memory, n);
	if (rc == 0)
		rc = kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS);
	if (rc == 0)
		rc = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);
	if (rc == 0)
		rc = kvm_ioctl(vm->fd, KVM_CREATE_PIT2, &pit);
	for (unsigned i = 0; rc == 0 && i < nvcpus; i++)
		rc = create_vcpu(vm, i);
	return rc;
}

int vm_create(struct vm *vm, struct kvm_host *host, const struct ram *const memory[], unsigned n,
	      unsigned nvcpus, struct err *e)
{
	int rc;

	*vm = (struct vm){ .host = host, .fd = -1 };
	rc = n <= VM_MEMORIES_MAX ? build(vm, host, memory, n, nvcpus) : -E2BIG;
	if (rc == 0)
		return 0;
	vm_destroy(vm);
	return err_sys(e, -rc, "cannot make a virtual machine");
}

void vm_destroy(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		if (vm->vcpu[i].run)
			munmap(vm->vcpu[i].run, vm->host->run_size);
		close(vm->vcpu[i].fd);
	}
	if (vm->fd >= 0)
		close(vm->fd);
	*vm = (struct vm){ .fd = -1 };
}

void vm_set_irq(const struct vm *vm, uint32_t gsi, bool level)
{
	struct kvm_irq_level line = { .irq = gsi, .level = level };

	/* It fails only for a GSI that has no route: all of ours have one. */
	kvm_ioctl(vm->fd, KVM_IRQ_LINE, &line);
}

int vm_add_irqfd(const struct vm *vm, uint32_t gsi, int fd)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };

	return kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

int vm_add_ioeventfd(const struct vm *vm, uint64_t address, uint32_t value, int fd)
{
	struct kvm_ioeventfd ioeventfd = {
		.datamatch = value,
		.addr = address,
		.len = sizeof(value),
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &ioeventfd);
}

int vm_set_host_cpuid(struct vm *vm, struct err *e)
{
	auto_free struct kvm_cpuid2 *cpuid = NULL;
	int rc = cpuid_make(vm->host, NULL, vm->nvcpus, &cpuid, e);

	return rc < 0 ? rc : cpuid_set(vm, cpuid, e);
}

/* Finds `name` among the descriptors of a statistics file and reads its value. */
static int64_t read_stat(int fd, const char *name)
{
	struct kvm_stats_header header;
	auto_free char *desc = NULL;
	size_t size;

	if (io_pread_full(fd, &header, sizeof(header), 0) < 0)
		return -1;
	if (header.name_size > 256 || header.num_desc > 4096)
		return -1;
	size = sizeof(struct kvm_stats_desc) + header.name_size;
	desc = malloc(size);
	for (uint32_t i = 0; desc && i < header.num_desc; i++) {
		const struct kvm_stats_desc *d = (const void *)desc;
		uint64_t value;

		if (io_pread_full(fd, desc, size, header.desc_offset + i * size) < 0)
			return -1;
		if (strncmp(d->name, name, header.name_size) != 0)
			continue;
		if (io_pread_full(fd, &value, sizeof(value), header.data_offset + d->offset) < 0)
			return -1;
		return (int64_t)value;
	}
	return -1;
}

int64_t vm_stat(const struct vm *vm, const char *name)
{
	auto_fd int fd = kvm_ioctl(vm->fd, KVM_GET_STATS_FD, NULL);

	return fd < 0 ? -1 : read_stat(fd, name);
}
