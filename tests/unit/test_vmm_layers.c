/*
 * RAM in layers: written while it changes, seen flat, and mapped: what comes back
 * is what RAM was at the pause. And which pages have changed, on this host's /dev/kvm.
 */
#include "machine_rig.h"

#include "proto/flat.h"
#include "vmm/dirty.h"
#include "vmm/layer_out.h"
#include "vmm/ram_out.h"
#include "vmm/rounds.h"

#define PAGES 2048ULL
#define SIZE  (PAGES * RAM_PAGE)

/* RAM that somebody writes, and a file for each layer. */
struct layered {
	uint8_t *ram; /* SIZE bytes: as it is now */
	int fd[MANIFEST_LAYERS_MAX];
	struct flat flat;
	unsigned n;
	uint64_t failing; /* a page that cannot be had, 0: none */
};

static uint64_t draw(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return *seed >> 33;
}

static int read_fake(void *arg, uint64_t page, uint64_t n, uint8_t *buf, struct err *e)
{
	const struct layered *l = arg;

	if (l->failing && l->failing >= page && l->failing < page + n)
		return err_env(e, EFAULT, "it is lost");
	memcpy(buf, l->ram + page * RAM_PAGE, n * RAM_PAGE);
	return 0;
}

static int make_layered(void **state)
{
	struct layered *l = calloc(1, sizeof(*l));

	*state = l;
	l->ram = calloc(1, SIZE);
	fill_random(l->ram, SIZE / 2, 3);
	l->fd[0] = memfd_create("0", MFD_CLOEXEC);
	l->n = 1;
	assert_int_equal(io_pwrite_full(l->fd[0], l->ram, SIZE, 0), 0);
	return proto_flat_start(&l->flat, PAGES);
}

static int drop_layered(void **state)
{
	struct layered *l = *state;

	for (unsigned i = 0; i < l->n; i++)
		if (l->fd[i] >= 0)
			close(l->fd[i]);
	proto_flat_free(&l->flat);
	free(l->ram);
	free(l);
	return 0;
}

/* Writes `n` pages somewhere, a fifth of them with zeros, and notes which. */
static void scribble(struct layered *l, struct pageset *changed, unsigned n, uint64_t *seed)
{
	while (n--) {
		const uint64_t page = draw(seed) % PAGES;
		uint8_t *p = l->ram + page * RAM_PAGE;

		if (draw(seed) % 5 == 0)
			memset(p, 0, RAM_PAGE);
		else
			fill_random(p, RAM_PAGE, (uint32_t)draw(seed));
		pageset_add(changed, page);
	}
}

/* A save of the next layer, with writes between its rounds; what is written last is the pause's. */
static void add_layer(struct layered *l, unsigned writes, uint64_t *seed)
{
	struct pageset changed;
	struct layer_out out;
	struct layermap map;
	struct err e = { 0 };
	const int fd = memfd_create("layer", MFD_CLOEXEC);

	assert_int_equal(pageset_init(&changed, PAGES), 0);
	assert_int_equal(layer_out_init(&out, PAGES, fd, true, read_fake, l), 0);
	for (unsigned round = 0; round < 5; round++, writes /= 2) {
		pageset_clear(&changed);
		scribble(l, &changed, writes, seed);
		if (layer_out_copy(&out, &changed, &e) < 0)
			fail_msg("%s", e.text);
	}
	assert_int_equal(layer_out_finish(&out, &map, &e), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), (off_t)(out.used * RAM_PAGE));
	assert_int_equal(proto_flat_add(&l->flat, l->n, &map), 0);
	l->fd[l->n++] = fd;
	proto_layermap_free(&map);
	layer_out_free(&out);
	pageset_free(&changed);
}

