/* Copy-on-write overlay files: see overlay.h. */
#define _GNU_SOURCE
#include "overlay.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"

#define MAGIC	  "SNAPFSOV"
#define VERSION	  1
#define DIGEST_AT (OVERLAY_HEADER - DIGEST_SIZE)

/* Offsets of the header's fields. */
enum {
	AT_VERSION = 8,
	AT_BLOCK_SIZE = 12,
	AT_SIZE = 16,
	AT_DATA_OFFSET = 24,
	AT_ID = 32,
	AT_BELOW = 48,
	AT_END = 64,
};

static uint32_t get_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static void put_u32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static void put_u64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

int overlay_layout(uint64_t size, struct overlay_header *h)
{
	const uint64_t block = OVERLAY_BLOCK;

	if (size == 0 || size % 512 || size > OVERLAY_SIZE_MAX)
		return -EINVAL;
	*h = (struct overlay_header){ .size = size, .nblocks = (size + block - 1) / block };
	h->map_len = (h->nblocks + 3) / 4;
	h->data_offset = (OVERLAY_HEADER + h->map_len + block - 1) / block * block;
	return 0;
}

int overlay_parse_header(const uint8_t *buf, size_t len, struct overlay_header *h, struct err *e)
{
	uint8_t digest[DIGEST_SIZE];

	if (len < OVERLAY_HEADER)
		return err_refuse(e, EINVAL, "it is shorter than an overlay's header");
	if (memcmp(buf, MAGIC, sizeof(MAGIC) - 1) != 0)
		return err_refuse(e, EINVAL, "it is no overlay");
	/* A newer version may have its digest elsewhere. */
	if (get_u32(buf + AT_VERSION) != VERSION)
		return err_refuse(e, EINVAL,
				  "it is an overlay of version %u, of which this program knows "
				  "nothing: it reads version %d",
				  get_u32(buf + AT_VERSION), VERSION);
	if (digest_sha256(buf, DIGEST_AT, digest) < 0)
		return err_sys(e, ENOMEM, "cannot check its header");
	if (memcmp(buf + DIGEST_AT, digest, sizeof(digest)) != 0)
		return err_refuse(e, EINVAL, "its header is damaged");
	if (get_u32(buf + AT_BLOCK_SIZE) != OVERLAY_BLOCK ||
	    overlay_layout(get_u64(buf + AT_SIZE), h) < 0 ||
	    get_u64(buf + AT_DATA_OFFSET) != h->data_offset ||
	    io_is_zero(buf + AT_ID, OVERLAY_ID_SIZE) ||
	    !io_is_zero(buf + AT_END, DIGEST_AT - AT_END))
		return err_refuse(e, EINVAL, "its header has values that are not allowed");
	memcpy(h->id, buf + AT_ID, OVERLAY_ID_SIZE);
	memcpy(h->below, buf + AT_BELOW, OVERLAY_ID_SIZE);
	return 0;
}

int overlay_encode_header(const struct overlay_header *h, uint8_t buf[OVERLAY_HEADER])
{
	memset(buf, 0, OVERLAY_HEADER);
	memcpy(buf, MAGIC, sizeof(MAGIC) - 1);
	put_u32(buf + AT_VERSION, VERSION);
	put_u32(buf + AT_BLOCK_SIZE, OVERLAY_BLOCK);
	put_u64(buf + AT_SIZE, h->size);
	put_u64(buf + AT_DATA_OFFSET, h->data_offset);
	memcpy(buf + AT_ID, h->id, OVERLAY_ID_SIZE);
	memcpy(buf + AT_BELOW, h->below, OVERLAY_ID_SIZE);
	return digest_sha256(buf, DIGEST_AT, buf + DIGEST_AT);
}

bool overlay_map_is_sane(const uint8_t *map, size_t len, uint64_t nblocks)
{
	uint8_t both = 0;

	if (len != (nblocks + 3) / 4)
		return false;
	for (size_t i = 0; i < len; i++)
		both |= map[i] & (uint8_t)(map[i] >> 1) & 0x55;
	return !both && (nblocks % 4 == 0 || map[len - 1] >> 2 * (nblocks % 4) == 0);
}

static int make_id(uint8_t id[OVERLAY_ID_SIZE])
{
	do {
		if (getrandom(id, OVERLAY_ID_SIZE, 0) != OVERLAY_ID_SIZE)
			return -errno;
	} while (io_is_zero(id, OVERLAY_ID_SIZE));
	return 0;
}

int overlay_format(int fd, uint64_t size, const uint8_t *below, struct err *e)
{
	uint8_t buf[OVERLAY_HEADER];
	struct overlay_header h;
	int rc = overlay_layout(size, &h);

	if (rc < 0)
		return err_refuse(e, -rc, "a disk of %llu bytes cannot have an overlay",
				  (unsigned long long)size);
	if (below)
		memcpy(h.below, below, OVERLAY_ID_SIZE);
	rc = make_id(h.id);
	if (rc == 0)
		rc = overlay_encode_header(&h, buf);
	if (rc == 0)
		rc = io_pwrite_full(fd, buf, sizeof(buf), 0);
	if (rc == 0 && (ftruncate(fd, (off_t)(h.data_offset + h.nblocks * OVERLAY_BLOCK)) < 0 ||
			fsync(fd) < 0))
		rc = -errno;
	return rc < 0 ? err_sys(e, -rc, "cannot write an overlay") : 0;
}

