/* Preflight: what a snapshot must be, said together, before a machine is made. */
#include "unit.h"

#include "base/digest.h"
#include "base/merkle.h"
#include "base/io.h"
#include "samples.h"
#include "vmm/restore.h"

#define RAM_SIZE (2ULL << 20)

static uint8_t zeros[8192]; /* for what has the size that KVM wants, and nothing in it */

struct rig {
	void *folder; /* first: its fixture */
	Device power;
	Device *devices[4];
	DeviceState device_state[4], *device_states[4];
	struct sample_manifest m;
	struct sample_state s;
	struct publisher publisher; /* has ended: nothing is stamped */
	struct restore_options o;
	char path[128];
	uint8_t *memory;
};

static ProtobufCBinaryData sized(size_t n)
{
	assert_true(n <= sizeof(zeros));
	return (ProtobufCBinaryData){ n, zeros };
}

/* The samples as this host and this program take them: sizes, devices, no CPU of their own. */
static void fit_samples(struct rig *r)
{
	static const char *const names[] = { "serial0", "i8042", "rtc", "power" };

	r->m.m.cpu = NULL;
	r->m.m.tsc_khz = 0;
	for (int i = 0; i < 2; i++) {
		VcpuState *v = &r->s.vcpu[i];

		v->n_cpuid = v->n_msr = v->tsc_khz = 0;
		v->regs = sized(sizeof(struct kvm_regs));
		v->sregs2 = sized(sizeof(struct kvm_sregs2));
		v->xsave = sized(sizeof(struct kvm_xsave));
		v->xcrs = sized(sizeof(struct kvm_xcrs));
		v->debugregs = sized(sizeof(struct kvm_debugregs));
		v->lapic = sized(sizeof(struct kvm_lapic_state));
		v->events = sized(sizeof(struct kvm_vcpu_events));
	}
	r->s.kvm.pit2 = sized(sizeof(struct kvm_pit_state2));
	r->s.kvm.clock = sized(sizeof(struct kvm_clock_data));
	r->s.kvm.pic_master = r->s.kvm.pic_slave = r->s.kvm.ioapic =
		sized(sizeof(struct kvm_irqchip));
	device__init(&r->power);
	r->power.name = r->power.kind = sample_string("power");
	r->power.address = POWER_PORT;
	r->power.interrupt = POWER_IRQ;
	for (int i = 0; i < 4; i++) {
		r->devices[i] = i < 3 ? &r->m.device[i] : &r->power;
		device_state__init(&r->device_state[i]);
		r->device_state[i].name = sample_string(names[i]);
		r->device_state[i].version = 1;
		r->device_states[i] = &r->device_state[i];
	}
	r->m.machine.device = r->devices;
	r->s.s.device = r->device_states;
	r->m.machine.n_device = r->s.s.n_device = 4;
}

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || folder_make(&r->folder) < 0)
		return -1;
	r->memory = malloc(RAM_SIZE);
	fill_random(r->memory, RAM_SIZE, 1);
	r->publisher.sock = -1;
	sample_manifest(&r->m);
	sample_state(&r->s);
	fit_samples(r);
	r->m.m.memory_size_bytes = r->m.range[0].size = RAM_SIZE;
	r->m.m.n_ram = 1;
	snprintf(r->path, sizeof(r->path), "%s/snapshot", ((struct folder *)r->folder)->path);
	r->o.dir = r->path;
	*state = r;
	return merkle_digest(r->memory, RAM_SIZE, r->m.memory_digest);
}

static int drop(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	free(r->memory);
	free(r);
	return folder_remove(&folder);
}

/* Writes the snapshot as the samples are now. */
static void write_snapshot(struct rig *r)
{
	auto_free uint8_t *manifest = NULL, *vm = NULL;
	auto_fd int dir = -1;
	size_t n, k;

	assert_int_equal(proto_state_encode(&r->s.s, &vm, &k, NULL), 0);
	r->m.m.state_size = k;
	assert_int_equal(merkle_digest(vm, k, r->m.state_digest), 0);
	assert_int_equal(proto_manifest_encode(&r->m.m, &manifest, &n, NULL), 0);
	assert_int_equal(mkdir(r->path, 0700), 0);
	dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(io_write_file(dir, SNAPDIR_MANIFEST, manifest, n, 0600, NULL), 0);
	assert_int_equal(io_write_file(dir, SNAPDIR_STATE, vm, k, 0600, NULL), 0);
	assert_int_equal(io_write_file(dir, SNAPDIR_MEMORY, r->memory, RAM_SIZE, 0600, NULL), 0);
}