static void assert_flat_is_ram(const struct layered *l)
{
	uint8_t got[RAM_PAGE];

	for (uint64_t page = 0; page < PAGES; page++) {
		const struct flat_run *r = proto_flat_find(&l->flat, page);

		memset(got, 0, sizeof(got));
		if (r->from != LAYERMAP_ZEROS)
			assert_int_equal(io_pread_full(l->fd[r->layer], got, RAM_PAGE,
						       (r->from + page - r->page) * RAM_PAGE),
					 0);
		if (memcmp(got, l->ram + page * RAM_PAGE, RAM_PAGE) != 0)
			fail_msg("page %llu differs", (unsigned long long)page);
	}
}

static void layers_written_in_rounds_are_ram_at_the_pause(void **state)
{
	struct layered *l = *state;
	uint64_t seed = 1;

	for (unsigned i = 0; i < 8; i++) {
		add_layer(l, 10 + 100 * i, &seed);
		assert_flat_is_ram(l);
	}
	add_layer(l, 0, &seed);
	assert_flat_is_ram(l);
}

/* Takes the descriptors; l->flat stays. */
static void map_layers(struct layered *l, struct ram *ram)
{
	struct flat flat = { .n = l->flat.n, .pages = PAGES };
	struct err e = { 0 };

	flat.run = calloc(flat.n + 1, sizeof(*flat.run));
	memcpy(flat.run, l->flat.run, flat.n * sizeof(*flat.run));
	if (ram_map_layers(ram, l->fd, l->n, &flat, SIZE, &e) < 0)
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < l->n; i++)
		assert_int_equal(l->fd[i], -1);
}

static void layers_mapped_are_ram(void **state)
{
	struct layered *l = *state;
	struct pageset data;
	struct ram ram;
	uint64_t seed = 5, resident, own;
	auto_fd int out = memfd_create("out", MFD_CLOEXEC);
	auto_free uint8_t *got = malloc(SIZE);

	for (unsigned i = 0; i < 6; i++)
		add_layer(l, 200, &seed);
	map_layers(l, &ram);
	assert_true(ram.log_dirty);
	assert_memory_equal(ram.base, l->ram, SIZE);
	/* What is written is its own; what is given back shows what was there before. */
	assert_int_equal(ram_write(&ram, 5 * RAM_PAGE + 7, "hello", 5), 0);
	memcpy(l->ram + 5 * RAM_PAGE + 7, "hello", 5);
	assert_int_equal(ram_usage(&ram, &resident, &own), 0);
	assert_true(resident >= SIZE / 2 && own >= RAM_PAGE);
	assert_int_equal(ram_write(&ram, 900 * RAM_PAGE, "hello", 5), 0);
	assert_int_equal(ram_discard(&ram, 900 * RAM_PAGE, RAM_PAGE), 0);
	assert_memory_equal(ram.base, l->ram, SIZE);
	assert_int_equal(ram_write_out(&ram, out, NULL), 0);
	assert_int_equal(io_pread_full(out, got, SIZE, 0), 0);
	assert_memory_equal(got, l->ram, SIZE);
	assert_int_equal(pageset_init(&data, PAGES), 0);
	assert_int_equal(ram_find_data(&ram, &data, NULL), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_true(pageset_has(&data, page) ||
			    io_is_zero(l->ram + page * RAM_PAGE, RAM_PAGE));
	pageset_free(&data);
	ram_unmap(&ram);
}

/* More runs than may be mapped: every second page of a RAM of its own. */
static void runs_beyond_the_bound_are_read_in(void **state)
{
	const uint64_t runs = RAM_RUNS_MAX + 700, pages = 2 * runs + 6;
	int fds[2] = { memfd_create("0", MFD_CLOEXEC), memfd_create("1", MFD_CLOEXEC) };
	struct layermap map = { calloc(runs, sizeof(*map.run)), runs };
	struct flat flat;
	struct ram ram;
	uint64_t at = 0;

	(void)state;
	assert_int_equal(ftruncate(fds[0], (off_t)(pages * RAM_PAGE)), 0);
	assert_int_equal(ftruncate(fds[1], (off_t)(pages * RAM_PAGE)), 0);
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(io_pwrite_full(fds[1], &i, sizeof(i), i * RAM_PAGE), 0);
	/* The last one is longer: it has to be one of those that are mapped. Some are zeros. */
	for (uint64_t i = 0; i < runs; i++, at += 2)
		map.run[i] = (struct layer_run){ at, i + 1 == runs ? 4 : 1,
						 i % 7 == 6 ? LAYERMAP_ZEROS : at };
	assert_int_equal(proto_flat_start(&flat, pages), 0);
	assert_int_equal(proto_flat_add(&flat, 1, &map), 0);
	assert_int_equal(ram_map_layers(&ram, fds, 2, &flat, pages * RAM_PAGE, NULL), 0);
	for (uint64_t i = 0; i < runs; i++) {
		uint64_t got = 1;

		memcpy(&got, ram.base + map.run[i].page * RAM_PAGE, sizeof(got));
		assert_int_equal(got, map.run[i].from == LAYERMAP_ZEROS ? 0 : map.run[i].page);
		memcpy(&got, ram.base + (map.run[i].page + map.run[i].count) * RAM_PAGE,
		       sizeof(got));
		assert_int_equal(got, 0);
	}
	ram_unmap(&ram);
	proto_layermap_free(&map);
}

/* A layer that ends before its map says so is found when its pages are used, not before. */
static void lost_pages_of_a_layer_are_faults(void **state)
{
	struct layered *l = *state;
	uint64_t seed = 9, value;
	struct ram ram;
	auto_fd int fd = -1;
	const struct flat_run *r = NULL;

	assert_int_equal(fault_install(), 0);
	add_layer(l, 300, &seed);
	for (size_t i = 0; i < l->flat.n; i++)
		if (l->flat.run[i].layer == 1 && l->flat.run[i].from != LAYERMAP_ZEROS)
			r = &l->flat.run[i];
	assert_non_null(r);
	fd = fcntl(l->fd[1], F_DUPFD_CLOEXEC, 0);
	map_layers(l, &ram);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ram_read(&ram, r->page * RAM_PAGE, &value, sizeof(value)), -EFAULT);
	assert_int_equal(ram_take_fault(&ram), r->page * RAM_PAGE);
	ram_unmap(&ram);
}

