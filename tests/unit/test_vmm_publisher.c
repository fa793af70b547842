/*
 * vmm's side of its publisher where that does not do its work: it is given up in
 * time, and said. The publisher is the test itself, which never answers.
 */
#include "unit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>

#include "base/io.h"
#include "proto/manifest.h"
#include "vmm/publisher.h"

struct rig {
	struct publisher publisher;
	int peer;
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	int pair[2];

	if (!r || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	r->publisher.sock = pair[0];
	r->peer = pair[1];
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	publisher_stop(&r->publisher);
	close(r->peer);
	free(r);
	return 0;
}

static time_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static void get_ram_without_an_answer_ends_in_time(void **state)
{
	struct rig *r = *state;
	const time_t start = seconds();
	struct err e = { 0 };

	publisher_limit_waits(&r->publisher, 1);
	assert_int_equal(publisher_get_ram(&r->publisher, 1 << 20, NULL, false, &e), -ETIMEDOUT);
	assert_says(&e, "has not answered for 1 seconds");
	assert_true(seconds() - start <= 10);
	/* Its late answer would be taken for another's. */
	assert_int_equal(r->publisher.sock, -1);
}

static void send_to_a_full_socket_ends_in_time(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };
	int rc = 0;

	publisher_limit_waits(&r->publisher, 1);
	for (int i = 0; rc == 0 && i < 100000; i++)
		rc = publisher_send_abort(&r->publisher, &e);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_says(&e, "has not answered");
	assert_int_equal(r->publisher.sock, -1);
}

static void check_without_a_spare_says_that_none_can_be_had(void **state)
{
	struct rig *r = *state;
	struct err e = { 0 };

	assert_int_equal(publisher_check(&r->publisher, NULL), 0);
	publisher_stop(&r->publisher);
	assert_int_equal(publisher_check(&r->publisher, &e), -EPIPE);
	assert_says(&e, "no other can be started");
	assert_int_equal(publisher_send_save(&r->publisher, "a", NULL, &e), -EPIPE);
	assert_says(&e, "no other can be started");
}

static void save_after_its_end_hands_a_new_socket_to_the_spare(void **state)
{
	struct rig *r = *state;
	PublishRequest *m;
	int pair[2], sock;
	size_t n = 1;
	char byte;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	r->publisher.has_spare = true;
	r->publisher.spare = pair[0];
	close(r->peer);
	r->peer = pair[1];
	assert_int_equal(publisher_send_save(&r->publisher, "a", NULL, NULL), 0);
	assert_int_equal(r->publisher.generation, 1);
	assert_int_equal(io_recv_msg(r->peer, &byte, 1, &sock, &n), 1);
	assert_int_equal(n, 1);
	/* The request is there already, for who takes over. */
	n = 0;
	assert_int_equal(proto_publish_recv_request(sock, &m, NULL, &n), 1);
	assert_int_equal(m->what_case, PUBLISH_REQUEST__WHAT_SAVE);
	assert_string_equal(m->save->name, "a");
	proto_publish_free_request(m);
	close(sock);
}

static void get_file_gives_the_descriptor_of_the_answer(void **state)
{
	struct rig *r = *state;
	PublishReply reply = PUBLISH_REPLY__INIT;
	int null = open("/dev/null", O_RDWR), fd;
	struct err e = { 0 };

	assert_int_equal(proto_publish_send_reply(r->peer, &reply, &null, 1), 0);
	fd = publisher_get_file(&r->publisher, &e);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(proto_publish_send_reply(r->peer, &reply, NULL, 0), 0);
	assert_int_equal(publisher_get_file(&r->publisher, &e), -EPROTO);
	close(null);
}

static void disks_go_with_their_names_and_descriptors(void **state)
{
	struct rig *r = *state;
	char *names[] = { (char *)(uintptr_t) "disk0", (char *)(uintptr_t) "disk1" };
	int fds[] = { open("/dev/null", O_RDONLY), open("/dev/zero", O_RDONLY) };
	const struct publisher_disks disks = { names, fds, 2 };
	int got[IO_MAX_FDS];
	size_t n = IO_MAX_FDS;
	PublishRequest *m;

	assert_int_equal(publisher_send_save(&r->publisher, "a", &disks, NULL), 0);
	assert_int_equal(proto_publish_recv_request(r->peer, &m, got, &n), 1);
	assert_int_equal(n, 2);
	assert_int_equal(m->save->n_disk, 2);
	assert_string_equal(m->save->disk[1], "disk1");
	proto_publish_free_request(m);
	close(got[0]);
	close(got[1]);
	n = IO_MAX_FDS;
	assert_int_equal(publisher_send_commit(&r->publisher, fds[0], fds[0], fds, 1, &disks, NULL),
			 0);
	assert_int_equal(proto_publish_recv_request(r->peer, &m, got, &n), 1);
	assert_int_equal(n, 5);
	proto_publish_free_request(m);
	for (size_t i = 0; i < n; i++)
		close(got[i]);
	close(fds[0]);
	close(fds[1]);
}

static void commit_of_too_many_disks_refused(void **state)
{
	struct rig *r = *state;
	const struct publisher_disks disks = { .n = MANIFEST_DISK_FILES_MAX + 1 };

	const int ram = 0;

	assert_int_equal(publisher_send_commit(&r->publisher, 0, 0, &ram, 1, &disks, NULL), -E2BIG);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(get_ram_without_an_answer_ends_in_time),
		WITH(send_to_a_full_socket_ends_in_time),
		WITH(check_without_a_spare_says_that_none_can_be_had),
		WITH(save_after_its_end_hands_a_new_socket_to_the_spare),
		WITH(get_file_gives_the_descriptor_of_the_answer),
		WITH(disks_go_with_their_names_and_descriptors),
		WITH(commit_of_too_many_disks_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
