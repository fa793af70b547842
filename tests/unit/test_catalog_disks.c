/* Snapshots that keep the files of disks: published, verified, looked over, removed. */
#include "test_catalog_rig.h"

#include "catalog/change.h"
#include "catalog/check.h"

static const char *const names[] = { "disk0.0", "disk0.1" };

#define BOTTOM "the disk at the bottom"
#define ABOVE  "what was written over it"

/* A snapshot with disk0 in two layers; `bottom` (owned) is linked as the lower one. */
static int publish(struct rig *r, const char *name, int bottom, PublishReply **reply)
{
	int ram = rig_freeze(rig_ram(r, NULL, RIG_RAM), 1);
	int disks[] = { bottom, rig_file(r, ABOVE, sizeof(ABOVE)) };

	assert_int_equal(rig_save_disk(r, name, bottom, NULL), 0);
	return rig_commit_disks(r, rig_draft_disks(r, NULL, names, 2), rig_state(), ram, disks, 2,
				true, reply);
}

static void expect_nothing_left(struct rig *r)
{
	rig_shell("cd '%s' && test -z \"$(ls -A snapshots staging trash ram | grep -v :)\"",
		  r->store);
}

static void disks_are_linked_with_size_and_digest(void **state)
{
	struct rig *r = *state;
	int bottom = rig_file(r, BOTTOM, sizeof(BOTTOM));
	struct store *store;
	struct stat was, st;
	struct snapdir d;
	char path[400];

	assert_int_equal(fstat(bottom, &was), 0);
	assert_int_equal(publish(r, "a", bottom, NULL), 0);
	snprintf(path, sizeof(path), "%s/snapshots/a", r->store);
	assert_int_equal(proto_snapdir_open(&d, AT_FDCWD, path, "a", NULL), 0);
	assert_int_equal(proto_snapdir_files(d.manifest, d.layered), 3);
	for (size_t i = 0; i < 3; i++) {
		struct snapdir_file f;
		int fd;

		proto_snapdir_file(d.manifest, d.layered, i, &f);
		fd = proto_snapdir_open_file(&d, &f, "a", NULL);
		assert_true(fd >= 0);
		assert_int_equal(proto_snapdir_verify_file(&d, &f, fd, "a", NULL, NULL), 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0400);
		assert_int_equal(st.st_nlink, 1);
		if (i == 1)
			assert_int_equal(st.st_ino, was.st_ino);
		close(fd);
	}
	assert_int_equal(d.manifest->disk[0]->layer[1]->size, sizeof(ABOVE));
	proto_snapdir_close(&d);
	rig_shell("test \"$(stat -c %%a '%s/disks')\" = 700", path);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	cat_store_close(store);
}

static void disk_given_a_second_link_keeps_both_valid(void **state)
{
	struct rig *r = *state;
	struct store *store;
	char path[400];

	assert_int_equal(publish(r, "a", rig_file(r, BOTTOM, sizeof(BOTTOM)), NULL), 0);
	snprintf(path, sizeof(path), "%s/snapshots/a/disks/disk0.0", r->store);
	assert_int_equal(publish(r, "b", open(path, O_RDONLY), NULL), 0);
	store = rig_open(r);
	rig_expect(store, "a=valid b=valid ");
	assert_int_equal(cat_snapshot_remove(store, "a", NULL), 0);
	rig_expect(store, "b=valid ");
	assert_int_equal(cat_snapshot_rename(store, "b", "c", NULL), 0);
	rig_expect(store, "c=valid ");
	assert_int_equal(cat_verify_snapshot(store, "c", true, NULL, NULL), 0);
	assert_int_equal(cat_snapshot_remove(store, "c", NULL), 0);
	cat_store_close(store);
	expect_nothing_left(r);
}

static void damage_in_a_disk_found_and_named(void **state)
{
	struct rig *r = *state;
	struct store *store;
	struct err e = { 0 };

	assert_int_equal(publish(r, "a", rig_file(r, BOTTOM, sizeof(BOTTOM)), NULL), 0);
	store = rig_open(r);
	rig_shell("cd '%s/snapshots/a/disks' && chmod u+w disk0.1 && printf X | "
		  "dd of=disk0.1 conv=notrunc status=none && chmod 0400 disk0.1",
		  r->store);
	rig_expect(store, "a=unverified ");
	assert_int_equal(cat_verify_snapshot(store, "a", false, NULL, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "disks/disk0.1"));
	rig_expect(store, "a=damaged ");
	cat_store_close(store);
}

