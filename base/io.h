/*
 * Files and descriptors: whole reads and writes, small files read with a
 * bound, files made durable, descriptors passed over sockets. Everything is
 * openat style and O_CLOEXEC. No function here knows what a snapshot is.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/types.h>

#include "err.h"

/*
 * Told how far a long piece of work is; done and total in bytes. 0: go on; a negative
 * errno ends the work, which returns it (-ECANCELED: somebody does not want it any more).
 */
typedef int (*io_progress_fn)(void *arg, uint64_t done, uint64_t total);

struct io_progress {
	io_progress_fn fn; /* may be NULL */
	void *arg;
	bool idle; /* merkle.h: the work is done in time that nobody else wants */
};

/*
 * Read exactly n bytes (at off), retrying short reads and EINTR.
 * 0, -ENODATA if the file ended before, or a negative errno.
 */
int io_read_full(int fd, void *buf, size_t n);
int io_pread_full(int fd, void *buf, size_t n, uint64_t off);

/* Write exactly n bytes (at off). 0 or a negative errno. */
int io_write_full(int fd, const void *buf, size_t n);
int io_pwrite_full(int fd, const void *buf, size_t n, uint64_t off);

/*
 * Opens the regular file `name` in the directory `at` for reading. A symbolic
 * link, FIFO, device or directory is refused and never waited for.
 * Returns the descriptor (caller's) or a negative errno; *size may be NULL.
 */
int io_open_regular(int at, const char *name, uint64_t *size, struct err *e);

/*
 * Reads the whole regular file `name` in the directory `at`, of at most `max`
 * bytes. *buf is the caller's to free. 0 or a negative errno (-EFBIG).
 */
int io_read_file(int at, const char *name, size_t max, uint8_t **buf, size_t *len, struct err *e);

/*
 * Makes `name` in `at` with mode `mode`, writes buf, syncs the file. Fails if
 * it exists. The directory's own sync is the caller's. 0 or a negative errno.
 */
int io_write_file(int at, const char *name, const void *buf, size_t len, mode_t mode,
		  struct err *e);

/* mkdir -p: makes every missing part of path with `mode`. 0 or a negative errno. */
int io_make_dirs(const char *path, mode_t mode);

/*
 * Copies `size` bytes of `from` to `to` (both from offset 0): by reflink if the
 * file system can, else data extent by data extent, so that holes stay holes;
 * `to` ends with exactly `size` bytes. 0 or a negative errno.
 */
int io_copy_file(int from, int to, uint64_t size, struct io_progress *progress);

/*
 * Copies len bytes of `from`, from from_off on, to to_off in `to`, of which that is a hole:
 * holes stay holes. By reflink where the file system can. 0 or a negative errno.
 */
int io_copy_range(int from, uint64_t from_off, int to, uint64_t to_off, uint64_t len);

/* True where the bytes are all zero. */
int io_is_zero(const void *buf, size_t n);

/* The path that opens the descriptor again: "/proc/self/fd/N". */
struct io_fd_path {
	char text[32];
};
struct io_fd_path io_fd_path(int fd);

/* Most descriptors that one message carries. */
#define IO_MAX_FDS 244 /* Linux passes at most 253 */

/*
 * One message on a SOCK_SEQPACKET socket, with up to IO_MAX_FDS descriptors.
 * io_send_msg keeps the sender's descriptors open. io_recv_msg returns the
 * length (0: the peer has gone), -EMSGSIZE if it was longer than `max`;
 * received descriptors are O_CLOEXEC and the caller's, *nfds in: room, out: got.
 */
int io_send_msg(int sock, const void *buf, size_t len, const int *fds, size_t nfds);
ssize_t io_recv_msg(int sock, void *buf, size_t max, int *fds, size_t *nfds);
