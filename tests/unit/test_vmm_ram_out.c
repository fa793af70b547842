/*
 * Guest RAM written to a file: equal, sparse, and without a look at what holds
 * nothing, whatever lies behind RAM.
 *
 * A page that the host has swapped out is not tried: there is no asking for that
 * where the machine has no swap, as most that run this have none. Such a page is
 * one bit of the entry that the present ones have.
 */
#include "unit.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/io.h"
#include "vmm/fault.h"
#include "vmm/ram_out.h"

#define PAGES 1024ULL
#define SIZE  (PAGES * RAM_PAGE)

/* RAM over a file, what should be in it, and what it is written to. */
struct rig {
	void *folder; /* first: its fixture */
	struct ram ram;
	int file; /* behind RAM; of the test's own */
	int out;
	uint8_t *want, *got; /* SIZE bytes */
};

static int open_rig(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || folder_make(&r->folder) < 0)
		return -1;
	*state = r;
	r->ram.fd = -1;
	r->file = folder_file(r->folder, "ram", "", 0);
	r->out = memfd_create("out", MFD_CLOEXEC);
	r->want = calloc(1, SIZE);
	r->got = malloc(SIZE);
	return r->want && r->got ? ftruncate(r->file, SIZE) : -1;
}

static int close_rig(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	ram_unmap(&r->ram);
	close(r->file);
	close(r->out);
	free(r->want);
	free(r->got);
	free(r);
	return folder_remove(&folder);
}

/* Of a memfd, unlike a file on a disk, a hole that is read becomes data. */
static void use_memfd(struct rig *r)
{
	close(r->file);
	r->file = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(r->file, SIZE), 0);
}

static void map(struct rig *r, enum ram_backing backing)
{
	assert_int_equal(ram_map(&r->ram, backing, fcntl(r->file, F_DUPFD_CLOEXEC, 0), SIZE, NULL),
			 0);
	/* A page that is made is one, without its neighbours. */
	assert_int_equal(madvise(r->ram.base, SIZE, MADV_RANDOM), 0);
}

/* Pages [first, first + n) of the file, before it is mapped. */
static void put_file(struct rig *r, uint64_t first, uint64_t n)
{
	uint8_t *page = r->want + first * RAM_PAGE;

	fill_random(page, n * RAM_PAGE, (unsigned)first + 1);
	assert_int_equal(io_pwrite_full(r->file, page, n * RAM_PAGE, first * RAM_PAGE), 0);
}

static void put_ram(struct rig *r, uint64_t first, uint64_t n)
{
	uint8_t *page = r->want + first * RAM_PAGE;

	fill_random(page, n * RAM_PAGE, (unsigned)(PAGES + first));
	assert_int_equal(ram_write(&r->ram, first * RAM_PAGE, page, n * RAM_PAGE), 0);
}

static void zero_ram(struct rig *r, uint64_t first, uint64_t n)
{
	uint8_t *page = r->want + first * RAM_PAGE;

	memset(page, 0, n * RAM_PAGE);
	assert_int_equal(ram_write(&r->ram, first * RAM_PAGE, page, n * RAM_PAGE), 0);
}

static uint64_t pages_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512 / RAM_PAGE;
}

/* Pages of the file that are in memory: a hole that is read through a mapping becomes one. */
static uint64_t cached(const struct rig *r)
{
	uint8_t resident[PAGES];
	uint64_t n = 0;
	void *p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, r->file, 0);

	if (p == MAP_FAILED || mincore(p, SIZE, resident) < 0)
		return UINT64_MAX;
	munmap(p, SIZE);
	for (uint64_t i = 0; i < PAGES; i++)
		n += resident[i] & 1;
	return n;
}

static bool is_right(struct rig *r)
{
	uint64_t pages = 0;
	struct stat st;

	for (uint64_t at = 0; at < SIZE; at += RAM_PAGE)
		pages += !io_is_zero(r->want + at, RAM_PAGE);
	return ram_write_out(&r->ram, r->out, NULL) == 0 && fstat(r->out, &st) == 0 &&
	       st.st_size == SIZE && pages_of(r->out) == pages &&
	       io_pread_full(r->out, r->got, SIZE, 0) == 0 && memcmp(r->got, r->want, SIZE) == 0;
}

/* ---- RAM that is its file ---- */

static void of_a_memfd_is_equal_sparse_and_makes_no_page(void **state)
{
	struct rig *r = *state;
	uint64_t before;

	use_memfd(r);
	map(r, RAM_MEMFD);
	put_ram(r, 0, 1);
	put_ram(r, 255, 3); /* over the edge of a chunk */
	put_ram(r, 600, 1);
	put_ram(r, PAGES - 1, 1);
	zero_ram(r, 700, 1); /* touched, and zero */
	before = cached(r);
	assert_true(is_right(r));
	assert_int_equal(cached(r), before);
}

