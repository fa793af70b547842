/* vmm's side of its publisher: see publisher.h. */
#define _GNU_SOURCE
#include "publisher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "proto/manifest.h"

#define PUBLISHER_FD 3

/* The snapctl in the directory of this program, or just "snapctl". */
static void find_program(char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof("snapctl"));
	char *slash;

	if (n > 0) {
		path[n] = '\0';
		slash = strrchr(path, '/');
		if (slash) {
			strcpy(slash + 1, "snapctl");
			if (access(path, X_OK) == 0)
				return;
		}
	}
	strcpy(path, "snapctl");
}

__attribute__((noreturn)) static void become_snapctl(int sock, const char *store)
{
	char *argv[] = { "snapctl", "--store", (char *)(uintptr_t)store, "publish", NULL };
	char path[PATH_MAX];

	if (!store) {
		argv[1] = argv[3];
		argv[2] = NULL;
	}
	if (sock == PUBLISHER_FD)
		fcntl(sock, F_SETFD, 0);
	else
		dup2(sock, PUBLISHER_FD);
	find_program(path);
	execvp(path, argv);
	fprintf(stderr, "vmm: cannot start %s: %s\n", path, strerror(errno));
	_exit(STATUS_ENVIRONMENT);
}

/* The end of a socket pair that the spare is sent; it ends with vmm. */
static int wait_for_turn(int spare)
{
	char byte;
	size_t nfds;
	int sock;

	do {
		nfds = 1;
		if (io_recv_msg(spare, &byte, sizeof(byte), &sock, &nfds) <= 0)
			_exit(0);
	} while (nfds != 1);
	return sock;
}

static void wait_until_spoken_to(int sock)
{
	char byte;
	ssize_t n;

	do
		n = recv(sock, &byte, 1, MSG_PEEK);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		_exit(0); /* vmm has ended and never needed it */
}

/*
 * The child: waits until it is spoken to, then becomes the publisher, of which
 * one more stays behind, and so on. Does not return.
 */
__attribute__((noreturn)) static void become_publisher(int sock, int spare, const char *store)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* Ctrl-C on the terminal is for vmm; a publish under way is finished. */
	setpgid(0, 0);
	signal(SIGINT, SIG_IGN);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	for (;;) {
		wait_until_spoken_to(sock);
		/* Where there can be no spare, this one is the last. */
		if (fork() != 0)
			become_snapctl(sock, store);
		/* Open here it would hide from vmm that the publisher has gone. */
		close(sock);
		sock = wait_for_turn(spare);
	}
}

static int make_pair(int pair[2], struct err *e)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, errno, "cannot make a socket pair");
	return 0;
}

