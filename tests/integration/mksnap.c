/*
 * mksnap STORE NAME SIZE_MIB [SEED [PARENT_ID [FILES [OF]]]]: makes a snapshot without a
 * machine. Plays vmm's side of proto/publish.proto towards `snapctl publish`,
 * with a sparse RAM file of pseudo-random bytes, and a disk0 that is kept in so
 * many files (disks/disk0.0, ...) of 1 MiB. PARENT_ID may be empty. One of OF (3) chunks of
 * 64 KiB holds data, the others are holes. Prints the snapshot's id.
 *
 * mksnap STORE NAME SIZE_MIB --parent PARENT --pages LIST [SEED]: the same in layers: those
 * of the snapshot PARENT of the store (memory.bin is one, where it is flat), linked, and
 * one over them with the pages of the list, "3,10-19,40z" (z: of zeros), of pseudo-random
 * bytes. Counted from 0 in the flat RAM, ascending. SIZE_MIB is the parent's; 0 is, too.
 *
 * snapctl is $BIN/snapctl, else the one beside this program's folder.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdbool.h>
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
#include "proto/snapdir.h"
#include "proto/state.h"

#define FILES_MAX 16
#define FILE_SIZE (1U << 20)
#define CHUNK	  65536 /* bytes */

extern char **environ;

