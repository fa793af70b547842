/* virtio-pmem: its file's rules, its place, flushes, a freeze, and its state. */
#include "virtio_driver.h"

#include <sys/file.h>
#include <sys/mman.h>

#include "vmm/ram_out.h"
#include "vmm/virtio/pmem.h"

#define MIB  (1ULL << 20)
#define GIB  (1ULL << 30)
#define SIZE (4 * MIB)

struct rig {
	struct folder *folder;
	char path[128]; /* of the file */
	int file;	/* a descriptor of the test's own */
	struct driver d;
	bool open;
	Device config;
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || folder_make((void **)&r->folder) < 0)
		return -1;
	*state = r;
	snprintf(r->path, sizeof(r->path), "%s/pmem", r->folder->path);
	r->file = folder_file(r->folder, "pmem", "content", 7);
	assert_int_equal(ftruncate(r->file, SIZE), 0);
	device__init(&r->config);
	r->config.path = r->path;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	if (r->open)
		driver_close(&r->d);
	close(r->file);
	free(r);
	return folder_remove(&folder);
}

static void open_pmem(struct rig *r)
{
	uint64_t end = DRIVER_RAM;

	driver_open(&r->d, &virtio_pmem_ops, &r->config);
	r->open = true;
	assert_int_equal(virtio_pmem_place(r->d.v, &end, NULL), 0);
	assert_int_equal(end, 4 * GIB + SIZE);
}

static int make_started(void **state)
{
	struct rig *r;
	int rc = make(state);

	if (rc < 0)
		return rc;
	r = *state;
	open_pmem(r);
	driver_start(&r->d, ALL_FEATURES);
	return 0;
}

static struct ram *memory(struct rig *r)
{
	return virtio_pmem_memory(r->d.v);
}

static void assert_refused(struct rig *r, const char *words)
{
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	struct driver d;

	assert_true(driver_try_open(&d, &virtio_pmem_ops, &r->config, &e) < 0);
	assert_says(&e, words);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_int_equal(open_descriptors(), before);
}

/* ---- the file ---- */

static void open_of_a_file_that_is_none_is_refused(void **state)
{
	struct rig *r = *state;

	snprintf(r->path, sizeof(r->path), "%s/other", r->folder->path);
	for (int ro = 0; ro < 2; ro++) {
		r->config.read_only = ro;
		assert_refused(r, "other: No such file or directory");
		assert_int_equal(mkfifoat(r->folder->fd, "other", 0600), 0);
		assert_refused(r, "is not a regular file");
		assert_int_equal(unlinkat(r->folder->fd, "other", 0), 0);
		assert_int_equal(mkdirat(r->folder->fd, "other", 0700), 0);
		assert_refused(r, "is not a regular file");
		assert_int_equal(unlinkat(r->folder->fd, "other", AT_REMOVEDIR), 0);
	}
}

static void open_of_a_size_that_is_no_multiple_of_2_mib_is_refused(void **state)
{
	static const off_t sizes[] = { 0, 1, 4096, 2 * MIB - 4096, 2 * MIB + 1 };
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		char words[64];

		assert_int_equal(ftruncate(r->file, sizes[i]), 0);
		snprintf(words, sizeof(words), "truncate -s %u ",
			 (unsigned)(sizes[i] / (off_t)(2 * MIB) + 1) * 2097152);
		assert_refused(r, words);
	}
}

static void open_of_another_size_than_the_machine_knows_is_refused(void **state)
{
	struct rig *r = *state;

	r->config.size = 2 * MIB;
	assert_refused(r, "has 4194304 bytes, the machine's pmem has 2097152");
	r->config.size = SIZE;
	open_pmem(r);
}

/* What says: this may be a snapshot's. To read it harms nobody. */
static void assert_is_read_and_not_written(struct rig *r, const char *words)
{
	r->config.read_only = false;
	assert_refused(r, words);
	r->config.read_only = true;
	open_pmem(r);
	driver_close(&r->d);
	r->open = false;
}

static void open_of_a_file_with_other_links_is_never_for_writing(void **state)
{
	struct rig *r = *state;

	assert_int_equal(linkat(r->folder->fd, "pmem", r->folder->fd, "snapshot", 0), 0);
	assert_is_read_and_not_written(r, "has other links");
}

static void open_of_a_file_without_write_permission_is_never_for_writing(void **state)
{
	struct rig *r = *state;

	assert_int_equal(fchmod(r->file, 0400), 0);
	assert_is_read_and_not_written(r, "is not writable");
}

