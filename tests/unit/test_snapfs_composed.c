/* The RAM of layered snapshots, composed: against the same RAM, flat. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/merkle.h"
#include "snapfs/composed.h"
#include "snapfs/maps.h"

#define PAGES  256U
#define PAGE   4096U
#define LAYERS 4U

struct world {
	char path[64];
	struct store *store;
	struct fs fs;
	struct snap *snap;
	struct view *view;
	struct composed *ram;
	uint8_t flat[PAGES * PAGE]; /* what it has to be */
	bool zero[PAGES];	    /* pages that are told to be zeros, or are holes */
};

struct draft {
	SnapshotManifest m;
	Layer layer[LAYERS], *layers[LAYERS];
	uint8_t digest[LAYERS][DIGEST_SIZE], map_digest[LAYERS][DIGEST_SIZE];
};

static void fill_page(uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i++)
		page[i] = (uint8_t)rand();
}

static void put_file(int at, struct draft *d, unsigned i, const void *buf, size_t len)
{
	char path[SNAPDIR_PATH_MAX], tree[SNAPDIR_PATH_MAX];
	int fd, tree_fd;

	snprintf(path, sizeof(path), SNAPDIR_LAYERS "/%u.ram", i);
	snprintf(tree, sizeof(tree), SNAPDIR_LAYERS "/%u.tree", i);
	fd = openat(at, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	tree_fd = openat(at, tree, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && tree_fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	for (size_t from = 0; from < len; from += PAGE)
		if (!io_is_zero((const uint8_t *)buf + from, PAGE))
			assert_int_equal(
				io_pwrite_full(fd, (const uint8_t *)buf + from, PAGE, from), 0);
	assert_int_equal(merkle_digest_fd(fd, len, tree_fd, NULL, d->digest[i]), 0);
	close(fd);
	close(tree_fd);
	layer__init(&d->layer[i]);
	d->layer[i].size = len;
	d->layer[i].digest = (ProtobufCBinaryData){ DIGEST_SIZE, d->digest[i] };
	d->layers[i] = &d->layer[i];
}

static void put_map(int at, struct draft *d, unsigned i, const struct layermap *map)
{
	char path[SNAPDIR_PATH_MAX];
	uint8_t *buf;
	size_t len;

	assert_int_equal(proto_layermap_encode(map, &buf, &len), 0);
	sfs_maps_path(i, path);
	assert_int_equal(io_write_file(at, path, buf, len, 0600, NULL), 0);
	assert_int_equal(merkle_digest(buf, len, d->map_digest[i]), 0);
	free(buf);
	d->layer[i].map_size = len;
	d->layer[i].map_digest = (ProtobufCBinaryData){ DIGEST_SIZE, d->map_digest[i] };
}

static void put_bottom(struct world *w, int at, struct draft *d)
{
	for (size_t p = 0; p < PAGES; p++) {
		w->zero[p] = rand() % 3 == 0;
		if (!w->zero[p])
			fill_page(w->flat + p * PAGE);
	}
	put_file(at, d, 0, w->flat, sizeof(w->flat));
}

/* Random runs, some of zeros, in a file whose pages are packed. */
static void put_layer(struct world *w, int at, struct draft *d, unsigned i)
{
	static uint8_t packed[PAGES * PAGE];
	struct layer_run run[PAGES];
	struct layermap map = { run, 0 };
	uint64_t page = 0, from = 0;

	while ((page += (uint64_t)rand() % 20) < PAGES) {
		const uint64_t most = PAGES - page < 9 ? PAGES - page : 9;
		struct layer_run *r = &run[map.n++];
		const bool zeros = rand() % 4 == 0;

		*r = (struct layer_run){ page, 1 + (uint64_t)rand() % most, from };
		if (zeros)
			r->from = LAYERMAP_ZEROS;
		for (uint64_t p = page; p < page + r->count; p++) {
			w->zero[p] = zeros;
			memset(w->flat + p * PAGE, 0, PAGE);
			if (zeros)
				continue;
			fill_page(w->flat + p * PAGE);
			memcpy(packed + from++ * PAGE, w->flat + p * PAGE, PAGE);
		}
		page += r->count;
	}
	put_file(at, d, i, packed, from * PAGE);
	put_map(at, d, i, &map);
}

static void put_manifest(struct world *w, int at, struct draft *d)
{
	Timestamp created = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT;
	RamRange *ranges[] = { &range };
	uint8_t id[UUID_SIZE] = { 1 }, memory[DIGEST_SIZE], state[DIGEST_SIZE], *buf;
	SnapshotManifest *m = &d->m;
	size_t len;

	assert_int_equal(merkle_digest(w->flat, sizeof(w->flat), memory), 0);
	assert_int_equal(merkle_digest("", 0, state), 0);
	assert_int_equal(io_write_file(at, SNAPDIR_STATE, "", 0, 0400, NULL), 0);
	created.seconds = 1785585600;
	range.size = sizeof(w->flat);
	m->version = MANIFEST_VERSION;
	m->created_at = &created;
	m->memory_size_bytes = sizeof(w->flat);
	m->vp_count = 1;
	m->page_size = MANIFEST_PAGE_SIZE;
	m->architecture = MANIFEST_ARCHITECTURE;
	m->id = (ProtobufCBinaryData){ UUID_SIZE, id };
	m->n_ram = 1;
	m->ram = ranges;
	m->n_layer = LAYERS;
	m->layer = d->layers;
	m->memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, memory };
	m->state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, state };
	assert_int_equal(proto_manifest_encode(m, &buf, &len, NULL), 0);
	assert_int_equal(io_write_file(at, SNAPDIR_MANIFEST, buf, len, 0400, NULL), 0);
	free(buf);
	/* What it pointed to ends here. */
	*m = (SnapshotManifest)SNAPSHOT_MANIFEST__INIT;
}

