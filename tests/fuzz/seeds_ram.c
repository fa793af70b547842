/* Seeds of what says where pages of RAM are: see seeds.h. */
#include "seeds.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "proto/layermap.h"
#include "proto/working_set.h"

/* The first two bytes are the sizes, see the target. */
static void put_layermap(const char *name, uint8_t pages, uint8_t file_pages,
			 const struct layer_run *run, size_t n)
{
	const struct layermap map = { (struct layer_run *)(uintptr_t)run, n };
	uint8_t bytes[1024] = { pages, file_pages }, *buf;
	size_t len;

	if (proto_layermap_encode(&map, &buf, &len) < 0)
		return;
	memcpy(bytes + 2, buf, len);
	put("fuzz_layermap", name, bytes, len + 2);
	free(buf);
}

void layermaps(void)
{
	static const struct layer_run some[] = {
		{ 0, 2, 0 }, { 2, 1, LAYERMAP_ZEROS }, { 10, 22, 2 }, { 60, 4, 24 }
	};
	static const struct layer_run far[] = { { 1ULL << 40, 1ULL << 30, 7 },
						{ (1ULL << 52) - 2, 1, LAYERMAP_ZEROS } };
	static const struct layer_run beyond[] = { { 60, 5, 0 } };
	static const struct layer_run disorder[] = { { 9, 2, 0 }, { 10, 1, 4 } };

	put_layermap("empty", 4, 0, some, 0);
	put_layermap("some", 4, 2, some, 4);
	put_layermap("far", 255, 255, far, 2);
	put_layermap("beyond", 4, 2, beyond, 1);
	put_layermap("disorder", 4, 2, disorder, 2);
}

/* See fuzz_working_set.c, which makes the digest right. */
static void put_working_set(const char *name, const struct page_run *run, size_t n, bool whole)
{
	const struct working_set set = { .id = { 1, 2, 3 },
					 .run = (struct page_run *)(uintptr_t)run,
					 .n = n };
	auto_free uint8_t *buf = NULL;
	size_t len;

	if (proto_working_set_encode(&set, &buf, &len) == 0)
		put("fuzz_working_set", name, buf, whole ? len : len - DIGEST_SIZE);
}

void working_sets(void)
{
	static const struct page_run runs[] = { { 0, 3 }, { 7, 1 }, { 1 << 19, 1 << 18 } };
	static const struct page_run touching[] = { { 5, 1 }, { 6, 1 } };

	put_working_set("none", NULL, 0, false);
	put_working_set("runs", runs, 3, false);
	put_working_set("whole", runs, 3, true);
	put_working_set("touching", touching, 2, false);
}