static void a_page_that_cannot_be_had_fails_the_copy(void **state)
{
	struct layered *l = *state;
	struct pageset changed;
	struct layer_out out;
	struct err e = { 0 };
	auto_fd int fd = memfd_create("layer", MFD_CLOEXEC);

	l->failing = 77;
	assert_int_equal(pageset_init(&changed, PAGES), 0);
	pageset_add_run(&changed, 70, 10);
	assert_int_equal(layer_out_init(&out, PAGES, fd, true, read_fake, l), 0);
	assert_int_equal(layer_out_copy(&out, &changed, &e), -EFAULT);
	assert_says(&e, "it is lost");
	layer_out_free(&out);
	pageset_free(&changed);
}

static void sets_of_pages_hold_runs(void **state)
{
	struct pageset s;
	uint64_t page, count;

	(void)state;
	assert_int_equal(pageset_init(&s, 130), 0);
	assert_false(pageset_next(&s, 0, 3, &page, &count));
	pageset_add_run(&s, 60, 10);
	pageset_add(&s, 73);
	pageset_add(&s, 129);
	assert_int_equal(pageset_count(&s), 12);
	assert_true(pageset_next(&s, 0, 2, &page, &count));
	assert_int_equal(page, 60);
	assert_int_equal(count, 10);
	assert_true(pageset_next(&s, 61, 3, &page, &count));
	assert_int_equal(page, 61);
	assert_int_equal(count, 13);
	assert_true(pageset_next(&s, 74, 3, &page, &count));
	assert_int_equal(page, 129);
	assert_int_equal(count, 1);
	assert_false(pageset_next(&s, 130, 3, &page, &count));
	pageset_free(&s);
}

/* ---- on KVM ---- */

