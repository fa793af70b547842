/* manifest.bin: what decodes, what is refused, and what the refusal says. */
#include "unit.h"

#include <sys/resource.h>
#include <time.h>

#include "base/digest.h"
#include "proto/manifest.h"
#include "samples.h"

#define TRAILER (3 + DIGEST_SIZE)

struct encoded {
	uint8_t *buf;
	size_t len;
};

static struct encoded encode(const struct sample_manifest *s)
{
	struct encoded out;
	struct err e = { 0 };

	assert_int_equal(proto_manifest_encode(&s->m, &out.buf, &out.len, &e), 0);
	return out;
}

/* Encodes the sample as it is now and decodes that: the result of decoding. */
static int recode(const struct sample_manifest *s, struct err *e)
{
	struct encoded b = encode(s);
	SnapshotManifest *m = NULL;
	int rc = proto_manifest_decode(b.buf, b.len, &m, e);

	free(b.buf);
	if (rc == 0)
		proto_manifest_free(m);
	else
		assert_null(m);
	return rc;
}

/* The digest of whatever stands in front of the trailer, put right. */
static void fix_digest(uint8_t *buf, size_t len)
{
	assert_true(len >= TRAILER);
	memcpy(buf + len - TRAILER, "\xfa\x7f\x20", 3);
	assert_int_equal(digest_sha256(buf, len - TRAILER, buf + len - DIGEST_SIZE), 0);
}

static void assert_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
}

static void assert_boot_equal(const Boot *a, const Boot *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_string_equal(a->cmdline, b->cmdline);
	assert_string_equal(a->kernel->path, b->kernel->path);
	assert_int_equal(a->kernel->size, b->kernel->size);
	assert_bytes(&a->kernel->sha256, &b->kernel->sha256);
	assert_string_equal(a->initrd->path, b->initrd->path);
	assert_int_equal(a->initrd->size, b->initrd->size);
	assert_bytes(&a->initrd->sha256, &b->initrd->sha256);
}

static void assert_lists_equal(const SnapshotManifest *a, const SnapshotManifest *b)
{
	assert_int_equal(a->n_ram, b->n_ram);
	for (size_t i = 0; i < a->n_ram; i++) {
		assert_int_equal(a->ram[i]->guest_address, b->ram[i]->guest_address);
		assert_int_equal(a->ram[i]->size, b->ram[i]->size);
		assert_int_equal(a->ram[i]->file_offset, b->ram[i]->file_offset);
	}
	assert_int_equal(a->machine->n_device, b->machine->n_device);
	for (size_t i = 0; i < a->machine->n_device; i++) {
		const Device *x = a->machine->device[i], *y = b->machine->device[i];

		assert_string_equal(x->name, y->name);
		assert_string_equal(x->kind, y->kind);
		assert_int_equal(x->address, y->address);
		assert_int_equal(x->interrupt, y->interrupt);
	}
	assert_string_equal(a->cpu->vendor, b->cpu->vendor);
	assert_int_equal(a->cpu->n_cpuid, b->cpu->n_cpuid);
	for (size_t i = 0; i < a->cpu->n_cpuid; i++)
		assert_memory_equal(&a->cpu->cpuid[i]->function, &b->cpu->cpuid[i]->function,
				    7 * sizeof(uint32_t));
}

static void decode_of_encoded_gives_every_field(void **state)
{
	struct sample_manifest s;
	struct encoded b;
	SnapshotManifest *m;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	b = encode(&s);
	assert_int_equal(proto_manifest_decode(b.buf, b.len, &m, &e), 0);
	assert_int_equal(m->version, 1);
	assert_int_equal(m->created_at->seconds, s.created.seconds);
	assert_int_equal(m->created_at->nanos, s.created.nanos);
	assert_int_equal(m->clock->seconds, s.clock.seconds);
	assert_int_equal(m->clock->nanos, s.clock.nanos);
	assert_int_equal(m->memory_size_bytes, s.m.memory_size_bytes);
	assert_int_equal(m->vp_count, 2);
	assert_int_equal(m->page_size, 4096);
	assert_string_equal(m->architecture, "x86_64");
	assert_string_equal(m->openvmm_version, "");
	assert_bytes(&m->id, &s.m.id);
	assert_string_equal(m->name_at_creation, s.m.name_at_creation);
	assert_bytes(&m->parent_id, &s.m.parent_id);
	assert_bytes(&m->memory_digest, &s.m.memory_digest);
	assert_int_equal(m->state_size, 12345);
	assert_bytes(&m->state_digest, &s.m.state_digest);
	assert_int_equal(m->tsc_khz, 2450000);
	assert_bytes(&m->vm_generation, &s.m.vm_generation);
	assert_string_equal(m->creator, s.m.creator);
	assert_boot_equal(m->boot, &s.boot);
	assert_lists_equal(m, &s.m);
	assert_int_equal(m->manifest_digest.len, DIGEST_SIZE);
	assert_int_equal(proto_manifest_check(m, &e), 0);
	assert_string_equal(e.text, "");
	proto_manifest_free(m);
	free(b.buf);
}

