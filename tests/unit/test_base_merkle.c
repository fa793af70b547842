/*
 * Trees. The oracle for their bytes is `fsverity digest --out-merkle-tree`, of the
 * package fsverity; without it that test is skipped.
 */
#include "unit.h"

#include "base/merkle.h"

#define MIB (1ULL << 20)

static const uint64_t sizes[] = { 0,
				  1,
				  4095,
				  4096,
				  4097,
				  8192,
				  128 * 4096,
				  128 * 4096 + 1,
				  3 * MIB + 17,
				  64 * MIB,
				  64 * MIB + 1,
				  130 * MIB + 5 };
#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))

/* A file of random bytes. */
static int random_file(struct folder *f, const char *name, uint64_t size)
{
	auto_free uint8_t *bytes = malloc(size ? size : 1);

	assert_non_null(bytes);
	fill_random(bytes, size, (unsigned)size);
	return folder_file(f, name, bytes, size);
}

static int empty_file(struct folder *f, const char *name)
{
	return folder_file(f, name, "", 0);
}

/* A tree file's bytes, the caller's to free. */
static uint8_t *read_tree(int fd, uint64_t size)
{
	uint8_t *tree = malloc(size ? size : 1);

	assert_non_null(tree);
	assert_int_equal(io_pread_full(fd, tree, size, 0), 0);
	return tree;
}

static int reopen(int fd)
{
	int again = open(io_fd_path(fd).text, O_RDWR | O_CLOEXEC);

	assert_true(again >= 0);
	return again;
}

static void layouts_are_fs_veritys(void **state)
{
	struct merkle m;

	(void)state;
	merkle_layout(&m, 0);
	assert_int_equal(m.tree_size, 0);
	merkle_layout(&m, 4096);
	assert_int_equal(m.tree_size, 0);
	merkle_layout(&m, 4097);
	assert_int_equal(m.tree_size, 4096);
	merkle_layout(&m, 128 * 4096 + 1);
	assert_int_equal(m.nlevels, 2);
	assert_int_equal(m.level[1].at, 0);
	assert_int_equal(m.level[0].at, 4096);
	assert_int_equal(m.tree_size, 3 * 4096);
	merkle_layout(&m, UINT64_MAX);
	assert_int_equal(m.nlevels, MERKLE_LEVELS);
}

static void trees_are_those_of_fsverity(void **state)
{
	struct folder *f = *state;

	if (system("command -v fsverity >/dev/null 2>&1") != 0) {
		print_message("fsverity (package fsverity) is not installed\n");
		skip();
	}
	for (size_t i = 0; i < NSIZES; i++) {
		auto_fd int fd = random_file(f, "f", sizes[i]), tree = empty_file(f, "mine");
		char command[300], hex[2 * DIGEST_SIZE + 1];
		uint8_t digest[DIGEST_SIZE];
		auto_free uint8_t *mine = NULL, *theirs = NULL;
		auto_fd int oracle = -1;
		struct merkle m;
		struct stat st;

		assert_int_equal(merkle_digest_fd(fd, sizes[i], tree, NULL, digest), 0);
		merkle_layout(&m, sizes[i]);
		assert_int_equal(fstat(tree, &st), 0);
		assert_int_equal(st.st_size, m.tree_size);
		snprintf(command, sizeof(command),
			 "fsverity digest --compact --out-merkle-tree=%s/theirs %s/f >%s/hex",
			 f->path, f->path, f->path);
		assert_int_equal(system(command), 0);
		oracle = openat(f->fd, "theirs", O_RDONLY | O_CLOEXEC);
		assert_true(oracle >= 0);
		assert_int_equal(fstat(oracle, &st), 0);
		assert_int_equal(st.st_size, m.tree_size);
		mine = read_tree(tree, m.tree_size);
		theirs = read_tree(oracle, m.tree_size);
		assert_memory_equal(mine, theirs, m.tree_size);
		close(oracle);
		oracle = openat(f->fd, "hex", O_RDONLY | O_CLOEXEC);
		assert_int_equal(io_pread_full(oracle, hex, 2 * DIGEST_SIZE, 0), 0);
		for (size_t k = 0; k < DIGEST_SIZE; k++) {
			char two[3];

			snprintf(two, sizeof(two), "%02x", digest[k]);
			assert_memory_equal(hex + 2 * k, two, 2);
		}
		unlinkat(f->fd, "f", 0);
		unlinkat(f->fd, "mine", 0);
	}
}

