/* Guest RAM: layout, the checked copies, freezing, pages that are not to be had. */
#include "unit.h"

#include <sys/mman.h>
#include <pthread.h>

#include "base/io.h"
#include "vmm/fault.h"
#include "vmm/ram.h"

#define GIB  (1ULL << 30)
#define SIZE (4ULL << 20)

/* ---- layout ---- */

static void layout_up_to_3_gib_is_one_region(void **state)
{
	static const uint64_t sizes[] = { RAM_PAGE, RAM_MIN, GIB, 3 * GIB };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct ram_region r[RAM_REGIONS];

		assert_int_equal(ram_layout(sizes[i], r), 1);
		assert_int_equal(r[0].guest_address, 0);
		assert_int_equal(r[0].size, sizes[i]);
		assert_int_equal(r[0].offset, 0);
	}
}

static void layout_above_3_gib_goes_on_at_4_gib(void **state)
{
	static const uint64_t sizes[] = { 3 * GIB + RAM_PAGE, 4 * GIB, 1024 * GIB };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct ram_region r[RAM_REGIONS];

		assert_int_equal(ram_layout(sizes[i], r), 2);
		assert_int_equal(r[0].guest_address, 0);
		assert_int_equal(r[0].size, 3 * GIB);
		assert_int_equal(r[0].offset, 0);
		assert_int_equal(r[1].guest_address, 4 * GIB);
		assert_int_equal(r[1].size, sizes[i] - 3 * GIB);
		assert_int_equal(r[1].offset, 3 * GIB);
	}
}

static void contains_knows_every_edge(void **state)
{
	static const struct {
		uint64_t address, len;
		bool is_ram;
	} cases[] = {
		{ 0, 1, true },
		{ 0, 3 * GIB, true },
		{ 0, 3 * GIB + 1, false },
		{ 3 * GIB - 1, 1, true },
		{ 3 * GIB - 1, 2, false }, /* into the hole */
		{ 3 * GIB, 1, false },
		{ 4 * GIB - 1, 1, false },
		{ 4 * GIB - 1, 2, false }, /* out of the hole */
		{ 4 * GIB, 1, true },
		{ 4 * GIB, 2 * GIB, true },
		{ 4 * GIB, 2 * GIB + 1, false },
		{ 6 * GIB - 1, 1, true },
		{ 6 * GIB - 1, 2, false },
		{ 6 * GIB, 1, false },
		{ 2 * GIB, 3 * GIB, false }, /* across the hole */
		{ UINT64_MAX, 1, false },
		{ UINT64_MAX, UINT64_MAX, false },
		{ 1, UINT64_MAX, false },
		{ 0, UINT64_MAX, false },
		{ 4 * GIB, UINT64_MAX - 4 * GIB + 1, false }, /* the sum is 0 */
		{ 6 * GIB - 4096, UINT64_MAX - 4095, false },
	};
	struct ram ram = { .size = 5 * GIB };

	(void)state;
	ram.nregions = ram_layout(ram.size, ram.region);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (ram_contains(&ram, cases[i].address, cases[i].len) != cases[i].is_ram)
			fail_msg("[0x%llx, + 0x%llx)", (unsigned long long)cases[i].address,
				 (unsigned long long)cases[i].len);
}

/* ---- copies ---- */

static int map_memfd(void **state)
{
	struct ram *ram = malloc(sizeof(*ram));

	*state = ram;
	return ram ? ram_map_memfd(ram, SIZE, NULL) : -1;
}

static int unmap(void **state)
{
	ram_unmap(*state);
	free(*state);
	return 0;
}

static unsigned pages_marked(const struct ram *ram)
{
	unsigned n = 0;

	for (uint64_t page = 0; page < ram->size / RAM_PAGE; page++)
		n += (unsigned)(ram->written[page / 64] >> page % 64) & 1;
	return n;
}

static bool is_marked(const struct ram *ram, uint64_t page)
{
	return ram->written[page / 64] >> page % 64 & 1;
}

