/*
 * A copy-on-write overlay: a file that holds what was written to a disk since
 * the overlay was put over it. Which file lies below is not in it: the names say
 * so (disk.h). Little endian.
 *
 *	0		header, 4096 bytes
 *			    0	char[8]	"SNAPFSOV"
 *			    8	u32	version, 1
 *			   12	u32	block size, 4096
 *			   16	u64	virtual size in bytes, a multiple of 512
 *			   24	u64	data offset
 *			   32	u8[16]	id, random
 *			   48	u8[16]	id of the overlay below, zeros: the raw file
 *			   64	zeros
 *			 4064	u8[32]	SHA-256 of the 4064 bytes before
 *	4096		map: two bits a block, block N in bits 2 * (N % 4) of byte N / 4
 *			    0 as below, 1 data, 2 zeros; 3 is not allowed
 *	data offset	= 4096 + the map, rounded up to 4096
 *			block N at data offset + N * 4096; the file ends after the last
 *
 * The file is sparse; a hole means what zeros would mean, so that cp and tar may
 * fill holes or make them.
 *
 * What is newly in the overlay is noted in memory and reaches the map of the file
 * at a flush: the data first, fdatasync, then the map, fdatasync. So when power is
 * lost, the map of the last flush is there, with the data it speaks of; a page
 * of it that was half written mixes two maps that are both true.
 *
 * An overlay may come with somebody else's snapshot: header and map are hostile
 * input. One thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define OVERLAY_BLOCK	 4096ULL
#define OVERLAY_HEADER	 4096
#define OVERLAY_ID_SIZE	 16
#define OVERLAY_SIZE_MAX (8ULL << 40) /* bytes of a disk: a map of 512 MiB */

enum overlay_state {
	OVERLAY_BELOW = 0, /* not in this overlay */
	OVERLAY_DATA = 1,
	OVERLAY_ZEROS = 2,
};

struct overlay_header {
	uint64_t size;			/* of the disk, bytes */
	uint64_t nblocks;		/* that many blocks, the last may be cut off */
	uint64_t map_len, data_offset;	/* bytes */
	uint8_t id[OVERLAY_ID_SIZE];	/* never zeros */
	uint8_t below[OVERLAY_ID_SIZE]; /* zeros: the raw file */
};

struct overlay {
	struct overlay_header h;
	int fd; /* owned */
	bool writable;
	uint8_t *map;	 /* as it is now; owned */
	uint64_t *dirty; /* one bit for each 4096 bytes of the map that the file lacks; owned */
	bool any_dirty;	 /* one of them is set */
	int failed;	 /* 0, or what a sync once said: later ones know of no loss */
};

/* The layout for a disk of `size` bytes; ids are zeros. 0, or -EINVAL for no allowed size. */
int overlay_layout(uint64_t size, struct overlay_header *h);

/* The header of a file, of which buf holds the first len bytes. 0 or -EINVAL with words. */
int overlay_parse_header(const uint8_t *buf, size_t len, struct overlay_header *h, struct err *e);
/* The bytes of it. 0 or -ENOMEM. */
int overlay_encode_header(const struct overlay_header *h, uint8_t buf[OVERLAY_HEADER]);

/* True where a map of len bytes is one for nblocks blocks: no state 3, nothing after the end. */
bool overlay_map_is_sane(const uint8_t *map, size_t len, uint64_t nblocks);

/*
 * Makes the empty file fd an overlay without content for a disk of `size` bytes
 * over the overlay `below` (NULL: the raw file), and syncs it. 0 or a negative errno.
 */
int overlay_format(int fd, uint64_t size, const uint8_t *below, struct err *e);

/*
 * Opens fd, which becomes o's also when it fails. `what` is the file's name for
 * the words. o need not be initialised. 0 or a negative errno.
 */
int overlay_open(struct overlay *o, int fd, bool writable, const char *what, struct err *e);
/* Frees and closes; nothing is written: a map not flushed is forgotten. */
void overlay_close(struct overlay *o);

static inline enum overlay_state overlay_get(const struct overlay *o, uint64_t block)
{
	return (enum overlay_state)(o->map[block / 4] >> 2 * (block % 4) & 3);
}

/* Notes the state of n blocks, for the next flush. */
void overlay_set(struct overlay *o, uint64_t block, uint64_t n, enum overlay_state state);

/* Where in the file the byte `offset` of the disk lies. */
static inline uint64_t overlay_at(const struct overlay *o, uint64_t offset)
{
	return o->h.data_offset + offset;
}

/* Makes all that was written durable, as told above. 0 or a negative errno, for ever once failed.
 */
int overlay_flush(struct overlay *o);

/* From now on only read, by the read-only descriptor fd, which it takes over. Flushed before. */
void overlay_freeze(struct overlay *o, int fd);
