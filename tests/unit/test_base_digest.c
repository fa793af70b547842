/*
 * Digests. The oracle for fs-verity's is the program `fsverity digest`, of the
 * package fsverity; without it those tests are skipped.
 */
#include "unit.h"

#include <sys/mman.h>
#include <time.h>

#include "base/digest.h"
#include "base/merkle.h"
#include "base/text.h"

#define MIB (1ULL << 20)

/* ---- plain SHA-256 ---- */

static void assert_hex(const uint8_t digest[DIGEST_SIZE], const char *want)
{
	char hex[2 * DIGEST_SIZE + 1];

	assert_string_equal(text_format_hex(digest, DIGEST_SIZE, hex), want);
}

static void sha256_known_vectors_match(void **state)
{
	uint8_t d[DIGEST_SIZE];

	(void)state;
	assert_int_equal(digest_sha256("", 0, d), 0);
	assert_hex(d, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_int_equal(digest_sha256("abc", 3, d), 0);
	assert_hex(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void sha256_fd_is_that_of_the_whole_file(void **state)
{
	const size_t size = 3 * MIB + 5;
	auto_free uint8_t *bytes = malloc(size);
	uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];
	auto_fd int fd = -1;

	fill_random(bytes, size, 1);
	fd = folder_file(*state, "f", bytes, size);
	assert_int_equal(digest_sha256(bytes, size, a), 0);
	assert_int_equal(digest_sha256_fd(fd, b), 0); /* the descriptor stands at the end */
	assert_memory_equal(a, b, DIGEST_SIZE);
	assert_int_equal(digest_sha256_fd(-1, b), -EBADF);
}

/* ---- fs-verity, beside the oracle ---- */

static void need_fsverity(void)
{
	if (system("command -v fsverity >/dev/null 2>&1") == 0)
		return;
	print_message("fsverity (package fsverity) is not installed\n");
	skip();
}

/* What `fsverity digest` says of the file: "sha256:HEX PATH". */
static void ask_fsverity(const struct folder *f, const char *name, char hex[2 * DIGEST_SIZE + 1])
{
	char command[200];
	FILE *p;

	snprintf(command, sizeof(command), "fsverity digest %s/%s", f->path, name);
	p = popen(command, "r");
	assert_non_null(p);
	assert_int_equal(fscanf(p, "sha256:%64[0-9a-f]", hex), 1);
	assert_int_equal(pclose(p), 0);
}

static void assert_same_as_fsverity(const struct folder *f, const char *name)
{
	auto_fd int fd = openat(f->fd, name, O_RDONLY | O_CLOEXEC);
	char want[2 * DIGEST_SIZE + 1];
	uint8_t d[DIGEST_SIZE];
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(merkle_digest_fd(fd, (uint64_t)st.st_size, -1, NULL, d), 0);
	ask_fsverity(f, name, want);
	assert_hex(d, want);
}

static void verity_full_files_of_all_sizes_match_fsverity(void **state)
{
	static const size_t sizes[] = {
		0,	1,	4095, 4096,    4097,	     8192,     524287,	     524288,
		524289, 528384, MIB,  MIB + 1, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1, 67 * MIB + 123
	};
	const size_t most = 67 * MIB + 123;
	auto_free uint8_t *bytes = malloc(most);

	need_fsverity();
	fill_random(bytes, most, 2);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];
		auto_fd int fd = folder_file(*state, "f", bytes, sizes[i]);

		assert_same_as_fsverity(*state, "f");
		/* The same by way of memory. */
		assert_int_equal(merkle_digest(bytes, sizes[i], a), 0);
		assert_int_equal(merkle_digest_fd(fd, sizes[i], -1, NULL, b), 0);
		assert_memory_equal(a, b, DIGEST_SIZE);
	}
}

static void verity_of_a_beginning_is_that_of_the_shorter_file(void **state)
{
	uint8_t bytes[5 * 4096], a[DIGEST_SIZE], b[DIGEST_SIZE];
	auto_fd int fd = -1;

	fill_random(bytes, sizeof(bytes), 3);
	fd = folder_file(*state, "f", bytes, sizeof(bytes));
	for (size_t size = 0; size <= sizeof(bytes); size += 1365) {
		assert_int_equal(merkle_digest(bytes, size, a), 0);
		assert_int_equal(merkle_digest_fd(fd, size, -1, NULL, b), 0);
		assert_memory_equal(a, b, DIGEST_SIZE);
	}
}