static void write_then_read_gives_the_bytes_back(void **state)
{
	struct ram *ram = *state;
	uint8_t in[10000], out[10000];

	fill_random(in, sizeof(in), 1);
	assert_int_equal(ram_write(ram, 4095, in, sizeof(in)), 0);
	assert_int_equal(ram_read(ram, 4095, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(ram_write(ram, SIZE - sizeof(in), in, sizeof(in)), 0);
	assert_memory_equal(ram->base + SIZE - sizeof(in), in, sizeof(in));
}

static void write_marks_each_page_it_touches_and_no_other(void **state)
{
	struct ram *ram = *state;

	assert_int_equal(pages_marked(ram), 0);
	assert_int_equal(ram_write(ram, 5 * RAM_PAGE, "x", 1), 0);
	assert_true(is_marked(ram, 5));
	assert_int_equal(pages_marked(ram), 1);
	assert_int_equal(ram_write(ram, 64 * RAM_PAGE - 1, "xy", 2), 0);
	assert_true(is_marked(ram, 63) && is_marked(ram, 64));
	assert_int_equal(pages_marked(ram), 3);
	assert_int_equal(ram_write(ram, SIZE - 1, "x", 1), 0);
	assert_true(is_marked(ram, SIZE / RAM_PAGE - 1));
	assert_int_equal(pages_marked(ram), 4);
	/* Nothing written, nothing marked; and reading marks nothing. */
	assert_int_equal(ram_write(ram, 9 * RAM_PAGE, "", 0), 0);
	assert_int_equal(ram_write(ram, SIZE, "xy", 1), -EINVAL);
	assert_int_equal(ram_read(ram, 9 * RAM_PAGE, (char[1]){ 0 }, 1), 0);
	assert_int_equal(pages_marked(ram), 4);
}

static void copies_outside_ram_are_einval_and_copy_nothing(void **state)
{
	struct ram *ram = *state;
	char buf[8] = "before";

	assert_int_equal(ram_write(ram, SIZE - 1, "12345", 5), -EINVAL);
	assert_int_equal(ram->base[SIZE - 1], 0);
	assert_int_equal(ram_read(ram, SIZE - 1, buf, 2), -EINVAL);
	assert_int_equal(ram_read(ram, UINT64_MAX, buf, 2), -EINVAL);
	assert_int_equal(ram_read(ram, 3 * GIB, buf, 1), -EINVAL);
	assert_string_equal(buf, "before");
}

static void copies_above_4_gib_reach_the_second_region(void **state)
{
	struct ram ram;
	char got[4];

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, 3 * GIB + SIZE, NULL), 0);
	assert_int_equal(ram_write(&ram, 4 * GIB + 5, "high", 4), 0);
	assert_memory_equal(ram.base + 3 * GIB + 5, "high", 4);
	assert_int_equal(ram_write(&ram, 3 * GIB - 4, "low.", 4), 0);
	assert_int_equal(ram_read(&ram, 4 * GIB + 5, got, 4), 0);
	assert_memory_equal(got, "high", 4);
	assert_true(is_marked(&ram, 3 * GIB / RAM_PAGE));
	assert_int_equal(ram_write(&ram, 3 * GIB - 2, "over", 4), -EINVAL);
	ram_unmap(&ram);
}

static void map_of_a_bad_descriptor_fails_and_takes_it(void **state)
{
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	struct ram ram;
	int pair[2];

	(void)state;
	assert_int_equal(pipe(pair), 0);
	assert_true(ram_map(&ram, RAM_SHARED, pair[0], SIZE, &e) < 0);
	assert_says(&e, "cannot map guest RAM");
	close(pair[1]);
	ram_unmap(&ram); /* of what was never mapped: harmless */
	assert_int_equal(open_descriptors(), before);
}

/* ---- freezing ---- */

struct shared {
	void *folder; /* first: its fixture */
	struct ram ram;
	int file; /* a descriptor of the test's own */
};

static int map_shared(void **state)
{
	struct shared *s = calloc(1, sizeof(*s));

	if (!s || folder_make(&s->folder) < 0)
		return -1;
	s->file = folder_file(s->folder, "ram", "", 0);
	*state = s;
	if (ftruncate(s->file, SIZE) < 0)
		return -1;
	return ram_map(&s->ram, RAM_SHARED, fcntl(s->file, F_DUPFD_CLOEXEC, 0), SIZE, NULL);
}

