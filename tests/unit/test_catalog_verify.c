/* Verification and stamps. */
#include "test_catalog_rig.h"

#include "base/merkle.h"

#include "catalog/change.h"

static int flip(struct rig *r, const char *name, const char *file, off_t at)
{
	char path[400];
	uint8_t byte;
	int fd;

	snprintf(path, sizeof(path), "%s/snapshots/%s/%s", r->store, name, file);
	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	return 0;
}

static void bit_flip_in_each_file_found_and_named(void **state)
{
	static const struct {
		const char *file;
		off_t at;
	} cases[] = {
		{ "manifest.bin", 5 },	       { "state.bin", 0 },
		{ "memory.bin", 0 },	       { "memory.bin", 20000 },
		{ "memory.bin", RIG_RAM - 1 },
	};
	struct rig *r = *state;
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = { 0 };
		struct cat_row row;

		assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, &e), 0);
		rig_expect(store, "a=valid ");
		flip(r, "a", cases[i].file, cases[i].at);
		/* Whether or not it may trust what it knew. */
		assert_int_equal(cat_verify_snapshot(store, "a", i % 2, NULL, &e), -EBADMSG);
		assert_int_equal(e.status, STATUS_REFUSED);
		assert_non_null(strstr(e.text, cases[i].file));
		rig_expect(store, "a=damaged ");
		assert_int_equal(cat_index_find(store, "a", &row, NULL), 0);
		assert_non_null(strstr(row.problem, cases[i].file));
		flip(r, "a", cases[i].file, cases[i].at);
	}
	cat_store_close(store);
}

static void write_after_verification_makes_it_unverified(void **state)
{
	struct rig *r = *state;
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	flip(r, "a", "memory.bin", 9);
	rig_expect(store, "a=unverified ");
	flip(r, "a", "memory.bin", 9);
	rig_expect(store, "a=unverified ");
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, NULL), 0);
	rig_expect(store, "a=valid ");
	cat_store_close(store);
}

static int take_away(void *arg, uint64_t done, uint64_t total)
{
	const struct rig *r = arg;

	(void)done;
	(void)total;
	rig_shell("mv '%s/snapshots/a' '%s/away'", r->store, r->dir);
	return 0;
}

static void snapshot_removed_while_verified_is_not_damaged(void **state)
{
	struct rig *r = *state;
	struct io_progress progress = { .fn = take_away, .arg = r };
	struct err e = { 0 };
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	flip(r, "a", "memory.bin", 9);
	assert_int_equal(cat_verify_snapshot(store, "a", true, &progress, &e), -ENOENT);
	assert_non_null(strstr(e.text, "was removed while it was verified"));
	rig_expect(store, "a=missing ");
	cat_store_close(store);
}

static int stop_it(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	(void)done;
	(void)total;
	return -ECANCELED;
}

static void verification_that_is_stopped_says_nothing_of_the_snapshot(void **state)
{
	struct rig *r = *state;
	struct io_progress progress = { .fn = stop_it, .arg = NULL };
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	flip(r, "a", "memory.bin", 9);
	rig_expect(store, "a=unverified ");
	assert_int_equal(cat_verify_snapshot(store, "a", true, &progress, NULL), -ECANCELED);
	rig_expect(store, "a=unverified ");
	cat_store_close(store);
}

static int make_file(struct rig *r, const char *name, uint8_t digest[DIGEST_SIZE])
{
	uint8_t bytes[10000];
	char path[400];
	int fd;

	memset(bytes, 0x5a, sizeof(bytes));
	assert_int_equal(merkle_digest(bytes, sizeof(bytes), digest), 0);
	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(io_write_full(fd, bytes, sizeof(bytes)), 0);
	close(fd);
	return open(path, O_RDONLY);
}

static void stamp_holds_until_write_link_or_other_digest(void **state)
{
	struct rig *r = *state;
	struct store *store = rig_open(r);
	uint8_t digest[DIGEST_SIZE], other[DIGEST_SIZE] = { 0 };
	int fd = make_file(r, "f", digest);
	bool held;

	assert_false(cat_stamp_holds(store, fd, digest));
	assert_int_equal(cat_stamp_verify(store, fd, 10000, other, -1, NULL, NULL), -EBADMSG);
	assert_int_equal(cat_stamp_verify(store, fd, 10001, digest, -1, NULL, NULL), -EBADMSG);
	assert_false(cat_stamp_holds(store, fd, digest));
	assert_int_equal(cat_stamp_verify(store, fd, 10000, digest, -1, NULL, NULL), 0);
	assert_true(cat_stamp_holds(store, fd, digest));
	assert_false(cat_stamp_holds(store, fd, other));
	/* Our own link, followed; then one that is not. */
	held = cat_stamp_holds(store, fd, digest);
	rig_shell("cd '%s' && ln f g", r->dir);
	assert_false(cat_stamp_holds(store, fd, digest));
	cat_stamp_follow(store, fd, digest, held);
	assert_true(cat_stamp_holds(store, fd, digest));
	rig_shell("cd '%s' && rm g", r->dir);
	assert_false(cat_stamp_holds(store, fd, digest));
	cat_stamp_follow(store, fd, digest, false);
	assert_false(cat_stamp_holds(store, fd, digest));
	close(fd);
	cat_store_close(store);
}