/* A hole is bytes of zero, wherever it begins and ends. */
static void verity_holes_at_odd_places_match_fsverity(void **state)
{
	static const struct {
		uint64_t size;
		struct {
			uint64_t at, len;
		} data[4];
	} cases[] = {
		{ 1, { { 0 } } },			  /* nothing but a hole, short */
		{ 4096, { { 0 } } },			  /* one block of hole */
		{ 3 * MIB + 1, { { 0 } } },		  /* only holes */
		{ 3 * MIB, { { 0, 1 } } },		  /* data, then a hole */
		{ 3 * MIB + 77, { { 3 * MIB, 77 } } },	  /* hole up to the last, short block */
		{ 3 * MIB + 77, { { 3 * MIB - 1, 1 } } }, /* the last, short block is a hole */
		{ 3 * MIB + 77, { { 0, 4096 }, { 3 * MIB + 76, 1 } } },
		{ 5 * MIB + 4000, { { 4095, 2 }, { 524288 - 1, 2 }, { 5 * MIB - 1, 4001 } } },
		{ 2 * MIB,
		  { { 12288, 4096 },
		    { 20480, 4096 },
		    { 524288, 524288 },
		    { 2 * MIB - 4096, 4096 } } },
		{ 70 * MIB + 5, { { 64 * MIB - 4096, 8192 }, { 70 * MIB, 5 } } },
		{ 128 * 4096 + 1, { { 127 * 4096, 4096 } } },
	};

	need_fsverity();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_fd int fd = folder_file(*state, "f", "", 0);

		assert_int_equal(ftruncate(fd, (off_t)cases[i].size), 0);
		for (int j = 0; j < 4; j++) {
			auto_free uint8_t *bytes = malloc(cases[i].data[j].len + 1);

			fill_random(bytes, cases[i].data[j].len, (uint32_t)(i * 4) + (uint32_t)j);
			assert_int_equal(io_pwrite_full(fd, bytes, cases[i].data[j].len,
							cases[i].data[j].at),
					 0);
		}
		assert_same_as_fsverity(*state, "f");
	}
}

/* Where a file system's blocks are of 4 KiB, holes are too; on tmpfs as well: a memfd. */
static void verity_of_zeros_is_the_same_as_data_and_as_hole(void **state)
{
	const uint64_t size = 700 * 4096 + 9;
	auto_fd int hole = folder_file(*state, "hole", "", 0);
	auto_fd int data = folder_file(*state, "data", "", 0);
	auto_fd int memory = memfd_create("memory", MFD_CLOEXEC);
	auto_free uint8_t *zeros = calloc(1, size);
	uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE], c[DIGEST_SIZE], d[DIGEST_SIZE];

	assert_int_equal(ftruncate(hole, (off_t)size), 0);
	assert_int_equal(ftruncate(memory, (off_t)size), 0);
	assert_int_equal(io_pwrite_full(data, zeros, size, 0), 0);
	assert_int_equal(merkle_digest_fd(hole, size, -1, NULL, a), 0);
	assert_int_equal(merkle_digest_fd(data, size, -1, NULL, b), 0);
	assert_int_equal(merkle_digest_fd(memory, size, -1, NULL, c), 0);
	assert_int_equal(merkle_digest(zeros, size, d), 0);
	assert_memory_equal(a, b, DIGEST_SIZE);
	assert_memory_equal(a, c, DIGEST_SIZE);
	assert_memory_equal(a, d, DIGEST_SIZE);
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* Folds n hashes, level by level, into the root; slow and plain. */
static void plain_root(struct digest_hasher *h, uint8_t *hashes, uint64_t n)
{
	while (n > 1) {
		uint64_t up = (n + 127) / 128;

		for (uint64_t i = 0; i < up; i++) {
			const uint64_t left = n - i * 128;
			uint8_t block[4096] = { 0 };

			memcpy(block, hashes + i * 4096, (left < 128 ? left : 128) * DIGEST_SIZE);
			assert_int_equal(
				digest_hash_block(h, block, 4096, hashes + i * DIGEST_SIZE), 0);
		}
		n = up;
	}
}

/* The digest of fs-verity's descriptor for a file of `size` bytes. */
static void plain_digest(uint64_t size, const uint8_t root[DIGEST_SIZE], uint8_t out[DIGEST_SIZE])
{
	uint8_t descriptor[256] = { 1, 1, 12 };

	for (int i = 0; i < 8; i++)
		descriptor[8 + i] = (uint8_t)(size >> 8 * i);
	memcpy(descriptor + 16, root, DIGEST_SIZE);
	assert_int_equal(digest_sha256(descriptor, sizeof(descriptor), out), 0);
}

/*
 * Made of the same blocks one by one, as the reference; `fsverity digest` would
 * read all of the 8 GiB, which the long form of the tests has time for.
 */
