/*
 * readways RUNG MOUNTED BARE SEED: reads a file through the mount by every way there is to
 * read a file, each on an open of its own and then all on one, and compares bytes, lengths
 * and positions with the file in the store. Offsets and lengths are random, many of them
 * around the ends of blocks and of the file.
 *
 * RUNG: the one that the file has to be on before each open, "-" where it has none. With
 * "unverified" the file in the store gets a new time before each, which ends its stamp.
 *
 * A way that this kernel or file system does not have is said, and not tried; what differs
 * ends the program with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLOCK	 4096
#define LEN_MAX	 300000 /* bytes of one read; more than the kernel asks for at once */
#define ROUNDS	 60
#define VECTORS	 7
#define WAIT_MS	 20000 /* for a file to be verified */
#define DISTANCE 9000  /* bytes beyond the end that are tried */

/* A file open on the mount, and what it has to have. */
struct file {
	const char *path;
	int fd, bare;
	const char *want;
	off_t size;
};

/* A piece to read, and how much of it there is. */
struct piece {
	off_t at;
	size_t len, there;
};

static const char *way_now = "open";
static uint64_t state;
static char got[LEN_MAX + DISTANCE];

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "readways: %s: ", way_now);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t below(uint64_t n)
{
	/* xorshift64*: the same seed asks for the same. */
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 0x2545f4914f6cdd1d >> 16) % n;
}

static size_t random_len(void)
{
	switch (below(4)) {
	case 0:
		return 1 + below(20);
	case 1:
		return BLOCK * (1 + below(8)) - 3 + below(7);
	case 2:
		return BLOCK * (1 + below(8));
	default:
		return 1 + below(LEN_MAX);
	}
}

static off_t random_at(off_t size)
{
	const off_t block = (off_t)below((uint64_t)size / BLOCK + 1) * BLOCK;
	const off_t near = (off_t)below(7) - 3;
	off_t at;

	switch (below(6)) {
	case 0:
		at = block + near;
		break;
	case 1:
		at = size + near;
		break;
	case 2:
		at = size - (off_t)below(2 * BLOCK);
		break;
	case 3:
		at = size + (off_t)below(DISTANCE);
		break;
	case 4:
		at = block;
		break;
	default:
		at = (off_t)below((uint64_t)size + 1);
		break;
	}
	return at < 0 ? 0 : at;
}

static struct piece piece_at(const struct file *f, off_t at, size_t len)
{
	struct piece p = { .at = at, .len = len };

	if (at < f->size)
		p.there = (uint64_t)(f->size - at) < len ? (size_t)(f->size - at) : len;
	return p;
}

static struct piece random_piece(const struct file *f)
{
	const off_t at = random_at(f->size);

	return piece_at(f, at, random_len());
}

/* What a call gave for the piece is right. */
static void check(const struct file *f, const struct piece *p, ssize_t n, const char *bytes)
{
	if (n < 0)
		die("%zu bytes at %lld: %s", p->len, (long long)p->at, strerror(errno));
	if ((size_t)n != p->there)
		die("%zu bytes at %lld: got %zd, not %zu", p->len, (long long)p->at, n, p->there);
	for (size_t i = 0; i < p->there; i++)
		if (bytes[i] != f->want[p->at + (off_t)i])
			die("%zu bytes at %lld: wrong at %lld", p->len, (long long)p->at,
			    (long long)p->at + (long long)i);
}

static void check_position(const struct file *f, off_t want)
{
	const off_t at = lseek(f->fd, 0, SEEK_CUR);

	if (at != want)
		die("the position is %lld, not %lld", (long long)at, (long long)want);
}

static void go_to(const struct file *f, off_t at)
{
	if (lseek(f->fd, at, SEEK_SET) != at)
		die("lseek to %lld: %s", (long long)at, strerror(errno));
}

/* Sometimes the page cache of the mount is empty there. */
static void maybe_cold(const struct file *f, const struct piece *p)
{
	if (below(3) == 0)
		posix_fadvise(f->fd, p->at, (off_t)p->len, POSIX_FADV_DONTNEED);
}

/* Cuts a piece into buffers of which some are empty. */
static int cut(const struct piece *p, struct iovec iov[VECTORS])
{
	size_t at = 0;

	for (int i = 0; i < VECTORS; i++) {
		const size_t left = p->len - at;

		iov[i].iov_base = got + at;
		iov[i].iov_len = i == VECTORS - 1 ? left : below(left + 1);
		at += iov[i].iov_len;
	}
	return VECTORS;
}