/* Every page that differs from a copy of RAM made before is in the set. */
static void assert_all_known(const struct rig *r, const uint8_t *before)
{
	unsigned differ = 0;

	for (uint64_t page = 0; page < RAM_SIZE / RAM_PAGE; page++) {
		if (memcmp(before + page * RAM_PAGE, r->m.ram.base + page * RAM_PAGE, RAM_PAGE) ==
		    0)
			continue;
		differ++;
		if (!pageset_has(&r->m.dirty, page))
			fail_msg("nobody knows that page %llu has changed",
				 (unsigned long long)page);
	}
	assert_true(differ > 0);
}

static void what_the_guest_and_vmm_write_is_known(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	auto_free uint8_t *before = malloc(RAM_SIZE);
	uint64_t n;

	if (dirty_start(&r->m, &e) < 0)
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < 3; i++) {
		if (dirty_collect(&r->m, &e) < 0)
			fail_msg("%s", e.text);
		pageset_clear(&r->m.dirty);
		memcpy(before, r->m.ram.base, RAM_SIZE);
		machine_release(&r->m, HOLD_USER);
		wait_for_tick(r, i, NULL);
		machine_hold(&r->m, HOLD_USER);
		assert_int_equal(ram_write(&r->m.ram, (700 + i) * RAM_PAGE, "x", 1), 0);
		/* Boots again: the old VM's log is not lost with it. */
		if (i == 1 && machine_boot(&r->m, &e) < 0)
			fail_msg("%s", e.text);
		assert_int_equal(dirty_collect(&r->m, &e), 0);
		assert_all_known(r, before);
		n = pageset_count(&r->m.dirty);
		/* And not just all of them. */
		assert_true(n < RAM_SIZE / RAM_PAGE / 2);
		/* Told once. */
		pageset_clear(&r->m.dirty);
		assert_int_equal(dirty_collect(&r->m, &e), 0);
		assert_int_equal(pageset_count(&r->m.dirty), 0);
	}
}

static void a_save_that_fails_gives_back_what_has_changed(void **state)
{
	struct rig *r = *state;
	struct rounds *rounds = NULL;
	struct err e = { 0 };
	auto_fd int fd = memfd_create("layer", MFD_CLOEXEC);
	struct pageset all;

	assert_int_equal(dirty_start(&r->m, &e), 0);
	machine_release(&r->m, HOLD_USER);
	wait_for_tick(r, 2, NULL);
	machine_hold(&r->m, HOLD_USER);
	assert_int_equal(dirty_collect(&r->m, &e), 0);
	assert_int_equal(pageset_init(&all, r->m.dirty.pages), 0);
	pageset_add_all(&all, &r->m.dirty);
	assert_true(pageset_count(&all) > 0);
	if (rounds_begin(&rounds, &r->m, fd, true, &e) < 0 || rounds_rest(rounds, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(pageset_count(&r->m.dirty), 0);
	rounds_fail(rounds);
	for (uint64_t page = 0; page < all.pages; page++)
		assert_true(!pageset_has(&all, page) || pageset_has(&r->m.dirty, page));
	pageset_free(&all);
}

WRAP(what_the_guest_and_vmm_write_is_known)
WRAP(a_save_that_fails_gives_back_what_has_changed)

#define LAYERED(name) cmocka_unit_test_setup_teardown(name, make_layered, drop_layered)

int main(void)
{
	const struct CMUnitTest pure[] = {
		LAYERED(layers_written_in_rounds_are_ram_at_the_pause),
		LAYERED(layers_mapped_are_ram),
		LAYERED(lost_pages_of_a_layer_are_faults),
		LAYERED(a_page_that_cannot_be_had_fails_the_copy),
		cmocka_unit_test(runs_beyond_the_bound_are_read_in),
		cmocka_unit_test(sets_of_pages_hold_runs),
	};
	const struct CMUnitTest on_kvm[] = {
		TEST(what_the_guest_and_vmm_write_is_known, make),
		TEST(a_save_that_fails_gives_back_what_has_changed, make),
	};
	int rc = cmocka_run_group_tests(pure, NULL, NULL);

	return rc || need_kvm() ? rc : cmocka_run_group_tests(on_kvm, NULL, NULL);
}
