/*
 * The options that ask for virtio devices, and those that change a snapshot's:
 * what they take, and one sentence for each thing that they do not.
 */
#include "unit.h"

#include "vmm/devices.h"

#define ARGV_MAX 40

struct parsed {
	struct options o;
	char words[4096];
};

/* As main() has them: from a line of words, none of which has a space. */
static void parse(struct parsed *p, const char *line)
{
	char *argv[ARGV_MAX + 1] = { 0 };
	struct err e = { 0 };
	int argc = 0;

	memset(p, 0, sizeof(*p));
	snprintf(p->words, sizeof(p->words), "vmm --demo-guest %s", line);
	for (char *w = strtok(p->words, " "); w; w = strtok(NULL, " ")) {
		assert_true(argc < ARGV_MAX);
		argv[argc++] = w;
	}
	if (options_parse(&p->o, argc, argv, &e) < 0)
		fail_msg("'%s': %s", line, e.text);
}

static Machine *make(const char *line)
{
	struct parsed p;
	struct err e = { 0 };
	Machine *m = NULL;

	parse(&p, line);
	if (devices_from_options(&p.o, &m, &e) < 0)
		fail_msg("'%s': %s", line, e.text);
	assert_string_equal(e.text, "");
	return m;
}

static void drop(Machine *m)
{
	machine__free_unpacked(m, NULL);
}

static void assert_refused(const char *line, const char *words)
{
	struct parsed p;
	struct err e = { 0 };
	Machine *m = NULL;

	parse(&p, line);
	if (devices_from_options(&p.o, &m, &e) != -EINVAL)
		fail_msg("'%s' is taken", line);
	assert_null(m);
	assert_says(&e, words);
	assert_int_equal(e.status, STATUS_USAGE);
}

/* ---- from the command line ---- */

static void options_none_gives_no_device(void **state)
{
	Machine *m = make("");

	(void)state;
	assert_int_equal(m->n_device, 0);
	drop(m);
}

static void options_all_give_devices_in_the_order_of_kinds(void **state)
{
	static const struct {
		const char *name, *kind;
	} want[] = { { "disk0", "virtio-blk" },	       { "disk1", "virtio-blk" },
		     { "net0", "virtio-net" },	       { "pmem0", "virtio-pmem" },
		     { "rng0", "virtio-rng" },	       { "vsock0", "virtio-vsock" },
		     { "console0", "virtio-console" }, { "balloon0", "virtio-balloon" } };
	Machine *m = make("--balloon --console path=/c --vsock path=/v,cid=3 --rng --pmem /p,ro "
			  "--net tap=t0,mac=02:00:00:00:00:0a --disk /a --disk /b,ro,overlay=/o");

	(void)state;
	assert_int_equal(m->n_device, sizeof(want) / sizeof(want[0]));
	for (size_t i = 0; i < m->n_device; i++) {
		assert_string_equal(m->device[i]->name, want[i].name);
		assert_string_equal(m->device[i]->kind, want[i].kind);
		assert_int_equal(m->device[i]->address, 0);
		assert_true(devices_is_virtio(m->device[i]));
	}
	assert_string_equal(m->device[0]->path, "/a");
	assert_false(m->device[0]->read_only);
	assert_string_equal(m->device[1]->overlay, "/o");
	assert_true(m->device[1]->read_only && m->device[3]->read_only);
	assert_string_equal(m->device[2]->tap, "t0");
	assert_memory_equal(m->device[2]->mac.data, "\x02\0\0\0\0\x0a", 6);
	assert_int_equal(m->device[5]->guest_cid, 3);
	assert_string_equal(m->device[6]->path, "/c");
	drop(m);
}