static void of_a_shared_file_is_equal_and_sparse(void **state)
{
	struct rig *r = *state;

	put_file(r, 10, 2);
	map(r, RAM_SHARED);
	put_ram(r, 11, 1);
	put_ram(r, 300, 1);
	zero_ram(r, 10, 1);
	assert_true(is_right(r));
}

static void of_ram_without_holes_is_equal(void **state)
{
	struct rig *r = *state;

	put_file(r, 0, PAGES);
	map(r, RAM_SHARED);
	assert_true(is_right(r));
}

static void to_a_read_only_file_says_so(void **state)
{
	struct rig *r = *state;
	auto_fd int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct err e = { 0 };

	map(r, RAM_SHARED);
	assert_true(ram_write_out(&r->ram, fd, &e) < 0);
	assert_says(&e, "cannot write guest RAM out");
}

/* ---- RAM over a snapshot's file ---- */

/* Data from `first` on, n pages of it; changed: what pages of RAM are written. */
static const struct layout {
	uint64_t first, n;
	uint64_t changed[4];
} layouts[] = {
	{ 0, 0, { 0, 1, 500, PAGES - 1 } },	      /* one hole */
	{ 0, PAGES, { 0, 1, 500, PAGES - 1 } },	      /* none */
	{ 1, PAGES - 1, { 0, 1, 2, PAGES - 1 } },     /* at the start */
	{ 0, PAGES - 1, { 0, 500, 501, PAGES - 1 } }, /* at the end */
	{ 256, 256, { 0, 255, 256, 512 } },	      /* at both, by whole chunks */
	{ 300, 1, { 299, 300, 301, 302 } },	      /* a lone page */
};

static void check_layout(struct rig *r, const struct layout *l)
{
	uint64_t before;

	assert_int_equal(ftruncate(r->file, 0), 0);
	assert_int_equal(ftruncate(r->file, SIZE), 0);
	assert_int_equal(ftruncate(r->out, 0), 0);
	memset(r->want, 0, SIZE);
	if (l->n)
		put_file(r, l->first, l->n);
	map(r, RAM_PRIVATE);
	for (size_t i = 0; i < 4; i++)
		put_ram(r, l->changed[i], 1);
	before = cached(r);
	if (!is_right(r))
		fail_msg("layout %zu", (size_t)(l - layouts));
	/* No hole was looked at. */
	assert_true(cached(r) <= before);
	ram_unmap(&r->ram);
}

static void of_private_ram_over_a_memfd_has_file_and_changes(void **state)
{
	use_memfd(*state);
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		check_layout(*state, &layouts[i]);
}

static void of_private_ram_over_a_disk_file_has_file_and_changes(void **state)
{
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		check_layout(*state, &layouts[i]);
}

static void of_pages_zeroed_over_data_has_holes(void **state)
{
	struct rig *r = *state;

	put_file(r, 100, 10);
	map(r, RAM_PRIVATE);
	zero_ram(r, 100, 1);
	zero_ram(r, 104, 2);
	zero_ram(r, 109, 1);
	zero_ram(r, 200, 1); /* in a hole */
	assert_true(is_right(r));
}

static void of_discarded_private_pages_has_the_files(void **state)
{
	struct rig *r = *state;
	uint8_t page[RAM_PAGE] = "goes again";

	put_file(r, 100, 2);
	map(r, RAM_PRIVATE);
	assert_int_equal(ram_write(&r->ram, 100 * RAM_PAGE, page, RAM_PAGE), 0);
	assert_int_equal(ram_write(&r->ram, 200 * RAM_PAGE, page, RAM_PAGE), 0);
	assert_int_equal(ram_discard(&r->ram, 100 * RAM_PAGE, RAM_PAGE), 0);
	assert_int_equal(ram_discard(&r->ram, 200 * RAM_PAGE, RAM_PAGE), 0);
	assert_true(is_right(r));
}

/* More than is looked up at a time, with a change on either side of each edge. */
static void of_a_large_hole_finds_every_change(void **state)
{
	static const uint64_t changed[] = { 0, 4095, 4096, 8191, 8192, 20479 };
	const uint64_t pages = 20480;
	struct rig *r = *state;
	struct stat st;
	uint64_t at;

	assert_int_equal(ftruncate(r->file, (off_t)(pages * RAM_PAGE)), 0);
	assert_int_equal(ram_map(&r->ram, RAM_PRIVATE, fcntl(r->file, F_DUPFD_CLOEXEC, 0),
				 pages * RAM_PAGE, NULL),
			 0);
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(ram_write(&r->ram, changed[i] * RAM_PAGE, &changed[i], 7), 0);
	assert_int_equal(ram_write(&r->ram, 0, "first", 5), 0);
	assert_int_equal(ram_write_out(&r->ram, r->out, NULL), 0);
	assert_int_equal(fstat(r->out, &st), 0);
	assert_int_equal(st.st_size, pages * RAM_PAGE);
	assert_int_equal(pages_of(r->out), 6);
	for (size_t i = 1; i < 6; i++) {
		assert_int_equal(io_pread_full(r->out, &at, 8, changed[i] * RAM_PAGE), 0);
		assert_int_equal(at, changed[i]);
	}
}

