/* The -o list, the file mode, and paths that overlap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "snapfs/mountopt.h"
#include "snapfs/mountpoint.h"

static void list_of_fstab_is_accepted_and_dropped(void **state)
{
	struct mount_options o = { 0 };

	(void)state;
	assert_int_equal(
		sfs_mountopt_parse(&o,
				   "rw,dev,suid,noauto,_netdev,nofail,user,user=me,"
				   "x-systemd.automount,x-systemd.idle-timeout=60,defaults",
				   NULL),
		0);
	assert_null(o.fuse);
	assert_false(o.allow_other);
	sfs_mountopt_free(&o);
}

static void words_of_libfuse_are_passed_on(void **state)
{
	struct mount_options o = { 0 };

	(void)state;
	assert_int_equal(sfs_mountopt_parse(&o, "ro,allow_other,,noexec", NULL), 0);
	assert_int_equal(sfs_mountopt_parse(&o, "context=system_u:object_r:t:s0", NULL), 0);
	assert_int_equal(sfs_mountopt_parse(&o, NULL, NULL), 0);
	assert_string_equal(o.fuse, "allow_other,noexec,context=system_u:object_r:t:s0");
	assert_true(o.allow_other);
	sfs_mountopt_free(&o);
}

static void mode_of_fstab_is_kept(void **state)
{
	struct mount_options o = { 0 };

	(void)state;
	assert_int_equal(sfs_mountopt_parse(&o, "mode=0400,mode=0440", NULL), 0);
	assert_string_equal(o.mode, "0440");
	sfs_mountopt_free(&o);
}

static void unknown_word_is_a_usage_error(void **state)
{
	static const char *const lists[] = {
		"allow_othe", "allow_others", "noexec,bogus", "x", "fsname=x", "subtype=y", "mode=",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		struct mount_options o = { 0 };
		struct err e = { 0 };

		assert_int_equal(sfs_mountopt_parse(&o, lists[i], &e), -EINVAL);
		assert_int_equal(e.status, STATUS_USAGE);
		sfs_mountopt_free(&o);
	}
}

static void auto_unmount_is_refused_with_the_reason(void **state)
{
	struct mount_options o = { 0 };
	struct err e = { 0 };

	(void)state;
	assert_int_equal(sfs_mountopt_parse(&o, "auto_unmount", &e), -EINVAL);
	assert_non_null(strstr(e.text, "auto_unmount"));
	sfs_mountopt_free(&o);
}

static void mode_of_reading_is_taken(void **state)
{
	mode_t mode = 0;

	(void)state;
	assert_int_equal(sfs_mode_parse("0440", &mode, NULL), 0);
	assert_int_equal(mode, 0440);
	assert_int_equal(sfs_mode_parse("444", &mode, NULL), 0);
	assert_int_equal(mode, 0444);
}

static void mode_of_anything_else_is_refused(void **state)
{
	static const char *const modes[] = {
		"", "0", "0040", "0600", "0500", "04400", "-400", " 400", "0x100", "u+r", "900",
	};
	mode_t mode;

	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		assert_int_equal(sfs_mode_parse(modes[i], &mode, NULL), -EINVAL);
}

static void directory_is_searchable_where_it_is_readable(void **state)
{
	(void)state;
	assert_int_equal(sfs_mode_of_dir(0400), 0500);
	assert_int_equal(sfs_mode_of_dir(0440), 0550);
	assert_int_equal(sfs_mode_of_dir(0404), 0505);
	assert_int_equal(sfs_mode_of_dir(0444), 0555);
}

static void paths_overlap_both_ways(void **state)
{
	(void)state;
	assert_true(sfs_paths_overlap("/a/b", "/a/b"));
	assert_true(sfs_paths_overlap("/a/b/c", "/a/b"));
	assert_true(sfs_paths_overlap("/a", "/a/b/c"));
	assert_true(sfs_paths_overlap("/", "/a"));
	assert_false(sfs_paths_overlap("/a/b", "/a/bc"));
	assert_false(sfs_paths_overlap("/a/store", "/a/mnt"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(list_of_fstab_is_accepted_and_dropped),
		cmocka_unit_test(words_of_libfuse_are_passed_on),
		cmocka_unit_test(mode_of_fstab_is_kept),
		cmocka_unit_test(unknown_word_is_a_usage_error),
		cmocka_unit_test(auto_unmount_is_refused_with_the_reason),
		cmocka_unit_test(mode_of_reading_is_taken),
		cmocka_unit_test(mode_of_anything_else_is_refused),
		cmocka_unit_test(directory_is_searchable_where_it_is_readable),
		cmocka_unit_test(paths_overlap_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