static void verity_sparse_8_gib_does_not_read_its_holes(void **state)
{
	const uint64_t size = (8ULL << 30) + 4097;
	static const uint64_t data_at[] = { 0, 1ULL << 20, 0xffffffffULL & ~4095ULL, 1ULL << 32,
					    8ULL << 30 };
	auto_fd int fd = folder_file(*state, "f", "", 0);
	struct timespec start;
	uint8_t page[4096], zeros[4096] = { 0 }, want[DIGEST_SIZE], got[DIGEST_SIZE];
	const uint64_t blocks = size / 4096 + 1;
	auto_free uint8_t *hashes = malloc(blocks * DIGEST_SIZE);
	struct digest_hasher h;
	uint8_t zero[DIGEST_SIZE];
	double took;

	fill_random(page, sizeof(page), 5);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(io_pwrite_full(fd, page, 4096, data_at[i]), 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	assert_int_equal(merkle_digest_fd(fd, size, -1, NULL, got), 0);
	took = seconds_since(&start);
	/* Reading 8 GiB of holes and hashing them takes more than ten times as long. */
	if (took > 2)
		fail_msg("a sparse file of 8 GiB took %.1f s", took);

	assert_int_equal(digest_hasher_init(&h), 0);
	assert_int_equal(digest_hash_block(&h, zeros, 4096, zero), 0);
	for (uint64_t i = 0; i < blocks; i++)
		memcpy(hashes + i * DIGEST_SIZE, zero, DIGEST_SIZE);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(
			digest_hash_block(&h, page, 4096, hashes + data_at[i] / 4096 * DIGEST_SIZE),
			0);
	plain_root(&h, hashes, blocks);
	digest_hasher_free(&h);
	plain_digest(size, hashes, want);
	assert_memory_equal(got, want, DIGEST_SIZE);
	if (getenv("SNAPFS_TEST_LONG")) {
		need_fsverity();
		assert_same_as_fsverity(*state, "f");
	}
}

static void verity_file_shorter_than_size_is_enodata(void **state)
{
	auto_fd int fd = folder_file(*state, "f", "abc", 3);
	uint8_t d[DIGEST_SIZE];

	assert_int_equal(merkle_digest_fd(fd, 4, -1, NULL, d), -ENODATA);
	assert_int_equal(merkle_digest_fd(fd, 1ULL << 40, -1, NULL, d), -ENODATA);
	assert_int_equal(merkle_digest_fd(fd, UINT64_MAX, -1, NULL, d), -ENODATA);
	assert_int_equal(merkle_digest_fd(-1, 0, -1, NULL, d), -EBADF);
}

static void verity_every_flipped_bit_of_a_block_changes_it(void **state)
{
	uint8_t bytes[130] = { 0 }, a[DIGEST_SIZE], b[DIGEST_SIZE];

	(void)state;
	assert_int_equal(merkle_digest(bytes, sizeof(bytes), a), 0);
	for (size_t i = 0; i < 8 * sizeof(bytes); i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(merkle_digest(bytes, sizeof(bytes), b), 0);
		assert_memory_not_equal(a, b, DIGEST_SIZE);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

static void verity_length_is_part_of_the_digest(void **state)
{
	static const uint8_t zeros[4096];
	uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];

	(void)state;
	assert_int_equal(merkle_digest(zeros, 4095, a), 0);
	assert_int_equal(merkle_digest(zeros, 4096, b), 0);
	assert_memory_not_equal(a, b, DIGEST_SIZE);
}

static int note_progress(void *arg, uint64_t done, uint64_t total)
{
	uint64_t *last = arg;

	assert_int_equal(total, 5 * MIB);
	assert_true(done > *last && done <= total);
	*last = done;
	return 0;
}

static void verity_progress_grows_to_the_end(void **state)
{
	auto_free uint8_t *bytes = malloc(5 * MIB);
	uint64_t last = 0;
	struct io_progress progress = { .fn = note_progress, .arg = &last };
	uint8_t d[DIGEST_SIZE];
	auto_fd int fd = -1;

	fill_random(bytes, 5 * MIB, 6);
	fd = folder_file(*state, "f", bytes, 5 * MIB);
	assert_int_equal(merkle_digest_fd(fd, 5 * MIB, -1, &progress, d), 0);
	assert_int_equal(last, 5 * MIB);
}

static void hasher_free_after_free_is_harmless(void **state)
{
	struct digest_hasher h, like;

	(void)state;
	assert_int_equal(digest_hasher_init(&h), 0);
	assert_int_equal(digest_hasher_init_like(&like, &h), 0);
	digest_hasher_free(&h);
	digest_hasher_free(&h);
	digest_hasher_free(&like);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sha256_known_vectors_match),
		IN_FOLDER(sha256_fd_is_that_of_the_whole_file),
		IN_FOLDER(verity_full_files_of_all_sizes_match_fsverity),
		IN_FOLDER(verity_of_a_beginning_is_that_of_the_shorter_file),
		IN_FOLDER(verity_holes_at_odd_places_match_fsverity),
		IN_FOLDER(verity_of_zeros_is_the_same_as_data_and_as_hole),
		IN_FOLDER(verity_sparse_8_gib_does_not_read_its_holes),
		IN_FOLDER(verity_file_shorter_than_size_is_enodata),
		cmocka_unit_test(verity_every_flipped_bit_of_a_block_changes_it),
		cmocka_unit_test(verity_length_is_part_of_the_digest),
		IN_FOLDER(verity_progress_grows_to_the_end),
		cmocka_unit_test(hasher_free_after_free_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