static void options_relative_paths_become_absolute(void **state)
{
	char want[4200], *here = getcwd(NULL, 0);
	Machine *m = make("--disk a=b.img,overlay=../o --vsock cid=4294967294,path=v");

	(void)state;
	snprintf(want, sizeof(want), "%s/a=b.img", here);
	assert_string_equal(m->device[0]->path, want);
	snprintf(want, sizeof(want), "%s/../o", here);
	assert_string_equal(m->device[0]->overlay, want);
	snprintf(want, sizeof(want), "%s/v", here);
	assert_string_equal(m->device[1]->path, want);
	free(here);
	drop(m);
}

static void options_card_without_address_gets_a_local_one_of_its_own(void **state)
{
	Machine *m = make("--net tap=a --net tap=b");

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(m->device[i]->mac.len, 6);
		assert_int_equal(m->device[i]->mac.data[0] & 3, 2);
	}
	assert_memory_not_equal(m->device[0]->mac.data, m->device[1]->mac.data, 6);
	drop(m);
}

static void options_more_than_a_machine_has_are_refused(void **state)
{
	char line[512] = "--rng";

	(void)state;
	for (unsigned i = 0; i < 16; i++)
		strcat(line, " --disk /d,ro");
	assert_refused(line, "17 virtio devices: a machine has at most 16");
	strcat(line, " --disk /d,ro");
	assert_refused(line, "--disk: a machine has at most 16");
}