static void open_of_a_copied_snapshots_file_is_never_for_writing(void **state)
{
	struct rig *r = *state;

	folder_put(r->folder, "manifest.bin", "", 0);
	assert_is_read_and_not_written(r, "lies in a folder with a manifest.bin");
	assert_int_equal(mkdirat(r->folder->fd, "disks", 0700), 0);
	assert_int_equal(renameat(r->folder->fd, "pmem", r->folder->fd, "disks/pmem"), 0);
	snprintf(r->path, sizeof(r->path), "%s/disks/pmem", r->folder->path);
	assert_is_read_and_not_written(r, "lies in a folder with a manifest.bin");
}

static void open_by_a_symbolic_link_is_never_for_writing(void **state)
{
	struct rig *r = *state;

	assert_int_equal(symlinkat("pmem", r->folder->fd, "link"), 0);
	snprintf(r->path, sizeof(r->path), "%s/link", r->folder->path);
	assert_is_read_and_not_written(r, "is a symbolic link");
}

static void open_of_what_another_machine_has_is_refused(void **state)
{
	struct rig *r = *state;
	struct driver second;
	struct err e = { 0 };

	open_pmem(r); /* for writing */
	assert_refused(r, "is in use by another machine");
	r->config.read_only = true;
	assert_refused(r, "is in use by another machine");
	driver_close(&r->d);
	open_pmem(r); /* for reading: by any number */
	assert_int_equal(driver_try_open(&second, &virtio_pmem_ops, &r->config, &e), 0);
	driver_close(&second);
	r->config.read_only = false;
	assert_refused(r, "is in use by another machine");
}

/* ---- its place ---- */

static uint64_t place(struct rig *r, uint64_t *end)
{
	struct err e = { 0 };

	if (virtio_pmem_place(r->d.v, end, &e) < 0)
		fail_msg("%s", e.text);
	return memory(r)->region[0].guest_address;
}

static void place_is_above_ram_and_4_gib_and_aligned(void **state)
{
	static const struct {
		uint64_t end, at;
	} cases[] = {
		{ 0, 4 * GIB },
		{ 3 * GIB, 4 * GIB },
		{ 4 * GIB, 4 * GIB },
		{ 4 * GIB + 1, 5 * GIB },
		{ 9 * GIB, 9 * GIB },
		{ 9 * GIB + 2 * MIB, 10 * GIB },
		{ VIRTIO_PMEM_END_MAX - GIB, VIRTIO_PMEM_END_MAX - GIB },
	};
	static const uint64_t too_high[] = { VIRTIO_PMEM_END_MAX - GIB + 1, VIRTIO_PMEM_END_MAX,
					     UINT64_MAX - GIB, UINT64_MAX };
	struct rig *r = *state;
	struct err e = { 0 };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t end = cases[i].end;

		assert_int_equal(place(r, &end), cases[i].at);
		assert_int_equal(end, cases[i].at + SIZE);
	}
	for (size_t i = 0; i < sizeof(too_high) / sizeof(too_high[0]); i++) {
		uint64_t end = too_high[i];

		assert_int_equal(virtio_pmem_place(r->d.v, &end, &e), -E2BIG);
		assert_says(&e, "device0 does not fit");
	}
}

static void config_space_says_where_it_is(void **state)
{
	struct rig *r = *state;
	uint64_t config[2];

	driver_get_config(&r->d, 0, config, sizeof(config));
	assert_int_equal(config[0], 4 * GIB);
	assert_int_equal(config[1], SIZE);
	driver_set_config(&r->d, 0, "\0\0\0", 4); /* is nobody's to write */
	driver_get_config(&r->d, 0, config, sizeof(config));
	assert_int_equal(config[0], 4 * GIB);
}

/* ---- flushes ---- */

static uint32_t request(struct rig *r, uint32_t type)
{
	uint32_t result = 0xdead;

	assert_int_equal(driver_request(&r->d, 0, &type, sizeof(type), &result, sizeof(result)),
			 sizeof(result));
	return result;
}

static void assert_file_has(struct rig *r, const char *text)
{
	char got[32];

	assert_int_equal(pread(r->file, got, strlen(text), 0), strlen(text));
	assert_memory_equal(got, text, strlen(text));
}