static int preflight(struct rig *r, struct err *e)
{
	const unsigned before = open_descriptors();
	struct restore restore;
	int rc = restore_preflight(&restore, &r->o, &r->publisher, e);

	if (rc == 0)
		restore_close(&restore);
	assert_int_equal(open_descriptors(), before);
	return rc;
}

static void preflight_of_a_good_one_passes(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	write_snapshot(r);
	assert_int_equal(preflight(r, &e), 0);
	assert_string_equal(e.text, "");
	r->o.memory = RAM_SIZE;
	r->o.processors = 2;
	assert_int_equal(preflight(r, &e), 0);
}

static void preflight_reads_ram_unless_it_is_trusted(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->memory[RAM_SIZE - 1] ^= 1;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EBADMSG);
	assert_says(&e, "memory.bin does not have the manifest's digest");
	r->o.trust_memory = true;
	assert_int_equal(preflight(r, &e), 0);
}

static void preflight_verifies_kept_disks_and_holds_them(void **state)
{
	static const char content[] = "what a disk holds";
	struct rig *r = *state;
	uint8_t digest[DIGEST_SIZE];
	DiskFile file = DISK_FILE__INIT, *files[] = { &file };
	Disk disk = DISK__INIT, *disks[] = { &disk };
	struct restore restore;
	struct err e = { 0 };
	char path[192];
	int dir;

	assert_int_equal(merkle_digest(content, sizeof(content), digest), 0);
	file.file = sample_string("disk0.0");
	file.size = sizeof(content);
	file.digest = (ProtobufCBinaryData){ DIGEST_SIZE, digest };
	disk.device = sample_string("disk0");
	disk.n_layer = 1;
	disk.layer = files;
	r->m.m.n_disk = 1;
	r->m.m.disk = disks;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EBADMSG);
	assert_says(&e, "disks");
	snprintf(path, sizeof(path), "%s/disks", r->path);
	assert_int_equal(mkdir(path, 0700), 0);
	dir = open(path, O_RDONLY | O_DIRECTORY);
	assert_int_equal(io_write_file(dir, "disk0.0", content, sizeof(content), 0600, NULL), 0);
	assert_int_equal(restore_preflight(&restore, &r->o, &r->publisher, &e), 0);
	assert_int_equal(restore.nfds, 2);
	assert_true(restore.fds[1] >= 0);
	restore_close(&restore);
	unlinkat(dir, "disk0.0", 0);
	assert_int_equal(
		io_write_file(dir, "disk0.0", "WHAT a disk holds", sizeof(content), 0600, NULL), 0);
	close(dir);
	e = (struct err){ 0 };
	assert_int_equal(preflight(r, &e), -EBADMSG);
	assert_says(&e, "disks/disk0.0 does not have the manifest's digest");
}

/* ---- layers ---- */

#define LAYER_SIZE (4 * RAM_PAGE)

/* The snapshot as two layers, and what the upper one's map says. */
struct in_layers {
	Layer layer[2], *layers[2];
	uint8_t digest[3][DIGEST_SIZE]; /* of the files, then of the map */
	uint8_t *map;
	size_t map_len;
	int dir; /* layers/ */
};

static void put_layers(struct rig *r, struct in_layers *in, const struct layer_run *runs, size_t n)
{
	const struct layermap map = { (struct layer_run *)(uintptr_t)runs, n };
	uint8_t upper[LAYER_SIZE];
	char path[192];

	fill_random(upper, sizeof(upper), 77);
	assert_int_equal(proto_layermap_encode(&map, &in->map, &in->map_len), 0);
	assert_int_equal(merkle_digest(r->memory, RAM_SIZE, in->digest[0]), 0);
	assert_int_equal(merkle_digest(upper, sizeof(upper), in->digest[1]), 0);
	assert_int_equal(merkle_digest(in->map, in->map_len, in->digest[2]), 0);
	for (int i = 0; i < 2; i++) {
		layer__init(&in->layer[i]);
		in->layers[i] = &in->layer[i];
		in->layer[i].digest = (ProtobufCBinaryData){ DIGEST_SIZE, in->digest[i] };
		in->layer[i].size = i ? LAYER_SIZE : RAM_SIZE;
	}
	in->layer[1].map_size = in->map_len;
	in->layer[1].map_digest = (ProtobufCBinaryData){ DIGEST_SIZE, in->digest[2] };
	r->m.m.layer = in->layers;
	r->m.m.n_layer = 2;
	write_snapshot(r);
	snprintf(path, sizeof(path), "%s/memory.bin", r->path);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/layers", r->path);
	assert_int_equal(mkdir(path, 0700), 0);
	in->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(io_write_file(in->dir, "0.ram", r->memory, RAM_SIZE, 0600, NULL), 0);
	assert_int_equal(io_write_file(in->dir, "1.ram", upper, sizeof(upper), 0600, NULL), 0);
	assert_int_equal(io_write_file(in->dir, "1.map", in->map, in->map_len, 0600, NULL), 0);
}