/* A request that is not taken for so long is not waited for any more. */
static void bound_sends(const struct publisher *p)
{
	const struct timeval limit = { .tv_sec = p->wait_s };

	if (p->wait_s && p->sock >= 0)
		setsockopt(p->sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static void take_over(struct publisher *p, int sock)
{
	p->sock = sock;
	p->generation++;
	bound_sends(p);
}

int publisher_start(struct publisher *p, const char *store, struct err *e)
{
	int pair[2], spare[2];
	int rc = make_pair(pair, e);
	pid_t pid;

	*p = (struct publisher){ .sock = -1, .spare = -1 };
	if (rc < 0)
		return rc;
	p->has_spare = make_pair(spare, NULL) == 0;
	pid = fork();
	if (pid < 0) {
		int errnum = errno;

		close(pair[0]);
		close(pair[1]);
		if (p->has_spare) {
			close(spare[0]);
			close(spare[1]);
		}
		p->has_spare = false;
		return err_sys(e, errnum, "cannot start the publisher");
	}
	if (pid == 0) {
		close(pair[0]);
		if (p->has_spare)
			close(spare[0]);
		become_publisher(pair[1], p->has_spare ? spare[1] : -1, store);
	}
	close(pair[1]);
	if (p->has_spare) {
		close(spare[1]);
		p->spare = spare[0];
	}
	take_over(p, pair[0]);
	return 0;
}

void publisher_limit_waits(struct publisher *p, unsigned seconds)
{
	p->wait_s = seconds;
	bound_sends(p);
}

/* This publisher is done with; there may be another. */
static void drop(struct publisher *p)
{
	if (p->sock >= 0)
		close(p->sock);
	p->sock = -1;
	/* vmm's only child. Of one that is stuck the end is not waited for. */
	waitpid(-1, NULL, WNOHANG);
}

void publisher_stop(struct publisher *p)
{
	if (p->sock >= 0)
		close(p->sock);
	p->sock = -1;
	if (p->has_spare)
		close(p->spare);
	p->has_spare = false;
}

static int gone(struct err *e)
{
	return err_env(e, EPIPE,
		       "the publisher (snapctl publish) has ended: this save is lost, the guest "
		       "goes on; the next save has another one");
}

static int none_left(struct err *e)
{
	return err_env(e, EPIPE,
		       "the publisher (snapctl publish) has ended and no other can be started: "
		       "this machine cannot be saved any more");
}

int publisher_check(struct publisher *p, struct err *e)
{
	struct pollfd spare = { .fd = p->spare };

	if (p->sock >= 0)
		return 0;
	/* The spare's end has gone with the spare: POLLHUP. */
	if (p->has_spare && poll(&spare, 1, 0) == 0)
		return 0;
	return none_left(e);
}

/* Hands one end of a new socket pair to the spare, which becomes the publisher. */
static int restart(struct publisher *p, struct err *e)
{
	int pair[2], rc;

	drop(p);
	if (!p->has_spare)
		return none_left(e);
	rc = make_pair(pair, e);
	if (rc < 0)
		return rc;
	rc = io_send_msg(p->spare, "", 1, &pair[1], 1);
	close(pair[1]);
	if (rc < 0) {
		close(pair[0]);
		return none_left(e);
	}
	take_over(p, pair[0]);
	return 0;
}

int publisher_failure(const PublishReply *reply, struct err *e)
{
	if (reply->status == 0)
		return 0;
	if (reply->status == STATUS_REFUSED)
		return err_refuse(e, EINVAL, "%s", reply->error);
	if (reply->status == STATUS_USAGE)
		return err_usage(e, EINVAL, "%s", reply->error);
	return err_env(e, EIO, "%s", reply->error);
}

/* It is alive, and does not do its work: whatever it answers later is not heard. */
static int stuck(struct publisher *p, struct err *e)
{
	drop(p);
	return err_env(e, ETIMEDOUT,
		       "the publisher (snapctl publish) has not answered for %u seconds: is the "
		       "store's disk there? It is given up; the next save has another one",
		       p->wait_s);
}

static int send_request(struct publisher *p, PublishRequest *m, const int *fds, size_t nfds,
			struct err *e)
{
	int rc = p->sock < 0 ? -EPIPE : proto_publish_send_request(p->sock, m, fds, nfds);

	if (rc == -EMSGSIZE)
		return err_refuse(e, EMSGSIZE, "the name is too long");
	if (rc == -EAGAIN)
		return stuck(p, e);
	return rc < 0 ? gone(e) : 0;
}

/* Whether there is something to receive within the time that it has. */
static bool answers(const struct publisher *p)
{
	struct pollfd in = { .fd = p->sock, .events = POLLIN };
	int rc;

	do
		rc = poll(&in, 1, p->wait_s ? (int)p->wait_s * 1000 : -1);
	while (rc < 0 && errno == EINTR);
	return rc != 0;
}

static int receive(struct publisher *p, PublishReply **reply, int *fds, size_t *nfds, struct err *e)
{
	int rc;

	if (p->sock >= 0 && !answers(p))
		return stuck(p, e);
	rc = p->sock < 0 ? 0 : proto_publish_recv_reply(p->sock, reply, fds, nfds);
	if (rc == 1)
		return 0;
	drop(p);
	return gone(e);
}

int publisher_receive(struct publisher *p, PublishReply **reply, struct err *e)
{
	return receive(p, reply, NULL, NULL, e);
}

int publisher_receive_files(struct publisher *p, PublishReply **reply, int *fds, size_t *nfds,
			    struct err *e)
{
	return receive(p, reply, fds, nfds, e);
}

/* Asks for a file: the one descriptor that the answer brings, or a negative errno. */
static int get_file(struct publisher *p, PublishRequest *m, struct err *e)
{
	PublishReply *reply;
	size_t nfds = 1;
	int fd = -1, rc;

	rc = send_request(p, m, NULL, 0, e);
	if (rc == 0)
		rc = receive(p, &reply, &fd, &nfds, e);
	if (rc < 0)
		return rc;
	rc = publisher_failure(reply, e);
	proto_publish_free_reply(reply);
	if (rc == 0 && nfds != 1)
		return err_env(e, EPROTO, "the publisher sent no file");
	if (rc < 0 && nfds)
		close(fd);
	return rc < 0 ? rc : fd;
}

int publisher_get_file(struct publisher *p, struct err *e)
{
	FileRequest file = FILE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	m.what_case = PUBLISH_REQUEST__WHAT_FILE;
	m.file = &file;
	return get_file(p, &m, e);
}

int publisher_get_ram(struct publisher *p, uint64_t size, const char *path, bool reserve,
		      struct err *e)
{
	RamRequest ram = RAM_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	ram.size = size;
	ram.path = (char *)(uintptr_t)(path ? path : "");
	ram.reserve = reserve;
	m.what_case = PUBLISH_REQUEST__WHAT_RAM;
	m.ram = &ram;
	return get_file(p, &m, e);
}

bool publisher_trusts(struct publisher *p, int fd, const uint8_t digest[DIGEST_SIZE])
{
	TrustRequest trust = TRUST_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	PublishReply *reply;
	bool trusted;

	trust.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)(uintptr_t)digest };
	m.what_case = PUBLISH_REQUEST__WHAT_TRUST;
	m.trust = &trust;
	if (send_request(p, &m, &fd, 1, NULL) < 0 || receive(p, &reply, NULL, NULL, NULL) < 0)
		return false;
	trusted = reply->status == 0 && reply->trusted;
	proto_publish_free_reply(reply);
	return trusted;
}