static void flush_of_a_writable_file_is_done_with_an_interrupt(void **state)
{
	struct rig *r = *state;

	assert_int_equal(memory(r)->backing, RAM_SHARED);
	assert_memory_equal(memory(r)->base, "content", 7);
	guest_write(memory(r), 4 * GIB, "changed", 7);
	driver_interrupts(&r->d);
	assert_int_equal(request(r, 0), 0);
	assert_int_equal(driver_interrupts(&r->d), 1);
	assert_file_has(r, "changed");
}

static void flush_that_fails_is_eio_to_the_guest(void **state)
{
	struct rig *r = *state;
	struct ram *m = memory(r);
	const int fd = m->fd;
	int pair[2];

	/* A descriptor that cannot be synced stands for a disk that fails. */
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	m->fd = pair[1];
	assert_int_equal(request(r, 0), 1);
	assert_int_equal(request(r, 0), 1);
	m->fd = fd;
	assert_int_equal(request(r, 0), 0);
	close(pair[0]);
	close(pair[1]);
}

static void requests_that_are_no_flush_are_eio(void **state)
{
	assert_int_equal(request(*state, 1), 1);
	assert_int_equal(request(*state, UINT32_MAX), 1);
}

static void requests_too_short_need_a_reset(void **state)
{
	static const struct driver_buf chains[][2] = {
		{ { 0x1000, 3 }, { 0x1000, 4 } },
		{ { 0x1000, 4 }, { 0x1000, 3 } },
		{ { DRIVER_RAM, 4 }, { 0x1000, 4 } },
		{ { 0x1000, 4 }, { UINT64_MAX - 2, 4 } },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++) {
		r->d.next = 2 * RAM_PAGE;
		driver_start(&r->d, ALL_FEATURES);
		guest_write(&r->d.ram, 0x1000, "\0\0\0", 4);
		driver_offer(&r->d.queue[0], chains[i], 1, 1);
		driver_kick(&r->d, 0);
		driver_run(&r->d);
		assert_true(driver_needs_reset(&r->d));
		assert_int_equal(driver_take(&r->d.queue[0], NULL), NO_HEAD);
	}
}

static void flushes_in_a_row_are_all_answered(void **state)
{
	struct rig *r = *state;
	const struct driver_buf buf[] = { { driver_alloc(&r->d, 4), 4 },
					  { driver_alloc(&r->d, 4), 4 } };

	for (int i = 0; i < 30; i++)
		driver_offer(&r->d.queue[0], buf, 1, 1);
	driver_kick(&r->d, 0);
	driver_run(&r->d);
	for (int i = 0; i < 30; i++)
		assert_int_not_equal(driver_take(&r->d.queue[0], NULL), NO_HEAD);
}

/* ---- read-only, frozen, restored ---- */