static void encode_of_decoded_gives_the_same_bytes(void **state)
{
	struct sample_manifest s;
	struct encoded b, again;
	SnapshotManifest *m;

	(void)state;
	sample_manifest(&s);
	b = encode(&s);
	assert_int_equal(proto_manifest_decode(b.buf, b.len, &m, NULL), 0);
	assert_int_equal(proto_manifest_encode(m, &again.buf, &again.len, NULL), 0);
	assert_int_equal(b.len, again.len);
	assert_memory_equal(b.buf, again.buf, b.len);
	proto_manifest_free(m);
	free(b.buf);
	free(again.buf);
}

static void encode_digest_that_was_there_is_ignored(void **state)
{
	struct sample_manifest s;
	uint8_t wrong[DIGEST_SIZE] = { 1 };
	struct encoded a, b;

	(void)state;
	sample_manifest(&s);
	a = encode(&s);
	s.m.manifest_digest = (ProtobufCBinaryData){ DIGEST_SIZE, wrong };
	b = encode(&s);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.buf, b.buf, a.len);
	free(a.buf);
	free(b.buf);
}

static void encode_too_large_is_efbig(void **state)
{
	static char name[MANIFEST_MAX];
	struct sample_manifest s;
	struct err e = { 0 };
	uint8_t *buf = NULL;
	size_t len;

	(void)state;
	memset(name, 'x', sizeof(name) - 1);
	sample_manifest(&s);
	s.m.openvmm_version = name;
	assert_int_equal(proto_manifest_encode(&s.m, &buf, &len, &e), -EFBIG);
	assert_null(buf);
	assert_says(&e, "larger than 1 MiB");
}

/* ---- damage ---- */

