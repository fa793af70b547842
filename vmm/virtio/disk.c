/* Reads and writes of a chain of files: see disk.h. Which files: disk_chain.c. */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "disk_impl.h"
#include "vmm/fault.h"

#define BLOCK OVERLAY_BLOCK

/* One system call's buffers; a longer run takes several. */
#define IOV_ROOM 64

/* Where no file has a block: it is zeros. */
#define NOWHERE (-1)

static const uint8_t zeros[16 * BLOCK];

/* Buffers, consumed from the front. */
struct cursor {
	const struct iovec *iov;
	unsigned n;
	size_t skip; /* of the first one */
};

/* The next pieces, at most len bytes, into out[room]; how many. */
static unsigned cursor_peek(const struct cursor *c, uint64_t len, struct iovec *out, unsigned room)
{
	unsigned count = 0;
	size_t skip = c->skip;

	for (unsigned i = 0; i < c->n && count < room && len; i++) {
		size_t piece = c->iov[i].iov_len - skip;

		if (piece > len)
			piece = (size_t)len;
		if (piece)
			out[count++] =
				(struct iovec){ (uint8_t *)c->iov[i].iov_base + skip, piece };
		len -= piece;
		skip = 0;
	}
	return count;
}

static void cursor_advance(struct cursor *c, uint64_t len)
{
	while (len && c->n) {
		size_t left = c->iov->iov_len - c->skip;

		if (len < left) {
			c->skip += (size_t)len;
			return;
		}
		len -= left;
		c->iov++;
		c->n--;
		c->skip = 0;
	}
}

typedef ssize_t (*transfer_fn)(int fd, const struct iovec *iov, int n, off_t at);

/* All of len bytes between the buffers and the file, from byte `at` of it. */
static int transfer(transfer_fn fn, int fd, struct cursor *c, uint64_t len, uint64_t at)
{
	struct iovec iov[IOV_ROOM];

	while (len) {
		unsigned n = cursor_peek(c, len, iov, IOV_ROOM);
		ssize_t r;

		if (n == 0)
			return -EINVAL;
		r = fn(fd, iov, (int)n, (off_t)at);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0) /* somebody made the file shorter */
			return -EIO;
		cursor_advance(c, (uint64_t)r);
		at += (uint64_t)r;
		len -= (uint64_t)r;
	}
	return 0;
}

/* Between the buffers and vmm's own memory; the buffers' pages may not be to be had. */
static int copy(struct cursor *c, uint8_t *own, uint64_t len, bool to_own)
{
	struct iovec piece;

	while (len) {
		int rc;

		if (cursor_peek(c, len, &piece, 1) == 0)
			return -EINVAL;
		rc = to_own ? fault_copy(own, piece.iov_base, piece.iov_len)
			    : fault_copy(piece.iov_base, own, piece.iov_len);
		if (rc < 0)
			return rc;
		cursor_advance(c, piece.iov_len);
		own += piece.iov_len;
		len -= piece.iov_len;
	}
	return 0;
}

static int read_zeros(struct cursor *c, uint64_t len)
{
	while (len) {
		uint64_t n = len < sizeof(zeros) ? len : sizeof(zeros);
		int rc = copy(c, (uint8_t *)(uintptr_t)zeros, n, false);

		if (rc < 0)
			return rc;
		len -= n;
	}
	return 0;
}

static bool within(const struct disk *d, uint64_t offset, uint64_t len)
{
	return offset <= d->size && len <= d->size - offset;
}

/* The layer that has the block: the uppermost that says anything about it. */
static int find(const struct disk *d, uint64_t block)
{
	for (unsigned i = d->nlayers; i-- > 1;) {
		switch (overlay_get(&d->layer[i].o, block)) {
		case OVERLAY_DATA:
			return (int)i;
		case OVERLAY_ZEROS:
			return NOWHERE;
		case OVERLAY_BELOW:
			break;
		}
	}
	return 0;
}

