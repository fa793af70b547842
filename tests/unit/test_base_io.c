/* Files and descriptors: whole transfers, refusals that never wait, passed descriptors. */
#include "unit.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/io.h"

/* ---- whole reads and writes ---- */

static void read_full_from_a_pipe_in_pieces_gets_all(void **state)
{
	uint8_t sent[5000], got[5000];
	int pair[2];

	(void)state;
	fill_random(sent, sizeof(sent), 1);
	assert_int_equal(pipe(pair), 0);
	for (size_t at = 0; at < sizeof(sent); at += 500)
		assert_int_equal(io_write_full(pair[1], sent + at, 500), 0);
	close(pair[1]);
	assert_int_equal(io_read_full(pair[0], got, sizeof(got)), 0);
	assert_memory_equal(sent, got, sizeof(got));
	assert_int_equal(io_read_full(pair[0], got, 0), 0);
	assert_int_equal(io_read_full(pair[0], got, 1), -ENODATA);
	close(pair[0]);
}

static void pread_full_beyond_the_end_is_enodata(void **state)
{
	auto_fd int fd = folder_file(*state, "f", "0123456789", 10);
	char got[10];

	assert_int_equal(io_pread_full(fd, got, 4, 6), 0);
	assert_memory_equal(got, "6789", 4);
	assert_int_equal(io_pread_full(fd, got, 4, 7), -ENODATA);
	assert_int_equal(io_pread_full(fd, got, 1, 10), -ENODATA);
	assert_int_equal(io_pread_full(fd, got, 0, 1000), 0);
	assert_int_equal(io_pread_full(fd, got, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(io_pread_full(-1, got, 1, 0), -EBADF);
}

static void pwrite_full_writes_where_it_is_told(void **state)
{
	auto_fd int fd = folder_file(*state, "f", "0123456789", 10);
	char got[14];

	assert_int_equal(io_pwrite_full(fd, "abcd", 4, 8), 0);
	assert_int_equal(io_pread_full(fd, got, 12, 0), 0);
	assert_memory_equal(got, "01234567abcd", 12);
	assert_int_equal(io_write_full(-1, "x", 1), -EBADF);
}

static void write_full_to_a_full_disk_is_enospc(void **state)
{
	auto_fd int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, "x", 1), -ENOSPC);
}

/* ---- what is opened and what is refused ---- */

static void open_regular_gives_size_and_a_blocking_descriptor(void **state)
{
	const struct folder *f = *state;
	auto_fd int fd = -1;
	uint64_t size = 0;
	struct err e = { 0 };

	folder_put(f, "f", "12345", 5);
	fd = io_open_regular(f->fd, "f", &size, &e);
	assert_true(fd >= 0);
	assert_int_equal(size, 5);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDONLY);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static void make_socket_at(const struct folder *f, const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", f->path, name);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
}

/* Opened for reading and for reading whole: both refuse, with the same words, at once. */
static void assert_refused(const struct folder *f, const char *name, int rc, const char *words)
{
	const unsigned before = open_descriptors();
	struct err e = { 0 };
	uint8_t *buf = NULL;
	size_t len;

	alarm(5); /* a wait is a failure, not a hang */
	assert_int_equal(io_open_regular(f->fd, name, NULL, &e), rc);
	assert_says(&e, words);
	assert_says(&e, name);
	assert_int_equal(io_open_regular(f->fd, name, NULL, NULL), rc);
	assert_int_equal(io_read_file(f->fd, name, 100, &buf, &len, &e), rc);
	assert_says(&e, words);
	alarm(0);
	assert_null(buf);
	assert_int_equal(open_descriptors(), before);
}

static void open_regular_of_anything_else_is_refused_without_waiting(void **state)
{
	const struct folder *f = *state;

	folder_put(f, "file", "x", 1);
	assert_int_equal(mkfifoat(f->fd, "fifo", 0600), 0);
	assert_int_equal(mkdirat(f->fd, "dir", 0700), 0);
	assert_int_equal(symlinkat("file", f->fd, "link"), 0);
	assert_int_equal(symlinkat("nowhere", f->fd, "dangling"), 0);
	assert_int_equal(symlinkat("self", f->fd, "self"), 0);
	make_socket_at(f, "socket");
	assert_refused(f, "missing", -ENOENT, "is missing");
	assert_refused(f, "fifo", -EINVAL, "is not a regular file");
	assert_refused(f, "dir", -EINVAL, "is not a regular file");
	assert_refused(f, "link", -EINVAL, "is a symbolic link");
	assert_refused(f, "dangling", -EINVAL, "is a symbolic link");
	assert_refused(f, "self", -EINVAL, "is a symbolic link");
	assert_refused(f, "socket", -EINVAL, "is not a regular file");
	assert_refused(f, "/dev/null", -EINVAL, "is not a regular file");
}

