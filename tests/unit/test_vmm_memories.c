/*
 * Several memories of one VM on this host's /dev/kvm: RAM across the 32-bit hole,
 * pmem above it, read-only slots, a freeze of one of them. The guest is some
 * instructions of 64-bit code, with page tables of the test's own.
 */
#include "machine_rig.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#define GIB   (1ULL << 30)
#define MIB   (1ULL << 20)
#define PMEM  (4 * GIB)
#define ROM   (5 * GIB)
#define CODE  0x10000 /* guest addresses; page tables follow */
#define PML4  0x20000
#define PDPT  0x21000
#define PD    0x22000 /* one a gigabyte that is mapped */
#define WORDS 0x80000 /* data of the tests */

/* ---- a guest that copies a word ---- */

/* mov rax,[rsi]; mov [rdi],rax; out 0x10,al */
static const uint8_t copy_code[] = { 0x48, 0x8b, 0x06, 0x48, 0x89, 0x07, 0xe6, 0x10 };

static void put64(struct ram *ram, uint64_t at, uint64_t value)
{
	assert_int_equal(ram_write(ram, at, &value, sizeof(value)), 0);
}

static uint64_t get64(const struct ram *ram, uint64_t at)
{
	uint64_t value = 0;

	assert_int_equal(ram_read(ram, at, &value, sizeof(value)), 0);
	return value;
}

/* Page tables for these gigabytes of guest addresses, each by 2 MiB pages, and code. */
static void write_guest(struct ram *ram, const unsigned *gib, unsigned n, const uint8_t *code,
			size_t len)
{
	put64(ram, PML4, PDPT | 3);
	for (unsigned i = 0; i < n; i++) {
		put64(ram, PDPT + 8 * gib[i], (PD + i * 0x1000) | 3);
		for (unsigned j = 0; j < 512; j++)
			put64(ram, PD + i * 0x1000 + 8 * j, (gib[i] * GIB + j * 2 * MIB) | 0x83);
	}
	assert_int_equal(ram_write(ram, CODE, code, len), 0);
}

static void enter_long_mode(int vcpu)
{
	struct kvm_sregs s;

	assert_int_equal(kvm_ioctl(vcpu, KVM_GET_SREGS, &s), 0);
	s.cr3 = PML4;
	s.cr4 = 1 << 5;
	s.cr0 = 0x80000001;
	s.efer = 0x500;
	s.cs = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	s.ds = (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = 16,
				     .type = 3,
				     .present = 1,
				     .s = 1,
				     .db = 1,
				     .g = 1 };
	s.es = s.ss = s.fs = s.gs = s.ds;
	assert_int_equal(kvm_ioctl(vcpu, KVM_SET_SREGS, &s), 0);
}

static void set_registers(int vcpu, uint64_t rsi, uint64_t rdi)
{
	struct kvm_regs r = { .rip = CODE, .rsi = rsi, .rdi = rdi, .rflags = 2 };

	assert_int_equal(kvm_ioctl(vcpu, KVM_SET_REGS, &r), 0);
}

/* The guest copies 8 bytes; the number of MMIO exits that took, all of them at `to`. */
static unsigned copy_word(struct vm *vm, uint64_t from, uint64_t to)
{
	struct kvm_run *run = vm->vcpu[0].run;
	unsigned mmio = 0;

	set_registers(vm->vcpu[0].fd, from, to);
	for (;;) {
		assert_int_equal(ioctl(vm->vcpu[0].fd, KVM_RUN, NULL), 0);
		if (run->exit_reason == KVM_EXIT_IO)
			return mmio;
		assert_int_equal(run->exit_reason, KVM_EXIT_MMIO);
		assert_true(run->mmio.is_write);
		assert_int_equal(run->mmio.phys_addr, to);
		mmio++;
	}
}

/* ---- */

struct memories {
	struct kvm_host kvm;
	struct vm vm;
	struct ram ram, pmem, rom;
	int file; /* of pmem, a descriptor of the test's own */
};