/* --- the ways; each gives NULL, or why it is not tried --- */

static const char *by_read(const struct file *f)
{
	struct piece p;
	off_t at = 0;

	go_to(f, 0);
	/* Once through the file, and then here and there. */
	do {
		p = piece_at(f, at, random_len());
		check(f, &p, read(f->fd, got, p.len), got);
		at += (off_t)p.there;
		check_position(f, at);
	} while (p.there);
	for (int i = 0; i < ROUNDS; i++) {
		p = random_piece(f);
		maybe_cold(f, &p);
		go_to(f, p.at);
		check(f, &p, read(f->fd, got, p.len), got);
		check_position(f, p.at + (off_t)p.there);
	}
	return NULL;
}

static const char *by_pread(const struct file *f)
{
	const off_t stays = random_at(f->size);

	go_to(f, stays);
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);

		maybe_cold(f, &p);
		check(f, &p, pread(f->fd, got, p.len, p.at), got);
	}
	check_position(f, stays);
	return NULL;
}

static const char *by_readv(const struct file *f)
{
	struct iovec iov[VECTORS];

	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);
		int n = cut(&p, iov);

		go_to(f, p.at);
		check(f, &p, readv(f->fd, iov, n), got);
		check_position(f, p.at + (off_t)p.there);
	}
	return NULL;
}

static const char *by_preadv(const struct file *f)
{
	const off_t stays = random_at(f->size);
	struct iovec iov[VECTORS];

	go_to(f, stays);
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);
		int n = cut(&p, iov);

		maybe_cold(f, &p);
		check(f, &p, preadv(f->fd, iov, n, p.at), got);
	}
	check_position(f, stays);
	return NULL;
}

/* The whole file mapped; behind its end the last page has zeros. */
static char *map(const struct file *f, int prot, int flags)
{
	char *m = mmap(NULL, (size_t)f->size, prot, flags, f->fd, 0);
	const size_t end = (size_t)f->size, page_end = (end + BLOCK - 1) / BLOCK * BLOCK;

	if (m == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	for (size_t i = end; i < page_end; i++)
		if (m[i])
			die("byte %zu of the last page is not zero", i % BLOCK);
	return m;
}

static void check_map(const struct file *f, const char *m)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);

		maybe_cold(f, &p);
		check(f, &p, (ssize_t)p.there, m + p.at);
	}
	if (memcmp(m, f->want, (size_t)f->size) != 0)
		die("the whole mapping differs");
}

static const char *by_shared_map(const struct file *f)
{
	char *m = map(f, PROT_READ, MAP_SHARED);
	const off_t part = (off_t)below((uint64_t)(f->size + BLOCK - 1) / BLOCK) * BLOCK;
	struct piece p = piece_at(f, part, LEN_MAX);
	char *mine;

	check_map(f, m);
	munmap(m, (size_t)f->size);
	mine = mmap(NULL, p.there, PROT_READ, MAP_SHARED, f->fd, part);
	if (mine == MAP_FAILED)
		die("mmap at %lld: %s", (long long)part, strerror(errno));
	check(f, &p, (ssize_t)p.there, mine);
	munmap(mine, p.there);
	return NULL;
}

/* What is written to a private mapping nobody else sees. */
static const char *by_private_map(const struct file *f)
{
	char *m = map(f, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	check_map(f, m);
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);

		for (size_t j = 0; j < p.there; j++)
			m[p.at + (off_t)j] = (char)~f->want[p.at + (off_t)j];
		check(f, &p, pread(f->fd, got, p.len, p.at), got);
	}
	munmap(m, (size_t)f->size);
	m = map(f, PROT_READ, MAP_PRIVATE);
	check_map(f, m);
	munmap(m, (size_t)f->size);
	return NULL;
}

/* Empties the pipe of n bytes into got, behind what is there. */
static void drain(int pipe, size_t at, size_t n)
{
	while (n) {
		ssize_t some = read(pipe, got + at, n);

		if (some <= 0)
			die("the pipe gave %zd", some);
		at += (size_t)some;
		n -= (size_t)some;
	}
}