/* Reads the whole file by pieces of 128 KiB and has each checked: the first failure. */
static int check_all(struct merkle_reader *r, int fd, uint64_t size, uint64_t *bad)
{
	auto_free uint8_t *buf = malloc(128 * 1024);

	for (uint64_t at = 0; at < size; at += 128 * 1024) {
		const size_t len = size - at < 128 * 1024 ? (size_t)(size - at) : 128 * 1024;
		int rc;

		assert_int_equal(io_pread_full(fd, buf, len, at), 0);
		rc = merkle_check(r, at, buf, len, bad);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void flip(int fd, uint64_t at)
{
	uint8_t byte;

	assert_int_equal(io_pread_full(fd, &byte, 1, at), 0);
	byte ^= 1;
	assert_int_equal(io_pwrite_full(fd, &byte, 1, at), 0);
}

static void blocks_are_checked_and_a_flipped_bit_is_found(void **state)
{
	for (size_t i = 0; i < NSIZES; i++) {
		const uint64_t size = sizes[i], last = size ? (size - 1) / 4096 : 0;
		const uint64_t at[] = { 0, last / 2, last };
		auto_fd int fd = random_file(*state, "f", size), tree = empty_file(*state, "t");
		uint8_t digest[DIGEST_SIZE];
		struct merkle_reader *r;
		uint64_t bad = 0;

		assert_int_equal(merkle_digest_fd(fd, size, tree, NULL, digest), 0);
		assert_int_equal(merkle_open(&r, reopen(tree), size, digest), 0);
		assert_int_equal(check_all(r, fd, size, &bad), 0);
		for (size_t k = 0; size && k < 3; k++) {
			flip(fd, at[k] * 4096);
			assert_int_equal(check_all(r, fd, size, &bad), -EBADMSG);
			assert_int_equal(bad, at[k]);
			flip(fd, at[k] * 4096);
		}
		assert_int_equal(check_all(r, fd, size, &bad), 0);
		merkle_close(r);
		unlinkat(((struct folder *)*state)->fd, "f", 0);
		unlinkat(((struct folder *)*state)->fd, "t", 0);
	}
}

static void a_damaged_tree_is_found_and_never_believed(void **state)
{
	const uint64_t size = 130 * MIB + 5;
	auto_fd int fd = random_file(*state, "f", size), tree = empty_file(*state, "t");
	uint8_t digest[DIGEST_SIZE], other[DIGEST_SIZE];
	struct merkle_reader *r;
	struct merkle m;
	uint64_t bad;

	merkle_layout(&m, size);
	assert_int_equal(merkle_digest_fd(fd, size, tree, NULL, digest), 0);
	for (unsigned level = 0; level < m.nlevels; level++) {
		const uint64_t at = m.level[level].at + (m.level[level].blocks - 1) * 4096;
		int rc;

		flip(tree, at);
		rc = merkle_open(&r, reopen(tree), size, digest);
		assert_int_equal(rc, level == m.nlevels - 1 ? -EUCLEAN : 0);
		if (rc == 0) {
			assert_int_equal(check_all(r, fd, size, &bad), -EUCLEAN);
			merkle_close(r);
		}
		flip(tree, at);
	}
	/* Of another digest, another size; cut off. */
	memcpy(other, digest, DIGEST_SIZE);
	other[0] ^= 1;
	assert_int_equal(merkle_open(&r, reopen(tree), size, other), -EUCLEAN);
	assert_int_equal(merkle_open(&r, reopen(tree), size - 1, digest), -EUCLEAN);
	assert_int_equal(ftruncate(tree, (off_t)m.tree_size - 4096), 0);
	assert_int_equal(merkle_open(&r, reopen(tree), size, digest), 0);
	assert_int_equal(check_all(r, fd, size, &bad), -EUCLEAN);
	merkle_close(r);
	assert_int_equal(ftruncate(tree, 0), 0);
	assert_int_equal(merkle_open(&r, reopen(tree), size, digest), -EUCLEAN);
}

/* Half a gigabyte with a page here and there: the tree has holes, and checks all the same. */
static void the_tree_of_a_sparse_file_is_sparse(void **state)
{
	const uint64_t size = 512 * MIB + 5;
	static const uint64_t data_at[] = { 0, 70 * MIB + 4096, 300 * MIB };
	auto_fd int fd = empty_file(*state, "f"), tree = empty_file(*state, "t");
	uint8_t page[4096], zeros[4096] = { 0 }, digest[DIGEST_SIZE], again[DIGEST_SIZE];
	struct merkle_reader *r;
	struct merkle m;
	struct stat st;
	uint64_t bad;

	fill_random(page, sizeof(page), 7);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(io_pwrite_full(fd, page, 4096, data_at[i]), 0);
	assert_int_equal(merkle_digest_fd(fd, size, tree, NULL, digest), 0);
	merkle_layout(&m, size);
	assert_int_equal(fstat(tree, &st), 0);
	assert_int_equal(st.st_size, m.tree_size);
	assert_true((uint64_t)st.st_blocks * 512 < m.tree_size / 10);

	assert_int_equal(merkle_open(&r, reopen(tree), size, digest), 0);
	assert_int_equal(merkle_check(r, 70 * MIB + 4096, page, 4096, &bad), 0);
	assert_int_equal(merkle_check(r, 71 * MIB, zeros, 4096, &bad), 0);
	assert_int_equal(merkle_check(r, 400 * MIB, zeros, 4096, &bad), 0);
	assert_int_equal(merkle_check(r, 512 * MIB, zeros, 5, &bad), 0);
	assert_int_equal(merkle_check(r, 400 * MIB, page, 4096, &bad), -EBADMSG);
	assert_int_equal(merkle_check(r, 300 * MIB, zeros, 4096, &bad), -EBADMSG);
	/* A hole in the tree where there is data is damage of the tree. */
	assert_int_equal(
		io_pwrite_full(tree, zeros, 4096, m.level[0].at + 70 * MIB / (128 * 4096) * 4096),
		0);
	merkle_close(r);
	assert_int_equal(merkle_open(&r, reopen(tree), size, digest), 0);
	assert_int_equal(merkle_check(r, 70 * MIB + 4096, page, 4096, &bad), -EUCLEAN);
	merkle_close(r);

	/* The same bytes without holes have the same digest. */
	for (uint64_t at = 0; at < 2 * MIB; at += 4096)
		if (at)
			assert_int_equal(io_pwrite_full(fd, zeros, 4096, at), 0);
	assert_int_equal(merkle_digest_fd(fd, size, -1, NULL, again), 0);
	assert_memory_equal(digest, again, DIGEST_SIZE);
}

static void ranges_out_of_bounds_are_refused(void **state)
{
	auto_fd int fd = random_file(*state, "f", 10000), tree = empty_file(*state, "t");
	uint8_t digest[DIGEST_SIZE], buf[12288] = { 0 };
	struct merkle_reader *r;
	uint64_t bad;

	assert_int_equal(merkle_digest_fd(fd, 10000, tree, NULL, digest), 0);
	assert_int_equal(merkle_open(&r, reopen(tree), 10000, digest), 0);
	assert_int_equal(merkle_check(r, 1, buf, 4096, &bad), -EINVAL);
	assert_int_equal(merkle_check(r, 0, buf, 100, &bad), -EINVAL);
	assert_int_equal(merkle_check(r, 4096, buf, 12288, &bad), -EINVAL);
	assert_int_equal(merkle_check(r, 1ULL << 62, buf, 4096, &bad), -EINVAL);
	assert_int_equal(io_pread_full(fd, buf, 10000, 0), 0);
	assert_int_equal(merkle_check(r, 0, buf, 10000, &bad), 0);
	merkle_close(r);
}

struct copied {
	struct merkle_reader *from;
	uint64_t blocks;
	bool whole; /* hashes of blocks of level 0, where they are enough */
};

/* Tells what the tree of a file has. */
static int tell_copied(void *arg, uint64_t n, uint8_t hashes[DIGEST_BLOCK], uint8_t *hash)
{
	const struct copied *c = arg;
	const uint64_t left = c->blocks - n * 128;
	int rc;

	if (c->whole && hash) {
		rc = merkle_leaf_block(c->from, n, hash);
		return rc < 0 ? rc : MERKLE_HASH;
	}
	rc = merkle_leaves(c->from, n * 128, left < 128 ? left : 128, hashes);
	return rc < 0 ? rc : MERKLE_HASHES;
}

static void digests_are_composed_of_hashes(void **state)
{
	for (size_t i = 4; i < NSIZES; i++) {
		auto_fd int fd = random_file(*state, "f", sizes[i]), tree = empty_file(*state, "t"),
			    made = empty_file(*state, "m");
		uint8_t digest[DIGEST_SIZE], got[DIGEST_SIZE];
		auto_free uint8_t *a = NULL, *b = NULL;
		struct copied c = { .blocks = (sizes[i] + 4095) / 4096 };
		struct merkle m;

		assert_int_equal(merkle_digest_fd(fd, sizes[i], tree, NULL, digest), 0);
		assert_int_equal(merkle_open(&c.from, reopen(tree), sizes[i], digest), 0);
		for (int whole = 0; whole < 2; whole++) {
			c.whole = whole;
			assert_int_equal(merkle_compose(sizes[i], tell_copied, &c, -1, got), 0);
			assert_memory_equal(got, digest, DIGEST_SIZE);
		}
		assert_int_equal(merkle_compose(sizes[i], tell_copied, &c, made, got), 0);
		assert_memory_equal(got, digest, DIGEST_SIZE);
		merkle_close(c.from);
		merkle_layout(&m, sizes[i]);
		a = read_tree(tree, m.tree_size);
		b = read_tree(made, m.tree_size);
		assert_memory_equal(a, b, m.tree_size);
	}
}

static int tell_zeros(void *arg, uint64_t n, uint8_t hashes[DIGEST_BLOCK], uint8_t *hash)
{
	(void)arg;
	(void)n;
	(void)hashes;
	(void)hash;
	return MERKLE_ZEROS;
}

static int tell_failure(void *arg, uint64_t n, uint8_t hashes[DIGEST_BLOCK], uint8_t *hash)
{
	(void)tell_zeros(arg, n, hashes, hash);
	return n == 3 ? -EUCLEAN : MERKLE_ZEROS;
}

static void zeros_are_composed_and_failures_told(void **state)
{
	static const uint64_t lengths[] = { 4097, 128 * 4096, 129 * 4096, 3 * MIB, 5ULL << 30 };
	auto_fd int fd = empty_file(*state, "f");
	uint8_t digest[DIGEST_SIZE], got[DIGEST_SIZE];

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		auto_fd int tree = empty_file(*state, "t");
		struct merkle_reader *r;
		uint8_t leaf[DIGEST_SIZE], zero[DIGEST_SIZE];

		assert_int_equal(ftruncate(fd, (off_t)lengths[i]), 0);
		assert_int_equal(merkle_digest_fd(fd, lengths[i], -1, NULL, digest), 0);
		assert_int_equal(merkle_compose(lengths[i], tell_zeros, NULL, tree, got), 0);
		assert_memory_equal(got, digest, DIGEST_SIZE);
		assert_int_equal(merkle_open(&r, reopen(tree), lengths[i], digest), 0);
		assert_int_equal(merkle_leaves(r, 1, 1, leaf), 0);
		assert_int_equal(merkle_zero_leaf(zero), 0);
		assert_memory_equal(leaf, zero, DIGEST_SIZE);
		assert_int_equal(merkle_leaves(r, UINT64_MAX, 2, leaf), -EINVAL);
		merkle_close(r);
	}
	assert_int_equal(merkle_compose(5ULL << 30, tell_failure, NULL, -1, got), -EUCLEAN);
	assert_int_equal(merkle_compose(4096, tell_zeros, NULL, -1, got), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layouts_are_fs_veritys),
		cmocka_unit_test_setup_teardown(trees_are_those_of_fsverity, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(blocks_are_checked_and_a_flipped_bit_is_found,
						folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_damaged_tree_is_found_and_never_believed,
						folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(the_tree_of_a_sparse_file_is_sparse, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(ranges_out_of_bounds_are_refused, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(digests_are_composed_of_hashes, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(zeros_are_composed_and_failures_told, folder_make,
						folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