static int unmap_shared(void **state)
{
	struct shared *s = *state;
	void *folder = s->folder;

	ram_unmap(&s->ram);
	close(s->file);
	free(s);
	return folder_remove(&folder);
}

static void assert_file_has(int fd, uint64_t at, const char *text)
{
	char got[64];

	assert_int_equal(io_pread_full(fd, got, strlen(text), at), 0);
	assert_memory_equal(got, text, strlen(text));
}

static void freeze_keeps_the_file_while_ram_goes_on(void **state)
{
	struct shared *s = *state;
	const unsigned before = open_descriptors();
	struct ram frozen = { .fd = -1 };
	struct ram_mapping old;
	struct err e = { 0 };
	char got[7];

	assert_int_equal(ram_write(&s->ram, 100, "frozen", 6), 0);
	assert_int_equal(ram_write(&s->ram, SIZE - 6, "at end", 6), 0);
	assert_int_equal(ram_freeze_prepare(&s->ram, &frozen, &e), 0);
	/* The guest still runs between the two steps: what it writes is in the snapshot. */
	assert_int_equal(ram_write(&s->ram, RAM_PAGE, "between", 7), 0);
	ram_freeze_commit(&s->ram, &frozen, &old);
	assert_int_equal(s->ram.backing, RAM_PRIVATE);
	assert_int_equal(pages_marked(&s->ram), 0);
	assert_int_equal(ram_read(&s->ram, RAM_PAGE, got, 7), 0);
	assert_memory_equal(got, "between", 7);
	assert_int_equal(ram_write(&s->ram, 100, "later.", 6), 0);
	assert_int_equal(ram_write(&s->ram, 2 * RAM_PAGE, "new", 3), 0);
	ram_release(&old);
	ram_release(&old); /* harmless */
	assert_int_equal(ram_read(&s->ram, 100, got, 6), 0);
	assert_memory_equal(got, "later.", 6);
	assert_file_has(s->file, 100, "frozen");
	assert_file_has(s->file, RAM_PAGE, "between");
	assert_file_has(s->file, SIZE - 6, "at end");
	assert_file_has(s->file, 2 * RAM_PAGE, "\0\0\0");
	/* One for one: the machine holds the file by a descriptor that cannot write it. */
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(fcntl(s->ram.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
}

static void freeze_not_committed_changes_nothing(void **state)
{
	struct shared *s = *state;
	const unsigned before = open_descriptors();
	struct ram frozen;

	assert_int_equal(ram_freeze_prepare(&s->ram, &frozen, NULL), 0);
	ram_unmap(&frozen);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(ram_write(&s->ram, 0, "shared", 6), 0);
	assert_file_has(s->file, 0, "shared");
}

static void release_of_more_than_one_piece_unmaps_all(void **state)
{
	struct ram ram, frozen = { .fd = -1 };
	struct ram_mapping old;
	uint8_t *base, resident;
	const uint64_t size = 130ULL << 20; /* two pieces and a bit */

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, size, NULL), 0);
	ram.backing = RAM_SHARED;
	base = ram.base;
	assert_int_equal(ram_freeze_prepare(&ram, &frozen, NULL), 0);
	ram_freeze_commit(&ram, &frozen, &old);
	ram_release(&old);
	for (uint64_t at = 0; at < size; at += 1 << 20) {
		assert_int_equal(mincore(base + at, RAM_PAGE, &resident), -1);
		assert_int_equal(errno, ENOMEM);
	}
	ram_unmap(&ram);
}

/* ---- giving pages back ---- */

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void write_marks_a_long_run_of_pages_and_no_other(void **state)
{
	struct ram *ram = *state;
	auto_free uint8_t *buf = calloc(1, 200 * RAM_PAGE);

	assert_int_equal(ram_write(ram, 61 * RAM_PAGE + 1, buf, 200 * RAM_PAGE), 0);
	for (uint64_t page = 0; page < SIZE / RAM_PAGE; page++)
		assert_int_equal(is_marked(ram, page), page >= 61 && page <= 261);
}