static void missing_disk_is_damage(void **state)
{
	struct rig *r = *state;
	struct store *store;

	assert_int_equal(publish(r, "a", rig_file(r, BOTTOM, sizeof(BOTTOM)), NULL), 0);
	store = rig_open(r);
	rig_expect(store, "a=valid ");
	rig_shell("rm -f '%s/snapshots/a/disks/disk0.0'", r->store);
	assert_int_equal(cat_store_reindex(store, NULL, NULL), 0);
	rig_expect(store, "a=damaged ");
	cat_store_close(store);
}

static int collect(void *arg, const struct finding *f)
{
	char *text = arg;

	snprintf(text + strlen(text), 1024 - strlen(text), "%s: %s\n", f->about, f->problem);
	return 0;
}

static void check_tells_of_strangers_and_modes_in_disks(void **state)
{
	struct rig *r = *state;
	struct store *store;
	char text[1024] = "";

	assert_int_equal(publish(r, "a", rig_file(r, BOTTOM, sizeof(BOTTOM)), NULL), 0);
	store = rig_open(r);
	assert_int_equal(cat_store_check(store, collect, text, NULL), 0);
	assert_string_equal(text, "");
	rig_shell("cd '%s/snapshots/a/disks' && touch stranger && chmod 0600 disk0.0", r->store);
	assert_int_equal(cat_store_check(store, collect, text, NULL), 0);
	assert_non_null(strstr(text, "a: disks/stranger is in it and not in its manifest\n"));
	assert_non_null(strstr(text, "a: disks/disk0.0 can be written\n"));
	cat_store_close(store);
}

static void save_of_a_disk_elsewhere_refused_by_name(void **state)
{
	struct rig *r = *state;
	int memfd = rig_memfd("x", 1), folder = open(r->dir, O_RDONLY);
	PublishReply *reply = NULL;

	assert_int_equal(rig_save_disk(r, "a", memfd, &reply), STATUS_REFUSED);
	assert_string_equal(reply->error,
			    "disk0 lies on another file system than the store: keep the store "
			    "beside it, or start vmm with --disk-policy external");
	proto_publish_free_reply(reply);
	assert_int_equal(rig_save_disk(r, "a", folder, &reply), STATUS_REFUSED);
	assert_non_null(strstr(reply->error, "disk0 is not a regular file"));
	proto_publish_free_reply(reply);
	close(memfd);
	close(folder);
	expect_nothing_left(r);
}

/* A whole commit of `n` descriptors for the draft of these names: its status. */
static int commit(struct rig *r, const char *const *draft, size_t n_draft, const int *disks,
		  size_t n, PublishReply **reply)
{
	int ram = rig_freeze(rig_ram(r, NULL, RIG_RAM), 1);

	assert_int_equal(rig_save(r, "a"), 0);
	return rig_commit_disks(r, rig_draft_disks(r, NULL, draft, n_draft), rig_state(), ram,
				disks, n, true, reply);
}

static void commit_of_wrong_disks_refused_and_nothing_left(void **state)
{
	static const char *const bad[][2] = {
		{ "../../x", "y" }, { "x", "x" }, { "", "y" }, { ".x", "y" }, { "x/y", "z" },
	};
	struct rig *r = *state;
	int one[] = { rig_file(r, "x", 1) };

	assert_int_equal(commit(r, names, 2, one, 1, NULL), STATUS_REFUSED);
	assert_int_equal(commit(r, names, 1, NULL, 0, NULL), STATUS_REFUSED);
	one[0] = rig_file(r, "x", 1);
	assert_int_equal(commit(r, NULL, 0, one, 1, NULL), STATUS_REFUSED);
	one[0] = open("/dev/null", O_RDONLY);
	assert_int_equal(commit(r, names, 1, one, 1, NULL), STATUS_REFUSED);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int two[] = { rig_file(r, "x", 1), rig_file(r, "y", 1) };

		assert_int_equal(commit(r, bad[i], 2, two, 2, NULL), STATUS_REFUSED);
	}
	expect_nothing_left(r);
}

