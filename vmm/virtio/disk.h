/*
 * A disk: a chain of files, a raw one at the bottom and overlays over it
 * (overlay.h), of which only the top one is written.
 *
 *	PATH.ov2	read and written
 *	PATH.ov1	read
 *	PATH		read; raw
 *
 * What a file is follows from its name, never from its bytes: those of a raw file
 * are the guest's, and a guest that wrote an overlay's header there must not gain
 * anything. A disk given as PATH is PATH, raw, and over it PATH.ov1, PATH.ov2 and so
 * on as far as they exist. With an overlay FILE these are all only read, and FILE,
 * FILE.ov1, ... lie over them. An overlay knows the id of the one it was made over;
 * a chain that does not fit together is refused, and of PATH's overlays only those
 * that were below FILE when it was made are used.
 *
 * A file with another hard link may be part of a snapshot, one without permission
 * to write is somebody's master copy: such a top is never written, a new
 * overlay is put over it. The written file is locked for this process alone
 * (flock), the read ones for all who read.
 *
 * One thread at a time: the device's iothread, or whoever holds it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "overlay.h"

#define DISK_LAYERS_MAX 128

struct disk;

/* What a disk's written file is, to know it again. */
struct disk_identity {
	uint64_t size;	/* of the disk, bytes */
	uint64_t inode; /* of the top file */
	int64_t mtime_ns;
};

/*
 * Opens PATH, with FILE `overlay` (NULL or empty: none), which is made where it is
 * missing and the disk is not read-only. 0 or a negative errno with words.
 */
int disk_open(const char *path, const char *overlay, bool read_only, struct disk **out,
	      struct err *e);

/*
 * Opens a chain from read-only descriptors, the bottom first, as a snapshot holds
 * them (1 to DISK_LAYERS_MAX). Over it goes one of: the overlay FILE, as above;
 * top_fd, an empty file open for reading and writing, which has no name that
 * matters and becomes an overlay; or, with read_only, nothing. Takes all descriptors over, also
 * when it fails. `name` is for words: the device's. 0 or a negative errno with words.
 */
int disk_open_fds(const char *name, const int *fds, unsigned n, int top_fd, const char *overlay,
		  bool read_only, struct disk **out, struct err *e);

/*
 * What disk_open() would open, looked at only: nothing is locked, made or
 * changed. 0 or a negative errno with words.
 */
int disk_probe(const char *path, const char *overlay, bool read_only, struct disk_identity *id,
	       struct err *e);

/* Flushes (a failure is logged), unlocks, closes, frees. NULL is fine. */
void disk_close(struct disk *d);

uint64_t disk_size(const struct disk *d); /* bytes, a multiple of 512 */
bool disk_is_read_only(const struct disk *d);
unsigned disk_layers(const struct disk *d);
/* 0 or a negative errno. */
int disk_identify(const struct disk *d, struct disk_identity *id);

/*
 * I/O at `offset` of the disk, in bytes: within the disk, not aligned; iov may be
 * guest memory. 0, or a negative errno: -EFAULT where guest memory could not be had,
 * -EROFS. What fails may be partly done; doing it again does it whole.
 */
int disk_read(struct disk *d, const struct iovec *iov, unsigned n, uint64_t offset);
int disk_write(struct disk *d, const struct iovec *iov, unsigned n, uint64_t offset);
/* All that was written is durable after it. 0 or a negative errno, for ever once failed. */
int disk_flush(struct disk *d);
/* What was there is of no use any more: a hint; whole blocks of an overlay become zeros. */
int disk_discard(struct disk *d, uint64_t offset, uint64_t len);
/* Zeros; `unmap`: room may be given back. */
int disk_write_zeroes(struct disk *d, uint64_t offset, uint64_t len, bool unmap);

/*
 * Keeping the content for a snapshot. Either a reflink copy of the whole disk into
 * the empty file fd: 0, or -EOPNOTSUPP where the disk is more than one file or the
 * file system cannot. Flushed, and nothing under way.
 */
int disk_try_reflink(struct disk *d, int fd);

/*
 * Or the files are frozen, in two steps. prepare, while the guest runs: makes
 * the overlay that will be written: beside the top file, with the next name; or,
 * where the chain has no names (disk_open_fds with top_fd), of top_fd, an empty
 * file that it takes over in any case (-1 otherwise); -ESTALE: the top file's name is not its own
 * any more. disk_freeze, with the iothread held and
 * the disk flushed in quiesce: every file there is only read from now on, and no
 * descriptor of this process can write it; the new overlay is the top. On failure nothing has
 * changed. abort undoes prepare. A read-only disk needs none of this: all return 0.
 */
int disk_freeze_prepare(struct disk *d, int top_fd, struct err *e);
int disk_freeze(struct disk *d, struct err *e);
void disk_freeze_abort(struct disk *d);
/* True where prepare wants a top_fd. */
bool disk_is_anonymous(const struct disk *d);

/*
 * The files that nobody writes, the bottom first: all of a read-only disk, else
 * all but the top, or with_top that one, too. Read-only descriptors, the caller's,
 * with their sizes. The number, or -E2BIG or another negative errno.
 */
struct disk_file {
	int fd;
	uint64_t size; /* bytes */
};
int disk_files(const struct disk *d, bool with_top, struct disk_file *file, unsigned room);
