/* The index: equal to the directories, whatever is done to either. */
#include "test_catalog_rig.h"

#include "catalog/change.h"
#include "catalog/check.h"
#include "catalog/internal.h"

static struct store *three(struct rig *r)
{
	uint8_t id[UUID_SIZE];

	rig_publish(r, "a", 1, NULL, id);
	rig_publish(r, "b", 2, id, NULL);
	rig_publish(r, "c", 3, NULL, NULL);
	return rig_open(r);
}

/* All fields of all rows, as one text. */
static int dump_row(void *arg, const struct cat_row *row)
{
	char *out = arg;
	size_t n = strlen(out);
	char id[UUID_TEXT_MAX];

	snprintf(out + n, 4096 - n, "%s %s %s %lld.%d %s %llu %u %u %llu %llu %02x %s %s\n",
		 row->name, uuid_format(row->id, id), row->parent_name,
		 (long long)row->created_seconds, row->created_nanos, row->architecture,
		 (unsigned long long)row->memory_bytes, row->vcpus, row->layers,
		 (unsigned long long)row->stored_bytes, (unsigned long long)row->unique_bytes,
		 row->manifest_digest[0], cat_status_word(row->status), row->problem);
	return 0;
}

static void dump(struct rig *r, char out[4096])
{
	struct store *store = rig_open(r);

	out[0] = '\0';
	assert_int_equal(cat_index_list(store, dump_row, out, NULL), 0);
	cat_store_close(store);
}

static void list_is_by_time_with_parents(void **state)
{
	struct store *store = three(*state);
	struct cat_row row;
	char name[CAT_NAME_MAX + 1], id[UUID_TEXT_MAX];

	rig_expect(store, "a=valid b=valid c=valid ");
	assert_int_equal(cat_index_find(store, "b", &row, NULL), 0);
	assert_string_equal(row.parent_name, "a");
	assert_int_equal(row.memory_bytes, RIG_RAM);
	assert_true(row.verified_at > 0 && row.stored_bytes > 0);
	assert_int_equal(cat_index_name_of(store, row.id, name, NULL), 0);
	assert_string_equal(name, "b");
	assert_int_equal(cat_index_find(store, uuid_format(row.id, id), &row, NULL), 0);
	assert_string_equal(row.name, "b");
	assert_int_equal(cat_index_latest(store, name, NULL), 0);
	assert_string_equal(name, "c");
	assert_int_equal(cat_index_find(store, "nope", &row, NULL), -ENOENT);
	assert_int_equal(cat_index_find(store, "a/../b", &row, NULL), -EINVAL);
	cat_store_close(store);
}

static void hand_made_changes_seen(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);

	rig_expect(store, "a=valid b=valid c=valid ");
	rig_shell("cd '%s/snapshots' && mv a z && rm -rf b && cp -r c d", r->store);
	rig_expect(store, "z=valid b=missing c=valid d=unverified ");
	rig_shell("cd '%s/snapshots' && rm -rf d && mv z a", r->store);
	rig_expect(store, "a=valid b=missing c=valid d=missing ");
	assert_int_equal(cat_snapshot_remove(store, "b", NULL), 0);
	assert_int_equal(cat_snapshot_remove(store, "d", NULL), 0);
	rig_expect(store, "a=valid c=valid ");
	cat_store_close(store);
}

static void copy_that_was_moved_in_under_another_name_is_a_rename(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct cat_row before, after;

	assert_int_equal(cat_index_find(store, "b", &before, NULL), 0);
	rig_shell("cd '%s/snapshots' && mv b '%s/away'", r->store, r->dir);
	rig_expect(store, "a=valid b=missing c=valid ");
	rig_shell("cd '%s/snapshots' && mv '%s/away' back", r->store, r->dir);
	rig_expect(store, "a=valid back=valid c=valid ");
	assert_int_equal(cat_index_find(store, "back", &after, NULL), 0);
	assert_memory_equal(before.id, after.id, UUID_SIZE);
	cat_store_close(store);
}