/* Reads the map, and of a sparse one only what is there: the memory stays as sparse. */
static int read_map(struct overlay *o)
{
	const uint64_t end = OVERLAY_HEADER + o->h.map_len;
	uint64_t at = OVERLAY_HEADER;

	while (at < end) {
		off_t data = lseek(o->fd, (off_t)at, SEEK_DATA), hole;
		uint64_t stop;
		int rc;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(o->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		stop = (uint64_t)hole < end ? (uint64_t)hole : end;
		/* Another process may play with the file: forward in any case. */
		if (stop <= (uint64_t)data)
			return -EIO;
		rc = io_pread_full(o->fd, o->map + ((uint64_t)data - OVERLAY_HEADER),
				   stop - (uint64_t)data, (uint64_t)data);
		if (rc < 0)
			return rc;
		at = stop;
	}
	return 0;
}

/* Header, size of the file, map. */
static int load(struct overlay *o, struct err *e)
{
	uint8_t buf[OVERLAY_HEADER];
	struct stat st;
	int rc = io_pread_full(o->fd, buf, sizeof(buf), 0);

	if (rc == -ENODATA)
		return err_refuse(e, EINVAL, "it is shorter than an overlay's header");
	if (rc < 0 || fstat(o->fd, &st) < 0)
		return err_sys(e, rc < 0 ? -rc : errno, "cannot read it");
	rc = overlay_parse_header(buf, sizeof(buf), &o->h, e);
	if (rc < 0)
		return rc;
	/* Before anything is allocated for the size that it claims. */
	if ((uint64_t)st.st_size != o->h.data_offset + o->h.nblocks * OVERLAY_BLOCK)
		return err_refuse(
			e, EINVAL, "it has %llu bytes where an overlay for a disk of %llu has %llu",
			(unsigned long long)st.st_size, (unsigned long long)o->h.size,
			(unsigned long long)(o->h.data_offset + o->h.nblocks * OVERLAY_BLOCK));
	o->map = calloc(o->h.map_len, 1);
	o->dirty = calloc(o->h.map_len / OVERLAY_BLOCK / 64 + 1, sizeof(uint64_t));
	if (!o->map || !o->dirty)
		return err_sys(e, ENOMEM, "cannot read its map");
	rc = read_map(o);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read its map");
	if (!overlay_map_is_sane(o->map, o->h.map_len, o->h.nblocks))
		return err_refuse(e, EINVAL, "its map is damaged");
	return 0;
}

int overlay_open(struct overlay *o, int fd, bool writable, const char *what, struct err *e)
{
	int rc;

	*o = (struct overlay){ .fd = fd, .writable = writable };
	rc = load(o, e);
	if (rc == 0)
		return 0;
	overlay_close(o);
	return err_prefix(e, rc, "%s", what);
}

void overlay_close(struct overlay *o)
{
	if (o->fd >= 0)
		close(o->fd);
	free(o->map);
	free(o->dirty);
	*o = (struct overlay){ .fd = -1 };
}

void overlay_set(struct overlay *o, uint64_t block, uint64_t n, enum overlay_state state)
{
	for (; n; block++, n--) {
		const unsigned shift = 2 * (block % 4);
		const uint64_t page = block / 4 / OVERLAY_BLOCK;
		uint8_t *byte = &o->map[block / 4];
		uint8_t want = (uint8_t)((*byte & ~(3U << shift)) | (unsigned)state << shift);

		if (*byte == want)
			continue;
		*byte = want;
		o->dirty[page / 64] |= 1ULL << (page % 64);
		o->any_dirty = true;
	}
}

/* Writes the pages of the map that have changed; they stay noted as such where it fails. */
static int write_map(struct overlay *o)
{
	for (uint64_t at = 0, page = 0; at < o->h.map_len; at += OVERLAY_BLOCK, page++) {
		uint64_t len = o->h.map_len - at, bit = 1ULL << (page % 64);
		int rc;

		if (!(o->dirty[page / 64] & bit))
			continue;
		if (len > OVERLAY_BLOCK)
			len = OVERLAY_BLOCK;
		rc = io_pwrite_full(o->fd, o->map + at, len, OVERLAY_HEADER + at);
		if (rc < 0)
			return rc;
		o->dirty[page / 64] &= ~bit;
	}
	o->any_dirty = false;
	return 0;
}

static int sync_data(struct overlay *o)
{
	/* After a failed sync the kernel takes the lost pages for clean. */
	if (fdatasync(o->fd) < 0)
		o->failed = -errno;
	return o->failed;
}

int overlay_flush(struct overlay *o)
{
	int rc;

	if (o->failed || !o->writable)
		return o->failed;
	rc = sync_data(o);
	if (rc < 0 || !o->any_dirty)
		return rc;
	rc = write_map(o);
	return rc < 0 ? rc : sync_data(o);
}

void overlay_freeze(struct overlay *o, int fd)
{
	close(o->fd);
	o->fd = fd;
	o->writable = false;
}