/* By the file's position, or by one told, in turn. A pipe may take a part only. */
static const char *by_splice(const struct file *f)
{
	const off_t stays = random_at(f->size);
	int ends[2];

	if (pipe(ends) < 0)
		die("pipe: %s", strerror(errno));
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);
		off_t at = p.at;
		size_t all = 0;
		ssize_t n;

		go_to(f, i % 2 ? p.at : stays);
		while ((n = splice(f->fd, i % 2 ? NULL : &at, ends[1], NULL, p.len - all, 0)) > 0) {
			drain(ends[0], all, (size_t)n);
			all += (size_t)n;
			if (all == p.len)
				break;
		}
		check(f, &p, n < 0 ? n : (ssize_t)all, got);
		check_position(f, i % 2 ? p.at + (off_t)all : stays);
		if (i % 2 == 0 && at != p.at + (off_t)all)
			die("the offset is %lld, not %lld", (long long)at, (long long)p.at);
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

static const char *by_sendfile(const struct file *f)
{
	const off_t stays = random_at(f->size);
	int out = memfd_create("readways", MFD_CLOEXEC);

	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);
		off_t at = p.at;
		ssize_t n;

		if (ftruncate(out, 0) < 0 || lseek(out, 0, SEEK_SET) != 0)
			die("cannot empty the other file");
		go_to(f, i % 2 ? p.at : stays);
		n = sendfile(out, f->fd, i % 2 ? NULL : &at, p.len);
		if (n > 0 && pread(out, got, (size_t)n, 0) != n)
			die("the other file has less than was sent");
		check(f, &p, n, got);
		check_position(f, i % 2 ? p.at + n : stays);
		if (i % 2 == 0 && at != p.at + n)
			die("the offset is %lld, not %lld", (long long)at, (long long)p.at + n);
	}
	close(out);
	return NULL;
}

/* Since Linux 5.19 between two file systems of one kind at most. */
static const char *by_copy_file_range(const struct file *f)
{
	const off_t stays = random_at(f->size);
	int out = memfd_create("readways", MFD_CLOEXEC);
	const char *why = NULL;

	for (int i = 0; i < ROUNDS && !why; i++) {
		struct piece p = random_piece(f);
		off_t at = p.at, to = 0;
		ssize_t n;

		go_to(f, i % 2 ? p.at : stays);
		n = copy_file_range(f->fd, i % 2 ? NULL : &at, out, &to, p.len, 0);
		if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOSYS)) {
			/* What is refused moves nothing. */
			check_position(f, i % 2 ? p.at : stays);
			if (at != p.at || to != 0)
				die("an offset moved though nothing was copied");
			why = "the kernel does not copy from this file system to another";
		} else {
			if (n > 0 && pread(out, got, (size_t)n, 0) != n)
				die("the other file has less than was copied");
			check(f, &p, n, got);
			check_position(f, i % 2 ? p.at + n : stays);
		}
	}
	close(out);
	return why;
}

/* Aligned it is right; unaligned it is right, or EINVAL where the file system wants that. */
static const char *by_direct(const struct file *f)
{
	const int flags = fcntl(f->fd, F_GETFL);
	char *buf = aligned_alloc(BLOCK, (LEN_MAX / BLOCK + 2) * BLOCK);

	if (!buf)
		die("out of memory");
	if (fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0) {
		if (errno != EINVAL)
			die("O_DIRECT: %s", strerror(errno));
		free(buf);
		return "the file system has no O_DIRECT";
	}
	for (int i = 0; i < ROUNDS; i++) {
		struct piece p = random_piece(f);
		ssize_t n = pread(f->fd, buf, p.len, p.at);

		if (n >= 0 || errno != EINVAL)
			check(f, &p, n, buf);
		p = piece_at(f, p.at / BLOCK * BLOCK, (p.len + BLOCK - 1) / BLOCK * BLOCK);
		go_to(f, p.at);
		check(f, &p, read(f->fd, buf, p.len), buf);
		check_position(f, p.at + (off_t)p.there);
	}
	free(buf);
	if (fcntl(f->fd, F_SETFL, flags) < 0)
		die("O_DIRECT cannot be taken off: %s", strerror(errno));
	return NULL;
}