static void other_manifest_under_the_name_is_replaced_until_accepted(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct err e = { 0 };

	rig_expect(store, "a=valid b=valid c=valid ");
	rig_shell("cd '%s/snapshots' && cp -f a/manifest.bin '%s/kept' && "
		  "cp -f b/manifest.bin a/manifest.bin",
		  r->store, r->dir);
	rig_expect(store, "a=replaced b=valid c=valid ");
	assert_int_equal(cat_verify_snapshot(store, "a", true, NULL, &e), -ESTALE);
	assert_non_null(strstr(e.text, "--accept a"));
	rig_shell("cp -f '%s/kept' '%s/snapshots/a/manifest.bin'", r->dir, r->store);
	rig_expect(store, "a=valid b=valid c=valid ");
	rig_shell("cd '%s/snapshots' && rm -rf a && cp -r c a", r->store);
	rig_expect(store, "a=replaced b=valid c=valid ");
	assert_int_equal(cat_store_reindex(store, "a", NULL), 0);
	rig_expect(store, "b=valid a=unverified c=valid ");
	assert_int_equal(cat_store_reindex(store, "a", NULL), -EINVAL);
	cat_store_close(store);
}

static void unreadable_directory_is_a_damaged_row(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct cat_row row;

	rig_shell("cd '%s/snapshots' && mkdir empty && printf x > b/manifest.bin && "
		  "rm -f c/memory.bin",
		  r->store);
	rig_expect(store, "empty=damaged a=valid b=damaged c=damaged ");
	assert_int_equal(cat_index_find(store, "b", &row, NULL), 0);
	assert_non_null(strstr(row.problem, "manifest.bin"));
	assert_int_equal(row.memory_bytes, RIG_RAM);
	assert_int_equal(cat_index_find(store, "c", &row, NULL), 0);
	assert_non_null(strstr(row.problem, "memory.bin"));
	cat_store_close(store);
}

static void damaged_or_foreign_index_is_rebuilt_equal(void **state)
{
	static const char *const harm[] = {
		"rm -f catalog.db*",
		"rm -f catalog.db-*; printf 'not a database at all' > catalog.db",
		"rm -f catalog.db*; sqlite3 catalog.db 'PRAGMA application_id=1; CREATE TABLE "
		"x(y)'",
		"rm -f catalog.db*; sqlite3 catalog.db 'CREATE TABLE snapshot(y)'",
		"sqlite3 catalog.db 'DROP TABLE snapshot' >/dev/null",
		"rm -f catalog.db-*; printf '\\377%.0s' $(seq 3000) | "
		"dd of=catalog.db bs=1 seek=4200 conv=notrunc status=none",
		"rm -f catalog.db-*; truncate -s 5000 catalog.db",
		": > catalog.db",
	};
	struct rig *r = *state;
	char before[4096], after[4096];

	cat_store_close(three(r));
	dump(r, before);
	for (size_t i = 0; i < sizeof(harm) / sizeof(harm[0]); i++) {
		rig_shell("cd '%s' && %s", r->store, harm[i]);
		dump(r, after);
		assert_string_equal(before, after);
	}
	rig_shell("ls '%s' | grep -q 'catalog.db.damaged-'", r->store);
}

static void index_damaged_while_open_is_rebuilt(void **state)
{
	struct rig *r = *state;
	struct store *one = three(r), *other = rig_open(r);

	rig_expect(one, "a=valid b=valid c=valid ");
	/* In place, as a bad disk does it: past SQLite's cache only after it is dropped. */
	rig_shell("cd '%s' && rm -f catalog.db && printf garbagegarbage > catalog.db", r->store);
	rig_expect(other, "a=valid b=valid c=valid ");
	assert_int_equal(cat_snapshot_remove(one, "a", NULL), 0);
	rig_expect(other, "b=valid c=valid ");
	cat_store_close(one);
	cat_store_close(other);
	one = rig_open(r);
	rig_expect(one, "b=valid c=valid ");
	cat_store_close(one);
}

static void newer_index_is_refused_and_kept(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct err e = { 0 };

	cat_store_close(store);
	rig_shell("sqlite3 '%s/catalog.db' 'PRAGMA user_version=99'", r->store);
	assert_int_equal(cat_store_open(&store, r->store, CAT_OPEN_EXISTING, &e), -ENOTSUP);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_non_null(strstr(e.text, "99"));
	rig_shell("test \"$(sqlite3 '%s/catalog.db' 'PRAGMA user_version')\" = 99", r->store);
}

