/* RAM in layers: saved by the publisher, verified, compared, flattened, removed. */
#include "test_catalog_rig.h"

#include "base/merkle.h"
#include "catalog/change.h"
#include "catalog/check.h"
#include "catalog/compose.h"
#include "catalog/diff.h"

#define PAGE	4096U
#define PAGES	800U /* several blocks of a tree's lowest level, the last not whole */
#define SIZE	((uint64_t)PAGES * PAGE)
#define FDS_MAX 24

/* A machine's RAM as it should be, and what the last save of it gave back. */
struct guest {
	struct rig *r;
	uint8_t *ram;
	uint8_t id[UUID_SIZE];
	int fd[FDS_MAX]; /* manifest, RAM */
	size_t n;
	unsigned seed;
};

static void fill(struct guest *g, uint64_t page, uint64_t count)
{
	for (uint64_t i = page * PAGE; i < (page + count) * PAGE; i++)
		g->ram[i] = (uint8_t)(rand_r(&g->seed) >> 7);
}

static void drop_fds(struct guest *g)
{
	while (g->n)
		close(g->fd[--g->n]);
}

static struct guest *boot(struct rig *r)
{
	struct guest *g = calloc(1, sizeof(*g));

	assert_non_null(g);
	g->r = r;
	g->seed = 11;
	g->ram = calloc(1, SIZE);
	assert_non_null(g->ram);
	fill(g, 0, 3);
	fill(g, 100, 300);
	return g;
}

static void halt(struct guest *g)
{
	drop_fds(g);
	free(g->ram);
	free(g);
}

/* The last reply to a commit: its descriptors are the guest's. Its status. */
static int ask_commit(struct guest *g, const int *fds, size_t n, bool own, char *said)
{
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	PublishReply *reply = NULL;
	int got[FDS_MAX], status;
	size_t n_got;

	commit.ram_is_own = own;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	assert_int_equal(proto_publish_send_request(g->r->sock, &m, fds, n), 0);
	do {
		proto_publish_free_reply(reply);
		n_got = FDS_MAX;
		assert_int_equal(proto_publish_recv_reply(g->r->sock, &reply, got, &n_got), 1);
	} while (reply->in_progress);
	status = (int)reply->status;
	if (said)
		snprintf(said, 512, "%s",
			 status		   ? reply->error
			 : reply->n_notice ? reply->notice[0]
					   : "");
	if (status == 0) {
		drop_fds(g);
		memcpy(g->fd, got, n_got * sizeof(*got));
		g->n = n_got;
		memcpy(g->id, reply->id.data, UUID_SIZE);
	} else {
		assert_int_equal(n_got, 0);
	}
	proto_publish_free_reply(reply);
	return status;
}

/* A draft that a test may spoil. */
struct draft {
	SnapshotManifest m;
	Timestamp at;
	RamRange range, *ranges[1];
	Layer layer[FDS_MAX], *layers[FDS_MAX];
	uint8_t digest[FDS_MAX][2][DIGEST_SIZE];
};

static void start_draft(struct guest *g, struct draft *d)
{
	memset(d, 0, sizeof(*d));
	snapshot_manifest__init(&d->m);
	timestamp__init(&d->at);
	ram_range__init(&d->range);
	d->at.seconds = g->r->next.tv_sec++;
	d->range.size = SIZE;
	d->ranges[0] = &d->range;
	d->m.version = MANIFEST_VERSION;
	d->m.created_at = &d->at;
	d->m.memory_size_bytes = SIZE;
	d->m.vp_count = 1;
	d->m.page_size = MANIFEST_PAGE_SIZE;
	d->m.architecture = (char *)(uintptr_t)MANIFEST_ARCHITECTURE;
	d->m.ram = d->ranges;
	d->m.n_ram = 1;
	d->m.layer = d->layers;
	for (size_t i = 0; i < FDS_MAX; i++) {
		layer__init(&d->layer[i]);
		d->layers[i] = &d->layer[i];
	}
	if (g->n)
		d->m.parent_id = (ProtobufCBinaryData){ UUID_SIZE, g->id };
}

static int pack(const struct draft *d)
{
	size_t n = snapshot_manifest__get_packed_size(&d->m);
	auto_free uint8_t *buf = malloc(n);

	assert_non_null(buf);
	snapshot_manifest__pack(&d->m, buf);
	return rig_memfd(buf, n);
}

