/* The publisher, asked as vmm asks it. */
#include "test_catalog_rig.h"

#include "base/merkle.h"

static void expect_nothing_left(struct rig *r)
{
	rig_shell("cd '%s' && test -z \"$(ls -A snapshots staging trash ram | grep -v :)\"",
		  r->store);
}

static void publish_gives_equal_bytes_by_hard_link(void **state)
{
	struct rig *r = *state;
	uint8_t want[RIG_RAM] = { 0 }, have[RIG_RAM], digest[DIGEST_SIZE];
	auto_free uint8_t *bytes = NULL;
	char path[400];
	struct snapdir d;
	struct stat ram_stat, st;
	size_t len;
	int ram = rig_ram(r, NULL, RIG_RAM), fd;

	assert_true(ram >= 0);
	ram = rig_freeze(ram, 7);
	assert_int_equal(fstat(ram, &ram_stat), 0);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, NULL), 0);
	snprintf(path, sizeof(path), "%s/snapshots/a", r->store);
	assert_int_equal(proto_snapdir_open(&d, AT_FDCWD, path, "a", NULL), 0);
	assert_string_equal(d.manifest->name_at_creation, "a");
	assert_int_equal(d.stat.st_mtim.tv_sec, d.manifest->created_at->seconds);
	assert_int_equal(proto_snapdir_read_state(&d, "a", &bytes, &len, NULL), 0);
	fd = proto_snapdir_open_memory(&d, "a", NULL);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_ino, ram_stat.st_ino);
	assert_int_equal(st.st_mode & 0777, 0400);
	assert_true(st.st_blocks * 512 < RIG_RAM);
	memset(want, 7, 4096);
	memset(want + RIG_RAM - 4096, 7, 4096);
	assert_int_equal(io_pread_full(fd, have, RIG_RAM, 0), 0);
	assert_memory_equal(want, have, RIG_RAM);
	assert_int_equal(merkle_digest(want, RIG_RAM, digest), 0);
	assert_memory_equal(digest, d.manifest->memory_digest.data, DIGEST_SIZE);
	close(fd);
	proto_snapdir_close(&d);
	rig_shell("test \"$(stat -c %%a '%s'/*.bin | sort -u)\" = 400", path);
}

static void publish_taken_or_bad_name_refused(void **state)
{
	struct rig *r = *state;

	rig_publish(r, "a", 1, NULL, NULL);
	assert_int_equal(rig_save(r, "a"), STATUS_REFUSED);
	assert_int_equal(rig_save(r, ".a"), STATUS_USAGE);
	assert_int_equal(rig_save(r, ""), STATUS_USAGE);
	rig_publish(r, "b", 2, NULL, NULL);
	rig_shell("test -z \"$(ls -A '%s/staging')\"", r->store);
}

static void abort_and_eof_leave_nothing(void **state)
{
	struct rig *r = *state;
	AbortRequest abort_request = ABORT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	m.what_case = PUBLISH_REQUEST__WHAT_ABORT;
	m.abort = &abort_request;
	assert_int_equal(rig_save(r, "a"), 0);
	rig_shell("test -n \"$(ls -A '%s/staging')\"", r->store);
	assert_int_equal(rig_ask(r, &m, NULL, 0, NULL, NULL), 0);
	expect_nothing_left(r);
	assert_int_equal(rig_save(r, "a"), 0);
	rig_stop_publisher(r);
	expect_nothing_left(r);
}

static void killed_publisher_leaves_what_the_next_sweeps(void **state)
{
	struct rig *r = *state;
	struct store *store;

	assert_int_equal(rig_save(r, "a"), 0);
	kill(r->publisher, SIGKILL);
	waitpid(r->publisher, NULL, 0);
	close(r->sock);
	r->sock = -1;
	store = rig_open(r);
	expect_nothing_left(r);
	cat_store_close(store);
}