static void drop_layers(struct in_layers *in)
{
	close(in->dir);
	free(in->map);
}

static const struct layer_run good_runs[] = { { 3, 2, 0 }, { 7, 1, LAYERMAP_ZEROS }, { 9, 1, 3 } };

static void preflight_of_layers_knows_what_they_are(void **state)
{
	struct rig *r = *state;
	struct in_layers in;
	struct restore restore;
	struct err e = { 0 };

	put_layers(r, &in, good_runs, 3);
	if (restore_preflight(&restore, &r->o, &r->publisher, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(restore.n_ram_fds, 2);
	assert_int_equal(restore.base.nmaps, 1);
	assert_int_equal(restore.base.map[0].len, in.map_len);
	assert_memory_equal(restore.base.map[0].bytes, in.map, in.map_len);
	assert_int_equal(proto_flat_find(&restore.flat, 4)->layer, 1);
	assert_int_equal(proto_flat_find(&restore.flat, 5)->layer, 0);
	restore_close(&restore);
	drop_layers(&in);
}

static void preflight_refuses_layers(struct rig *r, const char *file)
{
	struct err e = { 0 };
	int rc = preflight(r, &e);

	if (rc != -EBADMSG && rc != -EINVAL)
		fail_msg("%s: %d, %s", file, rc, e.text);
	assert_says(&e, file);
	assert_int_equal(lines_in(e.text), 1);
	assert_int_equal(e.status, STATUS_REFUSED);
}

/* Each is told the folder of the layers. */
static void flip_byte(int dir, const char *file, off_t at)
{
	auto_fd int fd = openat(dir, file, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void preflight_of_damaged_layers_is_refused(void **state)
{
	static const char *const files[] = { "0.ram", "1.ram", "1.map" };
	struct rig *r = *state;
	struct in_layers in;
	char name[32];

	put_layers(r, &in, good_runs, 3);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "layers/%s", files[i]);
		flip_byte(in.dir, files[i], 50);
		preflight_refuses_layers(r, name);
		flip_byte(in.dir, files[i], 50);
		assert_int_equal(renameat(in.dir, files[i], in.dir, "away"), 0);
		preflight_refuses_layers(r, files[i]);
		assert_int_equal(symlinkat("away", in.dir, files[i]), 0);
		preflight_refuses_layers(r, files[i]);
		assert_int_equal(renameat(in.dir, "away", in.dir, files[i]), 0);
	}
	assert_int_equal(preflight(r, NULL), 0);
	drop_layers(&in);
}

/* Digests that are right, over maps that are none. */
static void preflight_of_hostile_maps_is_refused(void **state)
{
	static const struct layer_run runs[][2] = {
		{ { 3, 2, 0 }, { 4, 1, 0 } },			/* over each other */
		{ { 9, 1, 0 }, { 3, 1, 0 } },			/* not ascending */
		{ { 3, 0, 0 }, { 9, 1, 0 } },			/* of nothing */
		{ { 3, 1, 0 }, { 9, 2, 3 } },			/* beyond the file */
		{ { 3, 1, 0 }, { 9, 1, UINT64_MAX - 1 } },	/* far beyond it */
		{ { 3, 1, 0 }, { RAM_SIZE / RAM_PAGE, 1, 0 } }, /* beyond RAM */
		{ { 3, 1, 0 }, { 9, UINT64_MAX - 3, LAYERMAP_ZEROS } },
	};
	struct rig *r = *state;
	char command[256];

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		struct in_layers in;

		put_layers(r, &in, runs[i], 2);
		preflight_refuses_layers(r, "layers/1.map");
		drop_layers(&in);
		snprintf(command, sizeof(command), "rm -r '%s'", r->path);
		assert_int_equal(system(command), 0);
	}
}

static void preflight_ram_elsewhere_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	/* Consistent in itself, but no machine here would have it so. */
	r->m.range[0].guest_address = 1 << 20;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EINVAL);
	assert_says(&e, "other guest addresses");
}

