/* The store as a whole: found, made, swept. */
#include "test_catalog_rig.h"

#include <sys/file.h>

static void locate_prefers_given_then_environment(void **state)
{
	char *path = NULL;

	(void)state;
	setenv("SNAPFS_STORE", "/from/env", 1);
	assert_int_equal(cat_store_locate("/given", &path, NULL), 0);
	assert_string_equal(path, "/given");
	free(path);
	assert_int_equal(cat_store_locate(NULL, &path, NULL), 0);
	assert_string_equal(path, "/from/env");
	free(path);
	assert_int_equal(cat_store_locate("relative", &path, NULL), 0);
	assert_true(path[0] == '/' && strstr(path, "/relative"));
	free(path);
	unsetenv("SNAPFS_STORE");
	assert_int_equal(cat_store_locate("", &path, NULL), -EINVAL);
}

static void open_missing_says_what_makes_one(void **state)
{
	struct rig *r = *state;
	struct store *store;
	struct err e = { 0 };

	assert_int_equal(cat_store_open(&store, r->store, CAT_OPEN_EXISTING, &e), -ENOENT);
	assert_non_null(strstr(e.text, "vmm"));
	assert_non_null(strstr(e.text, r->store));
}

static void open_wrong_directory_leaves_it_alone(void **state)
{
	struct rig *r = *state;
	struct store *store;
	struct err e = { 0 };

	rig_shell("mkdir '%s/other' && touch '%s/file'", r->dir, r->dir);
	snprintf(r->store, sizeof(r->store), "%.200s/other", r->dir);
	assert_int_equal(cat_store_open(&store, r->store, CAT_OPEN_EXISTING, &e), -ENOENT);
	rig_shell("test -z \"$(ls -A '%s')\"", r->store);
	snprintf(r->store, sizeof(r->store), "%.200s/file", r->dir);
	assert_int_equal(cat_store_open(&store, r->store, CAT_OPEN_EXISTING, &e), -ENOTDIR);
	assert_int_equal(cat_store_open(&store, r->store, CAT_OPEN_CREATE, &e), -ENOTDIR);
}

static void open_create_makes_private_directories(void **state)
{
	struct rig *r = *state;
	mode_t was = umask(0);
	struct store *store = rig_open(r);

	umask(was);
	rig_shell(
		"test \"$(stat -c %%a '%s' '%s'/snapshots '%s'/ram '%s'/staging | sort -u)\" = 700",
		r->store, r->store, r->store, r->store);
	rig_shell("test \"$(stat -c %%a '%s'/catalog.db)\" = 600", r->store);
	rig_expect(store, "");
	cat_store_close(store);
}

static void open_removes_what_a_crash_left(void **state)
{
	struct rig *r = *state;
	struct store *store = rig_open(r);
	char path[400];
	int fd;

	rig_shell("cd '%s' && mkdir -p staging/dead/layers staging/alive trash/x && "
		  "touch staging/dead/memory.bin staging/dead/layers/0 trash/x/y trash/z",
		  r->store);
	snprintf(path, sizeof(path), "%s/staging/alive", r->store);
	fd = open(path, O_RDONLY | O_DIRECTORY);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	cat_store_close(store);
	store = rig_open(r);
	rig_shell("cd '%s' && test -d staging/alive && ! test -e staging/dead && "
		  "test -z \"$(ls -A trash)\"",
		  r->store);
	close(fd);
	cat_store_close(store);
	store = rig_open(r);
	rig_shell("test -z \"$(ls -A '%s/staging')\"", r->store);
	cat_store_close(store);
}

static void sweep_without_descriptors_takes_nothing_away(void **state)
{
	struct rig *r = *state;
	char path[400];
	int fd;

	cat_store_close(rig_open(r));
	rig_shell("mkdir '%s/staging/alive'", r->store);
	snprintf(path, sizeof(path), "%s/staging/alive", r->store);
	fd = open(path, O_RDONLY | O_DIRECTORY);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	for (int more = 0; more < 16; more++) {
		struct store *store = NULL;

		rig_limit_descriptors(more);
		if (cat_store_open(&store, r->store, CAT_OPEN_EXISTING, NULL) == 0)
			cat_store_close(store);
		rig_limit_descriptors(-1);
		rig_shell("test -d '%s'", path);
	}
	close(fd);
}

static void ignored_names_and_links_are_no_snapshots(void **state)
{
	struct rig *r = *state;
	struct store *store;

	rig_publish(r, "a", 1, NULL, NULL);
	rig_shell("cd '%s/snapshots' && ln -s a b && touch c && mkdir 'bad name' .hidden",
		  r->store);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	cat_store_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(locate_prefers_given_then_environment),
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
		WITH_RIG(open_missing_says_what_makes_one),
		WITH_RIG(open_wrong_directory_leaves_it_alone),
		WITH_RIG(open_create_makes_private_directories),
		WITH_RIG(open_removes_what_a_crash_left),
		WITH_RIG(sweep_without_descriptors_takes_nothing_away),
		WITH_RIG(ignored_names_and_links_are_no_snapshots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
