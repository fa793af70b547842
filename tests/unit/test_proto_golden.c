/*
 * tests/golden/format-N holds a manifest and a state of each format that was
 * ever released. They must go on decoding to what they were made of, which is
 * written out here and not taken from samples.h: that may grow.
 *
 * `test_proto_golden --regenerate` writes those of the present format anew from
 * samples.h. That is for a new format's folder only, never for a released one.
 */
#include "unit.h"

#include <limits.h>

#include "base/digest.h"
#include "base/io.h"
#include "proto/manifest.h"
#include "proto/state.h"
#include "samples.h"

#define FORMAT_1 "format-1"

/* The folder tests/golden beside this file's own, or $SNAPFS_GOLDEN. */
static int golden_folder(const char *format)
{
	const char *given = getenv("SNAPFS_GOLDEN");
	const char *slash = strrchr(__FILE__, '/');
	char path[PATH_MAX];

	if (given)
		snprintf(path, sizeof(path), "%s/%s", given, format);
	else
		snprintf(path, sizeof(path), "%.*s/../golden/%s", (int)(slash - __FILE__), __FILE__,
			 format);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void read_golden(const char *name, uint8_t **buf, size_t *len)
{
	auto_fd int folder = golden_folder(FORMAT_1);
	struct err e = { 0 };

	assert_true(folder >= 0);
	if (io_read_file(folder, name, MANIFEST_MAX, buf, len, &e) < 0)
		fail_msg("%s", e.text);
}

/* n bytes, each one more than the one before, as samples.h makes them. */
static void assert_counts(const ProtobufCBinaryData *b, size_t n, uint8_t first)
{
	assert_int_equal(b->len, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(b->data[i], (uint8_t)(first + i));
}

static void assert_golden_boot(const Boot *b)
{
	assert_non_null(b);
	assert_int_equal(b->kind, 1);
	assert_string_equal(b->cmdline, "console=ttyS0 root=/dev/vda1 ro");
	assert_string_equal(b->kernel->path, "/boot/vmlinuz-6.12.9");
	assert_int_equal(b->kernel->size, 8123456);
	assert_counts(&b->kernel->sha256, 32, 0x60);
	assert_string_equal(b->initrd->path, "/boot/initrd.img-6.12.9");
	assert_int_equal(b->initrd->size, 31234567);
	assert_counts(&b->initrd->sha256, 32, 0x80);
}

static void assert_golden_machine(const SnapshotManifest *m)
{
	static const struct {
		const char *name, *kind;
		uint64_t address;
		uint32_t interrupt;
	} devices[] = {
		{ "serial0", "16550", 0x3f8, 4 },
		{ "i8042", "i8042", 0x60, 0 },
		{ "rtc", "mc146818", 0x70, 0 },
	};

	assert_int_equal(m->machine->n_device, 3);
	for (size_t i = 0; i < 3; i++) {
		assert_string_equal(m->machine->device[i]->name, devices[i].name);
		assert_string_equal(m->machine->device[i]->kind, devices[i].kind);
		assert_int_equal(m->machine->device[i]->address, devices[i].address);
		assert_int_equal(m->machine->device[i]->interrupt, devices[i].interrupt);
	}
	assert_string_equal(m->cpu->vendor, "AuthenticAMD");
	assert_int_equal(m->cpu->n_cpuid, 2);
	assert_int_equal(m->cpu->cpuid[0]->eax, 0x16);
	assert_int_equal(m->cpu->cpuid[1]->function, 0xd);
	assert_int_equal(m->cpu->cpuid[1]->index, 1);
	assert_int_equal(m->cpu->cpuid[1]->flags, 1);
	assert_int_equal(m->cpu->cpuid[1]->edx, UINT32_MAX);
	assert_int_equal(m->tsc_khz, 2450000);
}

static void manifest_of_format_1_decodes_to_the_same_fields(void **state)
{
	auto_free uint8_t *buf = NULL;
	SnapshotManifest *m;
	struct err e = { 0 };
	size_t len;

	(void)state;
	read_golden("manifest.bin", &buf, &len);
	if (proto_manifest_decode(buf, len, &m, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(m->version, 1);
	assert_int_equal(m->created_at->seconds, 1785585600);
	assert_int_equal(m->created_at->nanos, 123456789);
	assert_int_equal(m->clock->seconds, 1785585599);
	assert_int_equal(m->clock->nanos, 987654321);
	assert_int_equal(m->memory_size_bytes, 5ULL << 30);
	assert_int_equal(m->vp_count, 2);
	assert_int_equal(m->page_size, 4096);
	assert_string_equal(m->architecture, "x86_64");
	assert_counts(&m->id, 16, 0x01);
	assert_string_equal(m->name_at_creation, "before-upgrade");
	assert_counts(&m->parent_id, 16, 0x11);
	assert_int_equal(m->n_ram, 2);
	assert_int_equal(m->ram[0]->guest_address, 0);
	assert_int_equal(m->ram[0]->size, 3ULL << 30);
	assert_int_equal(m->ram[0]->file_offset, 0);
	assert_int_equal(m->ram[1]->guest_address, 4ULL << 30);
	assert_int_equal(m->ram[1]->size, 2ULL << 30);
	assert_int_equal(m->ram[1]->file_offset, 3ULL << 30);
	assert_counts(&m->memory_digest, 32, 0x20);
	assert_int_equal(m->state_size, 12345);
	assert_counts(&m->state_digest, 32, 0x40);
	assert_counts(&m->vm_generation, 16, 0xa0);
	assert_string_equal(m->creator, "snapfs vmm 0.1.0");
	assert_golden_boot(m->boot);
	assert_golden_machine(m);
	assert_int_equal(proto_manifest_check(m, &e), 0);
	proto_manifest_free(m);
}

static void manifest_of_format_1_encodes_to_the_same_bytes(void **state)
{
	auto_free uint8_t *buf = NULL, *again = NULL;
	SnapshotManifest *m;
	size_t len, n;

	(void)state;
	read_golden("manifest.bin", &buf, &len);
	assert_int_equal(proto_manifest_decode(buf, len, &m, NULL), 0);
	assert_int_equal(proto_manifest_encode(m, &again, &n, NULL), 0);
	assert_int_equal(n, len);
	assert_memory_equal(buf, again, len);
	proto_manifest_free(m);
}

/* OpenVMM's field numbers and wire types, found in the bytes themselves. */
static void manifest_of_format_1_has_openvmm_field_numbers(void **state)
{
	static const uint8_t created[] = { 0x08, 0xc0, 0xbf, 0xb7, 0xd3, 0x06,
					   0x10, 0x95, 0x9a, 0xef, 0x3a };
	static const uint8_t start[] = { 0x08, 0x01, 0x12, sizeof(created) };
	static const uint8_t memory[] = { 0x20, 0x80, 0x80, 0x80, 0x80, 0x14, /* 4: 5 GiB */
					  0x28, 0x02,			      /* 5: vCPUs */
					  0x30, 0x80, 0x20,		      /* 6: page size */
					  0x3a, 0x06, 'x',  '8',  '6',	'_',  '6', '4' };
	auto_free uint8_t *buf = NULL;
	size_t len;

	(void)state;
	read_golden("manifest.bin", &buf, &len);
	assert_true(len > sizeof(start) + sizeof(created) + sizeof(memory));
	assert_memory_equal(buf, start, sizeof(start));
	assert_memory_equal(buf + sizeof(start), created, sizeof(created));
	assert_memory_equal(buf + sizeof(start) + sizeof(created), memory, sizeof(memory));
}

static void assert_golden_vcpu(const VcpuState *v, uint32_t id)
{
	assert_int_equal(v->version, 1);
	assert_int_equal(v->id, id);
	assert_int_equal(v->mp_state, id);
	assert_counts(&v->regs, 144, 1);
	assert_counts(&v->sregs2, 320, 2);
	assert_counts(&v->xsave, 576, 3);
	assert_counts(&v->xcrs, 64, 4);
	assert_counts(&v->debugregs, 64, 4);
	assert_counts(&v->lapic, 64, 4);
	assert_counts(&v->events, 64, 4);
	assert_int_equal(v->n_msr, 2);
	assert_int_equal(v->msr[0]->index, 0x10);
	assert_int_equal(v->msr[0]->data, UINT64_MAX);
	assert_int_equal(v->msr[1]->index, 0xc0000080);
	assert_int_equal(v->msr[1]->data, 0x500);
	assert_int_equal(v->tsc_khz, 2450000);
	assert_int_equal(v->n_cpuid, 2);
	assert_int_equal(v->cpuid[1]->ebx, 0x980);
}

static void state_of_format_1_decodes_to_the_same_fields(void **state)
{
	auto_free uint8_t *buf = NULL;
	struct err e = { 0 };
	VmState *s;
	size_t len;

	(void)state;
	read_golden("state.bin", &buf, &len);
	if (proto_state_decode(buf, len, &s, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(s->version, 1);
	assert_int_equal(s->n_vcpu, 2);
	assert_golden_vcpu(s->vcpu[0], 0);
	assert_golden_vcpu(s->vcpu[1], 1);
	assert_int_equal(s->kvm->version, 1);
	assert_counts(&s->kvm->pit2, 64, 4);
	assert_counts(&s->kvm->pic_master, 64, 4);
	assert_counts(&s->kvm->pic_slave, 64, 4);
	assert_counts(&s->kvm->ioapic, 64, 4);
	assert_counts(&s->kvm->clock, 64, 4);
	assert_int_equal(s->n_device, 2);
	assert_string_equal(s->device[0]->name, "serial0");
	assert_int_equal(s->device[0]->version, 1);
	assert_counts(&s->device[0]->state, 16, 0);
	assert_string_equal(s->device[1]->name, "i8042");
	assert_counts(&s->device[1]->state, 16, 0x30);
	proto_state_free(s);
}

static int regenerate(void)
{
	auto_fd int folder = golden_folder(FORMAT_1);
	auto_free uint8_t *manifest = NULL, *vm = NULL;
	struct sample_manifest m;
	struct sample_state s;
	size_t n, k;

	sample_manifest(&m);
	sample_state(&s);
	unlinkat(folder, "manifest.bin", 0);
	unlinkat(folder, "state.bin", 0);
	if (folder < 0 || proto_manifest_encode(&m.m, &manifest, &n, NULL) < 0 ||
	    proto_state_encode(&s.s, &vm, &k, NULL) < 0 ||
	    io_write_file(folder, "manifest.bin", manifest, n, 0644, NULL) < 0 ||
	    io_write_file(folder, "state.bin", vm, k, 0644, NULL) < 0) {
		perror("tests/golden");
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(manifest_of_format_1_decodes_to_the_same_fields),
		cmocka_unit_test(manifest_of_format_1_encodes_to_the_same_bytes),
		cmocka_unit_test(manifest_of_format_1_has_openvmm_field_numbers),
		cmocka_unit_test(state_of_format_1_decodes_to_the_same_fields),
	};

	if (argc == 2 && strcmp(argv[1], "--regenerate") == 0)
		return regenerate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