static void put_snapshot(struct world *w)
{
	struct draft d = { .m = SNAPSHOT_MANIFEST__INIT };
	int at;

	assert_int_equal(mkdirat(cat_store_snapshots_fd(w->store), "base", 0700), 0);
	at = openat(cat_store_snapshots_fd(w->store), "base", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(at, SNAPDIR_LAYERS, 0700), 0);
	put_bottom(w, at, &d);
	for (unsigned i = 1; i < LAYERS; i++)
		put_layer(w, at, &d, i);
	put_manifest(w, at, &d);
	close(at);
}

static struct composed *open_ram(struct world *w)
{
	struct composed_wait wait;
	struct composed *c;
	struct err e = { 0 };

	assert_int_equal(sfs_composed_new(&w->fs, w->snap, w->view, &c, &e), 0);
	assert_int_equal(sfs_composed_open(c, &wait, &e), 0);
	return sfs_composed_share(c);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct snap_dir dir;
	struct err e = { 0 };

	assert_non_null(w);
	srand(7);
	strcpy(w->path, "/tmp/snapfs-unit.XXXXXX");
	assert_non_null(mkdtemp(w->path));
	assert_int_equal(cat_store_open(&w->store, w->path, CAT_OPEN_CREATE, &e), 0);
	put_snapshot(w);
	assert_int_equal(sfs_fs_init(&w->fs, w->store, 0400, false), 0);
	assert_int_equal(sfs_snaps_look(&w->fs.snaps, "base", &dir), 0);
	w->snap = sfs_snap_new(&w->fs.snaps, &dir, "base");
	w->view = sfs_snap_view(w->snap);
	assert_true(w->view->dir.layered);
	w->ram = open_ram(w);
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct world *w = *state;