static void commit_of_hostile_input_refused_and_nothing_left(void **state)
{
	struct rig *r = *state;
	int ram = rig_freeze(rig_ram(r, NULL, RIG_RAM), 1);
	int short_ram = rig_memfd("x", 1);
	int null = open("/dev/null", O_RDONLY);

	assert_int_equal(rig_commit(r, dup(null), dup(null), dup(null), true, NULL), STATUS_USAGE);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_memfd("\xff\xff", 2), rig_state(), dup(ram), true, NULL),
			 STATUS_REFUSED);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(
		rig_commit(r, rig_draft(r, NULL), rig_memfd("\xff", 1), dup(ram), true, NULL),
		STATUS_REFUSED);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), short_ram, false, NULL),
			 STATUS_REFUSED);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, dup(null), rig_state(), dup(ram), true, NULL),
			 STATUS_REFUSED);
	expect_nothing_left(r);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, NULL), 0);
	close(null);
}

static void commit_of_foreign_ram_is_copied(void **state)
{
	struct rig *r = *state;
	uint8_t zeros[RIG_RAM] = { 1, 2, 3 };
	struct store *store;

	assert_int_equal(rig_save(r, "a"), 0);
	/* Claims that it is its own, but the publisher never made it. */
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(),
				    rig_memfd(zeros, sizeof(zeros)), true, NULL),
			 0);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, NULL), 0);
	cat_store_close(store);
}

static void commit_of_ram_still_mapped_is_copied_and_said(void **state)
{
	struct rig *r = *state;
	int ram = rig_ram(r, NULL, RIG_RAM);
	PublishReply *reply = NULL;
	uint8_t *map = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
	struct store *store;

	assert_ptr_not_equal(map, MAP_FAILED);
	ram = rig_freeze(ram, 5);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, &reply), 0);
	assert_int_equal(reply->n_notice, 1);
	assert_non_null(strstr(reply->notice[0], "copied"));
	proto_publish_free_reply(reply);
	/* Writes by whoever still holds it do not reach the snapshot. */
	memset(map, 9, RIG_RAM);
	munmap(map, RIG_RAM);
	store = rig_open(r);
	assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, NULL), 0);
	cat_store_close(store);
}

static void save_to_path_is_a_whole_snapshot_outside(void **state)
{
	struct rig *r = *state;
	char path[400];
	struct snapdir d;
	int ram = rig_freeze(rig_ram(r, NULL, RIG_RAM), 3);

	snprintf(path, sizeof(path), "%s/out/", r->dir);
	assert_int_equal(rig_save(r, path), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, NULL), 0);
	assert_int_equal(proto_snapdir_open(&d, AT_FDCWD, path, "out", NULL), 0);
	assert_string_equal(d.manifest->name_at_creation, "out");
	proto_snapdir_close(&d);
	assert_int_equal(rig_save(r, path), STATUS_REFUSED);
	rig_shell("test \"$(ls -A '%s')\" = 'out\nstore'", r->dir);
	snprintf(path, sizeof(path), "%s/nowhere/x", r->dir);
	assert_int_equal(rig_save(r, path), STATUS_ENVIRONMENT);
	assert_int_equal(rig_save(r, "/"), STATUS_USAGE);
	assert_int_equal(rig_save(r, "./.."), STATUS_USAGE);
}

static void published_is_trusted_until_it_changes(void **state)
{
	struct rig *r = *state;
	TrustRequest trust = TRUST_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	PublishReply *reply = NULL;
	uint8_t ram[RIG_RAM] = { 0 }, digest[DIGEST_SIZE];
	char path[400];
	int fd;

	rig_publish(r, "a", 4, NULL, NULL);
	memset(ram, 4, 4096);
	memset(ram + RIG_RAM - 4096, 4, 4096);
	assert_int_equal(merkle_digest(ram, RIG_RAM, digest), 0);
	snprintf(path, sizeof(path), "%s/snapshots/a/memory.bin", r->store);
	fd = open(path, O_RDONLY);
	trust.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, digest };
	m.what_case = PUBLISH_REQUEST__WHAT_TRUST;
	m.trust = &trust;
	assert_int_equal(rig_ask(r, &m, &fd, 1, &reply, NULL), 0);
	assert_true(reply->trusted);
	proto_publish_free_reply(reply);
	rig_shell("touch '%s'", path);
	assert_int_equal(rig_ask(r, &m, &fd, 1, &reply, NULL), 0);
	assert_false(reply->trusted);
	proto_publish_free_reply(reply);
	assert_int_equal(rig_ask(r, &m, NULL, 0, NULL, NULL), STATUS_USAGE);
	close(fd);
}

