/*
 * mksnap STORE NAME SIZE_MIB [SEED [PARENT_ID [FILES]]]: makes a snapshot without a
 * machine. Plays vmm's side of proto/publish.proto towards `snapctl publish`,
 * with a sparse RAM file of pseudo-random bytes, and a disk0 that is kept in so
 * many files (disks/disk0.0, ...) of 1 MiB. PARENT_ID may be empty. Prints the
 * snapshot's id.
 *
 * snapctl is $BIN/snapctl, else the one beside this program's folder.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/text.h"
#include "proto/manifest.h"
#include "proto/publish.h"
#include "proto/state.h"

#define FILES_MAX 16
#define FILE_SIZE (1U << 20)
#define CHUNK	  65536 /* bytes; one of three holds data, the others are holes */

extern char **environ;

struct job {
	const char *store, *name;
	uint64_t size; /* bytes */
	uint64_t seed;
	uint8_t parent[UUID_SIZE];
	size_t parent_len;
	size_t files; /* of disk0 */
};

static int die(const char *what)
{
	fprintf(stderr, "mksnap: %s\n", what);
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	/* xorshift64*: the same seed gives the same RAM. */
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1d;
}

static int start_publisher(const char *store, pid_t *pid)
{
	char self[PATH_MAX] = { 0 }, snapctl[PATH_MAX + 32];
	const char *bin = getenv("BIN");
	char *argv[] = { "snapctl", "--store", (char *)(uintptr_t)store, "publish", "--fd",
			 "3",	    NULL };
	posix_spawn_file_actions_t actions;
	int pair[2], theirs;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		die("cannot start");
	if (bin)
		snprintf(snapctl, sizeof(snapctl), "%s/snapctl", bin);
	else
		snprintf(snapctl, sizeof(snapctl), "%s/../bin/snapctl", dirname(self));
	posix_spawn_file_actions_init(&actions);
	/* dup2 to itself would keep close-on-exec: go by a number that is not 3. */
	theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
	posix_spawn_file_actions_adddup2(&actions, theirs, 3);
	if (posix_spawn(pid, snapctl, &actions, NULL, argv, environ) != 0)
		die("cannot start snapctl");
	posix_spawn_file_actions_destroy(&actions);
	close(theirs);
	close(pair[1]);
	return pair[0];
}

/* Sends a request and takes the last reply to it; ends the program on a failure. */
static PublishReply *ask(int sock, const PublishRequest *m, const int *fds, size_t nfds, int *fd)
{
	PublishReply *reply = NULL;
	int got[IO_MAX_FDS];
	size_t n;

	if (proto_publish_send_request(sock, m, fds, nfds) < 0)
		die("the publisher takes no request");
	do {
		if (reply)
			proto_publish_free_reply(reply);
		n = IO_MAX_FDS;
		if (proto_publish_recv_reply(sock, &reply, got, &n) != 1)
			die("the publisher is gone");
	} while (reply->in_progress);
	if (reply->status)
		die(reply->error);
	if (fd)
		*fd = n == 1 ? got[0] : die("no descriptor came");
	return reply;
}

/* Fills the file, one chunk of three, and makes of it a read-only descriptor. */
static int fill(int fd, uint64_t size, uint64_t state)
{
	static uint64_t chunk[CHUNK / sizeof(uint64_t)];
	struct io_fd_path path;
	int frozen;

	for (uint64_t at = 0; at + CHUNK <= size; at += 3 * CHUNK) {
		for (size_t i = 0; i < sizeof(chunk) / sizeof(*chunk); i++)
			chunk[i] = next_random(&state);
		if (io_pwrite_full(fd, chunk, sizeof(chunk), at) < 0)
			die("cannot write");
	}
	path = io_fd_path(fd);
	frozen = open(path.text, O_RDONLY | O_CLOEXEC);
	close(fd);
	return frozen;
}

/* The store's RAM file, filled; read-only by now. */
static int make_ram(int sock, const struct job *job)
{
	RamRequest ram = RAM_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	int fd;

	ram.size = job->size;
	m.what_case = PUBLISH_REQUEST__WHAT_RAM;
	m.ram = &ram;
	proto_publish_free_reply(ask(sock, &m, NULL, 0, &fd));
	return fill(fd, job->size, job->seed * 2 + 1);
}

/* The i-th file of disk0, in the store without a name yet; read-only by now. */
static int make_file(int sock, const struct job *job, size_t i)
{
	FileRequest file = FILE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	int fd;

	m.what_case = PUBLISH_REQUEST__WHAT_FILE;
	m.file = &file;
	proto_publish_free_reply(ask(sock, &m, NULL, 0, &fd));
	if (ftruncate(fd, FILE_SIZE) < 0)
		die("cannot make a file of the disk");
	return fill(fd, FILE_SIZE, (job->seed + i) * 1000003 + 1);
}

