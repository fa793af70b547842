/* state.bin: versions, duplicates, numbers and sizes. */
#include "unit.h"

#include <sys/resource.h>
#include <time.h>

#include "proto/state.h"
#include "samples.h"

struct encoded {
	uint8_t *buf;
	size_t len;
};

static struct encoded encode(const struct sample_state *s)
{
	struct encoded out;
	struct err e = { 0 };

	assert_int_equal(proto_state_encode(&s->s, &out.buf, &out.len, &e), 0);
	return out;
}

static int recode(const struct sample_state *s, struct err *e)
{
	struct encoded b = encode(s);
	VmState *out = NULL;
	int rc = proto_state_decode(b.buf, b.len, &out, e);

	free(b.buf);
	if (rc == 0)
		proto_state_free(out);
	else
		assert_null(out);
	return rc;
}

static void assert_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
}

static void assert_vcpu_equal(const VcpuState *a, const VcpuState *b)
{
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->id, b->id);
	assert_int_equal(a->mp_state, b->mp_state);
	assert_bytes(&a->regs, &b->regs);
	assert_bytes(&a->sregs2, &b->sregs2);
	assert_bytes(&a->xsave, &b->xsave);
	assert_bytes(&a->xcrs, &b->xcrs);
	assert_bytes(&a->debugregs, &b->debugregs);
	assert_bytes(&a->lapic, &b->lapic);
	assert_bytes(&a->events, &b->events);
	assert_int_equal(a->tsc_khz, b->tsc_khz);
	assert_int_equal(a->n_msr, b->n_msr);
	for (size_t i = 0; i < a->n_msr; i++) {
		assert_int_equal(a->msr[i]->index, b->msr[i]->index);
		assert_int_equal(a->msr[i]->data, b->msr[i]->data);
	}
	assert_int_equal(a->n_cpuid, b->n_cpuid);
	for (size_t i = 0; i < a->n_cpuid; i++)
		assert_memory_equal(&a->cpuid[i]->function, &b->cpuid[i]->function,
				    7 * sizeof(uint32_t));
}

static void decode_of_encoded_gives_every_field(void **state)
{
	struct sample_state s;
	struct encoded b;
	VmState *out;
	struct err e = { 0 };

	(void)state;
	sample_state(&s);
	b = encode(&s);
	assert_int_equal(proto_state_decode(b.buf, b.len, &out, &e), 0);
	assert_int_equal(out->version, STATE_VERSION);
	assert_int_equal(out->n_vcpu, 2);
	for (size_t i = 0; i < 2; i++)
		assert_vcpu_equal(out->vcpu[i], &s.vcpu[i]);
	assert_int_equal(out->kvm->version, 1);
	assert_bytes(&out->kvm->pit2, &s.kvm.pit2);
	assert_bytes(&out->kvm->pic_master, &s.kvm.pic_master);
	assert_bytes(&out->kvm->pic_slave, &s.kvm.pic_slave);
	assert_bytes(&out->kvm->ioapic, &s.kvm.ioapic);
	assert_bytes(&out->kvm->clock, &s.kvm.clock);
	assert_int_equal(out->n_device, 2);
	for (size_t i = 0; i < 2; i++) {
		assert_string_equal(out->device[i]->name, s.device[i].name);
		assert_int_equal(out->device[i]->version, 1);
		assert_bytes(&out->device[i]->state, &s.device[i].state);
	}
	proto_state_free(out);
	free(b.buf);
}

/* ---- what is refused, one change each ---- */

static void newer_machine(struct sample_state *s)
{
	s->s.version = 2;
}

static void no_version(struct sample_state *s)
{
	s->s.version = 0;
}

static void no_kvm(struct sample_state *s)
{
	s->s.kvm = NULL;
}

static void newer_kvm(struct sample_state *s)
{
	s->kvm.version = 2;
}

static void newer_vcpu(struct sample_state *s)
{
	s->vcpu[1].version = 7;
}

