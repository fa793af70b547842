/*
 * Writes the fuzzers' seed corpora, small real inputs, into the folder given:
 * `fuzz_seeds tests/fuzz/corpus`. The bytes are kept in the tree; this is how
 * they were made, and how they are made again after a format has grown.
 */
#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "catalog/index.h"
#include "proto/publish.h"
#include "samples.h"
#include "seeds.h"
#include "vmm/virtio/overlay.h"

static int root = -1;

void put(const char *target, const char *name, const void *bytes, size_t len)
{
	auto_fd int folder = -1;
	struct err e = { 0 };

	mkdirat(root, target, 0755);
	folder = openat(root, target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	unlinkat(folder, name, 0);
	if (io_write_file(folder, name, bytes, len, 0644, &e) < 0) {
		fprintf(stderr, "%s/%s: %s\n", target, name, e.text);
		exit(1);
	}
}

static void put_manifest(const char *name, const SnapshotManifest *m)
{
	auto_free uint8_t *buf = NULL;
	size_t len;

	if (proto_manifest_encode(m, &buf, &len, NULL) == 0)
		put("fuzz_manifest", name, buf, len);
}

static void manifests(void)
{
	SnapshotManifest openvmm = SNAPSHOT_MANIFEST__INIT;
	struct sample_manifest s;
	uint8_t buf[256];

	sample_manifest(&s);
	put_manifest("whole", &s.m);
	s.m.version = 2;
	put_manifest("version_2", &s.m);
	sample_manifest(&s);
	s.m.boot = NULL;
	s.m.machine = NULL;
	s.m.cpu = NULL;
	s.m.parent_id.len = 0;
	put_manifest("least", &s.m);
	s.m.n_ram = 1;
	put_manifest("wrong_sum", &s.m);
	openvmm.version = 1;
	openvmm.created_at = &s.created;
	openvmm.openvmm_version = sample_string("0.4.2");
	openvmm.memory_size_bytes = 1 << 30;
	openvmm.vp_count = 1;
	openvmm.page_size = 4096;
	openvmm.architecture = sample_string("x86_64");
	put("fuzz_manifest", "openvmm", buf, snapshot_manifest__pack(&openvmm, buf));
	put("fuzz_manifest", "empty", "", 0);
}

static void states(void)
{
	auto_free uint8_t *buf = NULL, *least = NULL;
	struct sample_state s;
	size_t len;

	sample_state(&s);
	if (proto_state_encode(&s.s, &buf, &len, NULL) == 0)
		put("fuzz_state", "whole", buf, len);
	s.s.n_device = 0;
	s.s.n_vcpu = 1;
	s.vcpu[0].xsave.len = s.vcpu[0].sregs2.len = s.vcpu[0].regs.len = 4;
	if (proto_state_encode(&s.s, &least, &len, NULL) == 0)
		put("fuzz_state", "one_vcpu", least, len);
	put("fuzz_state", "empty", "", 0);
}

static void put_request(const char *name, const PublishRequest *m)
{
	uint8_t buf[PUBLISH_MAX];

	put("fuzz_publish", name, buf, publish_request__pack(m, buf));
}

static void messages(void)
{
	RamRequest ram = RAM_REQUEST__INIT;
	TrustRequest trust = TRUST_REQUEST__INIT;
	SaveRequest save = SAVE_REQUEST__INIT;
	CommitRequest commit = COMMIT_REQUEST__INIT;
	AbortRequest give_up = ABORT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	PublishReply reply = PUBLISH_REPLY__INIT;
	char *notices[] = { sample_string("copied, because the disk is another") };
	uint8_t digest[32], buf[PUBLISH_MAX];

	ram.size = 1 << 30;
	ram.path = sample_string("/srv/ram");
	ram.reserve = true;
	m.what_case = PUBLISH_REQUEST__WHAT_RAM;
	m.ram = &ram;
	put_request("ram", &m);
	trust.memory_digest = sample_bytes(digest, 32, 1);
	m.what_case = PUBLISH_REQUEST__WHAT_TRUST;
	m.trust = &trust;
	put_request("trust", &m);
	save.name = sample_string("before-upgrade");
	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	put_request("save", &m);
	commit.ram_is_own = true;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	put_request("commit", &m);
	m.what_case = PUBLISH_REQUEST__WHAT_ABORT;
	m.abort = &give_up;
	put_request("abort", &m);
	reply.status = 1;
	reply.error = sample_string("a snapshot of this name exists");
	reply.id = sample_bytes(digest, 16, 1);
	reply.path = sample_string("/store/snapshots/a");
	reply.notice = notices;
	reply.n_notice = 1;
	reply.bytes_done = reply.bytes_total = 1ULL << 33;
	put("fuzz_publish", "reply", buf, publish_reply__pack(&reply, buf));
}

/* The fields of a Linux 6 header that are looked at; offsets of boot.rst. */
static void kernels(void)
{
	uint8_t image[4 * 512 + 64] = { 0 };

	image[0x1f1] = 3;
	image[0x201] = 0x6a;
	memcpy(image + 0x202, "HdrS\x0f\x02", 6);
	image[0x211] = 1;
	memset(image + 0x22c, 0x7f, 4);
	image[0x236] = 0x3f;
	image[0x239] = 0x08;
	image[0x25b] = 0x01;
	image[0x263] = 0x02;
	put("fuzz_bzimage", "kernel", image, sizeof(image));
	put("fuzz_bzimage", "cut", image, 0x268);
	image[0x206] = 0x0b;
	put("fuzz_bzimage", "old", image, sizeof(image));
}

/* As the linker makes a kernel: notes within the one segment that is loaded, behind it zeros. */
static void elf_kernels(void)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr load, note;
		Elf64_Nhdr other;
		char other_name[4], other_value[8];
		Elf64_Nhdr entry;
		char entry_name[4];
		uint64_t entry_value;
		uint8_t code[16];
	} k = {
		.h = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.load = { .p_type = PT_LOAD, .p_paddr = 0x1000000, .p_memsz = 0x10000 },
		.note = { .p_type = PT_NOTE },
		.other = { 4, 8, 3 },
		.other_name = "GNU",
		.entry = { 4, 8, 18 },
		.entry_name = "Xen",
	};

	k.load.p_filesz = sizeof(k);
	k.note.p_offset = offsetof(__typeof__(k), other);
	k.note.p_filesz = offsetof(__typeof__(k), code) - k.note.p_offset;
	k.entry_value = 0x1000000 + offsetof(__typeof__(k), code);
	put("fuzz_elf", "kernel", &k, sizeof(k));
	put("fuzz_elf", "cut", &k, offsetof(__typeof__(k), code));
	k.entry_value = 0x2000000;
	put("fuzz_elf", "entry_outside", &k, sizeof(k));
	k.entry.n_descsz = UINT32_MAX;
	put("fuzz_elf", "long_note", &k, sizeof(k));
	k.load.p_paddr = UINT64_MAX - 0xfff;
	put("fuzz_elf", "address_wraps", &k, sizeof(k));
	k.h.e_phnum = UINT16_MAX;
	put("fuzz_elf", "many_headers", &k, sizeof(k));
}