/* As send_request(), and to another publisher where there is none any more. */
static int send_anew(struct publisher *p, PublishRequest *m, const int *fds, size_t nfds,
		     struct err *e)
{
	int rc = send_request(p, m, fds, nfds, e);

	if (rc != -EPIPE)
		return rc;
	rc = restart(p, e);
	return rc < 0 ? rc : send_request(p, m, fds, nfds, e);
}

/* A request that is answered by yes or no. 0, or a negative errno with words. */
static int ask(struct publisher *p, PublishRequest *m, const int *fds, size_t nfds, struct err *e)
{
	PublishReply *reply;
	int rc = send_anew(p, m, fds, nfds, e);

	if (rc == 0)
		rc = receive(p, &reply, NULL, NULL, e);
	if (rc < 0)
		return rc;
	rc = publisher_failure(reply, e);
	proto_publish_free_reply(reply);
	return rc;
}

int publisher_check_disks(struct publisher *p, const struct publisher_disks *disks, struct err *e)
{
	CheckRequest check = CHECK_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	check.n_disk = disks->n;
	check.disk = (char **)(uintptr_t)disks->names;
	m.what_case = PUBLISH_REQUEST__WHAT_CHECK;
	m.check = &check;
	return ask(p, &m, disks->fds, disks->n, e);
}

int publisher_keep_working_set(struct publisher *p, const uint8_t id[UUID_SIZE], int fd,
			       struct err *e)
{
	WorkingSetRequest set = WORKING_SET_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	set.snapshot_id = (ProtobufCBinaryData){ UUID_SIZE, (uint8_t *)(uintptr_t)id };
	m.what_case = PUBLISH_REQUEST__WHAT_WORKING_SET;
	m.working_set = &set;
	return ask(p, &m, &fd, 1, e);
}

int publisher_send_save(struct publisher *p, const char *name, const struct publisher_disks *disks,
			struct err *e)
{
	SaveRequest save = SAVE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	save.name = (char *)(uintptr_t)name;
	save.n_disk = disks ? disks->n : 0;
	save.disk = (char **)(uintptr_t)(disks ? disks->names : NULL);
	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	return send_anew(p, &m, disks ? disks->fds : NULL, save.n_disk, e);
}

int publisher_send_commit(struct publisher *p, int manifest_fd, int state_fd, const int *ram_fds,
			  size_t nram, const struct publisher_disks *disks, struct err *e)
{
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	int fds[IO_MAX_FDS] = { manifest_fd, state_fd };
	const size_t n = disks ? disks->n : 0;

	if (n > MANIFEST_DISK_FILES_MAX)
		return err_refuse(e, E2BIG, "the machine's disks are of more than %d files",
				  MANIFEST_DISK_FILES_MAX);
	if (2 + nram + n > IO_MAX_FDS)
		return err_refuse(
			e, E2BIG,
			"the machine's RAM and disks are of too many files to be passed on");
	memcpy(fds + 2, ram_fds, nram * sizeof(*fds));
	for (size_t i = 0; i < n; i++)
		fds[2 + nram + i] = disks->fds[i];
	commit.ram_is_own = true;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	return send_request(p, &m, fds, 2 + nram + n, e);
}

int publisher_send_abort(struct publisher *p, struct err *e)
{
	AbortRequest abort_request = ABORT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;

	m.what_case = PUBLISH_REQUEST__WHAT_ABORT;
	m.abort = &abort_request;
	return send_request(p, &m, NULL, 0, e);
}
