/*
 * A manifest and a machine's state with fixed content, every field set: for the
 * codecs' tests, the golden files and the fuzzers' seeds. They live in one
 * struct each, so that a test can change any part before it encodes.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "proto/manifest.h"
#include "proto/state.h"

#define SAMPLE_RAM (5ULL << 30) /* bytes: more than fits below the 32-bit hole */

struct sample_manifest {
	SnapshotManifest m;
	Timestamp created, clock;
	RamRange range[2], *ranges[2];
	Boot boot;
	BootFile kernel, initrd;
	Machine machine;
	Device device[3], *devices[3];
	CpuProfile cpu;
	CpuidEntry cpuid[2], *cpuids[2];
	uint8_t id[16], parent[16], generation[16];
	uint8_t memory_digest[32], state_digest[32], kernel_sha[32], initrd_sha[32];
};

static inline ProtobufCBinaryData sample_bytes(uint8_t *to, size_t n, uint8_t first)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (uint8_t)(first + i);
	return (ProtobufCBinaryData){ n, to };
}

/* protobuf-c's strings are not const; nothing writes them. */
static inline char *sample_string(const char *s)
{
	return (char *)(uintptr_t)s;
}

static inline void sample_cpuid(CpuidEntry *c)
{
	cpuid_entry__init(&c[0]);
	c[0].eax = 0x16;
	c[0].ebx = 0x68747541;
	c[0].ecx = 0x444d4163;
	c[0].edx = 0x69746e65;
	cpuid_entry__init(&c[1]);
	c[1].function = 0xd;
	c[1].index = 1;
	c[1].flags = 1;
	c[1].eax = 0xf;
	c[1].ebx = 0x980;
	c[1].ecx = 0x1800;
	c[1].edx = UINT32_MAX;
}

static inline void sample_machine(struct sample_manifest *s)
{
	static const struct {
		const char *name, *kind;
		uint64_t address;
		uint32_t interrupt;
	} devices[3] = {
		{ "serial0", "16550", 0x3f8, 4 },
		{ "i8042", "i8042", 0x60, 0 },
		{ "rtc", "mc146818", 0x70, 0 },
	};

	machine__init(&s->machine);
	for (int i = 0; i < 3; i++) {
		device__init(&s->device[i]);
		s->device[i].name = sample_string(devices[i].name);
		s->device[i].kind = sample_string(devices[i].kind);
		s->device[i].address = devices[i].address;
		s->device[i].interrupt = devices[i].interrupt;
		s->devices[i] = &s->device[i];
	}
	s->machine.device = s->devices;
	s->machine.n_device = 3;
	s->m.machine = &s->machine;
	cpu_profile__init(&s->cpu);
	s->cpu.vendor = sample_string("AuthenticAMD");
	sample_cpuid(s->cpuid);
	s->cpuids[0] = &s->cpuid[0];
	s->cpuids[1] = &s->cpuid[1];
	s->cpu.cpuid = s->cpuids;
	s->cpu.n_cpuid = 2;
	s->m.cpu = &s->cpu;
	s->m.tsc_khz = 2450000;
}

static inline void sample_boot(struct sample_manifest *s)
{
	boot__init(&s->boot);
	boot_file__init(&s->kernel);
	boot_file__init(&s->initrd);
	s->kernel.path = sample_string("/boot/vmlinuz-6.12.9");
	s->kernel.size = 8123456;
	s->kernel.sha256 = sample_bytes(s->kernel_sha, 32, 0x60);
	s->initrd.path = sample_string("/boot/initrd.img-6.12.9");
	s->initrd.size = 31234567;
	s->initrd.sha256 = sample_bytes(s->initrd_sha, 32, 0x80);
	s->boot.kind = BOOT_KIND__BOOT_LINUX;
	s->boot.kernel = &s->kernel;
	s->boot.initrd = &s->initrd;
	s->boot.cmdline = sample_string("console=ttyS0 root=/dev/vda1 ro");
	s->m.boot = &s->boot;
}