static void closes_what_it_opens(void **state)
{
	struct rig *r = *state;
	unsigned before;

	map(r, RAM_PRIVATE);
	before = open_descriptors();
	assert_true(is_right(r));
	assert_int_equal(open_descriptors(), before);
}

/* ---- what is not known is read ---- */

static void private_ram_changed(struct rig *r)
{
	put_file(r, 100, 2);
	map(r, RAM_PRIVATE);
	put_ram(r, 0, 1);
	put_ram(r, 101, 2);
	put_ram(r, PAGES - 1, 1);
}

static void without_pagemap_is_equal(void **state)
{
	struct rig *r = *state;
	struct rlimit old, none;
	bool right;

	private_ram_changed(r);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = (struct rlimit){ 0, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	right = is_right(r);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_true(right);
	/* It has been read indeed. */
	assert_int_equal(cached(r), PAGES);
}

/* As nobody, whose /proc is nobody's or, where it cannot be looked at, root's. */
static int write_out_as_nobody(struct rig *r, int dumpable)
{
	auto_fd int pagemap = -1;
	uint64_t before;

	if (geteuid() == 0 &&
	    (fchown(r->file, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
		return 2;
	if (prctl(PR_SET_DUMPABLE, dumpable) < 0)
		return 3;
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if ((pagemap >= 0) != dumpable)
		return 4;
	private_ram_changed(r);
	before = cached(r);
	if (!is_right(r))
		return 5;
	if (dumpable)
		return cached(r) <= before ? 0 : 6;
	return cached(r) == PAGES ? 0 : 7;
}

static void check_as_nobody(struct rig *r, int dumpable)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(write_out_as_nobody(r, dumpable));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void as_a_plain_user_is_equal_and_makes_no_page(void **state)
{
	check_as_nobody(*state, 1);
}

static void as_a_user_whose_proc_is_roots_is_equal(void **state)
{
	check_as_nobody(*state, 0);
}

/* lseek() on it succeeds and means nothing. */
static void over_a_device_is_equal(void **state)
{
	struct rig *r = *state;

	close(r->file);
	r->file = open("/dev/zero", O_RDWR | O_CLOEXEC);
	map(r, RAM_PRIVATE);
	put_ram(r, 0, 1);
	put_ram(r, 500, 2);
	put_ram(r, PAGES - 1, 1);
	assert_true(is_right(r));
}

/* ---- pages that cannot be had ---- */

static void check_lost(struct rig *r, const char *where)
{
	struct err e = { 0 };

	assert_int_equal(ram_write_out(&r->ram, r->out, &e), -EFAULT);
	assert_says(&e, where);
}

static void of_a_shorter_file_says_where(void **state)
{
	static const enum ram_backing backing[] = { RAM_SHARED, RAM_PRIVATE };
	struct rig *r = *state;

	assert_int_equal(fault_install(), 0); /* here: cmocka has put its own in its place */
	for (size_t i = 0; i < 2; i++) {
		/* It ends in a hole, in data, and within a page: the one behind that is lost. */
		assert_int_equal(ftruncate(r->file, SIZE), 0);
		map(r, backing[i]);
		assert_int_equal(ftruncate(r->file, 2 << 20), 0);
		check_lost(r, "page 512 cannot be read");
		put_file(r, 500, 12);
		check_lost(r, "page 512 cannot be read");
		assert_int_equal(ftruncate(r->file, 509 * RAM_PAGE + 1), 0);
		check_lost(r, "page 510 cannot be read");
		assert_int_equal(ftruncate(r->file, 300 * RAM_PAGE + 1), 0);
		check_lost(r, "page 301 cannot be read");
		assert_int_equal(ftruncate(r->file, 0), 0);
		check_lost(r, "page 0 cannot be read");
		ram_unmap(&r->ram);
	}
}

#define ON_RIG(f) cmocka_unit_test_setup_teardown(f, open_rig, close_rig)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_RIG(of_a_memfd_is_equal_sparse_and_makes_no_page),
		ON_RIG(of_a_shared_file_is_equal_and_sparse),
		ON_RIG(of_ram_without_holes_is_equal),
		ON_RIG(to_a_read_only_file_says_so),
		ON_RIG(of_private_ram_over_a_memfd_has_file_and_changes),
		ON_RIG(of_private_ram_over_a_disk_file_has_file_and_changes),
		ON_RIG(of_pages_zeroed_over_data_has_holes),
		ON_RIG(of_discarded_private_pages_has_the_files),
		ON_RIG(of_a_large_hole_finds_every_change),
		ON_RIG(closes_what_it_opens),
		ON_RIG(without_pagemap_is_equal),
		ON_RIG(as_a_plain_user_is_equal_and_makes_no_page),
		ON_RIG(as_a_user_whose_proc_is_roots_is_equal),
		ON_RIG(over_a_device_is_equal),
		ON_RIG(of_a_shorter_file_says_where),
	};

	return cmocka_run_group_tests_name("write_out", tests, NULL, NULL);
}
