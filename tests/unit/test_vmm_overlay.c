/* Overlay files: layout, what is kept by a flush, hostile headers and maps. */
#include "unit.h"

#include "base/digest.h"
#include "base/io.h"
#include "vmm/virtio/overlay.h"

#define KIB  1024ULL
#define SIZE (100 * OVERLAY_BLOCK + 512) /* the last block is cut off */

static const uint8_t below_id[OVERLAY_ID_SIZE] = "the one below..";

/* A new overlay file `name`, formatted; its descriptor. */
static int make(const struct folder *f, const char *name)
{
	int fd = folder_file(f, name, "", 0);

	assert_int_equal(overlay_format(fd, SIZE, below_id, NULL), 0);
	return fd;
}

static int open_again(const struct folder *f, const char *name)
{
	int fd = openat(f->fd, name, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* ---- layout ---- */

static void layout_is_aligned_and_knows_its_limits(void **state)
{
	static const uint64_t bad[] = { 0, 1, 511, 513, OVERLAY_SIZE_MAX + 512, UINT64_MAX };
	struct overlay_header h;

	(void)state;
	assert_int_equal(overlay_layout(512, &h), 0);
	assert_int_equal(h.nblocks, 1);
	assert_int_equal(h.map_len, 1);
	assert_int_equal(h.data_offset, 8192);
	assert_int_equal(overlay_layout(64 << 20, &h), 0);
	assert_int_equal(h.map_len, 4096);
	assert_int_equal(h.data_offset, 8192);
	assert_int_equal(overlay_layout((64 << 20) + 512, &h), 0);
	assert_int_equal(h.map_len, 4097);
	assert_int_equal(h.data_offset, 12288);
	assert_int_equal(overlay_layout(OVERLAY_SIZE_MAX, &h), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(overlay_layout(bad[i], &h), -EINVAL);
}

static void format_then_open_gives_an_empty_overlay(void **state)
{
	const unsigned before = open_descriptors();
	struct overlay o;

	assert_int_equal(overlay_open(&o, make(*state, "o"), true, "o", NULL), 0);
	assert_int_equal(o.h.size, SIZE);
	assert_memory_equal(o.h.below, below_id, OVERLAY_ID_SIZE);
	assert_false(io_is_zero(o.h.id, OVERLAY_ID_SIZE));
	for (uint64_t b = 0; b < o.h.nblocks; b++)
		assert_int_equal(overlay_get(&o, b), OVERLAY_BELOW);
	overlay_close(&o);
	assert_int_equal(open_descriptors(), before);
}

/* ---- what a flush keeps ---- */

static void flush_then_open_gives_every_state_back(void **state)
{
	struct overlay o;

	assert_int_equal(overlay_open(&o, make(*state, "o"), true, "o", NULL), 0);
	overlay_set(&o, 3, 6, OVERLAY_DATA);
	overlay_set(&o, 5, 2, OVERLAY_ZEROS);
	overlay_set(&o, 8, 1, OVERLAY_BELOW);
	overlay_set(&o, 100, 1, OVERLAY_DATA);
	assert_int_equal(overlay_flush(&o), 0);
	assert_false(o.any_dirty);
	overlay_close(&o);
	assert_int_equal(overlay_open(&o, open_again(*state, "o"), false, "o", NULL), 0);
	for (uint64_t b = 0; b < o.h.nblocks; b++) {
		enum overlay_state want = b == 5 || b == 6		  ? OVERLAY_ZEROS
					  : (b >= 3 && b < 8) || b == 100 ? OVERLAY_DATA
									  : OVERLAY_BELOW;
		assert_int_equal(overlay_get(&o, b), want);
	}
	overlay_close(&o);
}

static void close_without_flush_keeps_the_last_flush(void **state)
{
	struct overlay o;

	assert_int_equal(overlay_open(&o, make(*state, "o"), true, "o", NULL), 0);
	overlay_set(&o, 0, 2, OVERLAY_DATA);
	assert_int_equal(overlay_flush(&o), 0);
	overlay_set(&o, 1, 3, OVERLAY_ZEROS);
	overlay_close(&o);
	assert_int_equal(overlay_open(&o, open_again(*state, "o"), false, "o", NULL), 0);
	assert_int_equal(overlay_get(&o, 0), OVERLAY_DATA);
	assert_int_equal(overlay_get(&o, 1), OVERLAY_DATA);
	assert_int_equal(overlay_get(&o, 2), OVERLAY_BELOW);
	overlay_close(&o);
}

static void map_of_several_pages_is_written_where_it_changed(void **state)
{
	const uint64_t size = 300ULL << 20, nblocks = size / OVERLAY_BLOCK;
	int fd = folder_file(*state, "big", "", 0);
	struct overlay o;
	struct stat st;

	assert_int_equal(overlay_format(fd, size, NULL, NULL), 0);
	assert_int_equal(overlay_open(&o, fd, true, "big", NULL), 0);
	assert_true(io_is_zero(o.h.below, OVERLAY_ID_SIZE));
	overlay_set(&o, nblocks - 1, 1, OVERLAY_DATA);
	overlay_set(&o, 3 * 16384 - 1, 2, OVERLAY_ZEROS); /* across two pages of the map */
	assert_int_equal(overlay_flush(&o), 0);
	assert_int_equal(fstat(o.fd, &st), 0);
	/* Header, three pages of map: sparse. */
	assert_in_range(st.st_blocks * 512, 4 * 4096, 16 * 4096);
	overlay_close(&o);
	assert_int_equal(overlay_open(&o, open_again(*state, "big"), false, "big", NULL), 0);
	for (uint64_t b = 0; b < nblocks; b++) {
		if (b == nblocks - 1)
			assert_int_equal(overlay_get(&o, b), OVERLAY_DATA);
		else if (b == 3 * 16384 - 1 || b == 3 * 16384)
			assert_int_equal(overlay_get(&o, b), OVERLAY_ZEROS);
		else if (overlay_get(&o, b) != OVERLAY_BELOW)
			fail_msg("block %llu", (unsigned long long)b);
	}
	overlay_close(&o);
}

static void flush_that_failed_fails_for_ever(void **state)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd;
	struct overlay o;

	assert_int_equal(overlay_open(&o, make(*state, "o"), true, "o", NULL), 0);
	overlay_set(&o, 0, 1, OVERLAY_DATA);
	/* /dev/null cannot be synced. */
	fd = o.fd;
	o.fd = null;
	assert_int_equal(overlay_flush(&o), -EINVAL);
	o.fd = fd;
	assert_int_equal(overlay_flush(&o), -EINVAL);
	close(null);
	overlay_close(&o);
}

static void freeze_leaves_no_way_to_write(void **state)
{
	const unsigned before = open_descriptors();
	struct overlay o;

	assert_int_equal(overlay_open(&o, make(*state, "o"), true, "o", NULL), 0);
	overlay_freeze(&o, openat(((struct folder *)*state)->fd, "o", O_RDONLY | O_CLOEXEC));
	assert_int_equal(fcntl(o.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(overlay_flush(&o), 0);
	overlay_close(&o);
	assert_int_equal(open_descriptors(), before);
}

/* ---- hostile files ---- */

/* The header with its digest made right again after a change. */
static void put_header(int fd, uint8_t *buf)
{
	assert_int_equal(digest_sha256(buf, OVERLAY_HEADER - DIGEST_SIZE,
				       buf + OVERLAY_HEADER - DIGEST_SIZE),
			 0);
	assert_int_equal(io_pwrite_full(fd, buf, OVERLAY_HEADER, 0), 0);
}

static void refuse(const struct folder *f, const char *words)
{
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	struct overlay o;

	assert_true(overlay_open(&o, open_again(f, "o"), false, "the.file", &e) < 0);
	assert_says(&e, words);
	assert_says(&e, "the.file");
	assert_int_equal(open_descriptors(), before);
}

static void open_of_bad_headers_says_what(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		const char *words;
		bool digest; /* made right again */
	} cases[] = {
		{ 0, 'X', "no overlay", true },
		{ 8, 2, "of version", true },
		{ 12, 512, "not allowed", true },
		{ 16, 0, "not allowed", true },
		{ 16, 513, "not allowed", true },
		{ 16, UINT64_MAX & ~511ULL, "not allowed", true },
		{ 16, 1ULL << 62, "not allowed", true },
		{ 16, SIZE + 4096, "bytes where an overlay", true },
		{ 24, 4096, "not allowed", true },
		{ 24, UINT64_MAX - 4095, "not allowed", true },
		{ 64, 1, "not allowed", true },
		{ 4056, 1, "not allowed", true },
		{ 16, SIZE + 512, "damaged", false },
		{ 32, 7, "damaged", false },
		{ 4064, 7, "damaged", false },
	};
	uint8_t good[OVERLAY_HEADER], buf[OVERLAY_HEADER];
	auto_fd int fd = make(*state, "o");

	assert_int_equal(io_pread_full(fd, good, sizeof(good), 0), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(buf, good, sizeof(buf));
		memcpy(buf + cases[i].at, &cases[i].value,
		       cases[i].at == 8 || cases[i].at == 12 ? 4 : 8);
		if (cases[i].digest)
			put_header(fd, buf);
		else
			assert_int_equal(io_pwrite_full(fd, buf, sizeof(buf), 0), 0);
		refuse(*state, cases[i].words);
	}
	memcpy(buf, good, sizeof(buf));
	memset(buf + 32, 0, OVERLAY_ID_SIZE);
	put_header(fd, buf);
	refuse(*state, "not allowed");
}

static void open_of_a_file_of_another_size_says_so(void **state)
{
	/* Downwards: what is cut off is gone. */
	static const off_t sizes[] = { 8192 + 102 * 4096,
				       8192 + 101 * 4096 + 1,
				       8192 + 101 * 4096 - 1,
				       8192,
				       4096,
				       4095,
				       1,
				       0 };
	auto_fd int fd = make(*state, "o");

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		refuse(*state, sizes[i] < 4096 ? "shorter" : "bytes where an overlay");
	}
}

static void open_of_an_impossible_map_says_so(void **state)
{
	static const struct {
		uint64_t at;
		uint8_t byte;
		bool good;
	} cases[] = {
		{ 0, 0x03, false },  { 0, 0x0c, false },  { 5, 0xc0, false }, { 0, 0x99, true },
		{ 25, 0x04, false }, { 25, 0x80, false }, { 25, 0x01, true }, { 25, 0x02, true },
	};
	auto_fd int fd = make(*state, "o");
	struct overlay o;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(io_pwrite_full(fd, &cases[i].byte, 1, 4096 + cases[i].at), 0);
		if (cases[i].good) {
			assert_int_equal(overlay_open(&o, open_again(*state, "o"), true, "o", NULL),
					 0);
			overlay_close(&o);
		} else {
			refuse(*state, "map is damaged");
		}
		assert_int_equal(io_pwrite_full(fd, "", 1, 4096 + cases[i].at), 0);
	}
	/* Beyond the map, before the data: nobody reads it. */
	assert_int_equal(io_pwrite_full(fd, "x", 1, 4096 + 26), 0);
	assert_int_equal(overlay_open(&o, open_again(*state, "o"), true, "o", NULL), 0);
	overlay_close(&o);
}

static void map_check_is_exact_about_lengths(void **state)
{
	const uint8_t map[3] = { 0x55, 0xaa, 0x01 };

	(void)state;
	assert_true(overlay_map_is_sane(map, 3, 9));
	assert_true(overlay_map_is_sane(map, 2, 8));
	assert_false(overlay_map_is_sane(map, 3, 8));
	assert_false(overlay_map_is_sane(map, 2, 9));
	assert_false(overlay_map_is_sane(map, 2, 7));
}

static void format_of_a_bad_size_says_so(void **state)
{
	auto_fd int fd = folder_file(*state, "o", "", 0);
	struct err e = { 0 };

	assert_int_equal(overlay_format(fd, 513, NULL, &e), -EINVAL);
	assert_says(&e, "513 bytes");
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout_is_aligned_and_knows_its_limits),
		IN_FOLDER(format_then_open_gives_an_empty_overlay),
		IN_FOLDER(flush_then_open_gives_every_state_back),
		IN_FOLDER(close_without_flush_keeps_the_last_flush),
		IN_FOLDER(map_of_several_pages_is_written_where_it_changed),
		IN_FOLDER(flush_that_failed_fails_for_ever),
		IN_FOLDER(freeze_leaves_no_way_to_write),
		IN_FOLDER(open_of_bad_headers_says_what),
		IN_FOLDER(open_of_a_file_of_another_size_says_so),
		IN_FOLDER(open_of_an_impossible_map_says_so),
		cmocka_unit_test(map_check_is_exact_about_lengths),
		IN_FOLDER(format_of_a_bad_size_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
