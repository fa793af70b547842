/* A snapshot's directory: a good one, and one with each file wrong in each way. */
#include "unit.h"

#include "base/digest.h"
#include "base/merkle.h"
#include "base/io.h"
#include "proto/snapdir.h"
#include "samples.h"

#define RAM_SIZE (64U << 10)

/* A good snapshot in the folder's "good": memory, state, then the manifest that says so. */
struct snapshot {
	struct folder *folder; /* first: the fixture */
	uint8_t memory[RAM_SIZE], *state, *manifest;
	size_t state_len, manifest_len;
	int dir;
};

static int make(void **state)
{
	struct snapshot *s = calloc(1, sizeof(*s));
	struct sample_manifest m;
	struct sample_state vm;

	if (!s || folder_make((void **)&s->folder) < 0)
		return -1;
	fill_random(s->memory, sizeof(s->memory), 1);
	sample_state(&vm);
	sample_manifest(&m);
	if (proto_state_encode(&vm.s, &s->state, &s->state_len, NULL) < 0)
		return -1;
	m.m.memory_size_bytes = RAM_SIZE;
	m.m.n_ram = 1;
	m.range[0].size = RAM_SIZE;
	m.m.state_size = s->state_len;
	if (merkle_digest(s->memory, RAM_SIZE, m.memory_digest) < 0 ||
	    merkle_digest(s->state, s->state_len, m.state_digest) < 0 ||
	    proto_manifest_encode(&m.m, &s->manifest, &s->manifest_len, NULL) < 0 ||
	    mkdirat(s->folder->fd, "good", 0700) < 0)
		return -1;
	s->dir = openat(s->folder->fd, "good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (io_write_file(s->dir, SNAPDIR_MANIFEST, s->manifest, s->manifest_len, 0600, NULL) < 0 ||
	    io_write_file(s->dir, SNAPDIR_STATE, s->state, s->state_len, 0600, NULL) < 0 ||
	    io_write_file(s->dir, SNAPDIR_MEMORY, s->memory, RAM_SIZE, 0600, NULL) < 0)
		return -1;
	*state = s;
	return 0;
}

static int drop(void **state)
{
	struct snapshot *s = *state;
	void *folder = s->folder;

	close(s->dir);
	free(s->state);
	free(s->manifest);
	free(s);
	return folder_remove(&folder);
}

static int open_it(const struct snapshot *s, struct snapdir *d, struct err *e)
{
	return proto_snapdir_open(d, s->folder->fd, "good", "LABEL", e);
}

static void open_of_a_good_one_reads_all(void **state)
{
	const struct snapshot *s = *state;
	const unsigned before = open_descriptors();
	uint8_t digest[DIGEST_SIZE], *buf = NULL;
	struct err e = { 0 };
	struct snapdir d;
	struct stat st;
	size_t len;
	int fd;

	assert_int_equal(open_it(s, &d, &e), 0);
	assert_int_equal(d.manifest->memory_size_bytes, RAM_SIZE);
	assert_int_equal(d.manifest_size, s->manifest_len);
	assert_int_equal(digest_sha256(s->manifest, s->manifest_len, digest), 0);
	assert_memory_equal(d.manifest_digest, digest, DIGEST_SIZE);
	assert_int_equal(fstat(s->dir, &st), 0);
	assert_int_equal(d.stat.st_ino, st.st_ino);
	assert_int_equal(proto_snapdir_read_state(&d, "LABEL", &buf, &len, &e), 0);
	assert_int_equal(len, s->state_len);
	assert_memory_equal(buf, s->state, len);
	free(buf);
	fd = proto_snapdir_open_memory(&d, "LABEL", &e);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(proto_snapdir_verify_memory(&d, fd, "LABEL", NULL, &e), 0);
	assert_string_equal(e.text, "");
	close(fd);
	proto_snapdir_close(&d);
	proto_snapdir_close(&d); /* harmless */
	assert_int_equal(open_descriptors(), before);
}

