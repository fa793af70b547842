/*
 * bench_floor FILE: the least that a monitor with this RAM does before its guest's first
 * byte. Maps FILE privately as RAM from guest address 0 on (and from 4 GiB on what is
 * above 3 GiB of it), makes a virtual machine with interrupt controllers, timer, one vCPU
 * with the host's CPUID, and a guest of three instructions that writes one byte to a
 * port, which goes to standard output. Linked statically: no library is loaded.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOLE_START 0xc0000000ULL
#define HOLE_END   0x100000000ULL
#define CODE	   0x1000
#define ENTRIES	   256

/* mov $0x3f8, %dx; mov $'x', %al; out %al, %dx; hlt */
static const uint8_t code[] = { 0xba, 0xf8, 0x03, 0xb0, 'x', 0xee, 0xf4 };

static int check(int rc, const char *what)
{
	if (rc < 0) {
		perror(what);
		exit(1);
	}
	return rc;
}

static void set_slot(int vm, unsigned slot, uint64_t address, uint64_t size, uint8_t *at)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = address,
		.memory_size = size,
		.userspace_addr = (uintptr_t)at,
	};

	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

/* Slots before the irqchip: the order that costs least. */
static void add_memory(int vm, const char *path)
{
	int fd = check(open(path, O_RDONLY | O_CLOEXEC), path);
	struct stat st;
	uint64_t size, low;
	uint8_t *ram;

	check(fstat(fd, &st), path);
	size = (uint64_t)st.st_size;
	low = size < HOLE_START ? size : HOLE_START;
	ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	check(ram == MAP_FAILED ? -1 : 0, "mmap");
	memcpy(ram + CODE, code, sizeof(code));
	set_slot(vm, 0, 0, low, ram);
	if (size > low)
		set_slot(vm, 1, HOLE_END, size - low, ram + low);
}

static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(*cpuid->entries));

	check(cpuid ? 0 : -1, "calloc");
	cpuid->nent = ENTRIES;
	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
	check(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
	free(cpuid);
}

static void set_registers(int vcpu)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;

	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(int argc, char **argv)
{
	struct kvm_pit_config pit = { 0 };
	struct kvm_run *run;
	int kvm, vm, vcpu, size;

	if (argc != 2)
		return 2;
	kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	add_memory(vm, argv[1]);
	check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL), "KVM_SET_TSS_ADDR");
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	check(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
	vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(run == MAP_FAILED ? -1 : 0, "mmap");
	set_cpuid(kvm, vcpu);
	set_registers(vcpu);
	check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "bench_floor: the guest ended by exit %u\n", run->exit_reason);
		return 1;
	}
	check((int)write(STDOUT_FILENO, (uint8_t *)run + run->io.data_offset, 1), "write");
	pause();
	return 0;
}