/* See fuzz_devices.c: which, two bytes of length, the state, port accesses. */
static void put_device(const char *name, uint8_t which, const uint8_t *vm, size_t len,
		       const char *accesses, size_t n)
{
	uint8_t buf[1024] = { which, (uint8_t)len, (uint8_t)(len >> 8) };

	memcpy(buf + 3, vm, len);
	memcpy(buf + 3 + len, accesses, n);
	put("fuzz_devices", name, buf, 3 + len + n);
}

static void devices(void)
{
	/* Interrupts on, a byte out, IIR read, loopback, a byte, read back; bytes from the host. */
	static const char serial[] =
		"\x01\x0f\x00\x41\x82\x00\x04\x1b\x00\x42\x80\x00\x40\x00\x02\x03";
	static const char keyboard[] = "\x04\xaa\x80\x00\x84\x00\x04\x60\x00\x47\x04\xd1\x00\xfe";
	static const char rtc[] = "\x00\x0b\x01\x06\x00\x04\x81\x00\x00\x32\x81\x00";
	SerialState s = SERIAL_STATE__INIT;
	I8042State k = I8042_STATE__INIT;
	RtcState r = RTC_STATE__INIT;
	uint8_t buf[512] = { 0 }, registers[128] = { 0 };

	s.ier = 3;
	s.mcr = 8;
	s.dll = 1;
	s.fcr = 1;
	s.received = (ProtobufCBinaryData){ 5, (uint8_t *)sample_string("hello") };
	put_device("serial", 0, buf, serial_state__pack(&s, buf), serial, sizeof(serial) - 1);
	k.command = 0xd1;
	k.control = 0x47;
	k.output = 0x55;
	k.output_full = true;
	put_device("keyboard", 1, buf, i8042_state__pack(&k, buf), keyboard, sizeof(keyboard) - 1);
	registers[11] = 2;
	r.selected = 0x0f;
	r.registers = (ProtobufCBinaryData){ 128, registers };
	put_device("rtc", 2, buf, rtc_state__pack(&r, buf), rtc, sizeof(rtc) - 1);
}

