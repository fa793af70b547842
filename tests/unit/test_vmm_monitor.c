/*
 * The commands of a running vmm: what each answers, and how answers read. The
 * machine has no vCPUs and the publisher is the test itself.
 */
#include "unit.h"

#include <sys/socket.h>

#include "proto/publish.h"
#include "samples.h"
#include "virtio_driver.h"
#include "vmm/virtio/balloon.h"
#include "vmm/monitor.h"

struct rig {
	struct machine machine;
	struct publisher publisher;
	struct monitor mon;
	int peer; /* the publisher's end */
	json_t *answer;
	unsigned answers;
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	int pair[2];

	if (!r || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	pthread_mutex_init(&r->machine.lock, NULL);
	pthread_cond_init(&r->machine.changed, NULL);
	r->machine.vm.fd = r->machine.ram.fd = r->machine.event_fd = -1;
	r->machine.ram.backing = RAM_SHARED;
	r->publisher.sock = pair[0];
	r->peer = pair[1];
	monitor_init(&r->mon, &r->machine, &r->publisher);
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	json_decref(r->answer);
	publisher_stop(&r->publisher);
	if (r->peer >= 0)
		close(r->peer);
	free(r);
	return 0;
}

static void keep_answer(void *client, json_t *answer)
{
	struct rig *r = client;

	assert_non_null(answer);
	json_decref(r->answer);
	r->answer = answer;
	r->answers++;
}

/* Runs a line that answers at once. */
static json_t *run(struct rig *r, const char *line)
{
	r->answers = 0;
	assert_true(monitor_run(&r->mon, line, keep_answer, r));
	assert_int_equal(r->answers, 1);
	return r->answer;
}

static void assert_ok(json_t *answer)
{
	assert_true(json_is_true(json_object_get(answer, "ok")));
	assert_null(json_object_get(answer, "error"));
}

static void assert_error(json_t *answer, const char *words)
{
	const char *text = json_string_value(json_object_get(answer, "error"));

	assert_false(json_is_true(json_object_get(answer, "ok")));
	assert_non_null(text);
	if (!strstr(text, words))
		fail_msg("'%s' does not say '%s'", text, words);
}

static const char *state_of(struct rig *r)
{
	return json_string_value(json_object_get(run(r, "status"), "state"));
}

static void run_empty_lines_answer_nothing(void **state)
{
	static const char *const lines[] = { "", " ", "\t \r\n", "\n" };
	struct rig *r = *state;

	for (size_t i = 0; i < 4; i++)
		assert_false(monitor_run(&r->mon, lines[i], keep_answer, r));
	assert_int_equal(r->answers, 0);
}

static void run_unknown_commands_are_refused(void **state)
{
	static const char *const lines[] = { "bogus",	"stat",	   "statuss",
					     "STATUS",	"save",	   "save-snapshots x",
					     "snaps x", "\xff\xfe" };
	struct rig *r = *state;

	for (size_t i = 0; i < 8; i++)
		assert_error(run(r, lines[i]), "unknown command");
}

static void run_arguments_that_mean_nothing_are_refused(void **state)
{
	struct rig *r = *state;

	assert_error(run(r, "quit now"), "takes no argument");
	assert_false(r->mon.quit);
	assert_error(run(r, "pause 5"), "takes no argument");
	assert_error(run(r, "save-snapshot"), "takes a name");
	assert_error(run(r, "snap  "), "takes a name");
}

static void run_pause_and_resume_change_the_state(void **state)
{
	struct rig *r = *state;

	assert_string_equal(state_of(r), "running");
	assert_ok(run(r, "pause"));
	assert_string_equal(state_of(r), "paused");
	assert_ok(run(r, "  pause\r\n"));
	assert_ok(run(r, "resume"));
	assert_string_equal(state_of(r), "running");
}

static void run_status_of_a_fault_names_page_and_form(void **state)
{
	struct rig *r = *state;

	r->machine.holds = HOLD_FAULT;
	r->machine.fault = (struct memory_fault){ 0x123000, "EFAULT of KVM_RUN" };
	assert_string_equal(state_of(r), "host-memory-fault");
	assert_string_equal(json_string_value(json_object_get(r->answer, "fault")),
			    "EFAULT of KVM_RUN");
	assert_int_equal(json_integer_value(json_object_get(r->answer, "fault_address")), 0x123000);
	r->machine.fault.address = UINT64_MAX;
	run(r, "status");
	assert_null(json_object_get(r->answer, "fault_address"));
	assert_ok(run(r, "resume")); /* tries again */
	assert_string_equal(state_of(r), "running");
}

static void run_help_lists_every_command(void **state)
{
	static const char *const names[] = {
		"save-snapshot NAME", "pause", "resume", "balloon SIZE", "status", "quit", "help"
	};
	struct rig *r = *state;
	json_t *list = json_object_get(run(r, "help"), "commands");

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_true(json_is_string(json_object_get(list, names[i])));
}

/* ---- the balloon ---- */

struct balloon {
	struct driver d;
	Device config;
};

/* The machine gets one, with a driver that is there. */
static void add_balloon(struct rig *r, struct balloon *b)
{
	device__init(&b->config);
	driver_open(&b->d, &virtio_balloon_ops, &b->config);
	driver_start(&b->d, ALL_FEATURES);
	r->machine.virtio[r->machine.nvirtio++] = b->d.v;
}

static json_int_t balloon_says(struct rig *r, const char *key)
{
	json_t *devices = json_object_get(run(r, "status"), "devices");
	json_t *value = json_object_get(json_object_get(devices, "device0"), key);

	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

static void run_balloon_asks_the_guest_for_so_much(void **state)
{
	const uint32_t given = 77;
	struct rig *r = *state;
	struct balloon b;
	uint32_t pages;

	add_balloon(r, &b);
	assert_int_equal(balloon_says(r, "target_bytes"), 0);
	driver_interrupts(&b.d);
	assert_ok(run(r, "balloon 5M"));
	assert_int_equal(driver_interrupts(&b.d), 1);
	driver_get_config(&b.d, 0, &pages, sizeof(pages));
	assert_int_equal(pages, (5 << 20) / RAM_PAGE);
	assert_int_equal(balloon_says(r, "target_bytes"), 5 << 20);
	assert_int_equal(balloon_says(r, "actual_bytes"), 0);
	driver_set_config(&b.d, 4, &given, sizeof(given));
	assert_int_equal(balloon_says(r, "actual_bytes"), 77 * RAM_PAGE);
	assert_ok(run(r, "balloon 0"));
	assert_int_equal(balloon_says(r, "target_bytes"), 0);
	driver_close(&b.d);
}

static void run_balloon_of_no_size_changes_nothing(void **state)
{
	static const char *const lines[] = { "balloon",	     "balloon  ",
					     "balloon much", "balloon -1",
					     "balloon 1.5G", "balloon 1M 2M",
					     "balloon +16K", "balloon 99999999999999G" };
	struct rig *r = *state;
	struct balloon b;

	add_balloon(r, &b);
	assert_ok(run(r, "balloon 16M")); /* all of the RAM, and no more */
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		assert_error(run(r, lines[i]), "a size such as 512M");
	assert_error(run(r, "balloon 16777217"), "no larger than the guest's RAM of 16 MiB");
	assert_error(run(r, "balloon 16777215T"), "no larger than the guest's RAM of 16 MiB");
	assert_int_equal(balloon_says(r, "target_bytes"), 16 << 20);
	driver_close(&b.d);
}

static void run_balloon_without_one_is_refused(void **state)
{
	struct rig *r = *state;

	assert_error(run(r, "balloon 1M"), "has no balloon");
}

static void run_quit_ends(void **state)
{
	struct rig *r = *state;

	assert_ok(run(r, "quit"));
	assert_true(r->mon.quit);
	assert_int_equal(r->mon.status, STATUS_DONE);
}

/* ---- saving ---- */

/* The request that the publisher got: its name. */
static void take_save_request(struct rig *r, const char *name)
{
	PublishRequest *m;
	size_t nfds = 0;

	assert_int_equal(proto_publish_recv_request(r->peer, &m, NULL, &nfds), 1);
	assert_int_equal(m->what_case, PUBLISH_REQUEST__WHAT_SAVE);
	assert_string_equal(m->save->name, name);
	proto_publish_free_request(m);
}

static void refuse_save(struct rig *r, const char *why)
{
	PublishReply reply = PUBLISH_REPLY__INIT;

	reply.status = STATUS_REFUSED;
	reply.error = sample_string(why);
	assert_int_equal(proto_publish_send_reply(r->peer, &reply, NULL, 0), 0);
	save_on_reply(&r->mon.save);
}

static void save_refused_by_the_publisher_is_answered_once(void **state)
{
	struct rig *r = *state;

	assert_true(monitor_run(&r->mon, "snap  base one ", keep_answer, r));
	assert_int_equal(r->answers, 0); /* it takes time */
	take_save_request(r, "base one");
	refuse_save(r, "a snapshot base exists");
	assert_int_equal(r->answers, 1);
	assert_error(r->answer, "a snapshot base exists");
	assert_int_equal(r->mon.save.phase, SAVE_IDLE);
}

static void save_while_one_is_under_way_is_refused(void **state)
{
	struct rig *r = *state;

	assert_true(monitor_run(&r->mon, "save-snapshot one", keep_answer, r));
	assert_error(run(r, "save-snapshot two"), "under way already");
	run(r, "status");
	assert_string_equal(json_string_value(json_object_get(r->answer, "save")), "under way");
	take_save_request(r, "one");
	r->answers = 0;
	refuse_save(r, "no");
	assert_int_equal(r->answers, 1); /* the first one's */
	assert_string_equal(r->mon.save_name, "one");
}

/* What the store says of such a name repeats it; JSON has only UTF-8. */
static void save_refused_with_words_that_are_not_utf_8_is_answered(void **state)
{
	struct rig *r = *state;

	assert_true(monitor_run(&r->mon, "snap \xff\xfe", keep_answer, r));
	take_save_request(r, "\xff\xfe");
	refuse_save(r, "'\xff\xfe' is no name");
	assert_int_equal(r->answers, 1);
	assert_error(r->answer, "is no name");
}

static void save_without_a_publisher_says_so(void **state)
{
	struct rig *r = *state;

	close(r->peer);
	r->peer = -1;
	assert_error(run(r, "snap base"), "publisher");
	assert_int_equal(r->mon.save.phase, SAVE_IDLE);
}

static void save_whose_publisher_ends_is_answered(void **state)
{
	struct rig *r = *state;

	assert_true(monitor_run(&r->mon, "snap base", keep_answer, r));
	close(r->peer);
	r->peer = -1;
	save_on_reply(&r->mon.save);
	assert_int_equal(r->answers, 1);
	assert_error(r->answer, "publisher");
	assert_error(run(r, "snap again"), "publisher");
}

static void save_of_a_client_that_has_gone_answers_nobody(void **state)
{
	struct rig *r = *state;

	assert_true(monitor_run(&r->mon, "snap base", keep_answer, r));
	monitor_forget(&r->mon, r);
	take_save_request(r, "base");
	refuse_save(r, "no");
	assert_int_equal(r->answers, 0);
}

static void save_name_longer_than_a_message_is_refused(void **state)
{
	static char line[8192] = "snap ";
	struct rig *r = *state;

	memset(line + 5, 'x', sizeof(line) - 6);
	assert_error(run(r, line), "name is too long");
}

/* ---- answers for people ---- */

static void assert_describes(json_t *answer, const char *want)
{
	auto_free char *text = monitor_describe(answer);

	assert_string_equal(text, want);
	json_decref(answer);
}

static void describe_of_ok_alone_is_done(void **state)
{
	(void)state;
	assert_describes(json_pack("{s:b}", "ok", 1), "done\n");
}

static void describe_shows_members_without_ok(void **state)
{
	(void)state;
	assert_describes(json_pack("{s:b, s:s, s:i, s:b}", "ok", 1, "name", "a\"b", "pause_us", 12,
				   "flag", 0),
			 "name: a\"b\npause_us: 12\nflag: false\n");
	assert_describes(json_pack("{s:b, s:s}", "ok", 0, "error", "no such thing"),
			 "error: no such thing\n");
}

static void describe_shows_objects_indented(void **state)
{
	(void)state;
	assert_describes(
		json_pack("{s:b, s:{s:i, s:i}, s:n}", "ok", 1, "exits", "io", 3, "mmio", 4, "none"),
		"exits: \n  io: 3\n  mmio: 4\nnone: null\n");
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(run_empty_lines_answer_nothing),
		WITH(run_unknown_commands_are_refused),
		WITH(run_arguments_that_mean_nothing_are_refused),
		WITH(run_pause_and_resume_change_the_state),
		WITH(run_status_of_a_fault_names_page_and_form),
		WITH(run_help_lists_every_command),
		WITH(run_balloon_asks_the_guest_for_so_much),
		WITH(run_balloon_of_no_size_changes_nothing),
		WITH(run_balloon_without_one_is_refused),
		WITH(run_quit_ends),
		WITH(save_refused_by_the_publisher_is_answered_once),
		WITH(save_while_one_is_under_way_is_refused),
		WITH(save_refused_with_words_that_are_not_utf_8_is_answered),
		WITH(save_without_a_publisher_says_so),
		WITH(save_whose_publisher_ends_is_answered),
		WITH(save_of_a_client_that_has_gone_answers_nobody),
		WITH(save_name_longer_than_a_message_is_refused),
		cmocka_unit_test(describe_of_ok_alone_is_done),
		cmocka_unit_test(describe_shows_members_without_ok),
		cmocka_unit_test(describe_shows_objects_indented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