static void rename_keeps_id_and_refuses_taken(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct cat_row before, after;

	assert_int_equal(cat_index_find(store, "a", &before, NULL), 0);
	assert_int_equal(cat_snapshot_rename(store, "a", "b", NULL), -EEXIST);
	assert_int_equal(cat_snapshot_rename(store, "a", "x/y", NULL), -EINVAL);
	assert_int_equal(cat_snapshot_rename(store, "nope", "x", NULL), -ENOENT);
	assert_int_equal(cat_snapshot_rename(store, "a", "x", NULL), 0);
	assert_int_equal(cat_index_find(store, "x", &after, NULL), 0);
	assert_memory_equal(before.id, after.id, UUID_SIZE);
	rig_expect(store, "x=valid b=valid c=valid ");
	assert_int_equal(cat_index_find(store, "b", &after, NULL), 0);
	assert_string_equal(after.parent_name, "x");
	cat_store_close(store);
}

static void rename_of_a_damaged_one_leaves_no_missing(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct cat_row row;

	rig_shell("printf x >'%s/snapshots/b/manifest.bin'", r->store);
	rig_expect(store, "a=valid b=damaged c=valid ");
	assert_int_equal(cat_snapshot_rename(store, "b", "d", NULL), 0);
	rig_expect(store, "a=valid d=damaged c=valid ");
	assert_int_equal(cat_index_find(store, "d", &row, NULL), 0);
	assert_int_equal(row.memory_bytes, RIG_RAM);
	cat_store_close(store);
}

static void remove_leaves_links_and_stamps_of_others(void **state)
{
	struct rig *r = *state;
	struct store *store;
	char path[400];
	struct cat_row row;
	struct stat st;
	int ram;

	snprintf(path, sizeof(path), "%s/ram.img", r->dir);
	ram = rig_freeze(rig_ram(r, path, RIG_RAM), 1);
	assert_int_equal(rig_save(r, "a"), 0);
	assert_int_equal(rig_commit(r, rig_draft(r, NULL), rig_state(), ram, true, NULL), 0);
	store = rig_open(r);
	assert_int_equal(cat_index_find(store, "a", &row, NULL), 0);
	assert_true(row.unique_bytes < row.stored_bytes);
	assert_int_equal(cat_snapshot_remove(store, "a", NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_nlink, 1);
	rig_shell("cd '%s' && test -z \"$(ls -A snapshots trash staging | grep -v :)\"", r->store);
	assert_int_equal(cat_snapshot_remove(store, "a", NULL), -ENOENT);
	rig_expect(store, "");
	cat_store_close(store);
}

static void crash_while_removing_is_the_old_world_or_the_new(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);

	/* Killed after the mark: nobody holds the directory, so it is still there. */
	rig_shell("sqlite3 '%s/catalog.db' \"UPDATE snapshot SET removing=1 WHERE name<>'c'\"",
		  r->store);
	/* Killed after the rename. */
	rig_shell("cd '%s' && mv snapshots/b trash/b", r->store);
	cat_store_close(store);
	store = rig_open(r);
	rig_expect(store, "a=valid c=valid ");
	rig_shell("test -z \"$(ls -A '%s/trash')\"", r->store);
	rig_shell("test 0 = \"$(sqlite3 '%s/catalog.db' 'SELECT sum(removing) FROM snapshot')\"",
		  r->store);
	cat_store_close(store);
}

static void name_of_a_removed_or_missing_one_is_free(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);

	/* Killed after the rename, and another came by that name. */
	rig_shell("sqlite3 '%s/catalog.db' \"UPDATE snapshot SET removing=1 WHERE name='b'\"",
		  r->store);
	rig_shell("cd '%s' && mv snapshots/b trash/b && cp -r snapshots/c snapshots/b", r->store);
	rig_expect(store, "a=valid b=unverified c=valid ");
	/* A publisher that is killed before it has changed the index leaves the name's row gone. */
	rig_shell("rm -rf '%s/snapshots/b'", r->store);
	rig_expect(store, "a=valid b=missing c=valid ");
	assert_int_equal(cat_index_drop(store, "b", NULL), 0);
	assert_int_equal(cat_index_drop(store, "a", NULL), 0);
	rig_shell("cd '%s/snapshots' && cp -r a b", r->store);
	rig_expect(store, "a=valid b=unverified c=valid ");
	cat_store_close(store);
}