static void stamp_refused_while_it_can_be_written(void **state)
{
	struct rig *r = *state;
	struct store *store = rig_open(r);
	uint8_t digest[DIGEST_SIZE];
	int fd = make_file(r, "f", digest);
	char path[400];
	void *map;
	int rw;

	snprintf(path, sizeof(path), "%s/f", r->dir);
	rw = open(path, O_RDWR);
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	close(rw);
	assert_int_equal(cat_stamp_verify(store, fd, 10000, digest, -1, NULL, NULL), 0);
	assert_false(cat_stamp_holds(store, fd, digest));
	munmap(map, 4096);
	assert_int_equal(cat_stamp_verify(store, fd, 10000, digest, -1, NULL, NULL), 0);
	assert_true(cat_stamp_holds(store, fd, digest));
	close(fd);
	cat_store_close(store);
}

static int open_for_writing(void *arg, uint64_t done, uint64_t total)
{
	(void)done;
	(void)total;
	/* O_NONBLOCK: breaks the lease, does not wait for it. */
	assert_int_equal(open(arg, O_RDWR | O_NONBLOCK), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	return 0;
}

static void stamp_refused_when_the_lease_breaks_meanwhile(void **state)
{
	struct rig *r = *state;
	struct store *store = rig_open(r);
	uint8_t digest[DIGEST_SIZE];
	int fd = make_file(r, "f", digest);
	char path[400];
	struct io_progress progress = { .fn = open_for_writing, .arg = path };

	snprintf(path, sizeof(path), "%s/f", r->dir);
	assert_int_equal(cat_stamp_verify(store, fd, 10000, digest, -1, &progress, NULL), 0);
	assert_false(cat_stamp_holds(store, fd, digest));
	close(fd);
	cat_store_close(store);
}

static void stamps_that_others_could_write_are_ignored(void **state)
{
	struct rig *r = *state;
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	rig_stop_publisher(r);
	rig_shell("chmod 0666 '%s/stamps.db' && rm -f '%s'/catalog.db*", r->store, r->store);
	store = rig_open(r);
	rig_expect(store, "a=unverified ");
	cat_store_close(store);
	rig_shell("printf garbage > '%s/stamps.db' && chmod 0600 '%s/stamps.db'", r->store,
		  r->store);
	store = rig_open(r);
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, NULL), 0);
	cat_store_close(store);
	rig_shell("rm -f '%s'/catalog.db*", r->store);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	cat_store_close(store);
}

static void rot_that_was_found_is_not_trusted_again(void **state)
{
	struct rig *r = *state;
	const struct timespec then[2] = { { 1000, 0 }, { 1000, 0 } };
	struct store *store;
	struct snapdir d;
	int fd;

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	assert_int_equal(proto_snapdir_open(&d, cat_store_snapshots_fd(store), "a", "a", NULL), 0);
	fd = proto_snapdir_open_memory(&d, "a", NULL);
	assert_int_equal(futimens(fd, then), 0);
	assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, NULL), 0);
	/* A disk that gives back other bytes changes none of what a stamp holds. */
	flip(r, "a", "memory.bin", 9);
	assert_int_equal(futimens(fd, then), 0);
	cat_stamp_follow(store, fd, d.manifest->memory_digest.data, true);
	rig_expect(store, "a=valid ");
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, NULL), 0);
	assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, NULL), -EBADMSG);
	assert_false(cat_stamp_holds(store, fd, d.manifest->memory_digest.data));
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, NULL), -EBADMSG);
	assert_int_equal(cat_store_reindex(store, NULL, NULL), 0);
	rig_expect(store, "a=damaged ");
	close(fd);
	proto_snapdir_close(&d);
	cat_store_close(store);
}

static void stamps_replaced_while_open_are_opened_again(void **state)
{
	struct rig *r = *state;
	struct store *store = rig_open(r), *other;
	uint8_t digest[DIGEST_SIZE];
	int fd = make_file(r, "f", digest);

	assert_int_equal(cat_stamp_verify(store, fd, 10000, digest, -1, NULL, NULL), 0);
	rig_shell("rm '%s'/stamps.db*", r->store);
	assert_false(cat_stamp_holds(store, fd, digest));
	rig_shell("rm '%s'/stamps.db*", r->store);
	other = rig_open(r);
	assert_int_equal(cat_stamp_verify(other, fd, 10000, digest, -1, NULL, NULL), 0);
	assert_true(cat_stamp_holds(store, fd, digest));
	cat_store_close(other);
	assert_true(cat_stamp_holds(store, fd, digest));
	close(fd);
	cat_store_close(store);
}

static void missing_is_not_verified(void **state)
{
	struct rig *r = *state;
	struct store *store;
	struct err e = { 0 };

	rig_publish(r, "a", 1, NULL, NULL);
	store = rig_open(r);
	rig_shell("rm -rf '%s/snapshots/a'", r->store);
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, &e), -ENOENT);
	assert_non_null(strstr(e.text, "snapctl rm a"));
	assert_int_equal(cat_verify_snapshot(store, "b", false, NULL, &e), -ENOENT);
	cat_store_close(store);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		WITH_RIG(bit_flip_in_each_file_found_and_named),
		WITH_RIG(write_after_verification_makes_it_unverified),
		WITH_RIG(snapshot_removed_while_verified_is_not_damaged),
		WITH_RIG(verification_that_is_stopped_says_nothing_of_the_snapshot),
		WITH_RIG(stamp_holds_until_write_link_or_other_digest),
		WITH_RIG(stamp_refused_while_it_can_be_written),
		WITH_RIG(stamp_refused_when_the_lease_breaks_meanwhile),
		WITH_RIG(stamps_that_others_could_write_are_ignored),
		WITH_RIG(rot_that_was_found_is_not_trusted_again),
		WITH_RIG(stamps_replaced_while_open_are_opened_again),
		WITH_RIG(missing_is_not_verified),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