static void options_each_bad_value_is_one_sentence(void **state)
{
	static const struct {
		const char *line, *says;
	} cases[] = {
		{ "--disk ,ro", "--disk: the path has no value" },
		{ "--disk ro=,x", "takes no value" },
		{ "--disk a,", "--disk does not know ''" },
		{ "--disk a,b.img", "--disk does not know 'b.img'; a path with a comma cannot be "
				    "given, and --help says" },
		{ "--disk a,,ro", "--disk does not know ''" },
		{ "--disk a,ro,ro", "--disk: ro is given twice" },
		{ "--disk a,ro=on", "--disk: ro takes no value" },
		{ "--disk a,rO", "--disk does not know 'rO'" },
		{ "--disk a,overlay", "--disk: overlay has no value" },
		{ "--disk a,overlay=", "--disk: overlay has no value" },
		{ "--disk a,overlay=x,overlay=y", "--disk: overlay is given twice" },
		{ "--disk a,=x", "--disk does not know ''" },
		{ "--disk overlay=x", "--disk needs a path" },
		{ "--disk a,overlay=b,c", "--disk does not know 'c'; a path with a comma" },
		{ "--pmem a,overlay=x", "--pmem does not know 'overlay'" },
		{ "--pmem a,b=c", "--pmem does not know 'b'; a path with a comma" },
		{ "--pmem ,", "--pmem: the path has no value" },
		{ "--net t0", "--net does not know 't0'; --help says" },
		{ "--net tap=", "--net: tap has no value" },
		{ "--net tap", "--net: tap has no value" },
		{ "--net mac=02:00:00:00:00:01", "--net needs tap=..." },
		{ "--net tap=sixteen-and-more", "at most 15 bytes" },
		{ "--net tap=t,tap=u", "--net: tap is given twice" },
		{ "--net tap=t,mac=02:00:00:00:00", "mac=02:00:00:00:00 is not the address" },
		{ "--net tap=t,mac=02:00:00:00:00:01:02", "is not the address" },
		{ "--net tap=t,mac=01:00:5e:00:00:01", "is not the address" },
		{ "--net tap=t,mac=ff:ff:ff:ff:ff:ff", "is not the address" },
		{ "--net tap=t,mac=00:00:00:00:00:00", "is not the address" },
		{ "--net tap=t,mac=02:00:00:00:00:+1", "is not the address" },
		{ "--net tap=t,mac=02:-1:00:00:00:01", "is not the address" },
		{ "--net tap=t,mac=02:0x:00:00:00:01", "is not the address" },
		{ "--net tap=t,mac=02:00:00:00:00:001", "is not the address" },
		{ "--net tap=t,mac=2:0:0:0:0:1", "is not the address" },
		{ "--net tap=t,mac=zz:00:00:00:00:01", "is not the address" },
		{ "--vsock cid=3", "--vsock needs path=..." },
		{ "--vsock path=x", "--vsock needs cid=..." },
		{ "--vsock cid=2,path=x", "cid=2: a guest's is a number from 3" },
		{ "--vsock cid=4294967295,path=x", "from 3 to 4294967294" },
		{ "--vsock cid=18446744073709551619,path=x", "a number from 3" },
		{ "--vsock cid=-3,path=x", "a number from 3" },
		{ "--vsock cid=3x,path=x", "a number from 3" },
		{ "--vsock cid=,path=x", "cid has no value" },
		{ "--vsock cid=3,path=x,cid=4", "cid is given twice" },
		{ "--vsock cid=3,path=x --vsock cid=4,path=y", "--vsock: a machine has at most 1" },
		{ "--vsock cid=3,path=x,y", "--vsock does not know 'y'; a path with a comma" },
		{ "--console c", "--console does not know 'c'" },
		{ "--console path=a --console path=b", "--console: a machine has at most 1" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_refused(cases[i].line, cases[i].says);
}

/* A path may hold anything but a comma: what begins like a key is no key there. */
static void options_path_may_look_like_a_key(void **state)
{
	Machine *m = make("--disk /tap=1 --disk /=,ro --pmem /ro");

	(void)state;
	assert_string_equal(m->device[0]->path, "/tap=1");
	assert_string_equal(m->device[1]->path, "/=");
	assert_true(m->device[1]->read_only);
	assert_string_equal(m->device[2]->path, "/ro");
	drop(m);
}

static void options_devices_survive_the_manifest(void **state)
{
	Machine *m = make("--disk /a,overlay=/o --net tap=t --pmem /p --rng --vsock cid=9,path=/v "
			  "--console path=/c --balloon");
	const size_t n = machine__get_packed_size(m);
	auto_free uint8_t *once = malloc(n), *twice = malloc(n);
	Machine *again;

	(void)state;
	machine__pack(m, once);
	again = machine__unpack(NULL, n, once);
	assert_non_null(again);
	assert_int_equal(machine__get_packed_size(again), n);
	machine__pack(again, twice);
	assert_memory_equal(once, twice, n);
	assert_int_equal(again->device[4]->guest_cid, 9);
	drop(m);
	drop(again);
}

/* ---- over a snapshot's ---- */

#define SNAPSHOT                                                                                   \
	"--disk /a --disk /b,ro,overlay=/o --net tap=t0,mac=02:00:00:00:00:01 --pmem /p,ro "       \
	"--rng --vsock cid=3,path=/v --console path=/c"

static int change(Machine *m, const char *line, struct err *e)
{
	struct parsed p;

	*e = (struct err){ 0 };
	parse(&p, line);
	return devices_override(m, &p.o, e);
}

static void override_with_nothing_changes_nothing(void **state)
{
	Machine *m = make(SNAPSHOT), *was = make(SNAPSHOT);
	struct err e;

	(void)state;
	assert_int_equal(change(m, "", &e), 0);
	assert_int_equal(change(m, "--rng", &e), 0);
	for (size_t i = 0; i < m->n_device; i++) {
		assert_string_equal(m->device[i]->path, was->device[i]->path);
		assert_string_equal(m->device[i]->overlay, was->device[i]->overlay);
		assert_string_equal(m->device[i]->tap, was->device[i]->tap);
	}
	drop(m);
	drop(was);
}

static void override_takes_the_nth_of_a_kind_and_leaves_the_rest(void **state)
{
	Machine *m = make(SNAPSHOT);
	struct err e;

	(void)state;
	assert_int_equal(change(m,
				"--disk overlay=/new --disk /b2 --net tap=t1 --pmem /p2 "
				"--vsock path=/v2 --console path=/c2",
				&e),
			 0);
	assert_string_equal(e.text, "");
	assert_string_equal(m->device[0]->path, "/a");
	assert_string_equal(m->device[0]->overlay, "/new");
	assert_string_equal(m->device[1]->path, "/b2");
	assert_string_equal(m->device[1]->overlay, "/o");
	assert_true(m->device[1]->read_only);
	assert_string_equal(m->device[2]->tap, "t1");
	assert_memory_equal(m->device[2]->mac.data, "\x02\0\0\0\0\x01", 6);
	assert_string_equal(m->device[3]->path, "/p2");
	assert_true(m->device[3]->read_only);
	assert_int_equal(m->device[5]->guest_cid, 3);
	assert_string_equal(m->device[5]->path, "/v2");
	assert_string_equal(m->device[6]->path, "/c2");
	assert_int_equal(change(m, "--vsock cid=77", &e), 0);
	assert_int_equal(m->device[5]->guest_cid, 77);
	assert_string_equal(m->device[5]->path, "/v2");
	drop(m);
}

static void override_that_repeats_what_the_guest_has_seen_is_taken(void **state)
{
	Machine *m = make(SNAPSHOT);
	struct err e;

	(void)state;
	assert_int_equal(change(m,
				"--disk /a --disk /x,ro --net tap=t9,mac=02:00:00:00:00:01 "
				"--pmem /p,ro",
				&e),
			 0);
	assert_string_equal(m->device[1]->path, "/x");
	drop(m);
}

static void override_of_what_the_guest_has_seen_is_refused(void **state)
{
	static const struct {
		const char *line, *says;
	} cases[] = {
		{ "--disk /x,ro", "ro of disk0 cannot be another than in the snapshot" },
		{ "--net mac=02:00:00:00:00:02", "mac of net0 cannot be another" },
		{ "--net tap=t,mac=02:00:00:00:00:03", "mac of net0 cannot be another" },
		{ "--balloon", "--balloon: the snapshot's machine has none" },
		{ "--disk /1 --disk /2 --disk /3", "--disk /3: the snapshot's machine has only 2" },
		{ "--pmem /1 --pmem /2", "--pmem /2: the snapshot's machine has only 1" },
		{ "--net tap=", "--net: tap has no value" },
		{ "--disk /a,bogus", "--disk does not know 'bogus'" },
		{ "--vsock cid=1", "cid=1: a guest's is a number from 3" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Machine *m = make(SNAPSHOT);
		struct err e;

		assert_int_equal(change(m, cases[i].line, &e), -EINVAL);
		assert_says(&e, cases[i].says);
		assert_int_equal(e.status, STATUS_REFUSED);
		drop(m);
	}
}

static void override_reports_all_at_once(void **state)
{
	Machine *m = make(SNAPSHOT);
	struct err e;

	(void)state;
	assert_int_equal(change(m,
				"--disk /x,ro --disk /y,z --disk /3 --disk /4 --balloon "
				"--net tap=u,mac=02:00:00:00:00:09 --vsock cid=0",
				&e),
			 -EINVAL);
	assert_int_equal(lines_in(e.text), 7);
	/* What was refused has changed nothing. */
	assert_string_equal(m->device[0]->path, "/a");
	assert_string_equal(m->device[2]->tap, "t0");
	assert_int_equal(m->device[5]->guest_cid, 3);
	drop(m);
}

/* ---- the host's side ---- */

static void check_host_says_what_is_missing(void **state)
{
	const struct folder *f = *state;
	char line[1024], taken[128], longer[200];
	struct err e = { 0 };
	Machine *m;

	snprintf(taken, sizeof(taken), "%s/file", f->path);
	folder_put(f, "file", "x", 1);
	snprintf(line, sizeof(line),
		 "--net tap=no-such-tap --vsock cid=3,path=%s/no/v "
		 "--console path=%s",
		 f->path, taken);
	m = make(line);
	assert_int_equal(devices_check_host(m, &e), -EINVAL);
	assert_int_equal(lines_in(e.text), 3);
	assert_non_null(strstr(e.text, "net0: there is no interface no-such-tap"));
	assert_non_null(strstr(e.text, "vsock0: no socket can be made in"));
	assert_non_null(strstr(e.text, "console0: "));
	drop(m);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	snprintf(line, sizeof(line), "--console path=/%s", longer);
	m = make(line);
	e = (struct err){ 0 };
	assert_int_equal(devices_check_host(m, &e), -EINVAL);
	assert_says(&e, "is longer than");
	drop(m);
}

static void check_host_takes_what_is_there(void **state)
{
	const struct folder *f = *state;
	struct err e = { 0 };
	char line[256];
	Machine *m;

	snprintf(line, sizeof(line), "--net tap=lo --vsock cid=3,path=%s/v --console path=%s/c",
		 f->path, f->path);
	m = make(line);
	assert_int_equal(devices_check_host(m, &e), 0);
	assert_string_equal(e.text, "");
	assert_int_not_equal(faccessat(f->fd, "v", F_OK, 0), 0);
	drop(m);
}

/* Two devices cannot have one thing of the host; any number may read a file. */
static void check_host_same_thing_twice_is_refused(void **state)
{
	static const struct {
		const char *line, *says;
	} cases[] = {
		{ "--net tap=lo --net tap=lo", "net1 has the interface lo, which net0 has" },
		{ "--vsock cid=3,path=/tmp/v --console path=/tmp/v",
		  "console0 has the path /tmp/v, which vsock0 has" },
		{ "--disk /a --disk /a", "disk1 has the file /a, which disk0 has" },
		{ "--disk /a,ro --disk /a", "disk1 has the file /a, which disk0 has" },
		{ "--disk /a --disk /b --disk /a,ro", "disk2 has the file /a, which disk0 has" },
		{ "--disk /a,overlay=/o --disk /a", "disk1 has the file /a, which disk0 has" },
		{ "--disk /a --pmem /a,ro", "pmem0 has the file /a, which disk0 has" },
		{ "--disk /a,overlay=/o --disk /b,overlay=/o", "disk1 has the overlay /o, which" },
		{ "--disk /a,ro --disk /a,ro --pmem /a,ro", NULL },
		{ "--disk /a,overlay=/o --disk /a,overlay=/p --disk /a,ro", NULL },
		{ "--disk /a,ro,overlay=/o --disk /a,ro,overlay=/o", NULL },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Machine *m = make(cases[i].line);
		struct err e = { 0 };
		const int rc = devices_check_host(m, &e);

		assert_int_equal(rc, cases[i].says ? -EINVAL : 0);
		if (cases[i].says)
			assert_says(&e, cases[i].says);
		drop(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_none_gives_no_device),
		cmocka_unit_test(options_all_give_devices_in_the_order_of_kinds),
		cmocka_unit_test(options_relative_paths_become_absolute),
		cmocka_unit_test(options_card_without_address_gets_a_local_one_of_its_own),
		cmocka_unit_test(options_more_than_a_machine_has_are_refused),
		cmocka_unit_test(options_each_bad_value_is_one_sentence),
		cmocka_unit_test(options_path_may_look_like_a_key),
		cmocka_unit_test(options_devices_survive_the_manifest),
		cmocka_unit_test(override_with_nothing_changes_nothing),
		cmocka_unit_test(override_takes_the_nth_of_a_kind_and_leaves_the_rest),
		cmocka_unit_test(override_that_repeats_what_the_guest_has_seen_is_taken),
		cmocka_unit_test(override_of_what_the_guest_has_seen_is_refused),
		cmocka_unit_test(override_reports_all_at_once),
		cmocka_unit_test_setup_teardown(check_host_says_what_is_missing, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(check_host_takes_what_is_there, folder_make,
						folder_remove),
		cmocka_unit_test(check_host_same_thing_twice_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