static void open_regular_without_permission_says_so(void **state)
{
	const struct folder *f = *state;
	const uid_t me = geteuid();
	struct err e = { 0 };
	int rc;

	folder_put(f, "f", "x", 1);
	assert_int_equal(fchmodat(f->fd, "f", 0, 0), 0);
	assert_int_equal(fchmod(f->fd, 0755), 0);
	if (me == 0) /* who may open everything */
		assert_int_equal(seteuid(65534), 0);
	rc = io_open_regular(f->fd, "f", NULL, &e);
	assert_int_equal(seteuid(me), 0);
	assert_int_equal(rc, -EACCES);
	assert_says(&e, "cannot open f");
}

static void read_file_up_to_the_bound_is_read_whole(void **state)
{
	const struct folder *f = *state;
	uint8_t bytes[300];
	struct err e = { 0 };
	uint8_t *buf;
	size_t len;

	fill_random(bytes, sizeof(bytes), 2);
	folder_put(f, "f", bytes, 300);
	folder_put(f, "empty", "", 0);
	assert_int_equal(io_read_file(f->fd, "f", 300, &buf, &len, &e), 0);
	assert_int_equal(len, 300);
	assert_memory_equal(buf, bytes, 300);
	free(buf);
	assert_int_equal(io_read_file(f->fd, "empty", 0, &buf, &len, &e), 0);
	assert_int_equal(len, 0);
	assert_non_null(buf);
	free(buf);
}

static void read_file_above_the_bound_is_refused(void **state)
{
	const struct folder *f = *state;
	struct err e = { 0 };
	uint8_t *buf = NULL;
	size_t len;
	int fd;

	folder_put(f, "f", "0123456789", 10);
	assert_int_equal(io_read_file(f->fd, "f", 9, &buf, &len, &e), -EFBIG);
	assert_says(&e, "f has 10 bytes, more than the 9");
	fd = folder_file(f, "huge", "", 0);
	assert_int_equal(ftruncate(fd, 1LL << 40), 0);
	close(fd);
	assert_int_equal(io_read_file(f->fd, "huge", 1 << 20, &buf, &len, &e), -EFBIG);
	assert_null(buf);
}