static void no_vcpu(struct sample_state *s)
{
	s->s.n_vcpu = 0;
}

static void same_vcpu_twice(struct sample_state *s)
{
	s->vcpu[1].id = 0;
}

static void vcpus_swapped(struct sample_state *s)
{
	s->vcpu[0].id = 1;
	s->vcpu[1].id = 0;
}

static void vcpu_out_of_range(struct sample_state *s)
{
	s->vcpu[0].id = UINT32_MAX;
}

static void same_device_twice(struct sample_state *s)
{
	s->device[1].name = s->device[0].name;
}

static void both_devices_unnamed(struct sample_state *s)
{
	s->device[0].name = s->device[1].name = sample_string("");
}

static void decode_what_is_wrong_is_refused_by_name(void **state)
{
	static const struct {
		void (*change)(struct sample_state *s);
		const char *says;
	} cases[] = {
		{ newer_machine, "a machine of version 2, this program reads up to 1" },
		{ no_version, "version 0" },
		{ no_kvm, "interrupt controllers and timers are missing" },
		{ newer_kvm, "KVM's part of version 2" },
		{ newer_vcpu, "a vCPU of version 7" },
		{ no_vcpu, "number of vCPUs" },
		{ same_vcpu_twice, "not numbered from 0" },
		{ vcpus_swapped, "not numbered from 0" },
		{ vcpu_out_of_range, "not numbered from 0" },
		{ same_device_twice, "device serial0 is there twice" },
		{ both_devices_unnamed, "is there twice" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sample_state s;
		struct err e = { 0 };

		sample_state(&s);
		cases[i].change(&s);
		assert_int_equal(recode(&s, &e), -EBADMSG);
		assert_says(&e, cases[i].says);
		assert_says(&e, "state.bin");
		assert_int_equal(e.status, STATUS_REFUSED);
		assert_int_equal(recode(&s, NULL), -EBADMSG);
	}
}

static void decode_33_vcpus_are_refused_and_32_taken(void **state)
{
	static VcpuState vcpu[33];
	static VcpuState *vcpus[33];
	struct sample_state s;
	struct err e = { 0 };

	(void)state;
	sample_state(&s);
	for (unsigned i = 0; i < 33; i++) {
		vcpu_state__init(&vcpu[i]);
		vcpu[i].id = i;
		vcpus[i] = &vcpu[i];
	}
	s.s.vcpu = vcpus;
	s.s.n_vcpu = 32;
	assert_int_equal(recode(&s, &e), 0);
	s.s.n_vcpu = 33;
	assert_int_equal(recode(&s, &e), -EBADMSG);
	assert_says(&e, "vCPUs is out of range");
}

static void decode_too_many_msrs_or_cpuid_entries_are_refused(void **state)
{
	static Msr msr = MSR__INIT;
	static CpuidEntry cpuid = CPUID_ENTRY__INIT;
	static Msr *msrs[1025];
	static CpuidEntry *cpuids[257];
	struct sample_state s;
	struct err e = { 0 };

	(void)state;
	for (int i = 0; i < 1025; i++)
		msrs[i] = &msr;
	for (int i = 0; i < 257; i++)
		cpuids[i] = &cpuid;
	sample_state(&s);
	s.vcpu[0].msr = msrs;
	s.vcpu[0].n_msr = 1024;
	s.vcpu[0].cpuid = cpuids;
	s.vcpu[0].n_cpuid = 256;
	assert_int_equal(recode(&s, &e), 0);
	s.vcpu[0].n_msr = 1025;
	assert_int_equal(recode(&s, &e), -EBADMSG);
	assert_says(&e, "too many MSRs");
	s.vcpu[0].n_msr = 1;
	s.vcpu[0].n_cpuid = 257;
	assert_int_equal(recode(&s, &e), -EBADMSG);
}

static void decode_257_devices_are_refused(void **state)
{
	static DeviceState device[257];
	static DeviceState *devices[257];
	static char names[257][8];
	struct sample_state s;
	struct err e = { 0 };

	(void)state;
	sample_state(&s);
	for (int i = 0; i < 257; i++) {
		device_state__init(&device[i]);
		snprintf(names[i], sizeof(names[i]), "d%d", i);
		device[i].name = names[i];
		devices[i] = &device[i];
	}
	s.s.device = devices;
	s.s.n_device = 256;
	assert_int_equal(recode(&s, &e), 0);
	s.s.n_device = 257;
	assert_int_equal(recode(&s, &e), -EBADMSG);
	assert_says(&e, "too many devices");
}

/*
 * Without a digest of its own a beginning may be a message; what matters is
 * that none is read beyond its end, and that none lacks what restore needs.
 */
static void decode_truncated_at_every_length_is_safe(void **state)
{
	struct sample_state s;
	struct encoded b;

	(void)state;
	sample_state(&s);
	b = encode(&s);
	for (size_t len = 0; len < b.len; len++) {
		auto_free uint8_t *exact = malloc(len ? len : 1);
		VmState *out = NULL;
		struct err e = { 0 };
		int rc;

		memcpy(exact, b.buf, len);
		rc = proto_state_decode(exact, len, &out, &e);
		assert_true(rc == 0 || rc == -EBADMSG);
		if (rc == 0) {
			assert_non_null(out->kvm);
			assert_true(out->n_vcpu >= 1);
			proto_state_free(out);
		} else {
			assert_says(&e, "state.bin");
		}
	}
	free(b.buf);
}

static void decode_above_16_mib_is_refused(void **state)
{
	auto_free uint8_t *buf = calloc(1, STATE_MAX + 1);
	VmState *out;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(proto_state_decode(buf, STATE_MAX + 1, &out, &e), -EBADMSG);
	assert_says(&e, "larger than 16 MiB");
}

static void encode_above_16_mib_is_efbig(void **state)
{
	auto_free uint8_t *big = calloc(1, STATE_MAX);
	struct sample_state s;
	struct err e = { 0 };
	uint8_t *buf = NULL;
	size_t len;

	(void)state;
	sample_state(&s);
	s.vcpu[0].xsave = (ProtobufCBinaryData){ STATE_MAX, big };
	assert_int_equal(proto_state_encode(&s.s, &buf, &len, &e), -EFBIG);
	assert_null(buf);
	assert_says(&e, "larger than 16 MiB");
}

static long peak_kib(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}

static void decode_bombs_stay_within_memory_and_time(void **state)
{
	/* kvm (merged), vcpu, device; each of no bytes. */
	static const uint8_t tags[] = { 0x12, 0x1a, 0x22 };
	auto_free uint8_t *buf = malloc(STATE_MAX);

	(void)state;
	for (size_t i = 0; i < sizeof(tags); i++) {
		const long before = peak_kib();
		const clock_t start = clock();
		VmState *out = NULL;
		double seconds;

		for (size_t at = 0; at < STATE_MAX; at++)
			buf[at] = at % 2 ? 0 : tags[i];
		assert_int_equal(proto_state_decode(buf, STATE_MAX, &out, NULL), -EBADMSG);
		seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
		if (seconds > 10)
			fail_msg("tag 0x%x took %.1f s", tags[i], seconds);
		if (peak_kib() - before > 256L << 10)
			fail_msg("tag 0x%x took %ld KiB", tags[i], peak_kib() - before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decode_of_encoded_gives_every_field),
		cmocka_unit_test(decode_what_is_wrong_is_refused_by_name),
		cmocka_unit_test(decode_33_vcpus_are_refused_and_32_taken),
		cmocka_unit_test(decode_too_many_msrs_or_cpuid_entries_are_refused),
		cmocka_unit_test(decode_257_devices_are_refused),
		cmocka_unit_test(decode_truncated_at_every_length_is_safe),
		cmocka_unit_test(decode_above_16_mib_is_refused),
		cmocka_unit_test(encode_above_16_mib_is_efbig),
		cmocka_unit_test(decode_bombs_stay_within_memory_and_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
