/* Whole reads and writes, durable small files, passed descriptors: see io.h. */
#define _GNU_SOURCE
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"

int io_read_full(int fd, void *buf, size_t n)
{
	uint8_t *p = buf;

	while (n) {
		ssize_t r = read(fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENODATA;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int io_pread_full(int fd, void *buf, size_t n, uint64_t off)
{
	uint8_t *p = buf;

	while (n) {
		ssize_t r = pread(fd, p, n, (off_t)off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENODATA;
		p += r;
		off += (uint64_t)r;
		n -= (size_t)r;
	}
	return 0;
}

int io_write_full(int fd, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	while (n) {
		ssize_t r = write(fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int io_pwrite_full(int fd, const void *buf, size_t n, uint64_t off)
{
	const uint8_t *p = buf;

	while (n) {
		ssize_t r = pwrite(fd, p, n, (off_t)off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		p += r;
		off += (uint64_t)r;
		n -= (size_t)r;
	}
	return 0;
}

int io_open_regular(int at, const char *name, uint64_t *size, struct err *e)
{
	/* O_NONBLOCK: opening a FIFO that somebody put there must not wait. */
	auto_fd int fd =
		openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int flags;

	if (fd < 0 && errno == ENOENT)
		return err_refuse(e, ENOENT, "%s is missing", name);
	if (fd < 0 && errno == ELOOP)
		return err_refuse(e, EINVAL, "%s is a symbolic link, not a regular file", name);
	if (fd < 0 && errno == ENXIO) /* a socket */
		return err_refuse(e, EINVAL, "%s is not a regular file", name);
	if (fd < 0)
		return err_sys(e, errno, "cannot open %s", name);
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", name);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "%s is not a regular file", name);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return err_sys(e, errno, "cannot open %s", name);
	if (size)
		*size = (uint64_t)st.st_size;
	return take_fd(&fd);
}

int io_read_file(int at, const char *name, size_t max, uint8_t **buf, size_t *len, struct err *e)
{
	auto_free uint8_t *data = NULL;
	auto_fd int fd = -1;
	uint64_t size;
	int rc;

	fd = io_open_regular(at, name, &size, e);
	if (fd < 0)
		return fd;
	if (size > max)
		return err_refuse(e, EFBIG, "%s has %llu bytes, more than the %zu it may have",
				  name, (unsigned long long)size, max);
	data = malloc(size ? size : 1);
	if (!data)
		return err_sys(e, ENOMEM, "cannot read %s", name);
	rc = io_pread_full(fd, data, size, 0);
	if (rc == -ENODATA)
		return err_refuse(e, EIO, "%s became shorter while it was read", name);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s", name);
	*buf = take_ptr(&data);
	*len = size;
	return 0;
}

int io_write_file(int at, const char *name, const void *buf, size_t len, mode_t mode, struct err *e)
{
	auto_fd int fd =
		openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	int rc;

	if (fd < 0)
		return err_sys(e, errno, "cannot make %s", name);
	/* The umask does not decide who may read a snapshot: the store does. */
	if (fchmod(fd, mode) < 0)
		return err_sys(e, errno, "cannot set the mode of %s", name);
	rc = io_write_full(fd, buf, len);
	if (rc < 0)
		return err_sys(e, -rc, "cannot write %s", name);
	if (fsync(fd) < 0)
		return err_sys(e, errno, "cannot sync %s", name);
	return 0;
}

int io_make_dirs(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t n = strlen(path);
	struct stat st;

	if (n == 0 || n >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, n + 1);
	for (size_t i = 1; i <= n; i++) {
		if (part[i] != '/' && part[i] != '\0')
			continue;
		part[i] = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return -errno;
		part[i] = path[i];
	}
	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

/* What is copied from where to where; progress may be NULL. */
struct copy {
	int from, to;
	uint64_t shift; /* added to an offset in `from`, modulo 2^64: that in `to` */
	struct io_progress *progress;
	uint64_t total;
	uint8_t *buf; /* owned; NULL until the kernel cannot do it */
};

#define COPY_CHUNK ((size_t)1 << 20)

static int copy_by_hand(struct copy *c, uint64_t off, size_t len)
{
	int rc;

	if (!c->buf)
		c->buf = malloc(COPY_CHUNK);
	if (!c->buf)
		return -ENOMEM;
	rc = io_pread_full(c->from, c->buf, len, off);
	return rc < 0 ? rc : io_pwrite_full(c->to, c->buf, len, off + c->shift);
}

/* Copies [off, end) by the kernel where it can, else through a buffer. */
static int copy_extent(struct copy *c, uint64_t off, uint64_t end)
{
	while (off < end) {
		const size_t want = end - off < COPY_CHUNK ? (size_t)(end - off) : COPY_CHUNK;
		off_t in = (off_t)off, out = (off_t)(off + c->shift);
		ssize_t r = c->buf ? 0 : copy_file_range(c->from, &in, c->to, &out, want, 0);
		int rc = 0;

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP &&
		    errno != ENOSYS)
			return -errno;
		if (r <= 0) {
			rc = copy_by_hand(c, off, want);
			r = (ssize_t)want;
		}
		if (rc < 0)
			return rc;
		off += (uint64_t)r;
		if (c->progress && c->progress->fn)
			rc = c->progress->fn(c->progress->arg, off, c->total);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Data extent by data extent. */
static int copy_extents(struct copy *c, uint64_t off, uint64_t end)
{
	int rc = 0;

	while (rc == 0 && off < end) {
		off_t data = lseek(c->from, (off_t)off, SEEK_DATA);
		off_t hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(c->from, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		off = (uint64_t)hole < end ? (uint64_t)hole : end;
		rc = copy_extent(c, (uint64_t)data, off);
	}
	return rc;
}

int io_copy_file(int from, int to, uint64_t size, struct io_progress *progress)
{
	struct copy c = { .from = from, .to = to, .progress = progress, .total = size };
	int rc;

	if (ioctl(to, FICLONE, from) == 0)
		return ftruncate(to, (off_t)size) < 0 ? -errno : 0;
	if (ftruncate(to, 0) < 0 || ftruncate(to, (off_t)size) < 0)
		return -errno;
	rc = copy_extents(&c, 0, size);
	free(c.buf);
	return rc;
}

int io_copy_range(int from, uint64_t from_off, int to, uint64_t to_off, uint64_t len)
{
	struct copy c = { .from = from, .to = to, .shift = to_off - from_off };
	uint64_t end;
	int rc;

	if (__builtin_add_overflow(from_off, len, &end))
		return -EINVAL;
	rc = copy_extents(&c, from_off, end);
	free(c.buf);
	return rc;
}

int io_is_zero(const void *buf, size_t n)
{
	const uint8_t *p = buf;

	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

struct io_fd_path io_fd_path(int fd)
{
	struct io_fd_path p;

	snprintf(p.text, sizeof(p.text), "/proc/self/fd/%d", fd);
	return p;
}

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(sizeof(int) * IO_MAX_FDS)];
};

int io_send_msg(int sock, const void *buf, size_t len, const int *fds, size_t nfds)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control control = { 0 };
	ssize_t r;

	if (nfds > IO_MAX_FDS)
		return -EINVAL;
	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do
		r = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* Takes the descriptors out of msg; those beyond `room` are closed. */
static size_t take_fds(struct msghdr *msg, int *fds, size_t room)
{
	size_t got = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (got < room)
				fds[got++] = fd;
			else
				close(fd);
		}
	}
	return got;
}

ssize_t io_recv_msg(int sock, void *buf, size_t max, int *fds, size_t *nfds)
{
	struct iovec iov = { .iov_base = buf, .iov_len = max };
	union control control = { 0 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	size_t room = nfds ? *nfds : 0;
	size_t got;
	ssize_t r;

	do
		r = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (nfds)
		*nfds = 0;
	if (r < 0)
		return -errno;
	got = take_fds(&msg, fds, room);
	if (nfds)
		*nfds = got;
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (size_t i = 0; i < got; i++)
			close(fds[i]);
		if (nfds)
			*nfds = 0;
		return -EMSGSIZE;
	}
	return r;
}