/* Both files answer alike, by value, error and where they stand then. */
static const char *by_seek(const struct file *f)
{
	static const int whence[] = { SEEK_DATA, SEEK_HOLE, SEEK_SET, SEEK_CUR, SEEK_END };
	const size_t kinds = sizeof(whence) / sizeof(*whence);

	for (int i = 0; i < 10 * ROUNDS; i++) {
		const off_t from = random_at(f->size);
		const off_t at = random_at(f->size) * (below(8) == 0 ? -1 : 1);
		const int how = whence[below(kinds)];
		off_t mine, theirs;
		int my_errno, their_errno;

		go_to(f, from);
		lseek(f->bare, from, SEEK_SET);
		errno = 0;
		mine = lseek(f->fd, at, how);
		my_errno = errno;
		errno = 0;
		theirs = lseek(f->bare, at, how);
		their_errno = errno;
		if (mine != theirs || my_errno != their_errno)
			die("lseek by %lld, %d from %lld: %lld (%s), not %lld (%s)", (long long)at,
			    how, (long long)from, (long long)mine, strerror(my_errno),
			    (long long)theirs, strerror(their_errno));
		check_position(f, lseek(f->bare, 0, SEEK_CUR));
	}
	return NULL;
}

static const struct way {
	const char *name;
	const char *(*run)(const struct file *f);
} ways[] = {
	{ "read", by_read },
	{ "pread", by_pread },
	{ "readv", by_readv },
	{ "preadv", by_preadv },
	{ "mmap, shared", by_shared_map },
	{ "mmap, private", by_private_map },
	{ "splice", by_splice },
	{ "sendfile", by_sendfile },
	{ "copy_file_range", by_copy_file_range },
	{ "O_DIRECT", by_direct },
	{ "lseek", by_seek },
};
#define WAYS (sizeof(ways) / sizeof(*ways))

/* The file has another time than ever before: nobody knows any more what it has. */
static void break_stamp(int bare)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT } };
	struct stat st;

	if (fstat(bare, &st) < 0)
		die("stat: %s", strerror(errno));
	times[1] = (struct timespec){ .tv_sec = st.st_mtim.tv_sec - 1 };
	if (futimens(bare, times) < 0)
		die("the time cannot be set: %s", strerror(errno));
}

static bool is_on(const char *path, const char *rung)
{
	char word[32];
	const ssize_t n = getxattr(path, "user.snapfs.rung", word, sizeof(word));

	return n == (ssize_t)strlen(rung) && memcmp(word, rung, (size_t)n) == 0;
}

static void open_file(struct file *f, const char *path, const char *rung)
{
	if (strcmp(rung, "unverified") == 0) {
		/* What the open before had verified is so at last, and no more disturbs. */
		for (int i = 0; !is_on(path, "stamped"); i++) {
			if (i == WAIT_MS)
				die("%s is not verified by having been opened", path);
			usleep(1000);
		}
		break_stamp(f->bare);
	}
	if (strcmp(rung, "-") != 0 && !is_on(path, rung))
		die("%s is not on the rung '%s'", path, rung);
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0)
		die("%s: %s", path, strerror(errno));
}

/* The file in the store, whole, by the plainest way. */
static void load(struct file *f, const char *bare)
{
	struct stat st;
	char *bytes;

	f->bare = open(bare, O_RDONLY | O_CLOEXEC);
	if (f->bare < 0 || fstat(f->bare, &st) < 0)
		die("%s: %s", bare, strerror(errno));
	f->size = st.st_size;
	bytes = malloc((size_t)f->size + 1);
	for (off_t at = 0; at < f->size;) {
		ssize_t n = bytes ? pread(f->bare, bytes + at, (size_t)(f->size - at), at) : -1;

		if (n <= 0)
			die("%s cannot be read", bare);
		at += n;
	}
	f->want = bytes;
}

int main(int argc, char **argv)
{
	struct file f = { 0 };
	const char *why;

	if (argc != 5 || (state = strtoull(argv[4], NULL, 10)) == 0) {
		fprintf(stderr, "usage: readways RUNG MOUNTED BARE SEED\n");
		return 2;
	}
	load(&f, argv[3]);
	for (size_t i = 0; i < WAYS; i++) {
		way_now = ways[i].name;
		open_file(&f, argv[2], argv[1]);
		why = ways[i].run(&f);
		if (why)
			printf("not tried: %s: %s\n", way_now, why);
		close(f.fd);
	}
	way_now = "all on one";
	open_file(&f, argv[2], argv[1]);
	for (size_t i = 0; i < 2 * WAYS; i++) {
		const struct way *w = &ways[below(WAYS)];

		way_now = w->name;
		w->run(&f);
	}
	close(f.fd);
	close(f.bare);
	free((void *)(uintptr_t)f.want);
	return 0;
}