static void save_flat(struct guest *g, const char *name)
{
	struct draft d;
	int fds[3], ram = rig_ram(g->r, NULL, SIZE);

	assert_true(ram >= 0);
	assert_int_equal(io_pwrite_full(ram, g->ram, SIZE, 0), 0);
	fds[2] = open(io_fd_path(ram).text, O_RDONLY | O_CLOEXEC);
	close(ram);
	start_draft(g, &d);
	fds[0] = pack(&d);
	fds[1] = rig_state();
	assert_int_equal(rig_save(g->r, name), 0);
	assert_int_equal(ask_commit(g, fds, 3, true, NULL), 0);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

/* What a commit in layers passes. */
struct layered {
	struct draft d;
	int fd[FDS_MAX]; /* manifest, state, maps, layers */
	size_t n;
};

static void add_map(int maps, const struct layermap *map, uint64_t *size)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(proto_layermap_encode(map, &buf, &len), 0);
	assert_int_equal(io_write_full(maps, buf, len), 0);
	*size = len;
	free(buf);
}

/* The published manifest, whose digests are promised again, and maps as they are there. */
static size_t take_over(struct guest *g, struct layered *l, const char *parent, int maps)
{
	struct snapdir s;
	char path[512];
	struct err e = { 0 };
	size_t n;

	snprintf(path, sizeof(path), "%s/snapshots/%s", g->r->store, parent);
	if (proto_snapdir_open(&s, AT_FDCWD, path, parent, &e) < 0)
		fail_msg("%s", e.text);
	n = proto_snapdir_ram_files(s.manifest, s.layered);
	assert_int_equal(g->n, 1 + n);
	for (size_t i = 0; i < n; i++) {
		struct snapdir_file f;

		proto_snapdir_file(s.manifest, s.layered, i, &f);
		memcpy(l->d.digest[i][0], f.digest, DIGEST_SIZE);
		l->d.layer[i].digest = (ProtobufCBinaryData){ DIGEST_SIZE, l->d.digest[i][0] };
		l->d.layer[i].size = f.size;
		if (i) {
			struct layermap map;

			assert_int_equal(proto_snapdir_read_map(&s, i, parent, &map, &e), 0);
			add_map(maps, &map, &l->d.layer[i].map_size);
			proto_layermap_free(&map);
		}
	}
	proto_snapdir_close(&s);
	return n;
}

/* The pages of the map, as the guest has them now, in a file of the store. */
static int new_layer(struct guest *g, const struct layermap *map)
{
	auto_free uint8_t *bytes = malloc(SIZE);
	size_t len = 0;

	assert_non_null(bytes);
	for (size_t i = 0; i < map->n; i++) {
		const struct layer_run *r = &map->run[i];

		if (r->from == LAYERMAP_ZEROS)
			continue;
		memcpy(bytes + r->from * PAGE, g->ram + r->page * PAGE, r->count * PAGE);
		if ((r->from + r->count) * PAGE > len)
			len = (r->from + r->count) * PAGE;
	}
	return rig_file(g->r, bytes, len);
}

static void make_layered(struct guest *g, struct layered *l, const char *parent,
			 const struct layermap *map)
{
	int maps = memfd_create("maps", MFD_CLOEXEC);
	size_t n;

	start_draft(g, &l->d);
	n = take_over(g, l, parent, maps);
	add_map(maps, map, &l->d.layer[n].map_size);
	l->d.m.n_layer = n + 1;
	l->n = 0;
	l->fd[l->n++] = -1;
	l->fd[l->n++] = rig_state();
	l->fd[l->n++] = maps;
	for (size_t i = 0; i < n; i++)
		l->fd[l->n++] = fcntl(g->fd[1 + i], F_DUPFD_CLOEXEC, 0);
	l->fd[l->n++] = new_layer(g, map);
}

static int commit(struct guest *g, struct layered *l, const char *name, char *said)
{
	int status;

	l->fd[0] = pack(&l->d);
	assert_int_equal(rig_save(g->r, name), 0);
	status = ask_commit(g, l->fd, l->n, false, said);
	for (size_t i = 0; i < l->n; i++)
		close(l->fd[i]);
	return status;
}

/* Up to 20 runs of changed pages, some of them zeros. */
static struct layermap change(struct guest *g)
{
	struct layermap map = { .run = calloc(20, sizeof(struct layer_run)) };
	uint64_t page = (unsigned)rand_r(&g->seed) % 100, from = 0;