/* See fuzz_virtq.c: its header, then rings of 16 as it lays them itself, at 0x1000. */
static void put_queue(const char *name, bool event_idx, bool indirect)
{
	struct {
		uint8_t size_shift, flags;
		uint16_t next_avail, next_used, signalled;
		uint32_t desc, avail, used, seed;
		struct {
			uint64_t address;
			uint32_t len;
			uint16_t flags, next;
		} desc_table[16];
		uint16_t avail_flags, avail_idx, avail_ring[16];
	} in = { .size_shift = 4, .flags = 4, .seed = 12345, .avail_idx = 3 };

	in.flags = (uint8_t)(4 | event_idx | indirect << 1);
	/* 0 and 1: read, then written; 2: written alone; 3: a table, the last two here. */
	for (unsigned i = 0; i < 16; i++) {
		in.desc_table[i].address = 0x4000 + 0x100ULL * i;
		in.desc_table[i].len = 64;
	}
	in.desc_table[0].flags = in.desc_table[14].flags = 1;
	in.desc_table[0].next = in.desc_table[14].next = 1;
	in.desc_table[1].flags = in.desc_table[2].flags = in.desc_table[15].flags = 2;
	if (indirect) {
		in.desc_table[3].address = 0x1000 + 14 * 16;
		in.desc_table[3].len = 32;
		in.desc_table[3].flags = 4;
	}
	in.avail_ring[1] = 2;
	in.avail_ring[2] = 3;
	put("fuzz_virtq", name, &in, sizeof(in));
}

static void queues(void)
{
	put_queue("direct", false, false);
	put_queue("event_index", true, false);
	put_queue("indirect", true, true);
}

/* See fuzz_virtio.c: two bytes of length, the state, operations of 6 bytes. */
struct script {
	uint8_t bytes[1024];
	size_t len;
};

static void operation(struct script *s, uint8_t what, uint8_t offset, uint32_t value)
{
	s->bytes[s->len++] = what;
	s->bytes[s->len++] = offset;
	memcpy(s->bytes + s->len, &value, sizeof(value));
	s->len += sizeof(value);
}

/* A driver up to DRIVER_OK, queue 0 of 4 at 0x100, one request. */
static void driver_script(struct script *s)
{
	static const struct {
		uint8_t what, offset;
		uint32_t value;
	} operations[] = {
		{ 6, 0, 1 },
		{ 6, 0, 2 },
		{ 1, 0x24, 0 },
		{ 1, 0x20, 3U << 28 },
		{ 1, 0x24, 1 },
		{ 1, 0x20, 1 },
		{ 6, 0, 8 },
		{ 1, 0x30, 0 },
		{ 1, 0x38, 4 },
		{ 1, 0x80, 0x100 },
		{ 1, 0x90, 0x140 },
		{ 1, 0xa0, 0x180 },
		{ 1, 0x44, 1 },
		{ 6, 0, 4 },
		{ 3, 64, 0x200 },
		{ 3, 66, 16 },
		{ 3, 67, 1U << 16 | 1 },
		{ 3, 68, 0x220 },
		{ 3, 70, 16 },
		{ 3, 71, 2 },
		{ 3, 80, 1U << 16 },
		{ 1, 0x50, 0 },
		{ 4, 0, 0 },
		{ 0, 0x60, 2 },
		{ 1, 0x64, 1 },
		{ 5, 3, 0 },
		{ 5, 1, 0 },
		{ 5, 0, 0 },
		{ 4, 0, 0 },
		{ 5, 2, 0 },
		{ 2, 1, 2 },
		{ 0, 0xfc, 2 },
	};

	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		operation(s, operations[i].what, operations[i].offset, operations[i].value);
}