static int file_of(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static int make_memories(void **state)
{
	static const unsigned gib[] = { 0, 4, 5 };
	struct memories *m = calloc(1, sizeof(*m));
	struct err e = { 0 };
	int rom;

	*state = m;
	if (!m || kvm_host_open(&m->kvm, &e) < 0)
		return -1;
	assert_int_equal(ram_map_memfd(&m->ram, RAM_SIZE, NULL), 0);
	m->file = file_of("pmem", 2 * MIB);
	assert_int_equal(ram_map_at(&m->pmem, RAM_SHARED, fcntl(m->file, F_DUPFD_CLOEXEC, 0),
				    2 * MIB, PMEM, false, &e),
			 0);
	rom = file_of("rom", 4 * MIB);
	assert_int_equal(pwrite(rom, "read only", 9, 3 * MIB), 9);
	assert_int_equal(ram_map_at(&m->rom, RAM_SHARED, rom, 4 * MIB, ROM, true, &e), 0);

	const struct ram *list[] = { &m->ram, &m->pmem, &m->rom };

	if (vm_create(&m->vm, &m->kvm, list, 3, 1, &e) < 0 || vm_set_host_cpuid(&m->vm, &e) < 0)
		fail_msg("%s", e.text);
	write_guest(&m->ram, gib, 3, copy_code, sizeof(copy_code));
	enter_long_mode(m->vm.vcpu[0].fd);
	return 0;
}

static int drop_memories(void **state)
{
	struct memories *m = *state;

	vm_destroy(&m->vm);
	ram_unmap(&m->ram);
	ram_unmap(&m->pmem);
	ram_unmap(&m->rom);
	close(m->file);
	kvm_host_close(&m->kvm);
	free(m);
	return 0;
}

static uint64_t in_file(const struct memories *m, uint64_t at)
{
	uint64_t value;

	assert_int_equal(io_pread_full(m->file, &value, sizeof(value), at), 0);
	return value;
}

static void guest_reaches_every_memory(void **state)
{
	struct memories *m = *state;

	put64(&m->ram, WORDS, 0x1122334455667788);
	assert_int_equal(copy_word(&m->vm, WORDS, PMEM + 2 * MIB - 8), 0);
	assert_int_equal(in_file(m, 2 * MIB - 8), 0x1122334455667788);
	assert_int_equal(get64(&m->pmem, PMEM + 2 * MIB - 8), 0x1122334455667788);
	assert_int_equal(copy_word(&m->vm, ROM + 3 * MIB, WORDS), 0);
	assert_int_equal(memcmp(m->ram.base + WORDS, "read onl", 8), 0);
	assert_int_equal(copy_word(&m->vm, PMEM + 2 * MIB - 8, WORDS + 8), 0);
	assert_int_equal(get64(&m->ram, WORDS + 8), 0x1122334455667788);
}

static void guest_writes_to_a_read_only_slot_are_exits(void **state)
{
	struct memories *m = *state;

	assert_int_equal(copy_word(&m->vm, WORDS, ROM + 3 * MIB), 1);
	assert_int_equal(copy_word(&m->vm, ROM + 3 * MIB, WORDS), 0);
	assert_int_equal(memcmp(m->ram.base + WORDS, "read onl", 8), 0);
	assert_int_equal(ram_write(&m->rom, ROM, "x", 1), -EROFS);
	assert_int_equal(ram_discard(&m->rom, ROM, RAM_PAGE), -EROFS);
}

static void freeze_of_pmem_moves_its_slot_alone(void **state)
{
	struct memories *m = *state;
	struct ram frozen = { .fd = -1 };
	struct ram_mapping old;
	struct err e = { 0 };

	put64(&m->ram, WORDS, 1);
	put64(&m->ram, WORDS + 8, 2);
	copy_word(&m->vm, WORDS, PMEM);
	assert_int_equal(ram_freeze_prepare(&m->pmem, &frozen, &e), 0);
	assert_int_equal(frozen.nregions, 1);
	assert_int_equal(frozen.region[0].guest_address, PMEM);
	assert_int_equal(vm_move_ram(&m->vm, 1, &frozen, &e), 0);
	ram_freeze_commit(&m->pmem, &frozen, &old);
	ram_release(&old);
	copy_word(&m->vm, PMEM, WORDS + 16); /* it has what it had, */
	assert_int_equal(get64(&m->ram, WORDS + 16), 1);
	copy_word(&m->vm, WORDS + 8, PMEM); /* and goes on by itself */
	assert_int_equal(get64(&m->pmem, PMEM), 2);
	assert_int_equal(in_file(m, 0), 1);
}

static void regions_that_overlap_or_too_many_are_refused(void **state)
{
	struct memories *m = *state;
	const struct ram *twice[] = { &m->ram, &m->pmem, &m->pmem };
	const struct ram *many[VM_MEMORIES_MAX + 1] = { NULL };
	struct err e = { 0 };
	struct vm vm;

	assert_true(vm_create(&vm, &m->kvm, twice, 3, 1, &e) < 0);
	assert_says(&e, "cannot make a virtual machine");
	assert_int_equal(vm_create(&vm, &m->kvm, many, VM_MEMORIES_MAX + 1, 1, &e), -E2BIG);
}

static void as_many_pmem_as_may_be_have_slots(void **state)
{
	struct memories *m = *state;
	struct ram pmem[VM_PMEM_MAX];
	const struct ram *list[VM_MEMORIES_MAX] = { &m->ram };
	struct err e = { 0 };
	struct vm vm;

	for (unsigned i = 0; i < VM_PMEM_MAX; i++) {
		assert_int_equal(ram_map_at(&pmem[i], RAM_SHARED, file_of("pmem", 2 * MIB), 2 * MIB,
					    (4 + i) * GIB, i % 2, &e),
				 0);
		list[1 + i] = &pmem[i];
	}
	if (vm_create(&vm, &m->kvm, list, VM_MEMORIES_MAX, 1, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(vm_move_ram(&vm, VM_PMEM_MAX, &pmem[VM_PMEM_MAX - 1], &e), 0);
	vm_destroy(&vm);
	for (unsigned i = 0; i < VM_PMEM_MAX; i++)
		ram_unmap(&pmem[i]);
}

/* ---- RAM across the hole ---- */

static void ram_of_8_gib_is_reached_on_both_sides_of_the_hole(void **state)
{
	static const unsigned gib[] = { 0, 2, 4, 8 };
	struct kvm_host kvm;
	struct ram ram;
	struct vm vm;
	struct err e = { 0 };
	struct stat st;

	(void)state;
	assert_int_equal(kvm_host_open(&kvm, &e), 0);
	assert_int_equal(ram_map_memfd(&ram, 8 * GIB, &e), 0);
	assert_int_equal(ram_end(&ram), 9 * GIB);
	if (vm_create(&vm, &kvm, (const struct ram *[]){ &ram }, 1, 1, &e) < 0 ||
	    vm_set_host_cpuid(&vm, &e) < 0)
		fail_msg("%s", e.text);
	write_guest(&ram, gib, 4, copy_code, sizeof(copy_code));
	enter_long_mode(vm.vcpu[0].fd);
	put64(&ram, WORDS, 0xabcdef);
	assert_int_equal(copy_word(&vm, WORDS, 3 * GIB - 8), 0);
	assert_int_equal(copy_word(&vm, 3 * GIB - 8, 4 * GIB), 0);
	assert_int_equal(copy_word(&vm, 4 * GIB, 9 * GIB - 8), 0);
	/* In the flat run there is no hole. */
	assert_int_equal(io_pread_full(ram.fd, &(uint64_t){ 0 }, 8, 3 * GIB), 0);
	assert_int_equal(memcmp(ram.base + 3 * GIB, &(uint64_t){ 0xabcdef }, 8), 0);
	assert_int_equal(memcmp(ram.base + 8 * GIB - 8, &(uint64_t){ 0xabcdef }, 8), 0);
	assert_int_equal(fstat(ram.fd, &st), 0);
	assert_true(st.st_blocks * 512 <
		    (blkcnt_t)(8 * MIB)); /* what was not touched is not there */
	vm_destroy(&vm);
	ram_unmap(&ram);
	kvm_host_close(&kvm);
}

/* ---- a machine with pmem, its own thread ---- */

/* mov [rdi],rax; mov rax,[rdi]; mov [rsi],rax; and round again */
static const uint8_t poke_code[] = { 0x48, 0x89, 0x07, 0x48, 0x8b, 0x07,
				     0x48, 0x89, 0x06, 0xeb, 0xf5 };

struct pmem_rig {
	struct rig rig; /* first: its fixture */
	struct ram pmem;
	int file;
};

static int make_pmem_rig(void **state, bool read_only)
{
	static const unsigned gib[] = { 0, 4 };
	struct pmem_rig *r = calloc(1, sizeof(*r));
	struct err e = { 0 };
	int vcpu;

	*state = r;
	if (!r)
		return -1;
	r->rig.ram = -1;
	start_console(&r->rig, 1);
	r->file = file_of("pmem", 2 * MIB);
	assert_int_equal(pwrite(r->file, "as it was", 9, 0), 9);
	if (ram_map_memfd(&r->rig.m.ram, RAM_SIZE, &e) < 0 ||
	    ram_map_at(&r->pmem, RAM_SHARED, fcntl(r->file, F_DUPFD_CLOEXEC, 0), 2 * MIB, PMEM,
		       read_only, &e) < 0)
		fail_msg("%s", e.text);
	r->rig.m.pmem[r->rig.m.npmem++] = &r->pmem;
	boot_demo(&r->rig);
	write_guest(&r->rig.m.ram, gib, 2, poke_code, sizeof(poke_code));
	vcpu = r->rig.m.vm.vcpu[0].fd;
	enter_long_mode(vcpu);
	set_registers(vcpu, WORDS, PMEM);
	return 0;
}

static int make_read_only(void **state)
{
	return make_pmem_rig(state, true);
}

static int make_writable(void **state)
{
	return make_pmem_rig(state, false);
}

static int drop_pmem_rig(void **state)
{
	struct pmem_rig *r = *state;
	struct ram pmem = r->pmem;
	const int file = r->file;

	finish(&r->rig);
	ram_unmap(&pmem);
	close(file);
	return 0;
}

static void wait_for_word(struct pmem_rig *r, const void *word)
{
	const double end = now() + WAIT_S;

	while (memcmp(r->rig.m.ram.base + WORDS, word, 8) != 0) {
		if (now() > end)
			fail_msg("the guest does not come so far");
		usleep(1000);
	}
}

static void machine_ignores_writes_to_read_only_pmem(void **state)
{
	struct pmem_rig *r = *state;

	machine_release(&r->rig.m, HOLD_USER);
	wait_for_word(r, "as it wa");
	assert_int_equal(machine_take_events(&r->rig.m), 0);
	machine_hold(&r->rig.m, HOLD_USER);
	assert_int_equal(machine_holds(&r->rig.m), HOLD_USER);
}

static void machine_stops_at_pmem_that_cannot_be_had_and_goes_on(void **state)
{
	static const uint64_t zero;
	struct pmem_rig *r = *state;

	assert_int_equal(ftruncate(r->file, 0), 0);
	memset(r->rig.m.ram.base + WORDS, 0xee, 8);
	machine_release(&r->rig.m, HOLD_USER);
	wait_for_event(&r->rig, EVENT_FAULT);
	assert_int_equal(machine_holds(&r->rig.m), HOLD_FAULT);
	assert_int_equal(r->rig.m.ram.base[WORDS], 0xee); /* and was told nothing */
	assert_int_equal(ftruncate(r->file, 2 * MIB), 0);
	machine_release(&r->rig.m, HOLD_FAULT);
	wait_for_word(r, &zero);
	machine_hold(&r->rig.m, HOLD_USER);
}

static void machine_finds_the_memory_of_an_address(void **state)
{
	struct pmem_rig *r = *state;
	struct machine *m = &r->rig.m;
	struct ram *list[VM_MEMORIES_MAX];

	assert_ptr_equal(machine_memory_at(m, 0, RAM_SIZE), &m->ram);
	assert_ptr_equal(machine_memory_at(m, PMEM, 2 * MIB), &r->pmem);
	assert_ptr_equal(machine_memory_at(m, PMEM + 2 * MIB - 1, 2), NULL);
	assert_ptr_equal(machine_memory_at(m, RAM_SIZE, 1), NULL);
	assert_ptr_equal(machine_memory_at(m, UINT64_MAX, 2), NULL);
	assert_int_equal(machine_memories(m, list), 2);
	assert_ptr_equal(list[0], &m->ram);
	assert_ptr_equal(list[1], &r->pmem);
}

#define ON_MEMORIES(f) cmocka_unit_test_setup_teardown(f, make_memories, drop_memories)
#define ON_RIG(f, make)                                                                            \
	{                                                                                          \
#f, run_##f, make, drop_pmem_rig, NULL                                             \
	}

WRAP(machine_ignores_writes_to_read_only_pmem)
WRAP(machine_stops_at_pmem_that_cannot_be_had_and_goes_on)
WRAP(machine_finds_the_memory_of_an_address)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_MEMORIES(guest_reaches_every_memory),
		ON_MEMORIES(guest_writes_to_a_read_only_slot_are_exits),
		ON_MEMORIES(freeze_of_pmem_moves_its_slot_alone),
		ON_MEMORIES(regions_that_overlap_or_too_many_are_refused),
		ON_MEMORIES(as_many_pmem_as_may_be_have_slots),
		cmocka_unit_test(ram_of_8_gib_is_reached_on_both_sides_of_the_hole),
		ON_RIG(machine_ignores_writes_to_read_only_pmem, make_read_only),
		ON_RIG(machine_stops_at_pmem_that_cannot_be_had_and_goes_on, make_writable),
		ON_RIG(machine_finds_the_memory_of_an_address, make_writable),
	};
	int rc = need_kvm();

	return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