	assert_non_null(map.run);
	while (map.n < 20 && page < PAGES) {
		uint64_t count = 1 + (unsigned)rand_r(&g->seed) % (map.n % 5 ? 4 : 150);
		struct layer_run *r = &map.run[map.n++];

		if (count > PAGES - page)
			count = PAGES - page;
		*r = (struct layer_run){ page, count, from };
		if (rand_r(&g->seed) % 4 == 0) {
			r->from = LAYERMAP_ZEROS;
			memset(g->ram + page * PAGE, 0, count * PAGE);
		} else {
			fill(g, page, count);
			from += count;
		}
		page += count + 1 + (unsigned)rand_r(&g->seed) % 90;
	}
	return map;
}

static int save(struct guest *g, const char *name, const char *parent, char *said)
{
	struct layermap map = change(g);
	struct layered l;
	int status;

	make_layered(g, &l, parent, &map);
	status = commit(g, &l, name, said);
	proto_layermap_free(&map);
	return status;
}

/* The digest in the manifest is that of the RAM, and so is what the files say. */
static void check_content(struct guest *g, const char *name, size_t layers)
{
	struct snapdir s;
	struct flat f;
	struct err e = { 0 };
	uint8_t digest[DIGEST_SIZE], page[PAGE];
	char path[512];

	snprintf(path, sizeof(path), "%s/snapshots/%s", g->r->store, name);
	if (proto_snapdir_open(&s, AT_FDCWD, path, name, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(s.layered ? s.manifest->n_layer : 0, layers);
	assert_int_equal(merkle_digest(g->ram, SIZE, digest), 0);
	assert_memory_equal(s.manifest->memory_digest.data, digest, DIGEST_SIZE);
	assert_int_equal(proto_snapdir_read_flat(&s, name, &f, &e), 0);
	for (uint64_t i = 0; i < PAGES; i++) {
		const struct flat_run *r = proto_flat_find(&f, i);

		memset(page, 0, sizeof(page));
		if (r->from != LAYERMAP_ZEROS)
			assert_int_equal(io_pread_full(g->fd[1 + r->layer], page, PAGE,
						       (r->from + i - r->page) * PAGE),
					 0);
		assert_memory_equal(page, g->ram + i * PAGE, PAGE);
	}
	proto_flat_free(&f);
	proto_snapdir_close(&s);
}

static void verify(struct rig *r, const char *name, int want, const char *words)
{
	struct store *store = rig_open(r);
	struct err e = { 0 };
	int rc = cat_verify_snapshot(store, name, true, NULL, &e);

	if (rc != want)
		fail_msg("%s: %d, %s", name, rc, e.text);
	if (words && !strstr(e.text, words))
		fail_msg("no word of '%s' in: %s", words, e.text);
	cat_store_close(store);
}

static void expect_clean(struct rig *r)
{
	rig_shell("test -z \"$(ls -A '%s/staging')\"", r->store);
}

static struct cat_row row_of(struct rig *r, const char *name)
{
	struct store *store = rig_open(r);
	struct cat_row row;
	struct err e = { 0 };

	if (cat_index_find(store, name, &row, &e) < 0)
		fail_msg("%s", e.text);
	cat_store_close(store);
	return row;
}

/* --- tests --- */

static void saves_in_layers_are_what_the_guest_had(void **state)
{
	struct guest *g = boot(*state);
	char said[512], name[16], parent[16] = "s0";
	size_t layers = 0;

	save_flat(g, "s0");
	assert_int_equal(g->n, 2);
	check_content(g, "s0", 0);
	for (int i = 1; i <= 40; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		if (save(g, name, parent, said) != 0)
			fail_msg("%s", said);
		/* From 17 on it begins anew with a flat one. */
		layers = layers == MANIFEST_LAYERS_MAX ? 0 : layers ? layers + 1 : 2;
		assert_int_equal(g->n, 1 + (layers ? layers : 1));
		if ((layers == 0) != (strstr(said, "made flat") != NULL))
			fail_msg("%zu layers, and it says: %s", layers, said);
		check_content(g, name, layers);
		strcpy(parent, name);
	}
	assert_int_equal(row_of(g->r, "s40").status, CAT_VALID);
	assert_int_equal(row_of(g->r, "s5").status, CAT_VALID);
	assert_int_equal(row_of(g->r, "s5").layers, 6);
	verify(g->r, "s16", 0, NULL);
	verify(g->r, "s40", 0, NULL);
	expect_clean(g->r);
	halt(g);
}

static void files_are_shared_and_removing_one_hurts_no_other(void **state)
{
	static const char *const order[] = { "s1", "s0", "s3", "s2" };
	struct guest *g = boot(*state);
	struct store *store;
	struct err e = { 0 };

	save_flat(g, "s0");
	assert_int_equal(save(g, "s1", "s0", NULL), 0);
	assert_int_equal(save(g, "s2", "s1", NULL), 0);
	assert_int_equal(save(g, "s3", "s2", NULL), 0);
	rig_shell("test '%s/snapshots/s0/memory.bin' -ef '%s/snapshots/s3/layers/0.ram'",
		  g->r->store, g->r->store);
	rig_shell("test '%s/snapshots/s0/memory.tree' -ef '%s/snapshots/s3/layers/0.tree'",
		  g->r->store, g->r->store);
	rig_shell("test \"$(stat -c %%a '%s/snapshots/s3/layers' '%s/snapshots/s3/layers/3.map' "
		  "| tr '\\n' ' ')\" = '700 400 '",
		  g->r->store, g->r->store);
	/* RAM of the bottom is the first's, the last layer the last one's alone. */
	assert_true(row_of(g->r, "s0").unique_bytes < row_of(g->r, "s0").stored_bytes / 10);
	assert_true(row_of(g->r, "s3").unique_bytes > PAGE);
	store = rig_open(g->r);
	rig_expect(store, "s0=valid s1=valid s2=valid s3=valid ");
	for (size_t i = 0; i < 3; i++) {
		if (cat_snapshot_remove(store, order[i], &e) < 0)
			fail_msg("%s", e.text);
	}
	rig_expect(store, "s2=valid ");
	cat_store_close(store);
	verify(g->r, "s2", 0, NULL);
	assert_int_equal(row_of(g->r, "s2").unique_bytes, row_of(g->r, "s2").stored_bytes);
	halt(g);
}

static void a_parent_that_is_gone_is_copied_from_its_descriptors(void **state)
{
	struct guest *g = boot(*state);
	struct store *store;
	struct layermap map;
	struct layered l;
	char said[512];

	save_flat(g, "s0");
	map = change(g);
	make_layered(g, &l, "s0", &map);
	store = rig_open(g->r);
	assert_int_equal(cat_snapshot_remove(store, "s0", NULL), 0);
	cat_store_close(store);
	if (commit(g, &l, "s1", said) != 0)
		fail_msg("%s", said);
	assert_non_null(strstr(said, "copied"));
	check_content(g, "s1", 2);
	verify(g->r, "s1", 0, NULL);
	proto_layermap_free(&map);
	halt(g);
}

static void what_cannot_be_linked_comes_from_the_parent_in_the_store(void **state)
{
	struct guest *g = boot(*state);
	auto_free uint8_t *was = malloc(SIZE);
	struct layermap map;
	struct layered l;
	char said[512];

	assert_non_null(was);
	save_flat(g, "s0");
	memcpy(was, g->ram, SIZE);
	map = change(g);
	make_layered(g, &l, "s0", &map);
	close(l.fd[3]);
	l.fd[3] = rig_memfd(was, SIZE);
	if (commit(g, &l, "s1", said) != 0)
		fail_msg("%s", said);
	rig_shell("test '%s/snapshots/s0/memory.bin' -ef '%s/snapshots/s1/layers/0.ram'",
		  g->r->store, g->r->store);
	assert_int_equal(row_of(g->r, "s0").status, CAT_VALID);
	assert_int_equal(row_of(g->r, "s1").status, CAT_VALID);
	proto_layermap_free(&map);
	halt(g);
}

static void a_tree_that_is_missing_or_damaged_is_made(void **state)
{
	struct guest *g = boot(*state);

	save_flat(g, "s0");
	rig_shell("rm '%s/snapshots/s0/memory.tree'", g->r->store);
	assert_int_equal(save(g, "s1", "s0", NULL), 0);
	check_content(g, "s1", 2);
	rig_shell("test -s '%s/snapshots/s1/layers/0.tree'", g->r->store);
	/* Past its topmost block: seen only where it is used. */
	rig_shell("chmod 600 '%s/snapshots/s1/layers/0.tree' && printf x | dd "
		  "of='%s/snapshots/s1/layers/0.tree' bs=1 seek=9000 conv=notrunc status=none",
		  g->r->store, g->r->store);
	assert_int_equal(save(g, "s2", "s1", NULL), 0);
	check_content(g, "s2", 3);
	verify(g->r, "s2", 0, NULL);
	verify(g->r, "s1", 0, NULL);
	halt(g);
}

struct spoilt {
	const char *name;
	void (*spoil)(struct layered *l);
};

static void spoil_promise(struct layered *l)
{
	l->d.digest[0][0][3] ^= 1;
}

static void spoil_map_promise(struct layered *l)
{
	memset(l->d.digest[2][1], 7, DIGEST_SIZE);
	l->d.layer[2].map_digest = (ProtobufCBinaryData){ DIGEST_SIZE, l->d.digest[2][1] };
}

static void spoil_bottom_size(struct layered *l)
{
	l->d.layer[0].size -= PAGE;
}

static void spoil_memory_size(struct layered *l)
{
	l->d.m.memory_size_bytes += PAGE;
	l->d.range.size += PAGE;
}

static void spoil_ranges(struct layered *l)
{
	l->d.range.size += PAGE;
}

static void spoil_map_size(struct layered *l)
{
	l->d.layer[1].map_size += 24;
}

static void spoil_huge_map(struct layered *l)
{
	l->d.layer[1].map_size = UINT64_MAX;
}

static void spoil_split_of_maps(struct layered *l)
{
	l->d.layer[1].map_size += 24;
	l->d.layer[2].map_size -= 24;
}

static void spoil_one_layer(struct layered *l)
{
	l->d.m.n_layer = 1;
}

static void spoil_many_layers(struct layered *l)
{
	l->d.m.n_layer = MANIFEST_LAYERS_MAX + 2;
}

static void spoil_missing_layer(struct layered *l)
{
	close(l->fd[--l->n]);
}

static void spoil_all_layers(struct layered *l)
{
	while (l->n > 3)
		close(l->fd[--l->n]);
}

static void spoil_more_layers(struct layered *l)
{
	l->fd[l->n++] = rig_state();
}

static void spoil_bottom_map(struct layered *l)
{
	l->d.layer[0].map_digest = (ProtobufCBinaryData){ DIGEST_SIZE, l->d.digest[0][1] };
}

static void spoil_short_layer(struct layered *l)
{
	static const uint8_t page[PAGE];

	close(l->fd[l->n - 1]);
	l->fd[l->n - 1] = rig_memfd(page, sizeof(page));
	l->d.layer[2].size = 0;
}

static void spoil_uneven_layer(struct layered *l)
{
	close(l->fd[l->n - 1]);
	l->fd[l->n - 1] = rig_memfd("x", 1);
	l->d.layer[2].size = 0;
}

static void spoil_maps_file(struct layered *l)
{
	close(l->fd[2]);
	l->fd[2] = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void spoil_maps_content(struct layered *l)
{
	assert_int_equal(io_pwrite_full(l->fd[2], "SNAP", 4, 0), 0);
}

static void spoil_directory(struct layered *l)
{
	close(l->fd[4]);
	l->fd[4] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void hostile_drafts_are_refused_and_leave_nothing(void **state)
{
	static const struct spoilt spoilt[] = {
		{ "promise", spoil_promise },
		{ "map promise", spoil_map_promise },
		{ "bottom size", spoil_bottom_size },
		{ "memory size", spoil_memory_size },
		{ "ranges", spoil_ranges },
		{ "map size", spoil_map_size },
		{ "huge map", spoil_huge_map },
		{ "split of maps", spoil_split_of_maps },
		{ "one layer", spoil_one_layer },
		{ "many layers", spoil_many_layers },
		{ "missing layer", spoil_missing_layer },
		{ "no layers", spoil_all_layers },
		{ "more layers", spoil_more_layers },
		{ "bottom with a map", spoil_bottom_map },
		{ "short layer", spoil_short_layer },
		{ "uneven layer", spoil_uneven_layer },
		{ "maps' file", spoil_maps_file },
		{ "maps' content", spoil_maps_content },
		{ "directory", spoil_directory },
	};
	struct guest *g = boot(*state);
	struct layer_run run[] = { { 5, 3, 0 }, { 700, 2, 3 } };
	struct layermap map = { run, 2 };
	struct store *store;

	save_flat(g, "s0");
	assert_int_equal(save(g, "s1", "s0", NULL), 0);
	for (size_t i = 0; i < sizeof(spoilt) / sizeof(spoilt[0]); i++) {
		struct layered l;
		char said[512];

		make_layered(g, &l, "s1", &map);
		spoilt[i].spoil(&l);
		if (commit(g, &l, "bad", said) == 0)
			fail_msg("%s: it is taken", spoilt[i].name);
		if (!*said)
			fail_msg("%s: no word", spoilt[i].name);
		expect_clean(g->r);
	}
	/* What was linked and taken out again is as it was, and known to be good. */
	store = rig_open(g->r);
	rig_expect(store, "s0=valid s1=valid ");
	cat_store_close(store);
	rig_shell("test \"$(stat -c %%a.%%h '%s/snapshots/s1/layers/1.ram')\" = 400.1",
		  g->r->store);
	assert_int_equal(save(g, "s2", "s1", NULL), 0);
	halt(g);
}

static void damage_is_told_by_layer_and_block(void **state)
{
	struct guest *g = boot(*state);
	struct layer_run run[] = { { 5, 300, 0 } };
	struct layermap map = { run, 1 };
	struct layered l;

	save_flat(g, "s0");
	make_layered(g, &l, "s0", &map);
	assert_int_equal(commit(g, &l, "s1", NULL), 0);
	rig_shell("cp -r '%s/snapshots/s1' '%s/snapshots/copy'", g->r->store, g->r->store);
	verify(g->r, "copy", 0, NULL);
	rig_shell("cd '%s/snapshots/copy/layers' && chmod 600 1.ram && printf xyz | dd of=1.ram "
		  "bs=1 seek=%u conv=notrunc status=none",
		  g->r->store, 131 * PAGE);
	verify(g->r, "copy", -EBADMSG, "layers/1.ram");
	verify(g->r, "copy", -EBADMSG, "block 131");
	rig_shell("cp -f '%s/snapshots/s1/layers/1.ram' '%s/snapshots/copy/layers/1.ram'",
		  g->r->store, g->r->store);
	verify(g->r, "copy", 0, NULL);
	rig_shell("cd '%s/snapshots/copy/layers' && chmod 600 1.map && printf x | dd of=1.map bs=1 "
		  "seek=17 conv=notrunc status=none",
		  g->r->store);
	verify(g->r, "copy", -EBADMSG, "layers/1.map");
	verify(g->r, "s1", 0, NULL);
	halt(g);
}

static int count_run(void *arg, uint64_t address, uint64_t size)
{
	(void)address;
	*(uint64_t *)arg += size;
	return 0;
}

static void differences_are_those_of_the_pages(void **state)
{
	struct guest *g = boot(*state);
	auto_free uint8_t *was = malloc(SIZE);
	struct store *store;
	struct diff_sum sum;
	uint64_t bytes = 0, differ = 0;
	struct err e = { 0 };

	assert_non_null(was);
	memcpy(was, g->ram, SIZE);
	save_flat(g, "s0");
	assert_int_equal(save(g, "s1", "s0", NULL), 0);
	assert_int_equal(save(g, "s2", "s1", NULL), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		differ += memcmp(was + i * PAGE, g->ram + i * PAGE, PAGE) != 0;
	store = rig_open(g->r);
	for (int flat = 0; flat < 2; flat++) {
		bytes = 0;
		if (cat_diff(store, "s0", "s2", count_run, &bytes, &sum, NULL, &e) < 0)
			fail_msg("%s", e.text);
		assert_int_equal(sum.pages, PAGES);
		assert_int_equal(sum.changed, differ);
		assert_int_equal(bytes, differ * PAGE);
		/* And once more with one of them flat. */
		assert_int_equal(cat_snapshot_flatten(store, "s2", NULL, &e), flat);
	}
	rig_expect(store, "s0=valid s1=valid s2=valid ");
	cat_store_close(store);
	verify(g->r, "s2", 0, NULL);
	verify(g->r, "s1", 0, NULL);
	assert_memory_equal(row_of(g->r, "s2").id, g->id, UUID_SIZE);
	assert_int_equal(row_of(g->r, "s2").layers, 0);
	expect_clean(g->r);
	halt(g);
}

static void a_failed_flatten_leaves_the_snapshot(void **state)
{
	struct guest *g = boot(*state);
	struct store *store;
	struct err e = { 0 };

	save_flat(g, "s0");
	assert_int_equal(save(g, "s1", "s0", NULL), 0);
	rig_shell("cp -r '%s/snapshots/s1' '%s/snapshots/bad' && cd '%s/snapshots/bad/layers' && "
		  "chmod 600 0.ram && printf xyz | dd of=0.ram bs=1 seek=%u conv=notrunc "
		  "status=none",
		  g->r->store, g->r->store, g->r->store, 799 * PAGE);
	store = rig_open(g->r);
	assert_int_equal(cat_snapshot_flatten(store, "bad", NULL, &e), -EBADMSG);
	assert_int_equal(cat_snapshot_flatten(store, "none", NULL, &e), -ENOENT);
	cat_store_close(store);
	expect_clean(g->r);
	rig_shell("test -f '%s/snapshots/bad/layers/1.map'", g->r->store);
	halt(g);
}

/* Gigabytes of RAM with a page here and there, in several layers, composed and written. */
static void large_ram_is_composed_as_its_flat_file(void **state)
{
	const uint64_t pages = (3ULL << 30) / PAGE + 77;
	struct rig *r = *state;
	struct flat f;
	struct ram_source s[4] = { 0 };
	uint8_t digest[DIGEST_SIZE], got[DIGEST_SIZE], page[PAGE];
	char path[300];
	unsigned seed = 3;
	int flat;

	assert_int_equal(proto_flat_start(&f, pages), 0);
	for (unsigned i = 0; i < 4; i++) {
		const uint64_t own = i ? 40000 : pages;
		struct layermap map = { .run = calloc(300, sizeof(struct layer_run)) };
		int tree = memfd_create("tree", MFD_CLOEXEC), fd;
		uint64_t at = 0, from = 0;

		assert_non_null(map.run);
		snprintf(path, sizeof(path), "%s/layer%u", r->dir, i);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		assert_int_equal(ftruncate(fd, (off_t)(own * PAGE)), 0);
		for (int k = 0; k < 200; k++) {
			memset(page, rand_r(&seed), PAGE);
			assert_int_equal(io_pwrite_full(fd, page, PAGE,
							(unsigned)rand_r(&seed) % own * PAGE),
					 0);
		}
		assert_int_equal(merkle_digest_fd(fd, own * PAGE, tree, NULL, digest), 0);
		s[i] = (struct ram_source){ .fd = fd, .size = own * PAGE };
		assert_int_equal(merkle_open(&s[i].tree, tree, own * PAGE, digest), 0);
		for (; i && map.n < 300; map.n++) {
			uint64_t count = 1 + (unsigned)rand_r(&seed) % (map.n % 9 ? 6 : 900);
			bool zeros = rand_r(&seed) % 5 == 0;

			at += (unsigned)rand_r(&seed) % 2000;
			if (at + count > pages || from + count > own)
				break;
			map.run[map.n] =
				(struct layer_run){ at, count, zeros ? LAYERMAP_ZEROS : from };
			from += zeros ? 0 : count;
			at += count;
		}
		if (i)
			assert_int_equal(proto_flat_add(&f, i, &map), 0);
		proto_layermap_free(&map);
	}
	snprintf(path, sizeof(path), "%s/flat", r->dir);
	flat = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(cat_compose_file(&f, s, flat, NULL), 0);
	assert_int_equal(merkle_digest_fd(flat, pages * PAGE, -1, NULL, digest), 0);
	assert_int_equal(cat_compose_digest(&f, s, got), 0);
	assert_memory_equal(got, digest, DIGEST_SIZE);
	close(flat);
	for (unsigned i = 0; i < 4; i++) {
		merkle_close(s[i].tree);
		close(s[i].fd);
	}
	proto_flat_free(&f);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(saves_in_layers_are_what_the_guest_had),
		TEST(files_are_shared_and_removing_one_hurts_no_other),
		TEST(a_parent_that_is_gone_is_copied_from_its_descriptors),
		TEST(what_cannot_be_linked_comes_from_the_parent_in_the_store),
		TEST(a_tree_that_is_missing_or_damaged_is_made),
		TEST(hostile_drafts_are_refused_and_leave_nothing),
		TEST(damage_is_told_by_layer_and_block),
		TEST(differences_are_those_of_the_pages),
		TEST(a_failed_flatten_leaves_the_snapshot),
		TEST(large_ram_is_composed_as_its_flat_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