static void transports(void)
{
	const uint64_t features = 1ULL << 32 | 3ULL << 28 | 1ULL << 5;
	VirtqState q[2] = { VIRTQ_STATE__INIT, VIRTQ_STATE__INIT }, *both[] = { &q[0], &q[1] };
	VirtioState m = VIRTIO_STATE__INIT;
	struct script s = { .len = 2 };
	uint8_t private[4] = { 1, 2, 3, 4 };

	driver_script(&s);
	put("fuzz_virtio", "driver", s.bytes, s.len);
	m.device_id = 42;
	m.features = features;
	m.driver_features = features;
	m.status = 15;
	m.interrupt_status = 1;
	m.n_queue = 2;
	m.queue = both;
	q[0].size = 4;
	q[0].ready = true;
	q[0].desc = 0x100;
	q[0].avail = 0x140;
	q[0].used = 0x180;
	q[0].next_avail = q[0].next_used = 0xffff;
	m.device_version = 1;
	m.device = (ProtobufCBinaryData){ sizeof(private), private };
	s.len = 2 + virtio_state__pack(&m, s.bytes + 2);
	s.bytes[0] = (uint8_t)(s.len - 2);
	operation(&s, 3, 64, 0x200);
	operation(&s, 3, 66, 16);
	operation(&s, 5, 0, 0);
	operation(&s, 4, 0, 0);
	driver_script(&s);
	put("fuzz_virtio", "restored", s.bytes, s.len);
}

static void texts(void)
{
	static const char *const texts[] = {
		"0",
		"18446744073709551615",
		"512MiB",
		"2g",
		"16777216T",
		"-1",
		"01986b3c-1d2e-7f40-8a5b-6c7d8e9fa0ff",
		"caf\xc3\xa9 \xf0\x9f\x98\x80",
		"\xed\xa0\x80\xc0\xaf\x1b[2J\xc2\x85",
		"",
	};
	static const char *const lines[] = {
		"--kernel\nbzImage\n--initrd\nfile\n--cmdline\nquiet ro\n-m\n1G\n-p\n1",
		"--restore-snapshot\ndir\n--check\n--trust-memory\n--paused",
		"--demo-guest\n--private-memory\n--memory=64M\n--serial\nfile=x\n--control\nsock",
		"--memory-backing-file\nfile\n--no-reserve\n--store\ndir\n--demo-guest",
		"--check-host\n--json",
		"--help",
		"--version",
		"-m\n0",
		"--bogus\n--\noperand",
		"-zm",
	};

	for (int i = 0; i < 10; i++) {
		char name[8];

		snprintf(name, sizeof(name), "%d", i);
		put("fuzz_text", name, texts[i], strlen(texts[i]));
		put("fuzz_options", name, lines[i], strlen(lines[i]));
	}
}

/* An overlay of ten blocks, and of more blocks than a page of map has. */
static void overlays(void)
{
	struct overlay_header h;
	uint8_t buf[OVERLAY_HEADER + 4100] = { 0 };

	if (overlay_layout(10 * OVERLAY_BLOCK - 512, &h) < 0)
		return;
	memset(h.id, 7, sizeof(h.id));
	if (overlay_encode_header(&h, buf) < 0)
		return;
	put("fuzz_overlay", "empty", buf, OVERLAY_HEADER);
	memcpy(buf + OVERLAY_HEADER, "\x19\x95\x06", 3);
	put("fuzz_overlay", "small", buf, OVERLAY_HEADER + 3);
	memcpy(buf + OVERLAY_HEADER, "\x03\x95\x46", 3);
	put("fuzz_overlay", "bad_map", buf, OVERLAY_HEADER + 3);
	put("fuzz_overlay", "cut", buf, 100);
	if (overlay_layout(16400 * OVERLAY_BLOCK, &h) < 0)
		return;
	memset(h.id, 8, sizeof(h.id));
	memset(h.below, 9, sizeof(h.below)); /* odd: the target makes the digest right */
	if (overlay_encode_header(&h, buf) < 0)
		return;
	memset(buf + OVERLAY_HEADER, 0x96, 4100);
	put("fuzz_overlay", "large", buf, sizeof(buf));
}