static void lack_of_descriptors_is_no_damage(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	char text[1024];

	for (int more = 0; more < 12; more++) {
		/* Changed, so that it has to be read. */
		rig_shell("chmod 0400 '%s'/snapshots/*/manifest.bin", r->store);
		text[0] = '\0';
		rig_limit_descriptors(more);
		if (cat_index_list(store, rig_list_row, text, NULL) == 0)
			assert_string_equal(text, "a=valid b=valid c=valid ");
		rig_limit_descriptors(-1);
		rig_expect(store, "a=valid b=valid c=valid ");
	}
	assert_string_equal(text, "a=valid b=valid c=valid ");
	cat_store_close(store);
}

static int count(void *arg, const struct finding *f)
{
	(void)f;
	++*(int *)arg;
	return 0;
}

static void check_finds_each_thing_once(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	int n = 0;

	assert_string_equal(cat_index_health(store), "ok");
	assert_int_equal(cat_store_check(store, count, &n, NULL), 0);
	assert_int_equal(n, 0);
	rig_shell("cd '%s' && mkdir 'snapshots/bad name' staging/dead && touch trash/x && "
		  "chmod 0600 snapshots/a/state.bin && rm -rf snapshots/b && "
		  "cp -r snapshots/c snapshots/d && chmod 0644 stamps.db",
		  r->store);
	assert_int_equal(cat_store_check(store, count, &n, NULL), 0);
	assert_int_equal(n, 7);
	cat_store_close(store);
}

static void status_kept_only_for_the_manifest_it_was_about(void **state)
{
	struct rig *r = *state;
	struct store *store = three(r);
	struct cat_row row;
	uint8_t other[DIGEST_SIZE] = { 0 };

	assert_int_equal(cat_index_find(store, "a", &row, NULL), 0);
	assert_int_equal(cat_index_set_status(store, "a", other, CAT_DAMAGED, "x", NULL), 0);
	rig_expect(store, "a=valid b=valid c=valid ");
	assert_int_equal(cat_index_set_status(store, "a", row.manifest_digest, CAT_DAMAGED,
					      "memory.bin: block 3", NULL),
			 0);
	rig_expect(store, "a=damaged b=valid c=valid ");
	assert_int_equal(cat_index_find(store, "a", &row, NULL), 0);
	assert_string_equal(row.problem, "memory.bin: block 3");
	cat_store_close(store);
}

static void many_snapshots_are_all_listed(void **state)
{
	struct rig *r = *state;
	char text[CAT_NAME_MAX + 1] = "";
	struct store *store;
	struct cat_row row;

	rig_publish(r, "n", 1, NULL, NULL);
	rig_shell(
		"cd '%s/snapshots' && for i in $(seq 300); do mkdir s$i; cp n/state.bin s$i; done",
		r->store);
	store = rig_open(r);
	/* An open reads no directory: who asks first does. */
	assert_int_equal(cat_index_find(store, "s299", &row, NULL), 0);
	rig_shell("test 301 = \"$(sqlite3 '%s/catalog.db' 'SELECT count(*) FROM snapshot')\"",
		  r->store);
	assert_int_equal(row.status, CAT_DAMAGED);
	assert_int_equal(cat_index_latest(store, text, NULL), 0);
	assert_string_equal(text, "n");
	cat_store_close(store);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		WITH_RIG(list_is_by_time_with_parents),
		WITH_RIG(hand_made_changes_seen),
		WITH_RIG(copy_that_was_moved_in_under_another_name_is_a_rename),
		WITH_RIG(other_manifest_under_the_name_is_replaced_until_accepted),
		WITH_RIG(unreadable_directory_is_a_damaged_row),
		WITH_RIG(damaged_or_foreign_index_is_rebuilt_equal),
		WITH_RIG(index_damaged_while_open_is_rebuilt),
		WITH_RIG(newer_index_is_refused_and_kept),
		WITH_RIG(rename_keeps_id_and_refuses_taken),
		WITH_RIG(rename_of_a_damaged_one_leaves_no_missing),
		WITH_RIG(remove_leaves_links_and_stamps_of_others),
		WITH_RIG(crash_while_removing_is_the_old_world_or_the_new),
		WITH_RIG(name_of_a_removed_or_missing_one_is_free),
		WITH_RIG(lack_of_descriptors_is_no_damage),
		WITH_RIG(check_finds_each_thing_once),
		WITH_RIG(status_kept_only_for_the_manifest_it_was_about),
		WITH_RIG(many_snapshots_are_all_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