	sfs_composed_put(w->ram);
	sfs_view_put(w->snap, w->view);
	sfs_snap_put(w->snap);
	while (!sfs_fs_destroy(&w->fs))
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	cat_store_close(w->store);
	nftw(w->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static void read_gives_what_the_flat_ram_has(void **state)
{
	static uint8_t buf[PAGES * PAGE];
	struct world *w = *state;

	assert_int_equal(sfs_composed_read(w->ram, buf, sizeof(buf), 0), 0);
	assert_memory_equal(buf, w->flat, sizeof(buf));
	for (int round = 0; round < 2000; round++) {
		const uint64_t page = (uint64_t)rand() % PAGES;
		const size_t n = (size_t)(1 + (uint64_t)rand() % (PAGES - page)) * PAGE;

		assert_int_equal(sfs_composed_read(w->ram, buf, n, page * PAGE), 0);
		assert_memory_equal(buf, w->flat + page * PAGE, n);
	}
}

/* The first page from `page` on that is zero, or is not; PAGES: none. */
static size_t next_page(const struct world *w, size_t page, bool zero)
{
	while (page < PAGES && w->zero[page] != zero)
		page++;
	return page;
}

static void seeks_find_data_and_zeros(void **state)
{
	struct world *w = *state;

	for (size_t page = 0; page < PAGES; page++) {
		const size_t data = next_page(w, page, false), hole = next_page(w, page, true);
		const off_t at = (off_t)(page * PAGE) + rand() % 2 * 100;
		const off_t found = sfs_composed_seek(w->ram, at, SEEK_DATA);

		if (data == PAGES)
			assert_int_equal(found, -ENXIO);
		else
			assert_int_equal(found, data == page ? at : (off_t)(data * PAGE));
		assert_int_equal(sfs_composed_seek(w->ram, at, SEEK_HOLE),
				 hole == page ? at : (off_t)(hole * PAGE));
	}
	assert_int_equal(sfs_composed_seek(w->ram, PAGES * PAGE, SEEK_HOLE), -ENXIO);
	assert_int_equal(sfs_composed_seek(w->ram, -1, SEEK_DATA), -ENXIO);
}

static void looks_like_a_file_of_that_size(void **state)
{
	struct world *w = *state;
	struct stat st;

	assert_int_equal(sfs_composed_look(w->view, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(st.st_size, PAGES * PAGE);
	assert_true(st.st_blocks > 0 && st.st_blocks <= PAGES * PAGE / 512);
}

static void same_files_are_open_once(void **state)
{
	struct world *w = *state;
	bool same = false;

	/* More than once: the verifier may bring a layer to another rung between the two. */
	for (int i = 0; !same && i < 20; i++) {
		struct composed *one = open_ram(w), *other = open_ram(w);

		same = one == other;
		sfs_composed_put(one);
		sfs_composed_put(other);
	}
	assert_true(same);
}

static void wrong_block_is_wrong_where_it_shows_only(void **state)
{
	struct world *w = *state;
	uint8_t page[PAGE];
	const struct flat *flat;
	const struct flat_run *r;
	int fd, wrong = 0;

	assert_int_equal(sfs_maps_get(w->view, "base", &flat, NULL), 0);
	for (r = flat->run; r->layer != 2 || r->from == LAYERMAP_ZEROS; r++)
		;
	fd = openat(w->view->dir.dirfd, SNAPDIR_LAYERS "/2.ram", O_WRONLY | O_CLOEXEC);
	assert_int_equal(io_pwrite_full(fd, "wrong", 5, r->from * PAGE + 9), 0);
	close(fd);
	for (size_t p = 0; p < PAGES; p++) {
		const int rc = sfs_composed_read(w->ram, page, PAGE, p * PAGE);

		/* One that was found good as a whole meanwhile is refused as a whole. */
		wrong += rc != 0;
		assert_true(rc == 0 || proto_flat_find(flat, p)->layer == 2);
		assert_int_equal(rc == 0 ? memcmp(page, w->flat + p * PAGE, PAGE) : 0, 0);
	}
	assert_int_not_equal(sfs_composed_read(w->ram, page, PAGE, r->page * PAGE), 0);
	assert_true(wrong >= 1);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(read_gives_what_the_flat_ram_has),		TEST(seeks_find_data_and_zeros),
		TEST(looks_like_a_file_of_that_size),		TEST(same_files_are_open_once),
		TEST(wrong_block_is_wrong_where_it_shows_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