static void decode_every_flipped_bit_is_refused(void **state)
{
	struct sample_manifest s;
	struct encoded b;

	(void)state;
	sample_manifest(&s);
	b = encode(&s);
	for (size_t bit = 0; bit < 8 * b.len; bit++) {
		SnapshotManifest *m = NULL;
		struct err e = { 0 };

		b.buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (proto_manifest_decode(b.buf, b.len, &m, &e) != -EBADMSG)
			fail_msg("bit %zu flipped is not seen", bit);
		assert_null(m);
		assert_says(&e, "manifest.bin");
		assert_int_equal(e.status, STATUS_REFUSED);
		b.buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	free(b.buf);
}

static void decode_truncated_at_every_length_is_refused(void **state)
{
	struct sample_manifest s;
	struct encoded b;

	(void)state;
	sample_manifest(&s);
	b = encode(&s);
	for (size_t len = 0; len < b.len; len++) {
		auto_free uint8_t *exact = malloc(len ? len : 1); /* so that reads beyond show */
		SnapshotManifest *m = NULL;
		struct err e = { 0 };

		memcpy(exact, b.buf, len);
		if (proto_manifest_decode(exact, len, &m, &e) != -EBADMSG)
			fail_msg("the first %zu bytes are taken", len);
		assert_null(m);
		assert_says(&e, "manifest.bin");
	}
	free(b.buf);
}

static void decode_with_bytes_behind_the_digest_is_refused(void **state)
{
	struct sample_manifest s;
	struct encoded b;
	SnapshotManifest *m;
	uint8_t *longer;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	b = encode(&s);
	longer = calloc(1, b.len + 2);
	memcpy(longer, b.buf, b.len);
	longer[b.len] = 15 << 3; /* an unknown field: protobuf itself would not mind */
	assert_int_equal(proto_manifest_decode(longer, b.len + 2, &m, &e), -EBADMSG);
	assert_says(&e, "digest");
	free(longer);
	free(b.buf);
}

static void decode_above_1_mib_is_refused(void **state)
{
	auto_free uint8_t *buf = calloc(1, MANIFEST_MAX + 1);
	SnapshotManifest *m;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(proto_manifest_decode(buf, MANIFEST_MAX + 1, &m, &e), -EBADMSG);
	assert_says(&e, "larger than 1 MiB");
}

/* ---- other versions, other programs ---- */

static void decode_newer_version_with_another_digest_says_the_versions(void **state)
{
	struct sample_manifest s;
	struct encoded b;
	SnapshotManifest *m;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	s.m.version = 2;
	b = encode(&s);
	b.buf[b.len - 1] ^= 1;
	assert_int_equal(proto_manifest_decode(b.buf, b.len, &m, &e), -EBADMSG);
	assert_says(&e, "format version 2, this program reads 1");
	free(b.buf);
}

static void decode_openvmm_manifest_says_whose_it_is(void **state)
{
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT, *out;
	Timestamp created = TIMESTAMP__INIT;
	struct err e = { 0 };
	uint8_t buf[256];
	size_t len;

	(void)state;
	created.seconds = 1785585600;
	m.version = 1;
	m.created_at = &created;
	m.openvmm_version = sample_string("0.4.2");
	m.memory_size_bytes = 1ULL << 30;
	m.vp_count = 2;
	m.page_size = 4096;
	m.architecture = sample_string("x86_64");
	len = snapshot_manifest__pack(&m, buf);
	assert_int_equal(proto_manifest_decode(buf, len, &out, &e), -EBADMSG);
	assert_says(&e, "OpenVMM");
	assert_null(strstr(e.text, "damaged"));
}

static void decode_without_an_id_is_not_called_damaged(void **state)
{
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	s.m.id.len = 0;
	assert_int_equal(recode(&s, &e), -EBADMSG);
	assert_says(&e, "not a snapshot of this program");
	assert_null(strstr(e.text, "OpenVMM"));
}

/* ---- fields out of their bounds, in a manifest whose digest is right ---- */

static char long_text[MANIFEST_CMDLINE_MAX + 2];

static void short_parent(struct sample_manifest *s)
{
	s->m.parent_id.len = 15;
}

static void short_memory_digest(struct sample_manifest *s)
{
	s->m.memory_digest.len = 31;
}

static void no_state_digest(struct sample_manifest *s)
{
	s->m.state_digest.len = 0;
}

static void short_generation(struct sample_manifest *s)
{
	s->m.vm_generation.len = 8;
}

static void huge_state(struct sample_manifest *s)
{
	s->m.state_size = STATE_MAX + 1ULL;
}

static void no_creation(struct sample_manifest *s)
{
	s->m.created_at = NULL;
}

static void bad_nanos(struct sample_manifest *s)
{
	s->created.nanos = 1000000000;
}

static void negative_nanos(struct sample_manifest *s)
{
	s->created.nanos = -1;
}

static void long_name(struct sample_manifest *s)
{
	s->m.name_at_creation = long_text + sizeof(long_text) - 1 - (MANIFEST_NAME_MAX + 1);
}

static void long_architecture(struct sample_manifest *s)
{
	s->m.architecture = long_text + sizeof(long_text) - 1 - 65;
}

static void long_creator(struct sample_manifest *s)
{
	s->m.creator = long_text + sizeof(long_text) - 1 - 257;
}

static void long_cmdline(struct sample_manifest *s)
{
	s->boot.cmdline = long_text;
}

static void long_kernel_path(struct sample_manifest *s)
{
	s->kernel.path = long_text;
}

static void long_initrd_path(struct sample_manifest *s)
{
	s->initrd.path = long_text;
}

static void short_kernel_digest(struct sample_manifest *s)
{
	s->kernel.sha256.len = 31;
}

static void short_initrd_digest(struct sample_manifest *s)
{
	s->initrd.sha256.len = 31;
}

static void same_device_twice(struct sample_manifest *s)
{
	s->device[2].name = s->device[0].name;
}

static void decode_field_out_of_bounds_is_damaged(void **state)
{
	static const struct {
		void (*change)(struct sample_manifest *s);
		const char *says;
	} cases[] = {
		{ short_parent, "parent" },
		{ short_memory_digest, "digest has a wrong length" },
		{ no_state_digest, "digest has a wrong length" },
		{ short_generation, "generation" },
		{ huge_state, "state.bin is out of range" },
		{ no_creation, "time of creation" },
		{ bad_nanos, "time of creation" },
		{ negative_nanos, "time of creation" },
		{ long_name, "string is too long" },
		{ long_architecture, "string is too long" },
		{ long_creator, "string is too long" },
		{ long_cmdline, "string is too long" },
		{ long_kernel_path, "string is too long" },
		{ long_initrd_path, "string is too long" },
		{ short_kernel_digest, "digest has a wrong length" },
		{ short_initrd_digest, "digest has a wrong length" },
		{ same_device_twice, "device is listed twice" },
	};

	(void)state;
	memset(long_text, 'x', sizeof(long_text) - 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sample_manifest s;
		struct err e = { 0 };

		sample_manifest(&s);
		cases[i].change(&s);
		assert_int_equal(recode(&s, &e), -EBADMSG);
		assert_says(&e, cases[i].says);
		assert_says(&e, "manifest.bin is damaged");
		/* Without words it is refused alike. */
		assert_int_equal(recode(&s, NULL), -EBADMSG);
	}
}

static void decode_optional_parts_may_be_missing(void **state)
{
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	s.m.parent_id.len = 0;
	s.m.vm_generation.len = 0;
	s.m.boot = NULL;
	s.m.machine = NULL;
	s.m.cpu = NULL;
	s.m.clock = NULL;
	assert_int_equal(recode(&s, &e), 0);
	sample_manifest(&s);
	s.boot.kernel = s.boot.initrd = NULL;
	assert_int_equal(recode(&s, &e), 0);
}

static void decode_longest_strings_are_taken(void **state)
{
	struct sample_manifest s;
	struct err e = { 0 };
	const char *const end = long_text + sizeof(long_text) - 1;

	(void)state;
	memset(long_text, 'x', sizeof(long_text) - 1);
	sample_manifest(&s);
	s.m.name_at_creation = sample_string(end - MANIFEST_NAME_MAX);
	s.m.architecture = sample_string(end - 64);
	s.m.creator = sample_string(end - 256);
	s.boot.cmdline = s.kernel.path = s.initrd.path = sample_string(end - MANIFEST_CMDLINE_MAX);
	assert_int_equal(recode(&s, &e), 0);
}

static void decode_257_devices_are_refused_and_256_taken(void **state)
{
	static Device device[257];
	static Device *devices[257];
	static char names[257][16];
	struct sample_manifest s;
	struct err e = { 0 };

	(void)state;
	sample_manifest(&s);
	for (int i = 0; i < 257; i++) {
		device__init(&device[i]);
		snprintf(names[i], sizeof(names[i]), "d%d", i);
		device[i].name = names[i];
		devices[i] = &device[i];
	}
	s.machine.device = devices;
	s.machine.n_device = 256;
	assert_int_equal(recode(&s, &e), 0);
	s.machine.n_device = 257;
	assert_int_equal(recode(&s, &e), -EBADMSG);
	assert_says(&e, "device");
}

/* ---- bombs: few bytes that ask for much memory ---- */

static long peak_kib(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}

/*
 * 1 MiB of one field over and over, each of no bytes, and a right digest: the
 * parser has to give up at its budget, or come through.
 */
static void decode_bombs_stay_within_memory_and_time(void **state)
{
	static const uint8_t tags[][2] = {
		{ 0x9a, 0x01 }, /* 19, ram: repeated */
		{ 0xca, 0x01 }, /* 25, machine: merged again and again */
		{ 0xc2, 0x01 }, /* 24, boot */
		{ 0xda, 0x01 }, /* 27, cpu */
		{ 0x82, 0x01 }, /* 16, id: the last one counts */
		{ 0xaa, 0x3e }, /* 997, unknown */
	};
	const size_t len = (MANIFEST_MAX - TRAILER) / 3 * 3 + TRAILER;
	auto_free uint8_t *buf = malloc(MANIFEST_MAX);

	(void)state;
	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		const long before = peak_kib();
		const clock_t start = clock();
		SnapshotManifest *m = NULL;
		struct err e = { 0 };
		double seconds;
		int rc;

		for (size_t at = 0; at < len; at++)
			buf[at] = at % 3 == 2 ? 0 : tags[i][at % 3];
		fix_digest(buf, len);
		rc = proto_manifest_decode(buf, len, &m, &e);
		seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
		assert_int_equal(rc, -EBADMSG); /* all of them lack an id, if nothing else */
		assert_says(&e, "manifest.bin");
		if (seconds > 5)
			fail_msg("tag %zu took %.1f s", i, seconds);
		if (peak_kib() - before > 128L << 10)
			fail_msg("tag %zu took %ld KiB", i, peak_kib() - before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decode_of_encoded_gives_every_field),
		cmocka_unit_test(encode_of_decoded_gives_the_same_bytes),
		cmocka_unit_test(encode_digest_that_was_there_is_ignored),
		cmocka_unit_test(encode_too_large_is_efbig),
		cmocka_unit_test(decode_every_flipped_bit_is_refused),
		cmocka_unit_test(decode_truncated_at_every_length_is_refused),
		cmocka_unit_test(decode_with_bytes_behind_the_digest_is_refused),
		cmocka_unit_test(decode_above_1_mib_is_refused),
		cmocka_unit_test(decode_newer_version_with_another_digest_says_the_versions),
		cmocka_unit_test(decode_openvmm_manifest_says_whose_it_is),
		cmocka_unit_test(decode_without_an_id_is_not_called_damaged),
		cmocka_unit_test(decode_field_out_of_bounds_is_damaged),
		cmocka_unit_test(decode_optional_parts_may_be_missing),
		cmocka_unit_test(decode_longest_strings_are_taken),
		cmocka_unit_test(decode_257_devices_are_refused_and_256_taken),
		cmocka_unit_test(decode_bombs_stay_within_memory_and_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
