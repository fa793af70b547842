/*
 * statediff A B: whether two state.bin are the same machine's, less what counts
 * time: exit status 0, or 1 with a line for each field that differs.
 *
 * Left out: kvmclock, the PIT's time of loading, the APIC timer's current count,
 * the TSC and TSC_ADJUST (which KVM derives from the TSC when that is written). A TSC
 * deadline of 0 in A, which has perhaps just passed, is A's TSC in B: so it is restored.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/state.h"

#define APIC_TIMER_CURRENT 0x390
#define MSR_TSC		   0x10
#define MSR_TSC_ADJUST	   0x3b
#define MSR_TSC_DEADLINE   0x6e0

static int differences;

static void differs(const char *what, size_t which)
{
	printf("%s of %zu differs\n", what, which);
	differences++;
}

static void number(const char *what, size_t which, uint64_t a, uint64_t b)
{
	if (a == b)
		return;
	printf("%s of %zu: 0x%llx and 0x%llx\n", what, which, (unsigned long long)a,
	       (unsigned long long)b);
	differences++;
}

static void bytes(const char *what, size_t which, const ProtobufCBinaryData *a,
		  const ProtobufCBinaryData *b)
{
	number(what, which, a->len, b->len);
	for (size_t i = 0; i < a->len && i < b->len; i++)
		if (a->data[i] != b->data[i]) {
			printf("%s of %zu: byte %zu is 0x%02x and 0x%02x\n", what, which, i,
			       a->data[i], b->data[i]);
			differences++;
		}
}

/* ---- what counts time ---- */

static void stop_apic(ProtobufCBinaryData *lapic)
{
	if (lapic->len >= APIC_TIMER_CURRENT + 4)
		memset(lapic->data + APIC_TIMER_CURRENT, 0, 4);
}

static void stop_pit(ProtobufCBinaryData *pit)
{
	struct kvm_pit_state2 *p = (void *)pit->data;

	if (pit->len != sizeof(*p))
		return;
	for (int i = 0; i < 3; i++)
		p->channels[i].count_load_time = 0;
}

static void stop_tsc(VcpuState *v)
{
	for (size_t i = 0; i < v->n_msr; i++)
		if (v->msr[i]->index == MSR_TSC || v->msr[i]->index == MSR_TSC_ADJUST)
			v->msr[i]->data = 0;
}

static Msr *find_msr(VcpuState *v, uint32_t index)
{
	for (size_t i = 0; i < v->n_msr; i++)
		if (v->msr[i]->index == index)
			return v->msr[i];
	return NULL;
}

/* Before the TSCs are stopped. */
static void settle_deadlines(VmState *a, VmState *b)
{
	for (size_t i = 0; i < a->n_vcpu && i < b->n_vcpu; i++) {
		const Msr *tsc = find_msr(a->vcpu[i], MSR_TSC);
		const Msr *was = find_msr(a->vcpu[i], MSR_TSC_DEADLINE);
		Msr *is = find_msr(b->vcpu[i], MSR_TSC_DEADLINE);

		if (tsc && was && is && was->data == 0 && is->data == tsc->data)
			is->data = 0;
	}
}

static void stop(VmState *s)
{
	s->kvm->clock.len = 0;
	stop_pit(&s->kvm->pit2);
	for (size_t i = 0; i < s->n_vcpu; i++) {
		stop_apic(&s->vcpu[i]->lapic);
		stop_tsc(s->vcpu[i]);
	}
}

/* ---- comparing ---- */

static void compare_msrs(const VcpuState *a, const VcpuState *b, size_t id)
{
	char name[32];

	number("the number of MSRs", id, a->n_msr, b->n_msr);
	for (size_t i = 0; i < a->n_msr && i < b->n_msr; i++) {
		snprintf(name, sizeof(name), "MSR 0x%x", a->msr[i]->index);
		number(name, id, a->msr[i]->index, b->msr[i]->index);
		number(name, id, a->msr[i]->data, b->msr[i]->data);
	}
}

