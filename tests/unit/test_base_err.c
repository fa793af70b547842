/* Failures in words: what is kept, joined and cut, and the exit status. */
#include "unit.h"

#include "base/err.h"

static void refuse_usage_env_set_status_words_and_errno(void **state)
{
	struct err e = { 0 };

	(void)state;
	assert_int_equal(err_refuse(&e, EBADMSG, "%s is %d", "it", 3), -EBADMSG);
	assert_int_equal(e.status, STATUS_REFUSED);
	assert_string_equal(e.text, "it is 3");
	assert_int_equal(err_usage(&e, EINVAL, "wrong"), -EINVAL);
	assert_int_equal(e.status, STATUS_USAGE);
	assert_string_equal(e.text, "wrong");
	assert_int_equal(err_env(&e, EIO, "host"), -EIO);
	assert_int_equal(e.status, STATUS_ENVIRONMENT);
	assert_string_equal(e.text, "host");
}

static void sys_appends_the_words_of_the_errno(void **state)
{
	struct err e = { 0 };
	char want[128];

	(void)state;
	assert_int_equal(err_sys(&e, ENOSPC, "cannot write %s", "x"), -ENOSPC);
	snprintf(want, sizeof(want), "cannot write x: %s", strerror(ENOSPC));
	assert_string_equal(e.text, want);
	assert_int_equal(e.status, STATUS_ENVIRONMENT);
}

static void null_err_still_returns_the_errno(void **state)
{
	(void)state;
	assert_int_equal(err_refuse(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_usage(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_env(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_sys(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_also(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_prefix(NULL, -EIO, "x"), -EIO);
}

static void also_adds_lines_in_order(void **state)
{
	struct err e = { 0 };

	(void)state;
	assert_int_equal(err_also(&e, EINVAL, "first"), -EINVAL);
	assert_int_equal(err_also(&e, EIO, "second %d", 2), -EIO);
	assert_int_equal(err_also(&e, EINVAL, "third"), -EINVAL);
	assert_string_equal(e.text, "first\nsecond 2\nthird");
	assert_int_equal(e.status, STATUS_REFUSED);
}

static void prefix_puts_words_in_front_and_keeps_the_status(void **state)
{
	struct err e = { 0 };

	(void)state;
	err_env(&e, EIO, "the disk failed");
	assert_int_equal(err_prefix(&e, -EBADMSG, "snapshot %s", "base"), -EBADMSG);
	assert_string_equal(e.text, "snapshot base: the disk failed");
	assert_int_equal(e.status, STATUS_ENVIRONMENT);
}

static void prefix_of_no_words_says_the_errno(void **state)
{
	struct err e = { 0 };
	char want[128];

	(void)state;
	assert_int_equal(err_prefix(&e, -ENOMEM, "snapshot base"), -ENOMEM);
	snprintf(want, sizeof(want), "snapshot base: %s", strerror(ENOMEM));
	assert_string_equal(e.text, want);
}

/* All functions with a text that is too long: cut, ended, no byte written behind. */
static void every_function_too_long_text_is_cut(void **state)
{
	struct {
		struct err e;
		uint8_t guard[16];
	} box;
	static char big[8192];
	uint8_t untouched[16];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	memset(untouched, 0xa5, sizeof(untouched));
	for (int round = 0; round < 6; round++) {
		memset(&box, 0, sizeof(box));
		memset(box.guard, 0xa5, sizeof(box.guard));
		if (round == 0)
			err_refuse(&box.e, EIO, "%s", big);
		else if (round == 1)
			err_sys(&box.e, EIO, "%s", big);
		else if (round == 2)
			err_also(&box.e, EIO, "%s", big);
		else if (round == 3)
			err_prefix(&box.e, -EIO, "%s", big);
		if (round >= 4) {
			for (int i = 0; i < 200; i++)
				err_also(&box.e, EIO, "%.37s", big);
			if (round == 5)
				err_prefix(&box.e, -EIO, "%.100s", big);
		}
		assert_int_equal(strlen(box.e.text), sizeof(box.e.text) - 1);
		assert_memory_equal(box.guard, untouched, sizeof(untouched));
	}
}

/* What err_exit() prints, through a pipe in standard error's place. */
static int exit_into(const struct err *e, int rc, char *out, size_t room)
{
	int pair[2], before = dup(STDERR_FILENO), status;
	ssize_t n;

	assert_int_equal(pipe(pair), 0);
	fflush(stderr);
	dup2(pair[1], STDERR_FILENO);
	close(pair[1]);
	status = err_exit("prog", e, rc);
	fflush(stderr);
	dup2(before, STDERR_FILENO);
	close(before);
	n = read(pair[0], out, room - 1);
	close(pair[0]);
	out[n > 0 ? n : 0] = '\0';
	return status;
}

static void exit_prints_each_line_with_the_program(void **state)
{
	struct err e = { 0 };
	char out[256];

	(void)state;
	err_also(&e, EINVAL, "one");
	err_also(&e, EINVAL, "two");
	assert_int_equal(exit_into(&e, -EINVAL, out, sizeof(out)), STATUS_REFUSED);
	assert_string_equal(out, "prog: one\nprog: two\n");
	assert_int_equal(exit_into(&e, 0, out, sizeof(out)), STATUS_DONE);
	assert_string_equal(out, "");
}

static void exit_without_words_says_the_errno(void **state)
{
	const struct err e = { 0 };
	char out[256], want[128];

	(void)state;
	assert_int_equal(exit_into(&e, -ENOMEM, out, sizeof(out)), STATUS_ENVIRONMENT);
	snprintf(want, sizeof(want), "prog: %s\n", strerror(ENOMEM));
	assert_string_equal(out, want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuse_usage_env_set_status_words_and_errno),
		cmocka_unit_test(sys_appends_the_words_of_the_errno),
		cmocka_unit_test(null_err_still_returns_the_errno),
		cmocka_unit_test(also_adds_lines_in_order),
		cmocka_unit_test(prefix_puts_words_in_front_and_keeps_the_status),
		cmocka_unit_test(prefix_of_no_words_says_the_errno),
		cmocka_unit_test(every_function_too_long_text_is_cut),
		cmocka_unit_test(exit_prints_each_line_with_the_program),
		cmocka_unit_test(exit_without_words_says_the_errno),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