struct job {
	const char *store, *name;
	uint64_t size; /* bytes */
	uint64_t seed;
	uint8_t parent[UUID_SIZE];
	size_t parent_len;
	size_t files; /* of disk0 */
	uint64_t of;  /* so many chunks, one of which holds data */
	/* In layers: what the parent has, and what is new over it. */
	const char *parent_name, *pages;
	struct snapdir over;
	struct layermap map;
	uint64_t new_pages;
	Layer layer[MANIFEST_LAYERS_MAX + 1];
	size_t layers;
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

/* Fills the file, one chunk of so many, and makes of it a read-only descriptor. */
static int fill(int fd, const struct job *job, uint64_t size, uint64_t state)
{
	static uint64_t chunk[CHUNK / sizeof(uint64_t)];
	struct io_fd_path path;
	int frozen;

	for (uint64_t at = 0; at + CHUNK <= size; at += job->of * CHUNK) {
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
	return fill(fd, job, job->size, job->seed * 2 + 1);
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
	return fill(fd, job, FILE_SIZE, (job->seed + i) * 1000003 + 1);
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

/* --- layers --- */

static void open_parent(struct job *job)
{
	char path[PATH_MAX];
	struct err e = { 0 };

	snprintf(path, sizeof(path), "%s/snapshots/%s", job->store, job->parent_name);
	if (proto_snapdir_open(&job->over, AT_FDCWD, path, job->parent_name, &e) < 0)
		die(e.text);
	if (job->size && job->size != job->over.manifest->memory_size_bytes)
		die("the parent has another size");
	job->size = job->over.manifest->memory_size_bytes;
	memcpy(job->parent, job->over.manifest->id.data, UUID_SIZE);
	job->parent_len = UUID_SIZE;
	job->layers = proto_snapdir_ram_files(job->over.manifest, job->over.layered) + 1;
}

/* "3,10-19,40z" */
static void parse_pages(struct job *job)
{
	const char *p = job->pages;
	char *end;

	while (*p) {
		struct layer_run r = { .count = 1, .from = job->new_pages };

		job->map.run = reallocarray(job->map.run, job->map.n + 1, sizeof(r));
		if (!job->map.run)
			die("out of memory");
		r.page = strtoull(p, &end, 10);
		if (*end == '-')
			r.count = strtoull(end + 1, &end, 10) - r.page + 1;
		if (*end == 'z') {
			r.from = LAYERMAP_ZEROS;
			end++;
		} else {
			job->new_pages += r.count;
		}
		if (end == p || (*end && *end != ','))
			die("not a list of pages");
		job->map.run[job->map.n++] = r;
		p = *end ? end + 1 : end;
	}
}

/* The new layer's file, as the maps say it; read-only by now. */
static int make_layer(int sock, struct job *job)
{
	FileRequest file = FILE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	uint64_t state = job->seed * 7919 + 1, page[MANIFEST_PAGE_SIZE / sizeof(uint64_t)];
	struct io_fd_path path;
	int fd, frozen;

	m.what_case = PUBLISH_REQUEST__WHAT_FILE;
	m.file = &file;
	proto_publish_free_reply(ask(sock, &m, NULL, 0, &fd));
	for (uint64_t i = 0; i < job->new_pages; i++) {
		for (size_t k = 0; k < sizeof(page) / sizeof(*page); k++)
			page[k] = next_random(&state);
		if (io_pwrite_full(fd, page, sizeof(page), i * sizeof(page)) < 0)
			die("cannot write a layer");
	}
	path = io_fd_path(fd);
	frozen = open(path.text, O_RDONLY | O_CLOEXEC);
	close(fd);
	return frozen;
}

/* The maps of the parent's layers, then the new one, in one file. */
static int make_maps(struct job *job)
{
	int fd = memfd_create("maps", MFD_CLOEXEC);

	for (size_t i = 1; i < job->layers; i++) {
		const bool is_new = i + 1 == job->layers;
		struct layermap map = job->map;
		struct err e = { 0 };
		uint8_t *buf;
		size_t len;

		if (!is_new && proto_snapdir_read_map(&job->over, i, "the parent", &map, &e) < 0)
			die(e.text);
		if (proto_layermap_encode(&map, &buf, &len) < 0 || io_write_full(fd, buf, len) < 0)
			die("cannot write a map");
		job->layer[i].map_size = len;
		if (!is_new)
			proto_layermap_free(&map);
		free(buf);
	}
	return fd;
}

/* The maps and all layers, as a commit has them; how many descriptors. */
static size_t make_layers(int sock, struct job *job, int *fds)
{
	size_t n = 0;

	fds[n++] = make_maps(job);
	for (size_t i = 0; i + 1 < job->layers; i++) {
		struct snapdir_file f;
		struct err e = { 0 };

		proto_snapdir_file(job->over.manifest, job->over.layered, i, &f);
		fds[n] = proto_snapdir_open_file(&job->over, &f, "the parent", &e);
		if (fds[n++] < 0)
			die(e.text);
		job->layer[i].digest =
			(ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)(uintptr_t)f.digest };
		job->layer[i].size = f.size;
	}
	fds[n++] = make_layer(sock, job);
	job->layer[job->layers - 1].size = job->new_pages * MANIFEST_PAGE_SIZE;
	return n;
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

static int make_draft(struct job *job)
{
	Layer *layers[MANIFEST_LAYERS_MAX + 1];
	Timestamp created = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT;
	RamRange *ranges[] = { &range };
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT;
	uint8_t parent[UUID_SIZE];
	Disk disk = DISK__INIT;
	Disk *disks[] = { &disk };
	DiskFile file[FILES_MAX], *files[FILES_MAX];
	char names[FILES_MAX][32];
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
	for (size_t i = 0; i < job->layers; i++)
		layers[i] = &job->layer[i];
	m.layer = layers;
	m.n_layer = job->layers;
	memcpy(parent, job->parent, sizeof(parent));
	m.parent_id = (ProtobufCBinaryData){ job->parent_len, parent };
	if (proto_manifest_encode(&m, &buf, &len, NULL) < 0)
		die("cannot encode the manifest");
	return in_memory(buf, len);
}

static void publish(int sock, struct job *job)
{
	SaveRequest save = SAVE_REQUEST__INIT;
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	char id[UUID_TEXT_MAX];
	PublishReply *reply;
	int fds[4 + MANIFEST_LAYERS_MAX + FILES_MAX];
	size_t n = 2;

	if (job->layers)
		n += make_layers(sock, job, fds + n);
	else
		fds[n++] = make_ram(sock, job);
	for (size_t i = 0; i < job->files; i++)
		fds[n++] = make_file(sock, job, i);
	save.name = (char *)(uintptr_t)job->name;
	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	proto_publish_free_reply(ask(sock, &m, NULL, 0, NULL));
	commit.ram_is_own = !job->layers;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	fds[0] = make_draft(job);
	fds[1] = make_state();
	reply = ask(sock, &m, fds, n, NULL);
	puts(uuid_format(reply->id.data, id));
	for (size_t i = 0; i < reply->n_notice; i++)
		fprintf(stderr, "mksnap: %s\n", reply->notice[i]);
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

static void read_layered(struct job *job, int argc, char **argv)
{
	if (argc < 8 || strcmp(argv[6], "--pages") != 0)
		die("--parent goes with --pages");
	job->parent_name = argv[5];
	job->pages = argv[7];
	if (argc > 8)
		job->seed = strtoull(argv[8], NULL, 10);
	open_parent(job);
	if (job->layers > MANIFEST_LAYERS_MAX + 1)
		die("the parent has too many layers");
	parse_pages(job);
	for (size_t i = 0; i < job->layers; i++)
		layer__init(&job->layer[i]);
}

static void read_flat(struct job *job, int argc, char **argv)
{
	if (argc > 4)
		job->seed = strtoull(argv[4], NULL, 10);
	if (argc > 5)
		job->parent_len = parse_uuid(argv[5], job->parent);
	if (argc > 6)
		job->files = strtoul(argv[6], NULL, 10);
	if (argc > 7)
		job->of = strtoull(argv[7], NULL, 10);
	if (job->files > FILES_MAX || job->of == 0)
		die("that many files are not made");
}

int main(int argc, char **argv)
{
	struct job job = { 0 };
	int sock, status;
	pid_t pid;

	if (argc < 4)
		die("usage: mksnap STORE NAME SIZE_MIB [SEED [PARENT_ID [FILES [OF]]] | --parent "
		    "NAME "
		    "--pages LIST [SEED]]");
	job.store = argv[1];
	job.name = argv[2];
	job.size = strtoull(argv[3], NULL, 10) << 20;
	job.seed = 1;
	job.of = 3;
	if (argc > 4 && strcmp(argv[4], "--parent") == 0)
		read_layered(&job, argc, argv);
	else
		read_flat(&job, argc, argv);
	sock = start_publisher(job.store, &pid);
	publish(sock, &job);
	close(sock);
	proto_layermap_free(&job.map);
	if (job.layers)
		proto_snapdir_close(&job.over);
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("the publisher failed");
	return 0;
}
