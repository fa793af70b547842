/* The pages that a restored guest touches first: see working_set.h. */
#include "working_set.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "base/le64.h"

#define HEAD   32
#define RECORD 16
#define STEP   1024 /* runs that are allocated at a time */

static const char magic[8] = { 's', 'n', 'a', 'p', 'w', 's', 'e', 't' };

/* Closes gaps of up to `gap` pages. */
static void close_gaps(struct working_set *s, uint64_t gap)
{
	size_t n = 0;

	for (size_t i = 1; s->run && i < s->n; i++) {
		struct page_run *last = &s->run[n];
		const struct page_run *r = &s->run[i];

		if (r->page - (last->page + last->count) <= gap)
			last->count = r->page + r->count - last->page;
		else
			s->run[++n] = *r;
	}
	s->n = s->n ? n + 1 : 0;
}

int proto_working_set_add(struct working_set *s, uint64_t page)
{
	struct page_run *last = s->n ? &s->run[s->n - 1] : NULL;

	if (last && page == last->page + last->count) {
		last->count++;
		return 0;
	}
	for (uint64_t gap = 1; s->n == WORKING_SET_RUNS_MAX; gap *= 2)
		close_gaps(s, gap);
	if (!s->run || s->n % STEP == 0) {
		void *grown = realloc(s->run, (s->n + STEP) * sizeof(*s->run));

		if (!grown)
			return -ENOMEM;
		s->run = grown;
	}
	s->run[s->n++] = (struct page_run){ page, 1 };
	return 0;
}

int proto_working_set_encode(const struct working_set *s, uint8_t **buf, size_t *len)
{
	const size_t n = HEAD + s->n * RECORD;
	uint8_t *p = malloc(n + DIGEST_SIZE);

	if (!p)
		return -ENOMEM;
	memcpy(p, magic, sizeof(magic));
	put_le64(p + 8, s->n);
	memcpy(p + 16, s->id, UUID_SIZE);
	for (size_t i = 0; i < s->n; i++) {
		put_le64(p + HEAD + i * RECORD, s->run[i].page);
		put_le64(p + HEAD + i * RECORD + 8, s->run[i].count);
	}
	digest_sha256(p, n, p + n);
	*buf = p;
	*len = n + DIGEST_SIZE;
	return 0;
}

/* True where the head, the length and the digest are those of a working set of n runs. */
static bool is_whole(const uint8_t *buf, size_t len, uint64_t *n)
{
	uint8_t digest[DIGEST_SIZE];

	if (len < HEAD + DIGEST_SIZE || memcmp(buf, magic, sizeof(magic)) != 0)
		return false;
	*n = get_le64(buf + 8);
	return *n <= WORKING_SET_RUNS_MAX && len == HEAD + *n * RECORD + DIGEST_SIZE &&
	       digest_sha256(buf, len - DIGEST_SIZE, digest) == 0 &&
	       memcmp(digest, buf + len - DIGEST_SIZE, DIGEST_SIZE) == 0;
}

static bool get_runs(const uint8_t *p, uint64_t pages, struct working_set *s)
{
	uint64_t next = 0;

	for (size_t i = 0; i < s->n; i++, p += RECORD) {
		const struct page_run r = { get_le64(p), get_le64(p + 8) };

		if (r.count == 0 || (i && r.page <= next) || r.page > pages ||
		    r.count > pages - r.page)
			return false;
		s->run[i] = r;
		next = r.page + r.count;
	}
	return true;
}

int proto_working_set_parse(const uint8_t *buf, size_t len, uint64_t pages, struct working_set *s)
{
	uint64_t n;

	*s = (struct working_set){ 0 };
	if (!is_whole(buf, len, &n))
		return -EBADMSG;
	memcpy(s->id, buf + 16, UUID_SIZE);
	s->n = (size_t)n;
	s->run = calloc(s->n ? s->n : 1, sizeof(*s->run));
	if (!s->run)
		return -ENOMEM;
	if (get_runs(buf + HEAD, pages, s))
		return 0;
	proto_working_set_free(s);
	return -EBADMSG;
}

int proto_working_set_read(int dirfd, const uint8_t id[UUID_SIZE], uint64_t pages,
			   struct working_set *s)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = io_read_file(dirfd, WORKING_SET_FILE, WORKING_SET_MAX, &buf, &len, NULL);

	*s = (struct working_set){ 0 };
	if (rc == 0)
		rc = proto_working_set_parse(buf, len, pages, s);
	else if (rc != -ENOENT && rc != -ENOMEM)
		return -EBADMSG;
	if (rc == 0 && memcmp(s->id, id, UUID_SIZE) != 0) {
		proto_working_set_free(s);
		return -EBADMSG;
	}
	return rc;
}

void proto_working_set_free(struct working_set *s)
{
	free(s->run);
	*s = (struct working_set){ 0 };
}