static void write_file_makes_it_once_with_its_mode(void **state)
{
	const struct folder *f = *state;
	const mode_t before = umask(0077);
	struct err e = { 0 };
	struct stat st;
	char got[3];
	auto_fd int fd = -1;

	assert_int_equal(io_write_file(f->fd, "f", "abc", 3, 0444, &e), 0);
	umask(before);
	assert_int_equal(fstatat(f->fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	fd = io_open_regular(f->fd, "f", NULL, NULL);
	assert_int_equal(io_pread_full(fd, got, 3, 0), 0);
	assert_memory_equal(got, "abc", 3);
	assert_int_equal(io_write_file(f->fd, "f", "xyz", 3, 0444, &e), -EEXIST);
	assert_says(&e, "cannot make f");
	assert_int_equal(io_pread_full(fd, got, 3, 0), 0);
	assert_memory_equal(got, "abc", 3);
	assert_int_equal(symlinkat("elsewhere", f->fd, "link"), 0);
	assert_int_equal(io_write_file(f->fd, "link", "x", 1, 0444, &e), -EEXIST);
	assert_int_equal(fstatat(f->fd, "elsewhere", &st, 0), -1);
}

static void make_dirs_makes_all_that_is_missing(void **state)
{
	const struct folder *f = *state;
	char path[200];
	struct stat st;

	snprintf(path, sizeof(path), "%s/a/b//c/", f->path);
	assert_int_equal(io_make_dirs(path, 0700), 0);
	assert_int_equal(fstatat(f->fd, "a/b/c", &st, 0), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(io_make_dirs(path, 0700), 0);
}

static void make_dirs_over_a_file_is_refused(void **state)
{
	const struct folder *f = *state;
	char path[200];

	folder_put(f, "file", "", 0);
	snprintf(path, sizeof(path), "%s/file/below", f->path);
	assert_int_equal(io_make_dirs(path, 0700), -ENOTDIR);
	snprintf(path, sizeof(path), "%s/file", f->path);
	assert_int_equal(io_make_dirs(path, 0700), -ENOTDIR);
	assert_int_equal(io_make_dirs("", 0700), -ENAMETOOLONG);
}

static void make_dirs_too_long_path_is_refused(void **state)
{
	char path[5000];

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(io_make_dirs(path, 0700), -ENAMETOOLONG);
}

/* ---- copies ---- */

#define BLOCK 4096

static uint64_t allocated(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void assert_equal_files(int a, int b, uint64_t size)
{
	static uint8_t x[1 << 16], y[1 << 16];

	for (uint64_t off = 0; off < size; off += sizeof(x)) {
		size_t n = size - off < sizeof(x) ? (size_t)(size - off) : sizeof(x);

		assert_int_equal(io_pread_full(a, x, n, off), 0);
		assert_int_equal(io_pread_full(b, y, n, off), 0);
		assert_memory_equal(x, y, n);
	}
}

struct told {
	unsigned calls;
	uint64_t done, total;
};

static int note_progress(void *arg, uint64_t done, uint64_t total)
{
	struct told *t = arg;

	assert_true(done > t->done);
	assert_true(done <= total);
	*t = (struct told){ t->calls + 1, done, total };
	return 0;
}

static void copy_file_sparse_keeps_holes_and_bytes(void **state)
{
	static const uint64_t data_at[] = { 0, 5, 300, 301, 4000, 8191 };
	const uint64_t size = 8192ULL * BLOCK + 17;
	auto_fd int from = folder_file(*state, "from", "", 0);
	auto_fd int to = folder_file(*state, "to", "old bytes that must go", 22);
	struct told told = { 0 };
	struct io_progress progress = { .fn = note_progress, .arg = &told };
	uint8_t page[BLOCK];
	struct stat st;

	for (size_t i = 0; i < sizeof(data_at) / sizeof(data_at[0]); i++) {
		fill_random(page, sizeof(page), (uint32_t)i);
		assert_int_equal(io_pwrite_full(from, page, BLOCK, data_at[i] * BLOCK), 0);
	}
	assert_int_equal(io_pwrite_full(from, "the last, short one", 17, size - 17), 0);
	assert_int_equal(io_copy_file(from, to, size, &progress), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, size);
	assert_equal_files(from, to, size);
	assert_true(allocated(to) <= allocated(from) + 2 * BLOCK);
	assert_true(allocated(to) < size / 100);
	if (told.calls)
		assert_int_equal(told.total, size);
}

static void copy_file_all_hole_and_empty_are_copied(void **state)
{
	auto_fd int from = folder_file(*state, "from", "", 0);
	auto_fd int to = folder_file(*state, "to", "xyz", 3);
	struct stat st;

	assert_int_equal(ftruncate(from, 1 << 20), 0);
	assert_int_equal(io_copy_file(from, to, 1 << 20, NULL), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	assert_int_equal(allocated(to), 0);
	assert_int_equal(io_copy_file(from, to, 0, NULL), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 0);
}

static void copy_file_part_of_a_file_ends_with_size(void **state)
{
	auto_fd int from = folder_file(*state, "from", "", 0);
	auto_fd int to = folder_file(*state, "to", "", 0);
	uint8_t bytes[3 * BLOCK];
	struct stat st;

	fill_random(bytes, sizeof(bytes), 3);
	assert_int_equal(io_pwrite_full(from, bytes, sizeof(bytes), 0), 0);
	assert_int_equal(io_copy_file(from, to, BLOCK + 100, NULL), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, BLOCK + 100);
	assert_equal_files(from, to, BLOCK + 100);
}

static void copy_file_between_file_systems_is_equal(void **state)
{
	const uint64_t size = 3 * (1 << 20) + 5;
	auto_fd int from = folder_file(*state, "from", "", 0);
	auto_fd int to = memfd_create("to", MFD_CLOEXEC);
	auto_free uint8_t *bytes = malloc(size);

	fill_random(bytes, size, 4);
	assert_int_equal(io_pwrite_full(from, bytes, size, 0), 0);
	assert_int_equal(io_copy_file(from, to, size, NULL), 0);
	assert_equal_files(from, to, size);
	assert_int_equal(lseek(to, 0, SEEK_END), size);
}

static void copy_file_to_a_read_only_descriptor_fails(void **state)
{
	const struct folder *f = *state;
	auto_fd int from = folder_file(f, "from", "abc", 3);
	auto_fd int to = -1;

	folder_put(f, "to", "xyz", 3);
	to = openat(f->fd, "to", O_RDONLY | O_CLOEXEC);
	assert_true(io_copy_file(from, to, 3, NULL) < 0);
	assert_equal_files(from, from, 3);
}

static void is_zero_finds_any_single_bit(void **state)
{
	uint8_t bytes[67] = { 0 };

	(void)state;
	assert_true(io_is_zero(bytes, sizeof(bytes)));
	assert_true(io_is_zero(bytes, 1));
	assert_true(io_is_zero(bytes, 0));
	for (size_t i = 0; i < 8 * sizeof(bytes); i++) {
		bytes[i / 8] = (uint8_t)(1 << i % 8);
		assert_false(io_is_zero(bytes, sizeof(bytes)));
		bytes[i / 8] = 0;
	}
}

/* ---- messages ---- */

static int make_pair(void **state)
{
	static int pair[2];

	*state = pair;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int close_pair(void **state)
{
	const int *pair = *state;

	close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	return 0;
}

static void message_with_descriptors_arrives_with_them(void **state)
{
	const int *pair = *state;
	const unsigned before = open_descriptors();
	int sent[IO_MAX_FDS], got[IO_MAX_FDS];
	size_t n = IO_MAX_FDS;
	char buf[16];

	for (int i = 0; i < IO_MAX_FDS; i++) {
		const char mark = (char)i;

		sent[i] = memfd_create("sent", MFD_CLOEXEC);
		assert_int_equal(io_write_full(sent[i], &mark, 1), 0);
	}
	assert_int_equal(io_send_msg(pair[0], "hello", 5, sent, IO_MAX_FDS), 0);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), got, &n), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(n, IO_MAX_FDS);
	for (int i = 0; i < IO_MAX_FDS; i++) {
		char c;

		assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
		assert_int_equal(io_pread_full(got[i], &c, 1, 0), 0);
		assert_int_equal(c, (char)i);
		close(got[i]);
		assert_int_equal(fcntl(sent[i], F_GETFD), FD_CLOEXEC); /* the sender's stay open */
		close(sent[i]);
	}
	assert_int_equal(open_descriptors(), before);
}

static void message_with_too_many_descriptors_is_not_sent(void **state)
{
	const int *pair = *state;
	int fds[IO_MAX_FDS + 1];

	for (int i = 0; i <= IO_MAX_FDS; i++)
		fds[i] = pair[0];
	assert_int_equal(io_send_msg(pair[0], "x", 1, fds, IO_MAX_FDS + 1), -EINVAL);
}

static void message_with_more_descriptors_than_room_leaks_none(void **state)
{
	const int *pair = *state;
	const int fds[] = { pair[0], pair[0], pair[0] };
	const unsigned before = open_descriptors();
	int got[1];
	size_t n = 1;
	char buf[16];

	assert_int_equal(io_send_msg(pair[0], "x", 1, fds, 3), 0);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), got, &n), 1);
	assert_int_equal(n, 1);
	close(got[0]);
	assert_int_equal(open_descriptors(), before);
	/* None are wanted at all. */
	assert_int_equal(io_send_msg(pair[0], "x", 1, fds, 3), 0);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), NULL, NULL), 1);
	assert_int_equal(open_descriptors(), before);
}