static void discard_of_a_memfd_makes_a_hole_and_marks_it(void **state)
{
	struct ram *ram = *state;
	auto_free uint8_t *buf = malloc(8 * RAM_PAGE);
	uint64_t before;

	memset(buf, 0xaa, 8 * RAM_PAGE);
	assert_int_equal(ram_write(ram, 16 * RAM_PAGE, buf, 8 * RAM_PAGE), 0);
	memset(ram->written, 0, SIZE / RAM_PAGE / 8);
	before = blocks(ram->fd);
	assert_int_equal(ram_discard(ram, 17 * RAM_PAGE, 3 * RAM_PAGE), 0);
	assert_int_equal(before - blocks(ram->fd), 3 * RAM_PAGE);
	assert_int_equal(pages_marked(ram), 3);
	assert_true(is_marked(ram, 17) && is_marked(ram, 19));
	assert_int_equal(ram_read(ram, 16 * RAM_PAGE, buf, 8 * RAM_PAGE), 0);
	assert_int_equal(buf[0], 0xaa);
	assert_true(io_is_zero(buf + RAM_PAGE, 3 * RAM_PAGE));
	assert_int_equal(buf[4 * RAM_PAGE], 0xaa);
	/* And is there again when it is touched. */
	assert_int_equal(ram_write(ram, 18 * RAM_PAGE, "back", 4), 0);
}

static void discard_takes_whole_pages_of_one_region_alone(void **state)
{
	static const struct {
		uint64_t address, len;
	} bad[] = {
		{ 1, RAM_PAGE },
		{ 0, RAM_PAGE - 1 },
		{ 0, 1 },
		{ SIZE, RAM_PAGE },
		{ SIZE - RAM_PAGE, 2 * RAM_PAGE },
		{ 3 * GIB, RAM_PAGE },
		{ UINT64_MAX - 4095, RAM_PAGE },
		{ 0, UINT64_MAX - 4095 },
	};
	struct ram *ram = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ram_discard(ram, bad[i].address, bad[i].len), -EINVAL);
	assert_int_equal(ram_discard(ram, 0, 0), 0);
	assert_int_equal(pages_marked(ram), 0);
}

static void discard_of_shared_ram_asks_whether_it_may_punch(void **state)
{
	struct shared *s = *state;
	uint64_t before;

	assert_int_equal(fallocate(s->file, 0, 0, SIZE), 0);
	assert_int_equal(ram_write(&s->ram, 5 * RAM_PAGE, "data", 4), 0);
	before = blocks(s->file);
	assert_int_equal(ram_discard(&s->ram, 5 * RAM_PAGE, RAM_PAGE), -EOPNOTSUPP);
	assert_file_has(s->file, 5 * RAM_PAGE, "data");
	assert_int_equal(blocks(s->file), before);
	s->ram.may_punch = true;
	assert_int_equal(ram_discard(&s->ram, 0, SIZE), 0);
	assert_true(blocks(s->file) < before);
	assert_file_has(s->file, 5 * RAM_PAGE, "\0\0\0");
}

static void discard_of_private_ram_shows_the_file_again_and_keeps_it(void **state)
{
	struct shared *s = *state;
	struct ram frozen = { .fd = -1 };
	struct ram_mapping old;
	uint64_t before;
	char got[7];

	assert_int_equal(ram_write(&s->ram, 2 * RAM_PAGE, "frozen", 6), 0);
	s->ram.may_punch = true;
	assert_int_equal(ram_freeze_prepare(&s->ram, &frozen, NULL), 0);
	ram_freeze_commit(&s->ram, &frozen, &old);
	ram_release(&old);
	before = blocks(s->file);
	assert_int_equal(ram_write(&s->ram, 2 * RAM_PAGE, "later.", 6), 0);
	memset(s->ram.written, 0, SIZE / RAM_PAGE / 8);
	assert_int_equal(ram_discard(&s->ram, 2 * RAM_PAGE, RAM_PAGE), 0);
	assert_true(is_marked(&s->ram, 2)); /* it is not what it was */
	assert_int_equal(ram_read(&s->ram, 2 * RAM_PAGE, got, 6), 0);
	assert_memory_equal(got, "frozen", 6);
	assert_int_equal(ram_discard(&s->ram, 0, SIZE), 0);
	assert_file_has(s->file, 2 * RAM_PAGE, "frozen");
	assert_int_equal(blocks(s->file), before);
}