static void open_stays_bound_to_the_directory_when_it_is_renamed(void **state)
{
	const struct snapshot *s = *state;
	struct err e = { 0 };
	struct snapdir d;
	uint8_t *buf = NULL;
	size_t len;

	assert_int_equal(open_it(s, &d, &e), 0);
	assert_int_equal(renameat(s->folder->fd, "good", s->folder->fd, "other"), 0);
	assert_int_equal(mkdirat(s->folder->fd, "good", 0700), 0);
	assert_int_equal(proto_snapdir_read_state(&d, "LABEL", &buf, &len, &e), 0);
	free(buf);
	proto_snapdir_close(&d);
}

/* ---- what can be wrong with a file ---- */

enum wrong {
	MISSING,
	EMPTY,
	SHORTER,
	LONGER,
	FLIPPED_FIRST,
	FLIPPED_LAST,
	SYMLINK,
	FIFO,
	DIRECTORY,
	TOO_LARGE,
	WRONGS
};

static const char *const wrong_words[WRONGS] = {
	"missing",
	"empty",
	"shorter",
	"longer",
	"flipped at the start",
	"flipped at the end",
	"symlink",
	"a FIFO",
	"a directory",
	"too large",
};

static void flip(const struct snapshot *s, const char *name, bool last)
{
	auto_fd int fd = openat(s->dir, name, O_RDWR | O_CLOEXEC);
	struct stat st;
	uint64_t at;
	uint8_t byte;

	assert_int_equal(fstat(fd, &st), 0);
	at = last ? (uint64_t)st.st_size - 1 : 0;
	assert_int_equal(io_pread_full(fd, &byte, 1, at), 0);
	byte ^= 0x10;
	assert_int_equal(io_pwrite_full(fd, &byte, 1, at), 0);
}

static void resize(const struct snapshot *s, const char *name, off_t by, off_t to)
{
	auto_fd int fd = openat(s->dir, name, O_RDWR | O_CLOEXEC);
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(ftruncate(fd, by ? st.st_size + by : to), 0);
}

static void make_wrong(const struct snapshot *s, const char *name, enum wrong how)
{
	switch (how) {
	case EMPTY:
		resize(s, name, 0, 0);
		return;
	case SHORTER:
		resize(s, name, -1, 0);
		return;
	case LONGER:
		resize(s, name, 1, 0);
		return;
	case FLIPPED_FIRST:
	case FLIPPED_LAST:
		flip(s, name, how == FLIPPED_LAST);
		return;
	case TOO_LARGE:
		resize(s, name, 0, 1LL << 40);
		return;
	case SYMLINK: /* to a good one */
		assert_int_equal(renameat(s->dir, name, s->folder->fd, "elsewhere"), 0);
		assert_int_equal(symlinkat("../elsewhere", s->dir, name), 0);
		return;
	default:
		assert_int_equal(unlinkat(s->dir, name, 0), 0);
	}
	if (how == FIFO)
		assert_int_equal(mkfifoat(s->dir, name, 0600), 0);
	else if (how == DIRECTORY)
		assert_int_equal(mkdirat(s->dir, name, 0700), 0);
}

/* Opens the snapshot and uses the one file: the first failure, or 0. */
static int use(const struct snapshot *s, const char *name, struct err *e)
{
	struct snapdir d;
	int rc = open_it(s, &d, e);

	if (rc == 0 && strcmp(name, SNAPDIR_STATE) == 0) {
		uint8_t *buf = NULL;
		size_t len;

		rc = proto_snapdir_read_state(&d, "LABEL", &buf, &len, e);
		if (rc == 0)
			free(buf);
	} else if (rc == 0 && strcmp(name, SNAPDIR_MEMORY) == 0) {
		int fd = rc = proto_snapdir_open_memory(&d, "LABEL", e);

		if (fd >= 0) {
			rc = proto_snapdir_verify_memory(&d, fd, "LABEL", NULL, e);
			close(fd);
		}
	}
	proto_snapdir_close(&d);
	return rc;
}

