/* A set of pages of the flat RAM: see pageset.h. */
#include "pageset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int pageset_init(struct pageset *s, uint64_t pages)
{
	const uint64_t words = pageset_words(pages);

	*s = (struct pageset){ .pages = pages,
			       .bits = calloc(words ? words : 1, sizeof(*s->bits)) };
	return s->bits ? 0 : -ENOMEM;
}

void pageset_free(struct pageset *s)
{
	free(s->bits);
	*s = (struct pageset){ 0 };
}

void pageset_add_run(struct pageset *s, uint64_t page, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		pageset_add(s, page + i);
}

void pageset_add_all(struct pageset *s, const struct pageset *other)
{
	for (uint64_t i = 0; i < pageset_words(s->pages); i++)
		s->bits[i] |= other->bits[i];
}

void pageset_clear(struct pageset *s)
{
	memset(s->bits, 0, pageset_words(s->pages) * sizeof(*s->bits));
}

uint64_t pageset_count(const struct pageset *s)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < pageset_words(s->pages); i++)
		n += (uint64_t)__builtin_popcountll(s->bits[i]);
	return n;
}

/* The first page at or behind `from` that is in the set (or, in_set false, is not); s->pages: none.
 */
static uint64_t find(const struct pageset *s, uint64_t from, bool in_set)
{
	while (from < s->pages) {
		const uint64_t word = in_set ? s->bits[from / 64] : ~s->bits[from / 64];
		const uint64_t rest = word >> (from % 64);

		if (rest) {
			from += (uint64_t)__builtin_ctzll(rest);
			return from < s->pages ? from : s->pages;
		}
		from = (from | 63) + 1;
	}
	return s->pages;
}

bool pageset_next(const struct pageset *s, uint64_t from, uint64_t gap, uint64_t *page,
		  uint64_t *count)
{
	uint64_t end, next;

	*page = find(s, from, true);
	if (*page == s->pages)
		return false;
	end = find(s, *page, false);
	while ((next = find(s, end, true)) < s->pages && next - end <= gap)
		end = find(s, next, false);
	*count = end - *page;
	return true;
}