static unsigned mappings(void)
{
	auto_file FILE *f = fopen("/proc/self/maps", "re");
	unsigned n = 0;

	assert_non_null(f);
	for (int c; (c = fgetc(f)) != EOF;)
		n += c == '\n';
	return n;
}

static void discard_of_every_other_page_splits_no_mapping(void **state)
{
	struct ram *ram = *state;
	const unsigned before = mappings();

	for (uint64_t at = 0; at < SIZE; at += 2 * RAM_PAGE)
		assert_int_equal(ram_discard(ram, at, RAM_PAGE), 0);
	assert_in_range(mappings(), before - 2, before + 2);
}

static void map_at_has_one_region_where_it_is_told(void **state)
{
	struct ram ram;

	(void)state;
	assert_int_equal(ram_map_at(&ram, RAM_MEMFD, memfd_create("pmem", MFD_CLOEXEC), SIZE,
				    5 * GIB, false, NULL),
			 0);
	assert_int_equal(ftruncate(ram.fd, SIZE), 0);
	assert_int_equal(ram_end(&ram), 5 * GIB + SIZE);
	assert_true(ram_contains(&ram, 5 * GIB, SIZE));
	assert_false(ram_contains(&ram, 0, 1));
	assert_int_equal(ram_write(&ram, 5 * GIB + 7, "here", 4), 0);
	assert_memory_equal(ram.base + 7, "here", 4);
	assert_int_equal(ram_discard(&ram, 5 * GIB, RAM_PAGE), 0);
	assert_int_equal(ram.base[7], 0);
	ram_unmap(&ram);
}

static void map_at_read_only_is_not_written(void **state)
{
	struct shared *s = *state;
	struct ram ram;
	char got[4];

	assert_int_equal(pwrite(s->file, "file", 4, 0), 4);
	assert_int_equal(ram_map_at(&ram, RAM_SHARED, open(io_fd_path(s->file).text, O_RDONLY),
				    SIZE, 4 * GIB, true, NULL),
			 0);
	assert_int_equal(ram.backing, RAM_PRIVATE);
	assert_int_equal(ram_write(&ram, 4 * GIB, "x", 1), -EROFS);
	assert_int_equal(ram_write(&ram, 0, "x", 1), -EINVAL);
	assert_int_equal(ram_discard(&ram, 4 * GIB, RAM_PAGE), -EROFS);
	assert_int_equal(ram_read(&ram, 4 * GIB, got, 4), 0);
	assert_memory_equal(got, "file", 4);
	ram_unmap(&ram);
}

/*
 * ---- pages that cannot be had ----
 * Each of these tests installs the handler itself: cmocka puts one of its own in
 * its place for every test.
 */

static void copies_of_a_truncated_file_are_efault_and_work_again(void **state)
{
	struct shared *s = *state;
	char got[8] = "";

	assert_int_equal(fault_install(), 0);
	assert_int_equal(ram_write(&s->ram, 5 * RAM_PAGE, "kept", 4), 0);
	for (int round = 0; round < 3; round++) { /* each time anew: the guard is put back */
		assert_int_equal(ftruncate(s->file, RAM_PAGE), 0);
		assert_int_equal(ram_read(&s->ram, 5 * RAM_PAGE, got, 4), -EFAULT);
		assert_int_equal(ram_write(&s->ram, 5 * RAM_PAGE, "lost", 4), -EFAULT);
		/* Half of it is there. */
		assert_int_equal(ram_write(&s->ram, RAM_PAGE - 2, "half", 4), -EFAULT);
		assert_int_equal(ram_write(&s->ram, 0, "first", 5), 0);
		assert_int_equal(ram_read(&s->ram, 0, got, 5), 0);
		assert_memory_equal(got, "first", 5);
		assert_int_equal(ftruncate(s->file, SIZE), 0);
		assert_int_equal(ram_read(&s->ram, 5 * RAM_PAGE, got, 4), 0);
		assert_memory_equal(got, "\0\0\0\0", 4); /* truncated away */
		assert_int_equal(ram_write(&s->ram, 5 * RAM_PAGE, "again", 5), 0);
		assert_file_has(s->file, 5 * RAM_PAGE, "again");
	}
}

