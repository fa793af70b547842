/* The messages between vmm and its publisher, over a socket pair. */
#include "unit.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include "base/io.h"
#include "proto/publish.h"
#include "samples.h"

static int make_pair(void **state)
{
	static int pair[2];

	*state = pair;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int close_pair(void **state)
{
	const int *pair = *state;

	close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	return 0;
}

static void request_of_ram_arrives_whole(void **state)
{
	const int *pair = *state;
	RamRequest ram = RAM_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT, *got;
	size_t nfds = 0;

	ram.size = 5ULL << 30;
	ram.path = sample_string("/srv/vm/ram");
	ram.reserve = true;
	m.what_case = PUBLISH_REQUEST__WHAT_RAM;
	m.ram = &ram;
	assert_int_equal(proto_publish_send_request(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_request(pair[1], &got, NULL, &nfds), 1);
	assert_int_equal(got->what_case, PUBLISH_REQUEST__WHAT_RAM);
	assert_int_equal(got->ram->size, 5ULL << 30);
	assert_string_equal(got->ram->path, "/srv/vm/ram");
	assert_true(got->ram->reserve);
	proto_publish_free_request(got);
}

static void request_of_commit_brings_its_descriptors(void **state)
{
	const int *pair = *state;
	const unsigned before = open_descriptors();
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT, *got;
	int fds[IO_MAX_FDS], memory = memfd_create("x", MFD_CLOEXEC);
	size_t nfds = IO_MAX_FDS;

	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	assert_int_equal(
		proto_publish_send_request(pair[0], &m, (int[]){ memory, memory, memory }, 3), 0);
	close(memory);
	assert_int_equal(proto_publish_recv_request(pair[1], &got, fds, &nfds), 1);
	assert_int_equal(nfds, 3);
	assert_int_equal(got->what_case, PUBLISH_REQUEST__WHAT_COMMIT);
	assert_false(got->commit->ram_is_own);
	for (size_t i = 0; i < 3; i++)
		close(fds[i]);
	proto_publish_free_request(got);
	assert_int_equal(open_descriptors(), before);
}

static void reply_with_all_fields_arrives_whole(void **state)
{
	const int *pair = *state;
	PublishReply m = PUBLISH_REPLY__INIT, *got;
	char *notices[] = { sample_string("copied, because of this"), sample_string("and that") };
	uint8_t id[16];

	m.status = 1;
	m.error = sample_string("one\ntwo");
	m.in_progress = true;
	m.bytes_done = 7;
	m.bytes_total = UINT64_MAX;
	m.trusted = true;
	m.id = sample_bytes(id, 16, 9);
	m.path = sample_string("/store/snapshots/a");
	m.notice = notices;
	m.n_notice = 2;
	assert_int_equal(proto_publish_send_reply(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_reply(pair[1], &got, NULL, NULL), 1);
	assert_int_equal(got->status, 1);
	assert_string_equal(got->error, "one\ntwo");
	assert_true(got->in_progress);
	assert_int_equal(got->bytes_done, 7);
	assert_int_equal(got->bytes_total, UINT64_MAX);
	assert_true(got->trusted);
	assert_int_equal(got->id.len, 16);
	assert_memory_equal(got->id.data, id, 16);
	assert_string_equal(got->path, "/store/snapshots/a");
	assert_int_equal(got->n_notice, 2);
	assert_string_equal(got->notice[1], "and that");
	proto_publish_free_reply(got);
}

/* A message of defaults alone has no bytes in protobuf: it must not read as the end. */
static void reply_of_defaults_is_a_reply(void **state)
{
	const int *pair = *state;
	PublishReply m = PUBLISH_REPLY__INIT, *got = NULL;

	assert_int_equal(proto_publish_send_reply(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_reply(pair[1], &got, NULL, NULL), 1);
	assert_int_equal(got->status, 0);
	assert_string_equal(got->error, "");
	assert_false(got->in_progress);
	proto_publish_free_reply(got);
}

static void request_of_nothing_is_a_request(void **state)
{
	const int *pair = *state;
	PublishRequest m = PUBLISH_REQUEST__INIT, *got = NULL;
	size_t nfds = 0;

	assert_int_equal(proto_publish_send_request(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_request(pair[1], &got, NULL, &nfds), 1);
	assert_int_equal(got->what_case, PUBLISH_REQUEST__WHAT__NOT_SET);
	proto_publish_free_request(got);
}

static void peer_that_has_gone_is_zero(void **state)
{
	int *pair = *state;
	PublishReply *got;
	size_t nfds = 4;

	close(pair[1]);
	pair[1] = -1;
	assert_int_equal(proto_publish_recv_reply(pair[0], &got, NULL, &nfds), 0);
	assert_int_equal(nfds, 0);
}

static void failed_receive_leaves_no_descriptors_to_close(void **state)
{
	PublishReply *got;
	size_t nfds = 4;
	int fds[4];

	(void)state;
	assert_int_equal(proto_publish_recv_reply(-1, &got, fds, &nfds), -EBADF);
	assert_int_equal(nfds, 0);
}

/* The largest that fits is sent, one byte more is not. */
static void request_above_4_kib_is_emsgsize(void **state)
{
	const int *pair = *state;
	static char name[PUBLISH_MAX];
	SaveRequest save = SAVE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT, *got;
	size_t nfds = 0, n;

	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	memset(name, 'x', sizeof(name) - 1);
	for (n = sizeof(name) - 1; n > 0; n--) {
		save.name = name + sizeof(name) - 1 - n;
		if (publish_request__get_packed_size(&m) <= PUBLISH_MAX)
			break;
	}
	assert_int_equal(publish_request__get_packed_size(&m), PUBLISH_MAX);
	assert_int_equal(proto_publish_send_request(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_request(pair[1], &got, NULL, &nfds), 1);
	assert_int_equal(strlen(got->save->name), n);
	proto_publish_free_request(got);
	save.name--;
	assert_int_equal(proto_publish_send_request(pair[0], &m, NULL, 0), -EMSGSIZE);
}

/* Sends raw bytes with two descriptors: what comes of it, and nothing left open. */
static void assert_raw(const int *pair, const void *bytes, size_t len, int want)
{
	const unsigned before = open_descriptors();
	const int sent[] = { pair[0], pair[0] };
	PublishRequest *request = NULL;
	PublishReply *reply = NULL;
	int fds[IO_MAX_FDS], rc;
	size_t nfds = IO_MAX_FDS;

	assert_int_equal(io_send_msg(pair[0], bytes, len, sent, 2), 0);
	rc = proto_publish_recv_request(pair[1], &request, fds, &nfds);
	assert_int_equal(rc, want);
	assert_int_equal(nfds, 0);
	assert_int_equal(open_descriptors(), before);
	nfds = IO_MAX_FDS;
	assert_int_equal(io_send_msg(pair[0], bytes, len, sent, 2), 0);
	rc = proto_publish_recv_reply(pair[1], &reply, fds, &nfds);
	assert_int_equal(rc, want);
	assert_int_equal(nfds, 0);
	assert_int_equal(open_descriptors(), before);
}

static void garbage_with_descriptors_is_refused_and_leaks_none(void **state)
{
	static const uint8_t open_field[] = { 0x0a, 0x7f, 1 }; /* says more than there is */
	uint8_t big[PUBLISH_MAX + 1];

	memset(big, 0xff, sizeof(big));
	assert_raw(*state, open_field, sizeof(open_field), -EBADMSG);
	assert_raw(*state, big, PUBLISH_MAX, -EBADMSG);
	assert_raw(*state, big, sizeof(big), -EMSGSIZE);
	assert_raw(*state, "", 0, 0); /* an empty packet is the end, whatever comes with it */
}

static void garbage_leaves_the_connection_usable(void **state)
{
	const int *pair = *state;
	PublishReply m = PUBLISH_REPLY__INIT, *got;

	assert_int_equal(io_send_msg(pair[0], "\x0a\x7f", 2, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_reply(pair[1], &got, NULL, NULL), -EBADMSG);
	m.trusted = true;
	assert_int_equal(proto_publish_send_reply(pair[0], &m, NULL, 0), 0);
	assert_int_equal(proto_publish_recv_reply(pair[1], &got, NULL, NULL), 1);
	assert_true(got->trusted);
	proto_publish_free_reply(got);
}

/* 4 KiB of empty strings would be 2,048 pointers and allocations: over the budget or cheap. */
static void decode_of_a_bomb_is_bounded(void **state)
{
	uint8_t buf[PUBLISH_MAX];
	PublishReply *reply = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = i % 2 ? 0 : 9 << 3 | 2;
	if (proto_publish_decode_reply(buf, sizeof(buf), &reply) == 0) {
		assert_int_equal(reply->n_notice, sizeof(buf) / 2);
		proto_publish_free_reply(reply);
	}
	assert_int_equal(proto_publish_decode_reply(buf, PUBLISH_MAX + 1, &reply), -EBADMSG);
	assert_null(reply);
}

#define ON_PAIR(f) cmocka_unit_test_setup_teardown(f, make_pair, close_pair)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PAIR(request_of_ram_arrives_whole),
		ON_PAIR(request_of_commit_brings_its_descriptors),
		ON_PAIR(reply_with_all_fields_arrives_whole),
		ON_PAIR(reply_of_defaults_is_a_reply),
		ON_PAIR(request_of_nothing_is_a_request),
		ON_PAIR(peer_that_has_gone_is_zero),
		cmocka_unit_test(failed_receive_leaves_no_descriptors_to_close),
		ON_PAIR(request_above_4_kib_is_emsgsize),
		ON_PAIR(garbage_with_descriptors_is_refused_and_leaks_none),
		ON_PAIR(garbage_leaves_the_connection_usable),
		cmocka_unit_test(decode_of_a_bomb_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