static void preflight_ram_in_other_pieces_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->m.m.n_ram = 2;
	r->m.range[0].size = r->m.range[1].size = r->m.range[1].file_offset = RAM_SIZE / 2;
	r->m.range[1].guest_address = 4ULL << 30;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EINVAL);
	assert_says(&e, "other guest addresses");
}

static void preflight_all_that_differs_is_reported_together(void **state)
{
	struct rig *r = *state;
	char file[160];
	struct err e = { 0 };

	r->m.m.architecture = sample_string("aarch64");
	r->m.m.vp_count = 1;
	write_snapshot(r);
	snprintf(file, sizeof(file), "%s/memory.bin", r->path);
	assert_int_equal(unlink(file), 0);
	r->o.memory = 1ULL << 30;
	r->o.processors = 7;
	assert_true(preflight(r, &e) < 0);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_int_equal(lines_in(e.text), 5);
	assert_non_null(strstr(e.text, "'aarch64'"));
	assert_non_null(strstr(e.text, "--memory says 1073741824"));
	assert_non_null(strstr(e.text, "--processors says 7"));
	assert_non_null(strstr(e.text, "memory.bin is missing"));
	assert_non_null(strstr(e.text, "state.bin has 2 vCPUs, the manifest says 1"));
}

/* What the issue of bad states wants: all in one report, one sentence each. */
static void preflight_bad_state_is_reported_together(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->s.vcpu[1].version = 9;
	r->s.kvm.version = 8;
	r->device_state[0].version = 7;
	r->device_state[1].name = sample_string("teapot");
	r->device_state[3].name = sample_string("rtc");
	r->s.vcpu[0].lapic.len = 3;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EBADMSG);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_non_null(strstr(e.text, "a vCPU of version 9, this program reads up to 1"));
	assert_non_null(strstr(e.text, "KVM's part of version 8"));
	assert_non_null(strstr(e.text, "device serial0 of version 7, this program reads up to 1"));
	assert_non_null(strstr(e.text, "device teapot, which is unknown"));
	assert_non_null(strstr(e.text, "nothing of device i8042"));
	assert_non_null(strstr(e.text, "nothing of device power"));
	assert_non_null(strstr(e.text, "device rtc is there twice"));
	assert_non_null(strstr(e.text, "local APIC of vCPU 0 have 3 bytes"));
	assert_int_equal(lines_in(e.text), 8);
}

static void preflight_of_an_unknown_kind_of_device_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->power.name = sample_string("disk0");
	r->power.kind = sample_string("floppy");
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EINVAL);
	assert_says(&e, "a device disk0 of kind 'floppy', which is unknown");
}

static void preflight_of_a_device_elsewhere_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->m.device[0].address = 0x2f8;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), -EINVAL);
	assert_says(&e, "device serial0 as a '16550' at 0x2f8");
}

static void preflight_to_advance_a_clock_that_is_none_is_refused(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	r->m.clock.seconds = INT64_MIN;
	write_snapshot(r);
	assert_int_equal(preflight(r, &e), 0);
	r->o.clock = CLOCK_MODE_ADVANCE;
	assert_int_equal(preflight(r, &e), -EINVAL);
	assert_says(&e, "--clock advance");
}

static void preflight_of_nothing_names_the_path(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	assert_int_equal(preflight(r, &e), -ENOENT);
	assert_says(&e, r->path);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(preflight_of_a_good_one_passes),
		WITH(preflight_reads_ram_unless_it_is_trusted),
		WITH(preflight_verifies_kept_disks_and_holds_them),
		WITH(preflight_of_layers_knows_what_they_are),
		WITH(preflight_of_damaged_layers_is_refused),
		WITH(preflight_of_hostile_maps_is_refused),
		WITH(preflight_ram_elsewhere_is_refused),
		WITH(preflight_ram_in_other_pieces_is_refused),
		WITH(preflight_all_that_differs_is_reported_together),
		WITH(preflight_bad_state_is_reported_together),
		WITH(preflight_of_an_unknown_kind_of_device_is_refused),
		WITH(preflight_of_a_device_elsewhere_is_refused),
		WITH(preflight_to_advance_a_clock_that_is_none_is_refused),
		WITH(preflight_of_nothing_names_the_path),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		puts("skipped: /dev/kvm cannot be opened here");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