static inline void sample_manifest(struct sample_manifest *s)
{
	SnapshotManifest *m = &s->m;

	memset(s, 0, sizeof(*s));
	snapshot_manifest__init(m);
	timestamp__init(&s->created);
	timestamp__init(&s->clock);
	s->created.seconds = 1785585600;
	s->created.nanos = 123456789;
	s->clock.seconds = 1785585599;
	s->clock.nanos = 987654321;
	m->version = 1;
	m->created_at = &s->created;
	m->clock = &s->clock;
	m->memory_size_bytes = SAMPLE_RAM;
	m->vp_count = 2;
	m->page_size = 4096;
	m->architecture = sample_string("x86_64");
	m->id = sample_bytes(s->id, 16, 0x01);
	m->name_at_creation = sample_string("before-upgrade");
	m->parent_id = sample_bytes(s->parent, 16, 0x11);
	for (int i = 0; i < 2; i++) {
		ram_range__init(&s->range[i]);
		s->ranges[i] = &s->range[i];
	}
	s->range[0].size = 3ULL << 30;
	s->range[1].guest_address = 4ULL << 30;
	s->range[1].size = 2ULL << 30;
	s->range[1].file_offset = 3ULL << 30;
	m->ram = s->ranges;
	m->n_ram = 2;
	m->memory_digest = sample_bytes(s->memory_digest, 32, 0x20);
	m->state_size = 12345;
	m->state_digest = sample_bytes(s->state_digest, 32, 0x40);
	sample_boot(s);
	sample_machine(s);
	m->vm_generation = sample_bytes(s->generation, 16, 0xa0);
	m->creator = sample_string("snapfs vmm 0.1.0");
}

/* The sizes are of no KVM structure: those are vmm's to check. */
struct sample_state {
	VmState s;
	KvmState kvm;
	VcpuState vcpu[2], *vcpus[2];
	Msr msr[2], *msrs[2];
	CpuidEntry cpuid[2], *cpuids[2];
	DeviceState device[2], *devices[2];
	uint8_t regs[144], sregs[320], xsave[576], small[64], device_state[2][16];
};

static inline void sample_vcpu(struct sample_state *s, unsigned id)
{
	VcpuState *v = &s->vcpu[id];

	vcpu_state__init(v);
	v->version = 1;
	v->id = id;
	v->mp_state = id;
	v->regs = (ProtobufCBinaryData){ sizeof(s->regs), s->regs };
	v->sregs2 = (ProtobufCBinaryData){ sizeof(s->sregs), s->sregs };
	v->xsave = (ProtobufCBinaryData){ sizeof(s->xsave), s->xsave };
	v->xcrs = v->debugregs = v->lapic = v->events =
		(ProtobufCBinaryData){ sizeof(s->small), s->small };
	v->msr = s->msrs;
	v->n_msr = 2;
	v->tsc_khz = 2450000;
	v->cpuid = s->cpuids;
	v->n_cpuid = 2;
	s->vcpus[id] = v;
}

static inline void sample_state(struct sample_state *s)
{
	memset(s, 0, sizeof(*s));
	vm_state__init(&s->s);
	kvm_state__init(&s->kvm);
	sample_bytes(s->regs, sizeof(s->regs), 1);
	sample_bytes(s->sregs, sizeof(s->sregs), 2);
	sample_bytes(s->xsave, sizeof(s->xsave), 3);
	sample_bytes(s->small, sizeof(s->small), 4);
	for (int i = 0; i < 2; i++) {
		msr__init(&s->msr[i]);
		s->msr[i].index = i ? 0xc0000080 : 0x10;
		s->msr[i].data = i ? 0x500 : UINT64_MAX;
		s->msrs[i] = &s->msr[i];
		s->cpuids[i] = &s->cpuid[i];
		device_state__init(&s->device[i]);
		s->device[i].name = sample_string(i ? "i8042" : "serial0");
		s->device[i].version = 1;
		s->device[i].state = sample_bytes(s->device_state[i], 16, (uint8_t)(0x30 * i));
		s->devices[i] = &s->device[i];
	}
	sample_cpuid(s->cpuid);
	sample_vcpu(s, 0);
	sample_vcpu(s, 1);
	s->kvm.version = 1;
	s->kvm.pit2 = s->kvm.pic_master = s->kvm.pic_slave = s->kvm.ioapic = s->kvm.clock =
		(ProtobufCBinaryData){ sizeof(s->small), s->small };
	s->s.version = 1;
	s->s.kvm = &s->kvm;
	s->s.vcpu = s->vcpus;
	s->s.n_vcpu = 2;
	s->s.device = s->devices;
	s->s.n_device = 2;
}
