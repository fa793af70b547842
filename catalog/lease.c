/*
 * A read lease over the time that a file is hashed: see stamps.h.
 *
 * mtime and ctime alone do not show every write: the second and later stores
 * to a dirty shared page change neither. The kernel refuses a read lease while
 * the file is open for writing (a shared writable mapping keeps it open), and
 * makes who opens it for writing wait until the lease is given back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "base/merkle.h"
#include "catalog/internal.h"
#include "catalog/stamps.h"

struct lease cat_lease_take(int fd)
{
	struct io_fd_path path = io_fd_path(fd);
	struct lease l = { .fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK) };

	if (l.fd < 0) {
		l.refused = errno;
		return l;
	}
	/* By default a break sends SIGIO, which kills; SIGURG is ignored unless asked for. */
	if (fcntl(l.fd, F_SETSIG, SIGURG) < 0 || fcntl(l.fd, F_SETLEASE, F_RDLCK) < 0 ||
	    fstat(l.fd, &l.st) < 0) {
		l.refused = errno;
		close(l.fd);
		l.fd = -1;
	}
	return l;
}

void cat_lease_check(struct lease *l)
{
	if (l->fd >= 0 && fcntl(l->fd, F_GETLEASE) != F_RDLCK) {
		cat_lease_drop(l);
		l->refused = EAGAIN;
	}
}

bool cat_lease_unbroken(struct lease *l)
{
	struct stat now;

	cat_lease_check(l);
	return l->fd >= 0 && fstat(l->fd, &now) == 0 && now.st_size == l->st.st_size &&
	       nanoseconds(now.st_mtim) == nanoseconds(l->st.st_mtim) &&
	       nanoseconds(now.st_ctim) == nanoseconds(l->st.st_ctim);
}

void cat_lease_drop(struct lease *l)
{
	if (l->fd < 0)
		return;
	fcntl(l->fd, F_SETLEASE, F_UNLCK);
	close(l->fd);
	l->fd = -1;
}

struct watched {
	struct lease *lease;
	struct io_progress *progress; /* may be NULL */
};

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct watched *w = arg;

	cat_lease_check(w->lease);
	return w->progress && w->progress->fn ? w->progress->fn(w->progress->arg, done, total) : 0;
}

int cat_lease_digest(struct lease *l, int fd, uint64_t size, int tree_fd,
		     struct io_progress *progress, uint8_t digest[DIGEST_SIZE])
{
	struct watched w = { l, progress };
	struct io_progress both = {
		.fn = on_progress,
		.arg = &w,
		.idle = progress && progress->idle,
	};

	return merkle_digest_fd(fd, size, tree_fd, &both, digest);
}

static int on_part(void *arg, uint64_t done, uint64_t total)
{
	const struct progress_sum *sum = arg;

	(void)total;
	if (!sum->whole || !sum->whole->fn)
		return 0;
	return sum->whole->fn(sum->whole->arg, sum->before + done, sum->total);
}

struct io_progress cat_progress_part(struct progress_sum *sum)
{
	return (struct io_progress){ .fn = on_part, .arg = sum };
}