static void message_longer_than_room_is_emsgsize_and_leaks_none(void **state)
{
	const int *pair = *state;
	const int fds[] = { pair[0], pair[0] };
	const unsigned before = open_descriptors();
	int got[IO_MAX_FDS];
	size_t n = IO_MAX_FDS;
	char buf[4];

	assert_int_equal(io_send_msg(pair[0], "12345", 5, fds, 2), 0);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), got, &n), -EMSGSIZE);
	assert_int_equal(n, 0);
	assert_int_equal(open_descriptors(), before);
	/* The connection goes on. */
	n = IO_MAX_FDS;
	assert_int_equal(io_send_msg(pair[0], "1234", 4, NULL, 0), 0);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), got, &n), 4);
	assert_int_equal(n, 0);
}

#define MANY (IO_MAX_FDS + 4)

/* A peer that does not keep to IO_MAX_FDS: more control bytes than there is room for. */
static void message_of_a_peer_with_many_descriptors_leaks_none(void **state)
{
	const int *pair = *state;
	const unsigned before = open_descriptors();
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int) * MANY)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.room,
			      .msg_controllen = sizeof(control.room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int got[IO_MAX_FDS];
	size_t n = IO_MAX_FDS;
	char buf[4];

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * MANY);
	for (int i = 0; i < MANY; i++)
		memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int), &pair[0], sizeof(int));
	assert_int_equal(sendmsg(pair[0], &msg, 0), 1);
	assert_int_equal(io_recv_msg(pair[1], buf, sizeof(buf), got, &n), -EMSGSIZE);
	assert_int_equal(n, 0);
	assert_int_equal(open_descriptors(), before);
}