static void compare_vcpus(const VcpuState *a, const VcpuState *b, size_t id)
{
	number("mp_state", id, a->mp_state, b->mp_state);
	number("tsc_khz", id, a->tsc_khz, b->tsc_khz);
	number("tsc_apart", id, (uint64_t)a->tsc_apart, (uint64_t)b->tsc_apart);
	bytes("regs", id, &a->regs, &b->regs);
	bytes("sregs2", id, &a->sregs2, &b->sregs2);
	bytes("xsave", id, &a->xsave, &b->xsave);
	bytes("xcrs", id, &a->xcrs, &b->xcrs);
	bytes("debugregs", id, &a->debugregs, &b->debugregs);
	bytes("lapic", id, &a->lapic, &b->lapic);
	bytes("events", id, &a->events, &b->events);
	compare_msrs(a, b, id);
	number("the number of CPUID entries", id, a->n_cpuid, b->n_cpuid);
	for (size_t i = 0; i < a->n_cpuid && i < b->n_cpuid; i++)
		if (memcmp(&a->cpuid[i]->function, &b->cpuid[i]->function, 7 * sizeof(uint32_t)) !=
		    0)
			differs("a CPUID entry", i);
}

static void compare(const VmState *a, const VmState *b)
{
	bytes("pit2", 0, &a->kvm->pit2, &b->kvm->pit2);
	bytes("pic_master", 0, &a->kvm->pic_master, &b->kvm->pic_master);
	bytes("pic_slave", 0, &a->kvm->pic_slave, &b->kvm->pic_slave);
	bytes("ioapic", 0, &a->kvm->ioapic, &b->kvm->ioapic);
	number("the number of vCPUs", 0, a->n_vcpu, b->n_vcpu);
	for (size_t i = 0; i < a->n_vcpu && i < b->n_vcpu; i++)
		compare_vcpus(a->vcpu[i], b->vcpu[i], i);
	number("the number of devices", 0, a->n_device, b->n_device);
	for (size_t i = 0; i < a->n_device && i < b->n_device; i++) {
		if (strcmp(a->device[i]->name, b->device[i]->name) != 0)
			differs("the name of a device", i);
		number(a->device[i]->name, i, a->device[i]->version, b->device[i]->version);
		bytes(a->device[i]->name, i, &a->device[i]->state, &b->device[i]->state);
	}
}

/* All that is left once more at once, so that a field that is not known here counts. */
static void compare_encoded(const VmState *a, const VmState *b)
{
	uint8_t *x, *y;
	size_t n, k;

	if (proto_state_encode(a, &x, &n, NULL) < 0 || proto_state_encode(b, &y, &k, NULL) < 0)
		exit(2);
	if (differences == 0 && (n != k || memcmp(x, y, n) != 0))
		differs("something else", 0);
	free(x);
	free(y);
}

static VmState *read_state(const char *path)
{
	uint8_t *buf = malloc(STATE_MAX);
	FILE *f = fopen(path, "rb");
	struct err e = { 0 };
	VmState *s = NULL;

	if (!f || !buf || proto_state_decode(buf, fread(buf, 1, STATE_MAX, f), &s, &e) < 0) {
		fprintf(stderr, "statediff: %s: %s\n", path, e.text);
		exit(2);
	}
	fclose(f);
	free(buf);
	return s;
}

int main(int argc, char **argv)
{
	VmState *a, *b;

	if (argc != 3) {
		fprintf(stderr, "usage: statediff A B\n");
		return 2;
	}
	a = read_state(argv[1]);
	b = read_state(argv[2]);
	settle_deadlines(a, b);
	stop(a);
	stop(b);
	compare(a, b);
	compare_encoded(a, b);
	/* The clock's emptied field keeps its memory: the process ends. */
	return differences != 0;
}