static void write_that_faults_still_marks_its_pages(void **state)
{
	struct shared *s = *state;

	assert_int_equal(fault_install(), 0);
	assert_int_equal(ftruncate(s->file, 0), 0);
	assert_int_equal(ram_write(&s->ram, 7 * RAM_PAGE, "x", 1), -EFAULT);
	assert_true(is_marked(&s->ram, 7));
}

static void *fault_often(void *arg)
{
	struct ram *ram = arg;
	char byte;

	for (int i = 0; i < 2000; i++)
		if (ram_read(ram, 3 * RAM_PAGE, &byte, 1) != -EFAULT)
			return ram;
	return NULL;
}

static void faults_in_several_threads_do_not_meet(void **state)
{
	struct shared *s = *state;
	pthread_t thread[4];

	assert_int_equal(fault_install(), 0);
	assert_int_equal(ftruncate(s->file, RAM_PAGE), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fault_often, &s->ram), 0);
	for (int i = 0; i < 4; i++) {
		void *failed;

		assert_int_equal(pthread_join(thread[i], &failed), 0);
		assert_null(failed);
	}
}

static void fault_copy_survives_on_either_side(void **state)
{
	struct shared *s = *state;
	uint8_t *base = s->ram.base;
	char buf[64] = "in";

	assert_int_equal(fault_install(), 0);
	assert_int_equal(fault_copy(base, buf, sizeof(buf)), 0);
	assert_memory_equal(base, buf, sizeof(buf));
	assert_int_equal(ftruncate(s->file, RAM_PAGE), 0);
	assert_int_equal(fault_copy(base + RAM_PAGE, buf, sizeof(buf)), -EFAULT);
	assert_int_equal(fault_copy(buf, base + RAM_PAGE, sizeof(buf)), -EFAULT);
	assert_int_equal(fault_copy(base + RAM_PAGE, base, sizeof(buf)), -EFAULT);
	assert_int_equal(fault_copy(base, base + RAM_PAGE, 0), 0);
	assert_int_equal(fault_copy(buf, base, sizeof(buf)), 0);
}

#define ON_MEMFD(f)  cmocka_unit_test_setup_teardown(f, map_memfd, unmap)
#define ON_SHARED(f) cmocka_unit_test_setup_teardown(f, map_shared, unmap_shared)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout_up_to_3_gib_is_one_region),
		cmocka_unit_test(layout_above_3_gib_goes_on_at_4_gib),
		cmocka_unit_test(contains_knows_every_edge),
		ON_MEMFD(write_then_read_gives_the_bytes_back),
		ON_MEMFD(write_marks_each_page_it_touches_and_no_other),
		ON_MEMFD(copies_outside_ram_are_einval_and_copy_nothing),
		cmocka_unit_test(copies_above_4_gib_reach_the_second_region),
		cmocka_unit_test(map_of_a_bad_descriptor_fails_and_takes_it),
		ON_SHARED(freeze_keeps_the_file_while_ram_goes_on),
		ON_SHARED(freeze_not_committed_changes_nothing),
		cmocka_unit_test(release_of_more_than_one_piece_unmaps_all),
		ON_MEMFD(write_marks_a_long_run_of_pages_and_no_other),
		ON_MEMFD(discard_of_a_memfd_makes_a_hole_and_marks_it),
		ON_MEMFD(discard_takes_whole_pages_of_one_region_alone),
		ON_SHARED(discard_of_shared_ram_asks_whether_it_may_punch),
		ON_SHARED(discard_of_private_ram_shows_the_file_again_and_keeps_it),
		ON_MEMFD(discard_of_every_other_page_splits_no_mapping),
		cmocka_unit_test(map_at_has_one_region_where_it_is_told),
		ON_SHARED(map_at_read_only_is_not_written),
		ON_SHARED(copies_of_a_truncated_file_are_efault_and_work_again),
		ON_SHARED(write_that_faults_still_marks_its_pages),
		ON_SHARED(faults_in_several_threads_do_not_meet),
		ON_SHARED(fault_copy_survives_on_either_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
