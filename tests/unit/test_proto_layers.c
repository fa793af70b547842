/* Maps of layers, and layers seen flat. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/flat.h"

#define RAM_PAGES  64U
#define FILE_PAGES 32U

static int parse(const struct layer_run *run, size_t n)
{
	struct layermap in = { (struct layer_run *)(uintptr_t)run, n }, out;
	struct err e = { 0 };
	uint8_t *buf;
	size_t len;
	int rc;

	assert_int_equal(proto_layermap_encode(&in, &buf, &len), 0);
	rc = proto_layermap_parse(buf, len, RAM_PAGES, FILE_PAGES, &out, &e);
	if (rc == 0) {
		assert_int_equal(out.n, n);
		assert_memory_equal(out.run, run, n * sizeof(*run));
		proto_layermap_free(&out);
	} else {
		assert_true(*e.text);
	}
	free(buf);
	return rc;
}

static void map_encodes_and_parses(void **state)
{
	static const struct layer_run run[] = {
		{ 0, 2, 0 }, { 2, 1, LAYERMAP_ZEROS }, { 10, 22, 10 }, { 63, 1, 2 }
	};

	(void)state;
	assert_int_equal(parse(run, 4), 0);
	assert_int_equal(parse(run, 0), 0);
}

static void map_each_impossible_record_is_refused(void **state)
{
	static const struct layer_run bad[][2] = {
		{ { 1, 0, 0 } },
		{ { 64, 1, 0 } },
		{ { 63, 2, 0 } },
		{ { UINT64_MAX, 2, 0 } },
		{ { 0, UINT64_MAX, LAYERMAP_ZEROS } },
		{ { 0, 1, 32 } },
		{ { 0, 2, 31 } },
		{ { 0, 2, UINT64_MAX - 1 } },
		{ { 5, 2, 0 }, { 6, 1, 2 } },
		{ { 5, 2, 0 }, { 4, 1, 2 } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i], bad[i][1].count ? 2 : 1), -EBADMSG);
}

static void map_of_another_length_is_refused(void **state)
{
	static const struct layer_run run[] = { { 0, 2, 0 }, { 4, 1, 2 } };
	struct layermap in = { (struct layer_run *)(uintptr_t)run, 2 }, out;
	uint8_t *buf, more[128] = { 0 };
	size_t len;

	(void)state;
	assert_int_equal(proto_layermap_encode(&in, &buf, &len), 0);
	memcpy(more, buf, len);
	for (size_t n = 0; n <= sizeof(more); n++) {
		int rc = proto_layermap_parse(more, n, RAM_PAGES, FILE_PAGES, &out, NULL);

		assert_int_equal(rc, n == len ? 0 : -EBADMSG);
		if (rc == 0)
			proto_layermap_free(&out);
	}
	free(buf);
}

/* Where a page is, by the simplest means. */
struct model {
	unsigned layer;
	uint64_t from;
};

static void check_flat(const struct flat *f, const struct model *model)
{
	uint64_t next = 0;

	for (size_t i = 0; i < f->n; i++) {
		const struct flat_run *r = &f->run[i];

		assert_int_equal(r->page, next);
		assert_true(r->count > 0);
		for (uint64_t p = 0; p < r->count; p++) {
			assert_int_equal(r->layer, model[r->page + p].layer);
			assert_int_equal(r->from == LAYERMAP_ZEROS ? r->from : r->from + p,
					 model[r->page + p].from);
			assert_ptr_equal(proto_flat_find(f, r->page + p), r);
		}
		next += r->count;
	}
	assert_int_equal(next, RAM_PAGES);
}

static void add_random_layer(struct flat *f, unsigned layer, struct model *model)
{
	struct layer_run run[RAM_PAGES];
	struct layermap map = { run, 0 };
	uint64_t page = 0, from = 0;

	while ((page += (uint64_t)rand() % 7) < RAM_PAGES) {
		struct layer_run *r = &run[map.n++];
		uint64_t most = RAM_PAGES - page < 5 ? RAM_PAGES - page : 5;

		*r = (struct layer_run){ page, 1 + (uint64_t)rand() % most, from };
		if (rand() % 4 == 0)
			r->from = LAYERMAP_ZEROS;
		else
			from += r->count + (uint64_t)rand() % 2;
		for (uint64_t p = 0; p < r->count; p++)
			model[page + p] =
				(struct model){ layer,
						r->from == LAYERMAP_ZEROS ? r->from : r->from + p };
		page += r->count;
	}
	assert_int_equal(proto_flat_add(f, layer, &map), 0);
}

static void flat_shows_the_uppermost_layer_of_each_page(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < 500; round++) {
		struct model model[RAM_PAGES];
		struct flat f;

		for (uint64_t p = 0; p < RAM_PAGES; p++)
			model[p] = (struct model){ 0, p };
		assert_int_equal(proto_flat_start(&f, RAM_PAGES), 0);
		check_flat(&f, model);
		assert_int_equal(f.n, 1);
		for (unsigned layer = 1; layer < 5; layer++) {
			add_random_layer(&f, layer, model);
			check_flat(&f, model);
		}
		proto_flat_free(&f);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(map_encodes_and_parses),
		cmocka_unit_test(map_each_impossible_record_is_refused),
		cmocka_unit_test(map_of_another_length_is_refused),
		cmocka_unit_test(flat_shows_the_uppermost_layer_of_each_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