/* The fixture is made anew for each way, so that one does not hide another. */
static void assert_each_wrong_is_refused(const char *name)
{
	for (enum wrong how = MISSING; how < WRONGS; how++) {
		const bool no_snapshot = how == MISSING && strcmp(name, SNAPDIR_MANIFEST) == 0;
		const unsigned before = open_descriptors();
		struct err e = { 0 };
		void *state;
		int rc, quiet;

		if (make(&state) < 0) {
			fail_msg("cannot make a snapshot");
			return;
		}
		assert_int_equal(use(state, name, &e), 0);
		make_wrong(state, name, how);
		alarm(10); /* a wait is a failure, not a hang */
		rc = use(state, name, &e);
		quiet = use(state, name, NULL);
		alarm(0);
		if (rc != (no_snapshot ? -ENOENT : -EBADMSG))
			fail_msg("%s %s: %d", name, wrong_words[how], rc);
		if (quiet != rc)
			fail_msg("%s %s: without words %d", name, wrong_words[how], quiet);
		assert_says(&e, name);
		assert_says(&e, "LABEL");
		assert_int_equal(e.status, STATUS_REFUSED);
		assert_int_equal(drop(&state), 0);
		assert_int_equal(open_descriptors(), before);
	}
}

static void open_each_wrong_manifest_is_refused_by_name(void **state)
{
	(void)state;
	assert_each_wrong_is_refused(SNAPDIR_MANIFEST);
}

static void read_state_each_wrong_state_is_refused_by_name(void **state)
{
	(void)state;
	assert_each_wrong_is_refused(SNAPDIR_STATE);
}

static void verify_memory_each_wrong_memory_is_refused_by_name(void **state)
{
	(void)state;
	assert_each_wrong_is_refused(SNAPDIR_MEMORY);
}

static void verify_memory_of_a_file_that_shrinks_is_damaged(void **state)
{
	const struct snapshot *s = *state;
	struct err e = { 0 };
	struct snapdir d;
	auto_fd int fd = -1;

	assert_int_equal(open_it(s, &d, &e), 0);
	fd = proto_snapdir_open_memory(&d, "LABEL", &e);
	assert_true(fd >= 0);
	resize(s, SNAPDIR_MEMORY, -4096, 0);
	assert_int_equal(proto_snapdir_verify_memory(&d, fd, "LABEL", NULL, &e), -EBADMSG);
	assert_says(&e, "too short");
	proto_snapdir_close(&d);
}

static void open_of_no_directory_says_what_it_is(void **state)
{
	const struct snapshot *s = *state;
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	struct snapdir d;

	folder_put(s->folder, "file", "x", 1);
	assert_int_equal(mkfifoat(s->folder->fd, "fifo", 0600), 0);
	assert_int_equal(mkdirat(s->folder->fd, "empty", 0700), 0);
	alarm(10);
	assert_int_equal(proto_snapdir_open(&d, s->folder->fd, "none", "LABEL", &e), -ENOENT);
	assert_says(&e, "there is no snapshot LABEL");
	assert_int_equal(proto_snapdir_open(&d, s->folder->fd, "file", "LABEL", &e), -ENOTDIR);
	assert_says(&e, "LABEL is not a snapshot");
	assert_int_equal(proto_snapdir_open(&d, s->folder->fd, "fifo", "LABEL", &e), -ENOTDIR);
	assert_int_equal(proto_snapdir_open(&d, s->folder->fd, "empty", "LABEL", &e), -ENOENT);
	assert_says(&e, "LABEL is not a snapshot: it has no manifest.bin");
	alarm(0);
	assert_int_equal(open_descriptors(), before);
}

#define WITH_SNAPSHOT(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SNAPSHOT(open_of_a_good_one_reads_all),
		WITH_SNAPSHOT(open_stays_bound_to_the_directory_when_it_is_renamed),
		cmocka_unit_test(open_each_wrong_manifest_is_refused_by_name),
		cmocka_unit_test(read_state_each_wrong_state_is_refused_by_name),
		cmocka_unit_test(verify_memory_each_wrong_memory_is_refused_by_name),
		WITH_SNAPSHOT(verify_memory_of_a_file_that_shrinks_is_damaged),
		WITH_SNAPSHOT(open_of_no_directory_says_what_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