/* A file in memory with these bytes, which it frees. */
static int in_memory(uint8_t *buf, size_t len)
{
	int fd = memfd_create("mksnap", MFD_CLOEXEC);

	if (fd < 0 || io_pwrite_full(fd, buf, len, 0) < 0)
		die("cannot make a memfd");
	free(buf);
	return fd;
}

static int make_state(void)
{
	KvmState kvm = KVM_STATE__INIT;
	VcpuState vcpu = VCPU_STATE__INIT;
	VcpuState *vcpus[] = { &vcpu };
	VmState state = VM_STATE__INIT;
	uint8_t *buf, regs[9000];
	size_t len;

	/* Of more than two pages, so that its Merkle tree has a level. */
	memset(regs, 0x5a, sizeof(regs));
	kvm.version = 1;
	vcpu.version = 1;
	vcpu.xsave = (ProtobufCBinaryData){ sizeof(regs), regs };
	state.version = STATE_VERSION;
	state.kvm = &kvm;
	state.n_vcpu = 1;
	state.vcpu = vcpus;
	if (proto_state_encode(&state, &buf, &len, NULL) < 0)
		die("cannot encode the state");
	return in_memory(buf, len);
}

static int make_draft(const struct job *job)
{
	Timestamp created = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT;
	RamRange *ranges[] = { &range };
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT;
	uint8_t parent[UUID_SIZE];
	Disk disk = DISK__INIT;
	Disk *disks[] = { &disk };
	DiskFile file[FILES_MAX], *files[FILES_MAX];
	char names[FILES_MAX][16];
	struct timespec now;
	uint8_t *buf;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &now);
	created.seconds = now.tv_sec;
	created.nanos = (int32_t)now.tv_nsec;
	range.size = job->size;
	m.version = MANIFEST_VERSION;
	m.created_at = &created;
	m.clock = &created;
	m.memory_size_bytes = job->size;
	m.vp_count = 1;
	m.page_size = MANIFEST_PAGE_SIZE;
	m.architecture = MANIFEST_ARCHITECTURE;
	m.creator = "mksnap";
	m.n_ram = 1;
	m.ram = ranges;
	for (size_t i = 0; i < job->files; i++) {
		disk_file__init(&file[i]);
		snprintf(names[i], sizeof(names[i]), "disk0.%zu", i);
		file[i].file = names[i];
		files[i] = &file[i];
	}
	disk.device = "disk0";
	disk.size = FILE_SIZE;
	disk.layer = files;
	disk.n_layer = job->files;
	m.disk = disks;
	m.n_disk = job->files ? 1 : 0;
	memcpy(parent, job->parent, sizeof(parent));
	m.parent_id = (ProtobufCBinaryData){ job->parent_len, parent };
	if (proto_manifest_encode(&m, &buf, &len, NULL) < 0)
		die("cannot encode the manifest");
	return in_memory(buf, len);
}

static void publish(int sock, const struct job *job)
{
	SaveRequest save = SAVE_REQUEST__INIT;
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	char id[UUID_TEXT_MAX];
	PublishReply *reply;
	int fds[3 + FILES_MAX];

	fds[2] = make_ram(sock, job);
	for (size_t i = 0; i < job->files; i++)
		fds[3 + i] = make_file(sock, job, i);
	save.name = (char *)(uintptr_t)job->name;
	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	proto_publish_free_reply(ask(sock, &m, NULL, 0, NULL));
	commit.ram_is_own = 1;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	fds[0] = make_draft(job);
	fds[1] = make_state();
	reply = ask(sock, &m, fds, 3 + job->files, NULL);
	puts(uuid_format(reply->id.data, id));
	proto_publish_free_reply(reply);
}

static size_t parse_uuid(const char *text, uint8_t id[UUID_SIZE])
{
	size_t n = 0;

	for (; *text && n < UUID_SIZE; text++) {
		unsigned byte;

		if (*text == '-')
			continue;
		if (sscanf(text++, "%2x", &byte) != 1)
			die("not an id");
		id[n++] = (uint8_t)byte;
	}
	return n;
}

int main(int argc, char **argv)
{
	struct job job = { 0 };
	int sock, status;
	pid_t pid;

	if (argc < 4)
		die("usage: mksnap STORE NAME SIZE_MIB [SEED [PARENT_ID [FILES]]]");
	job.store = argv[1];
	job.name = argv[2];
	job.size = strtoull(argv[3], NULL, 10) << 20;
	job.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
	if (argc > 5)
		job.parent_len = parse_uuid(argv[5], job.parent);
	if (argc > 6)
		job.files = strtoul(argv[6], NULL, 10);
	if (job.files > FILES_MAX)
		die("that many files are not made");
	sock = start_publisher(job.store, &pid);
	publish(sock, &job);
	close(sock);
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("the publisher failed");
	return 0;
}