static void names(void)
{
	char longest[CAT_NAME_MAX + 2];
	const char *const texts[] = {
		"before-upgrade", "a",	       "2026-11-27T05:00+0100@host_1",
		"latest",	  ".",	       "..",
		".by-id",	  "-rf",       "a/b",
		"caf\xc3\xa9",	  "a\x1b[2J",  "",
		longest,	  longest + 1,
	};

	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char name[24];

		snprintf(name, sizeof(name), "%zu", i);
		put("fuzz_name", name, texts[i], strlen(texts[i]));
	}
}

/* See fuzz_mountopt.c: the file mode, then -o lists. */
static void mount_options(void)
{
	static const char *const texts[] = {
		"0400\nrw,dev,suid,noauto,_netdev,nofail,user=me,x-systemd.idle-timeout=60",
		"0444\nallow_other,mode=0440\nverify_after=10,nopassthrough,noverify",
		"0644\ncontext=system_u:object_r:t:s0,fscontext=,ro,,noexec",
		"0\nauto_unmount",
		"00000\nverify_after=86401",
		"-1\nallow_othe,mode=",
		"0440\ncontext=a\\,allow_other,debug,X-,x-,comment=",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char name[24];

		snprintf(name, sizeof(name), "%zu", i);
		put("fuzz_mountopt", name, texts[i], strlen(texts[i]));
	}
}

/* See fuzz_merkle.c: which file, the tree's length, changes of six bytes. */
static void trees(void)
{
	static const struct {
		const char *name;
		const char *bytes;
		size_t len;
	} inputs[] = {
		{ "small", "\1\0\0", 3 },
		{ "one_level", "\3\0\0\5\0\0\0\1\2", 9 },
		{ "leaf", "\7\0\0\x20\x20\0\0\1\2", 9 },
		{ "top", "\7\0\0\x20\0\0\0\1\2", 9 },
		{ "shorthand", "\x8\0\0\0\x50\0\0\0\x17", 9 },
		{ "cut", "\6\1\x80", 3 },
		{ "long", "\6\3\x80\0\0\0\0\1\1", 9 },
		{ "gone", "\6\1\0", 3 },
		{ "empty", "\0\0\0", 3 },
	};

	for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++)
		put("fuzz_merkle", inputs[i].name, inputs[i].bytes, inputs[i].len);
}

/* A row of fuzz_index.c: its name, and what is not zero, empty or of one byte. */
struct index_row {
	const char *name;
	uint8_t times, id_len;
	uint64_t nanos, status;
};

static void put_number(struct script *s, uint64_t value)
{
	s->bytes[s->len++] = 1;
	memcpy(s->bytes + s->len, &value, sizeof(value));
	s->len += sizeof(value);
}

static void put_bytes(struct script *s, uint8_t type, uint8_t len)
{
	s->bytes[s->len++] = type;
	s->bytes[s->len++] = len;
	memset(s->bytes + s->len, 'x', len);
	s->len += len;
}

static void put_index_row(struct script *s, const struct index_row *r)
{
	const uint8_t len = (uint8_t)strlen(r->name);

	s->bytes[s->len++] = len;
	memcpy(s->bytes + s->len, r->name, len);
	s->len += len;
	s->bytes[s->len++] = r->times;
	put_number(s, 1);	    /* inode */
	put_bytes(s, 3, 120);	    /* fingerprint */
	put_bytes(s, 3, r->id_len); /* id */
	s->bytes[s->len++] = 0;	    /* parent */
	put_number(s, 1700000000);  /* created_seconds */
	put_number(s, r->nanos);
	put_bytes(s, 2, 6);	    /* architecture */
	for (int i = 0; i < 5; i++) /* memory_bytes to unique_bytes */
		put_number(s, 4096);
	put_bytes(s, 3, DIGEST_SIZE); /* manifest_digest */
	put_number(s, r->status);
	put_number(s, 0);   /* missing */
	put_number(s, 0);   /* removing */
	put_bytes(s, 2, 3); /* problem */
	put_number(s, 0);   /* verified_at */
}