static void disk_that_cannot_be_linked_is_not_copied(void **state)
{
	struct rig *r = *state;
	PublishReply *reply = NULL;
	int one[] = { rig_memfd("x", 1) };
	int writer;
	char path[400];

	assert_int_equal(commit(r, names, 1, one, 1, &reply), STATUS_REFUSED);
	assert_non_null(strstr(reply->error, "disk0 cannot be kept"));
	proto_publish_free_reply(reply);
	/* Somebody can still write it. */
	snprintf(path, sizeof(path), "%s/disk.img", r->dir);
	rig_shell("echo content > '%s'", path);
	writer = open(path, O_RDWR);
	one[0] = open(path, O_RDONLY);
	assert_int_equal(commit(r, names, 1, one, 1, &reply), STATUS_REFUSED);
	assert_non_null(strstr(reply->error, "still open for writing"));
	proto_publish_free_reply(reply);
	close(writer);
	expect_nothing_left(r);
}

static void failed_save_leaves_the_modes_of_disks(void **state)
{
	struct rig *r = *state;
	char path[400];
	int two[2];

	snprintf(path, sizeof(path), "%s/disk.img", r->dir);
	rig_shell("echo content > '%s' && chmod 0640 '%s'", path, path);
	two[0] = open(path, O_RDONLY);
	two[1] = rig_memfd("x", 1);
	assert_int_equal(commit(r, names, 2, two, 2, NULL), STATUS_REFUSED);
	rig_shell("test \"$(stat -c %%a.%%h '%s')\" = 640.1", path);
	expect_nothing_left(r);
}

static void save_to_path_keeps_disks_too(void **state)
{
	struct rig *r = *state;
	int ram = rig_freeze(rig_ram(r, NULL, RIG_RAM), 1);
	int one[] = { rig_file(r, BOTTOM, sizeof(BOTTOM)) };
	char path[400];

	snprintf(path, sizeof(path), "%s/out", r->dir);
	assert_int_equal(rig_save_disk(r, path, one[0], NULL), 0);
	assert_int_equal(rig_commit_disks(r, rig_draft_disks(r, NULL, names, 1), rig_state(), ram,
					  one, 1, true, NULL),
			 0);
	rig_shell("test \"$(tr -d '\\0' < '%s/disks/disk0.0')\" = '" BOTTOM "'", path);
}

static void copy_of_a_snapshot_is_whole_by_itself(void **state)
{
	struct rig *r = *state;
	struct store *store;

	assert_int_equal(publish(r, "a", rig_file(r, BOTTOM, sizeof(BOTTOM)), NULL), 0);
	rig_shell("cp -r '%s/snapshots/a' '%s/snapshots/copy'", r->store, r->store);
	store = rig_open(r);
	assert_int_equal(cat_verify_snapshot(store, "copy", false, NULL, NULL), 0);
	rig_expect(store, "a=valid copy=valid ");
	assert_int_equal(cat_snapshot_remove(store, "a", NULL), 0);
	rig_expect(store, "copy=valid ");
	cat_store_close(store);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		WITH_RIG(disks_are_linked_with_size_and_digest),
		WITH_RIG(disk_given_a_second_link_keeps_both_valid),
		WITH_RIG(damage_in_a_disk_found_and_named),
		WITH_RIG(missing_disk_is_damage),
		WITH_RIG(check_tells_of_strangers_and_modes_in_disks),
		WITH_RIG(save_of_a_disk_elsewhere_refused_by_name),
		WITH_RIG(commit_of_wrong_disks_refused_and_nothing_left),
		WITH_RIG(disk_that_cannot_be_linked_is_not_copied),
		WITH_RIG(failed_save_leaves_the_modes_of_disks),
		WITH_RIG(save_to_path_keeps_disks_too),
		WITH_RIG(copy_of_a_snapshot_is_whole_by_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