static void message_of_a_peer_that_has_gone_is_zero(void **state)
{
	int *pair = *state;
	size_t n = 0;
	char buf[4];

	close(pair[1]);
	pair[1] = -1;
	assert_int_equal(io_recv_msg(pair[0], buf, sizeof(buf), NULL, &n), 0);
	assert_int_equal(io_send_msg(pair[0], "x", 1, NULL, 0), -EPIPE); /* and no SIGPIPE */
}

static void fd_path_opens_the_descriptor_again(void **state)
{
	auto_fd int fd = folder_file(*state, "f", "abc", 3);
	auto_fd int again = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC);
	char got[3];

	assert_int_equal(io_read_full(again, got, 3), 0);
	assert_memory_equal(got, "abc", 3);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)
#define ON_PAIR(f)   cmocka_unit_test_setup_teardown(f, make_pair, close_pair)

static void a_range_is_copied_to_where_it_belongs_and_holes_stay(void **state)
{
	const struct folder *f = *state;
	uint8_t page[4096], got[4096], zeros[4096] = { 0 };
	auto_fd int from = folder_file(f, "from", "", 0), to = folder_file(f, "to", "", 0);
	struct stat st;

	memset(page, 0x5c, sizeof(page));
	assert_int_equal(ftruncate(from, 64 << 20), 0);
	assert_int_equal(ftruncate(to, 64 << 20), 0);
	assert_int_equal(io_pwrite_full(from, page, 4096, 8192), 0);
	assert_int_equal(io_pwrite_full(from, page, 4096, 40 << 20), 0);
	/* Backwards, forwards, and of nothing but a hole. */
	assert_int_equal(io_copy_range(from, 4096, to, 0, 12288), 0);
	assert_int_equal(io_copy_range(from, 40 << 20, to, 48 << 20, 4096), 0);
	assert_int_equal(io_copy_range(from, 16 << 20, to, 20 << 20, 8 << 20), 0);
	assert_int_equal(io_pread_full(to, got, 4096, 4096), 0);
	assert_memory_equal(got, page, 4096);
	assert_int_equal(io_pread_full(to, got, 4096, 0), 0);
	assert_memory_equal(got, zeros, 4096);
	assert_int_equal(io_pread_full(to, got, 4096, 48 << 20), 0);
	assert_memory_equal(got, page, 4096);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 64 << 20);
	assert_true(st.st_blocks < 2048);
	assert_int_equal(io_copy_range(from, UINT64_MAX, to, 0, 2), -EINVAL);
	assert_true(io_copy_range(from, 8192, -1, 0, 4096) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_full_from_a_pipe_in_pieces_gets_all),
		IN_FOLDER(pread_full_beyond_the_end_is_enodata),
		IN_FOLDER(pwrite_full_writes_where_it_is_told),
		IN_FOLDER(a_range_is_copied_to_where_it_belongs_and_holes_stay),
		cmocka_unit_test(write_full_to_a_full_disk_is_enospc),
		IN_FOLDER(open_regular_gives_size_and_a_blocking_descriptor),
		IN_FOLDER(open_regular_of_anything_else_is_refused_without_waiting),
		IN_FOLDER(open_regular_without_permission_says_so),
		IN_FOLDER(read_file_up_to_the_bound_is_read_whole),
		IN_FOLDER(read_file_above_the_bound_is_refused),
		IN_FOLDER(write_file_makes_it_once_with_its_mode),
		IN_FOLDER(make_dirs_makes_all_that_is_missing),
		IN_FOLDER(make_dirs_over_a_file_is_refused),
		cmocka_unit_test(make_dirs_too_long_path_is_refused),
		IN_FOLDER(copy_file_sparse_keeps_holes_and_bytes),
		IN_FOLDER(copy_file_all_hole_and_empty_are_copied),
		IN_FOLDER(copy_file_part_of_a_file_ends_with_size),
		IN_FOLDER(copy_file_between_file_systems_is_equal),
		IN_FOLDER(copy_file_to_a_read_only_descriptor_fails),
		cmocka_unit_test(is_zero_finds_any_single_bit),
		ON_PAIR(message_with_descriptors_arrives_with_them),
		ON_PAIR(message_with_too_many_descriptors_is_not_sent),
		ON_PAIR(message_with_more_descriptors_than_room_leaks_none),
		ON_PAIR(message_longer_than_room_is_emsgsize_and_leaks_none),
		ON_PAIR(message_of_a_peer_with_many_descriptors_leaks_none),
		ON_PAIR(message_of_a_peer_that_has_gone_is_zero),
		IN_FOLDER(fd_path_opens_the_descriptor_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
