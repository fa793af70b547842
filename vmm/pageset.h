/*
 * A set of pages of the flat RAM, one bit each. Pure; one thread's own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pageset {
	uint64_t pages; /* of the RAM */
	uint64_t *bits; /* owned; bits beyond `pages` are 0 */
};

/* An empty one. 0 or -ENOMEM. */
int pageset_init(struct pageset *s, uint64_t pages);
void pageset_free(struct pageset *s);

static inline uint64_t pageset_words(uint64_t pages)
{
	return (pages + 63) / 64;
}

static inline bool pageset_has(const struct pageset *s, uint64_t page)
{
	return s->bits[page / 64] >> (page % 64) & 1;
}

static inline void pageset_add(struct pageset *s, uint64_t page)
{
	s->bits[page / 64] |= 1ULL << (page % 64);
}

/* Adds pages [page, page + count). */
void pageset_add_run(struct pageset *s, uint64_t page, uint64_t count);

/* Adds all of `other`, which is of the same RAM. */
void pageset_add_all(struct pageset *s, const struct pageset *other);

void pageset_clear(struct pageset *s);
uint64_t pageset_count(const struct pageset *s);

/*
 * The first run of pages at or behind `from`, into *page and *count, with up to `gap`
 * pages between two that are in the set taken along. False: there is none.
 */
bool pageset_next(const struct pageset *s, uint64_t from, uint64_t gap, uint64_t *page,
		  uint64_t *count);