/* How many of the len bytes at offset lie together in one place, *where. */
static uint64_t run_of(const struct disk *d, uint64_t offset, uint64_t len, int *where)
{
	uint64_t end = offset / BLOCK * BLOCK + BLOCK;

	*where = find(d, offset / BLOCK);
	if (d->nlayers == 1)
		return len;
	while (end < offset + len && find(d, end / BLOCK) == *where)
		end += BLOCK;
	return end < offset + len ? end - offset : len;
}

static int read_from(struct disk *d, struct cursor *c, uint64_t offset, uint64_t len)
{
	while (len) {
		int where, rc;
		uint64_t n = run_of(d, offset, len, &where);

		if (where == NOWHERE)
			rc = read_zeros(c, n);
		else if (where == 0)
			rc = transfer(preadv, d->layer[0].raw_fd, c, n, offset);
		else
			rc = transfer(preadv, d->layer[where].o.fd, c, n,
				      overlay_at(&d->layer[where].o, offset));
		if (rc < 0)
			return rc;
		offset += n;
		len -= n;
	}
	return 0;
}

static uint64_t total(const struct iovec *iov, unsigned n)
{
	uint64_t len = 0;

	for (unsigned i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

int disk_read(struct disk *d, const struct iovec *iov, unsigned n, uint64_t offset)
{
	struct cursor c = { iov, n, 0 };
	uint64_t len = total(iov, n);

	return within(d, offset, len) ? read_from(d, &c, offset, len) : -EINVAL;
}

/*
 * Writes a part of one block of the top overlay, len bytes of c or, where that is
 * NULL, of zeros. What else is in the block comes up from below with it.
 */
static int write_part(struct disk *d, struct cursor *c, uint64_t offset, uint64_t len)
{
	struct overlay *o = &disk_top(d)->o;
	uint64_t block = offset / BLOCK, start = block * BLOCK;
	uint8_t buf[BLOCK] = { 0 };
	struct iovec whole = { buf, d->size - start < BLOCK ? d->size - start : BLOCK };
	struct cursor up = { &whole, 1, 0 };
	int rc;

	if (overlay_get(o, block) == OVERLAY_DATA)
		return c ? transfer(pwritev, o->fd, c, len, overlay_at(o, offset))
			 : io_pwrite_full(o->fd, zeros, len, overlay_at(o, offset));
	rc = read_from(d, &up, start, whole.iov_len);
	if (rc == 0 && c)
		rc = copy(c, buf + (offset - start), len, true);
	else if (rc == 0)
		memset(buf + (offset - start), 0, len);
	/* The whole block: what a discard has left in the file must not come back. */
	if (rc == 0)
		rc = io_pwrite_full(o->fd, buf, sizeof(buf), overlay_at(o, start));
	if (rc == 0)
		overlay_set(o, block, 1, OVERLAY_DATA);
	return rc;
}

/* How many of the len bytes at offset are whole blocks, or else of the one block there. */
static uint64_t step_of(uint64_t offset, uint64_t len, bool *whole)
{
	uint64_t rest = BLOCK - offset % BLOCK;

	*whole = rest == BLOCK && len >= BLOCK;
	if (*whole)
		return len / BLOCK * BLOCK;
	return len < rest ? len : rest;
}

static int write_overlay(struct disk *d, struct cursor *c, uint64_t offset, uint64_t len)
{
	struct overlay *o = &disk_top(d)->o;

	while (len) {
		bool whole;
		uint64_t n = step_of(offset, len, &whole);
		int rc = whole ? transfer(pwritev, o->fd, c, n, overlay_at(o, offset))
			       : write_part(d, c, offset, n);

		if (rc < 0)
			return rc;
		if (whole)
			overlay_set(o, offset / BLOCK, n / BLOCK, OVERLAY_DATA);
		offset += n;
		len -= n;
	}
	return 0;
}

/* What every change asks first. */
static int may_write(struct disk *d, uint64_t offset, uint64_t len)
{
	if (d->read_only)
		return -EROFS;
	if (!within(d, offset, len))
		return -EINVAL;
	d->unflushed = true;
	return 0;
}

int disk_write(struct disk *d, const struct iovec *iov, unsigned n, uint64_t offset)
{
	struct cursor c = { iov, n, 0 };
	uint64_t len = total(iov, n);
	int rc = may_write(d, offset, len);

	if (rc < 0)
		return rc;
	if (disk_top(d)->is_overlay)
		return write_overlay(d, &c, offset, len);
	return transfer(pwritev, disk_top(d)->raw_fd, &c, len, offset);
}

int disk_flush(struct disk *d)
{
	int rc;

	if (d->read_only || !d->unflushed)
		return 0;
	if (d->failed)
		return d->failed;
	if (disk_top(d)->is_overlay)
		rc = overlay_flush(&disk_top(d)->o);
	else /* after a failure the kernel takes the lost pages for clean */
		rc = d->failed = fdatasync(disk_top(d)->raw_fd) < 0 ? -errno : 0;
	if (rc == 0)
		d->unflushed = false;
	return rc;
}

/* fallocate(2); -EOPNOTSUPP where the file system cannot. */
static int allocate(int fd, int mode, uint64_t at, uint64_t len)
{
	int rc;

	do
		rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return errno == ENOSYS || errno == EINVAL ? -EOPNOTSUPP : -errno;
	return 0;
}

/* Whole blocks of the top overlay become zeros; what they had in the file is given back. */
static void zero_blocks(struct overlay *o, uint64_t offset, uint64_t len)
{
	bool had_data = false;

	for (uint64_t b = offset / BLOCK; b < (offset + len) / BLOCK && !had_data; b++)
		had_data = overlay_get(o, b) == OVERLAY_DATA;
	overlay_set(o, offset / BLOCK, len / BLOCK, OVERLAY_ZEROS);
	/* Where it cannot be done, room is lost and nothing else: the map decides. */
	if (had_data)
		allocate(o->fd, FALLOC_FL_PUNCH_HOLE, overlay_at(o, offset), len);
}

/* Zeros in the top overlay; parts of blocks as well, where they must be. */
static int zero_overlay(struct disk *d, uint64_t offset, uint64_t len, bool parts)
{
	struct overlay *o = &disk_top(d)->o;

	while (len) {
		bool whole;
		uint64_t n = step_of(offset, len, &whole);
		int rc = 0;

		if (whole)
			zero_blocks(o, offset, n);
		else if (parts && overlay_get(o, offset / BLOCK) != OVERLAY_ZEROS)
			rc = write_part(d, NULL, offset, n);
		if (rc < 0)
			return rc;
		offset += n;
		len -= n;
	}
	return 0;
}

int disk_discard(struct disk *d, uint64_t offset, uint64_t len)
{
	int rc = may_write(d, offset, len);

	if (rc < 0 || len == 0)
		return rc;
	if (disk_top(d)->is_overlay)
		return zero_overlay(d, offset, len, false);
	rc = allocate(disk_top(d)->raw_fd, FALLOC_FL_PUNCH_HOLE, offset, len);
	return rc == -EOPNOTSUPP ? 0 : rc;
}

static int write_zeros(int fd, uint64_t at, uint64_t len)
{
	while (len) {
		size_t n = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
		int rc = io_pwrite_full(fd, zeros, n, at);

		if (rc < 0)
			return rc;
		at += n;
		len -= n;
	}
	return 0;
}

int disk_write_zeroes(struct disk *d, uint64_t offset, uint64_t len, bool unmap)
{
	int rc = may_write(d, offset, len);

	if (rc < 0 || len == 0)
		return rc;
	if (disk_top(d)->is_overlay)
		return zero_overlay(d, offset, len, true);
	rc = allocate(disk_top(d)->raw_fd, unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE,
		      offset, len);
	return rc == -EOPNOTSUPP ? write_zeros(disk_top(d)->raw_fd, offset, len) : rc;
}

uint64_t disk_size(const struct disk *d)
{
	return d->size;
}

bool disk_is_read_only(const struct disk *d)
{
	return d->read_only;
}

unsigned disk_layers(const struct disk *d)
{
	return d->nlayers;
}