static void ram_of_impossible_size_refused(void **state)
{
	struct rig *r = *state;

	assert_int_equal(rig_ram(r, NULL, 0), -1);
	assert_int_equal(rig_ram(r, NULL, 4097), -1);
	assert_int_equal(rig_ram(r, NULL, UINT64_MAX - 4095), -1);
}

static void ram_at_path_made_then_emptied_when_reused(void **state)
{
	struct rig *r = *state;
	uint8_t page[4096];
	char path[400];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/ram.img", r->dir);
	fd = rig_ram(r, path, RIG_RAM);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Another machine has it. */
	assert_int_equal(rig_ram(r, path, RIG_RAM), -1);
	memset(page, 0xaa, sizeof(page));
	assert_int_equal(io_pwrite_full(fd, page, sizeof(page), 0), 0);
	close(fd);
	fd = rig_ram(r, path, RIG_RAM);
	assert_true(fd >= 0);
	assert_int_equal(io_pread_full(fd, page, sizeof(page), 0), 0);
	assert_true(io_is_zero(page, sizeof(page)));
	close(fd);
}

static void ram_at_path_that_may_be_a_snapshot_refused(void **state)
{
	static const struct {
		const char *make, *path;
	} cases[] = {
		{ "truncate -s 65536 f && ln f g", "f" },
		{ "truncate -s 65536 f && chmod 0400 f", "f" },
		{ "truncate -s 4096 f", "f" },
		{ "truncate -s 65536 g && ln -s g f", "f" },
		{ "mkdir f", "f" },
		{ "mkfifo f", "f" },
		{ "mkdir d && touch d/manifest.bin && truncate -s 65536 d/memory.bin",
		  "d/memory.bin" },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char path[400];

		rig_shell("cd '%s' && rm -rf f g d && %s", r->dir, cases[i].make);
		snprintf(path, sizeof(path), "%s/%s", r->dir, cases[i].path);
		assert_int_equal(rig_ram(r, path, RIG_RAM), -1);
	}
}

static void ram_at_path_once_saved_is_never_written_again(void **state)
{
	struct rig *r = *state;
	char path[400];
	int ram;

	snprintf(path, sizeof(path), "%s/ram.img", r->dir);
	ram = rig_freeze(rig_ram(r, path, RIG_RAM), 1);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, NULL), 0);
	assert_int_equal(rig_ram(r, path, RIG_RAM), -1);
	rig_shell("test '%s' -ef '%s/snapshots/a/memory.bin'", path, r->store);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		WITH_RIG(publish_gives_equal_bytes_by_hard_link),
		WITH_RIG(publish_taken_or_bad_name_refused),
		WITH_RIG(abort_and_eof_leave_nothing),
		WITH_RIG(killed_publisher_leaves_what_the_next_sweeps),
		WITH_RIG(commit_of_hostile_input_refused_and_nothing_left),
		WITH_RIG(commit_of_foreign_ram_is_copied),
		WITH_RIG(commit_of_ram_still_mapped_is_copied_and_said),
		WITH_RIG(save_to_path_is_a_whole_snapshot_outside),
		WITH_RIG(published_is_trusted_until_it_changes),
		WITH_RIG(ram_of_impossible_size_refused),
		WITH_RIG(ram_at_path_made_then_emptied_when_reused),
		WITH_RIG(ram_at_path_that_may_be_a_snapshot_refused),
		WITH_RIG(ram_at_path_once_saved_is_never_written_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