static void put_index(const char *name, const struct index_row *row)
{
	struct script s = { .bytes = { 1 }, .len = 1 };

	put_index_row(&s, row);
	put("fuzz_index", name, s.bytes, s.len);
}

static void put_sql(const char *name, const char *sql)
{
	char text[1024];

	put("fuzz_index", name, text, (size_t)snprintf(text, sizeof(text), "\2%s", sql));
}

/* An index as it is made, with one byte before it. */
static void put_whole_index(void)
{
	char path[] = "/tmp/snapfs-seeds.XXXXXX", command[64];
	auto_free uint8_t *buf = NULL, *whole = NULL;
	auto_fd int fd = -1;
	struct store *store = NULL;
	size_t len;

	if (!mkdtemp(path) || cat_store_open(&store, path, CAT_OPEN_CREATE, NULL) < 0)
		return;
	cat_store_close(store);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (io_read_file(fd, "catalog.db", 1U << 20, &buf, &len, NULL) < 0)
		return;
	whole = calloc(1, len + 1);
	if (whole) {
		memcpy(whole + 1, buf, len);
		put("fuzz_index", "whole", whole, len + 1);
	}
	snprintf(command, sizeof(command), "rm -rf %s", path);
	if (system(command) != 0)
		fprintf(stderr, "%s is left\n", path);
}

static void indexes(void)
{
	static const char longer[] =
		"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
		"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

	put_index("missing", &(struct index_row){ "other", 0, 16, 5, 1 });
	put_index("many", &(struct index_row){ "other", 200, 16, 5, 1 });
	put_index("status", &(struct index_row){ "good", 0, 16, 5, 77 });
	put_index("replaced", &(struct index_row){ "bad", 0, 16, 5, 4 });
	/* What a reader cuts, and so never gets past. */
	put_index("nanos", &(struct index_row){ "other", 200, 16, 5ULL << 32, 1 });
	put_index("short_ids", &(struct index_row){ "other", 200, 5, 5, 1 });
	put_index("long_names", &(struct index_row){ longer, 200, 16, 5, 1 });
	put_index("no_name", &(struct index_row){ "../../etc", 0, 16, 5, 1 });
	put_sql("endless_view",
		"DROP TABLE snapshot; CREATE VIEW snapshot AS WITH RECURSIVE r(n) AS (SELECT 1 "
		"UNION ALL SELECT n + 1 FROM r) SELECT 'x' || n AS name, 1 AS inode, x'' AS "
		"fingerprint, x'' AS id, x'' AS parent, 1 AS created_seconds, 1 AS created_nanos, "
		"'' AS architecture, 1 AS memory_bytes, 1 AS vcpus, 0 AS layers, 0 AS "
		"stored_bytes, "
		"0 AS unique_bytes, x'' AS manifest_digest, 1 AS status, 0 AS missing, 0 AS "
		"removing, '' AS problem, 0 AS verified_at FROM r");
	put_sql("trigger", "CREATE TRIGGER t AFTER INSERT ON snapshot BEGIN "
			   "DELETE FROM snapshot; END");
	put_sql("no_column", "ALTER TABLE snapshot DROP COLUMN problem");
	put_sql("no_table", "DROP TABLE snapshot");
	put_sql("newer", "PRAGMA user_version = 9999");
	put_sql("not_ours", "PRAGMA application_id = 1");
	put_sql("no_index", "DROP INDEX snapshot_by_time");
	put_whole_index();
}

int main(int argc, char **argv)
{
	root = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (root < 0) {
		fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
		return 2;
	}
	manifests();
	states();
	messages();
	kernels();
	elf_kernels();
	devices();
	queues();
	transports();
	texts();
	overlays();
	names();
	mount_options();
	trees();
	indexes();
	layermaps();
	working_sets();
	close(root);
	return 0;
}