static void read_only_pmem_is_mapped_so(void **state)
{
	struct rig *r = *state;

	r->config.read_only = true;
	open_pmem(r);
	driver_start(&r->d, ALL_FEATURES);
	assert_true(memory(r)->read_only);
	assert_int_equal(ram_write(memory(r), 4 * GIB, "x", 1), -EROFS);
	assert_int_equal(fcntl(memory(r)->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(request(*state, 0), 0);
}

static void frozen_pmem_leaves_its_file_and_flushes_nothing(void **state)
{
	struct rig *r = *state;
	struct ram frozen = { .fd = -1 };
	struct ram_mapping old;
	auto_fd int out = memfd_create("out", MFD_CLOEXEC);
	char got[7];

	guest_write(memory(r), 4 * GIB, "frozen.", 7);
	assert_int_equal(ram_freeze_prepare(memory(r), &frozen, NULL), 0);
	ram_freeze_commit(memory(r), &frozen, &old);
	ram_release(&old);
	guest_write(memory(r), 4 * GIB, "goes on", 7);
	assert_int_equal(request(r, 0), 0);
	assert_file_has(r, "frozen.");
	/* A later save writes it out. */
	assert_int_equal(ram_write_out(memory(r), out, NULL), 0);
	assert_int_equal(pread(out, got, 7, 0), 7);
	assert_memory_equal(got, "goes on", 7);
	/* Its pages are read still: others may do so, too, and nobody may write it. */
	assert_int_equal(flock(r->file, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(flock(r->file, LOCK_SH | LOCK_NB), 0);
}

static void restored_pmem_is_private_and_where_it_was(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *buf = NULL;
	struct driver other;
	Device config = DEVICE__INIT;
	uint64_t end = 3 * GIB;
	struct err e = { 0 };
	size_t len;

	assert_int_equal(r->d.v->dev.ops->save(&r->d.v->dev, &buf, &len), 0);
	config.size = SIZE;
	driver_open(&other, &virtio_pmem_ops, &config);
	memcpy(other.ram.base, r->d.ram.base, DRIVER_RAM);
	assert_int_equal(
		virtio_pmem_map(other.v, open(r->path, O_RDONLY | O_CLOEXEC), RAM_PRIVATE, &e), 0);
	assert_int_equal(
		virtio_pmem_map(other.v, open(r->path, O_RDONLY | O_CLOEXEC), RAM_PRIVATE, &e),
		-EINVAL);
	assert_int_equal(virtio_pmem_place(other.v, &end, &e), 0);
	if (other.v->dev.ops->load(&other.v->dev, buf, len, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(driver_get(&other, VIRTIO_MMIO_STATUS),
			 driver_get(&r->d, VIRTIO_MMIO_STATUS));
	guest_write(virtio_pmem_memory(other.v), 4 * GIB, "clone's", 7);
	assert_file_has(r, "content");
	driver_close(&other);
}

static void restored_pmem_of_another_size_is_refused(void **state)
{
	struct rig *r = *state;
	const unsigned before = open_descriptors();
	struct driver other;
	Device config = DEVICE__INIT;
	struct err e = { 0 };

	assert_true(driver_try_open(&other, &virtio_pmem_ops, &config, &e) < 0);
	assert_says(&e, "needs a multiple of 2 MiB");
	config.size = 2 * SIZE;
	driver_open(&other, &virtio_pmem_ops, &config);
	assert_true(virtio_pmem_map(other.v, open(r->path, O_RDONLY | O_CLOEXEC), RAM_PRIVATE, &e) <
		    0);
	assert_says(&e, "device0 has 4194304 bytes, the machine's pmem has 8388608");
	driver_close(&other);
	assert_int_equal(open_descriptors(), before);
}

static void load_of_a_state_that_lies_elsewhere_is_refused(void **state)
{
	static const struct {
		uint64_t start, size;
	} bad[] = { { 5 * GIB, SIZE }, { 4 * GIB, 2 * SIZE }, { 0, 0 }, { UINT64_MAX, SIZE } };
	struct rig *r = *state;
	struct err e = { 0 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		PmemState s = PMEM_STATE__INIT;
		uint8_t buf[32];

		s.start = bad[i].start;
		s.size = bad[i].size;
		assert_int_equal(
			virtio_pmem_ops.load(r->d.v, 1, buf, pmem_state__pack(&s, buf), &e),
			-EINVAL);
		assert_says(&e, "device0 has its memory elsewhere");
	}
	assert_int_equal(virtio_pmem_ops.load(r->d.v, 1, (const uint8_t *)"\xff\xff", 2, &e),
			 -EINVAL);
	assert_says(&e, "device0 cannot be parsed");
}

#define ON(f)	   cmocka_unit_test_setup_teardown(f, make_started, drop)
#define ON_FILE(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_FILE(open_of_a_file_that_is_none_is_refused),
		ON_FILE(open_of_a_size_that_is_no_multiple_of_2_mib_is_refused),
		ON_FILE(open_of_another_size_than_the_machine_knows_is_refused),
		ON_FILE(open_of_a_file_with_other_links_is_never_for_writing),
		ON_FILE(open_of_a_file_without_write_permission_is_never_for_writing),
		ON_FILE(open_of_a_copied_snapshots_file_is_never_for_writing),
		ON_FILE(open_by_a_symbolic_link_is_never_for_writing),
		ON_FILE(open_of_what_another_machine_has_is_refused),
		ON(place_is_above_ram_and_4_gib_and_aligned),
		ON(config_space_says_where_it_is),
		ON(flush_of_a_writable_file_is_done_with_an_interrupt),
		ON(flush_that_fails_is_eio_to_the_guest),
		ON(requests_that_are_no_flush_are_eio),
		ON(requests_too_short_need_a_reset),
		ON(flushes_in_a_row_are_all_answered),
		ON_FILE(read_only_pmem_is_mapped_so),
		ON(frozen_pmem_leaves_its_file_and_flushes_nothing),
		ON(restored_pmem_is_private_and_where_it_was),
		ON(restored_pmem_of_another_size_is_refused),
		ON(load_of_a_state_that_lies_elsewhere_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
