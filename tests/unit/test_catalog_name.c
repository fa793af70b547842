/* The rules for a snapshot's name. */
#include "test_catalog_rig.h"

static void name_allowed_accepted(void **state)
{
	static const char *const good[] = { "a",       "base", "v1.2-rc+3", "A_b:c@d",
					    "latest2", "0",    "+x" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(cat_name_check(good[i], NULL), 0);
}

static void name_not_allowed_refused_in_one_sentence(void **state)
{
	static const char *const bad[] = { "",	       ".",	 "..",	    ".a",  "-a",
					   "a/b",      "a/../b", "a b",	    "a\n", "latest",
					   "\xc3\xa4", "a%",	 "a\x1b[0m" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = { 0 };

		assert_int_equal(cat_name_check(bad[i], &e), -EINVAL);
		assert_int_equal(e.status, STATUS_USAGE);
		assert_true(*e.text && !strchr(e.text, '\n') && !strchr(e.text, 0x1b));
	}
}

static void name_of_128_bytes_accepted_129_refused(void **state)
{
	char name[131];

	(void)state;
	memset(name, 'a', sizeof(name));
	name[128] = '\0';
	assert_int_equal(cat_name_check(name, NULL), 0);
	name[128] = 'a';
	name[129] = '\0';
	assert_int_equal(cat_name_check(name, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_allowed_accepted),
		cmocka_unit_test(name_not_allowed_refused_in_one_sentence),
		cmocka_unit_test(name_of_128_bytes_accepted_129_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
