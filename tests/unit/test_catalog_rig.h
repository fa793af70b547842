/*
 * For the tests of catalog: a store in a directory of its own, a publisher in
 * a process of its own, and snapshots with known content.
 */
#pragma once

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "catalog/index.h"
#include "catalog/publish.h"
#include "catalog/store.h"
#include "catalog/verify.h"
#include "proto/publish.h"
#include "proto/snapdir.h"

#define RIG_RAM (64U << 10)

struct rig {
	char dir[256];	 /* removed at the end */
	char store[280]; /* dir/store */
	pid_t publisher;
	int sock;
	struct timespec next; /* created_at of the next snapshot */
};

__attribute__((unused, format(printf, 1, 2))) static void rig_shell(const char *fmt, ...)
{
	char command[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

__attribute__((unused)) static void rig_start_publisher(struct rig *r)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	r->publisher = fork();
	assert_true(r->publisher >= 0);
	if (r->publisher == 0) {
		struct err e = { 0 };

		close(pair[0]);
		exit(cat_publisher_serve(pair[1], r->store, &e) < 0
			     ? (fprintf(stderr, "%s\n", e.text), 1)
			     : 0);
	}
	close(pair[1]);
	r->sock = pair[0];
}

/* EOF to the publisher, and its end. */
__attribute__((unused)) static void rig_stop_publisher(struct rig *r)
{
	int status;

	if (r->sock < 0)
		return;
	close(r->sock);
	r->sock = -1;
	assert_int_equal(waitpid(r->publisher, &status, 0), r->publisher);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

__attribute__((unused)) static int rig_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct rig *r = calloc(1, sizeof(*r));

	snprintf(r->dir, sizeof(r->dir), "%s/snapfs-test.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(r->dir))
		return -1;
	snprintf(r->store, sizeof(r->store), "%s/store", r->dir);
	r->next = (struct timespec){ .tv_sec = 1785585600 };
	rig_start_publisher(r);
	*state = r;
	return 0;
}

__attribute__((unused)) static int rig_teardown(void **state)
{
	struct rig *r = *state;

	if (r->sock >= 0)
		rig_stop_publisher(r);
	rig_shell("rm -rf '%s'", r->dir);
	free(r);
	return 0;
}

/* Sends and waits for the last reply: its status. The reply may be kept. */
__attribute__((unused)) static int rig_ask(struct rig *r, const PublishRequest *m, const int *fds,
					   size_t nfds, PublishReply **kept, int *fd)
{
	PublishReply *reply = NULL;
	int status;

	assert_int_equal(proto_publish_send_request(r->sock, m, fds, nfds), 0);
	for (;;) {
		size_t got = fd ? 1 : 0;

		assert_int_equal(proto_publish_recv_reply(r->sock, &reply, fd, &got), 1);
		if (!reply->in_progress)
			break;
		proto_publish_free_reply(reply);
	}
	status = (int)reply->status;
	if (kept)
		*kept = reply;
	else
		proto_publish_free_reply(reply);
	return status;
}

/* A RAM file from the publisher (path NULL: the store's); -1 where it is refused. */
__attribute__((unused)) static int rig_ram(struct rig *r, const char *path, uint64_t size)
{
	RamRequest ram = RAM_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	int fd = -1;

	ram.size = size;
	ram.path = (char *)(uintptr_t)(path ? path : "");
	ram.reserve = true;
	m.what_case = PUBLISH_REQUEST__WHAT_RAM;
	m.ram = &ram;
	if (rig_ask(r, &m, NULL, 0, NULL, &fd) != 0)
		assert_int_equal(fd, -1);
	return fd;
}

/* With a disk0 whose file is `disk` (-1: none), which stays the caller's. */
__attribute__((unused)) static int rig_save_disk(struct rig *r, const char *name, int disk,
						 PublishReply **kept)
{
	SaveRequest save = SAVE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	char *names[] = { (char *)(uintptr_t) "disk0" };

	save.name = (char *)(uintptr_t)name;
	save.n_disk = disk < 0 ? 0 : 1;
	save.disk = names;
	m.what_case = PUBLISH_REQUEST__WHAT_SAVE;
	m.save = &save;
	return rig_ask(r, &m, &disk, save.n_disk, kept, NULL);
}

__attribute__((unused)) static int rig_save(struct rig *r, const char *name)
{
	return rig_save_disk(r, name, -1, NULL);
}

static int rig_memfd(const void *buf, size_t len)
{
	int fd = memfd_create("rig", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, buf, len), 0);
	return fd;
}

/* An unnamed file of the store's with this content, frozen. */
__attribute__((unused)) static int rig_file(struct rig *r, const void *buf, size_t len)
{
	FileRequest file = FILE_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	struct io_fd_path path;
	int fd = -1, ro;

	m.what_case = PUBLISH_REQUEST__WHAT_FILE;
	m.file = &file;
	assert_int_equal(rig_ask(r, &m, NULL, 0, NULL, &fd), 0);
	assert_int_equal(io_write_full(fd, buf, len), 0);
	path = io_fd_path(fd);
	ro = open(path.text, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	close(fd);
	return ro;
}

/*
 * A manifest as vmm drafts it, of RIG_RAM bytes of RAM, and of disk0 in so many
 * layers of these names.
 */
__attribute__((unused)) static int rig_draft_disks(struct rig *r, const uint8_t *parent,
						   const char *const *names, size_t n)
{
	DiskFile file[4], *files[4];
	Disk disk = DISK__INIT;
	Disk *disks[] = { &disk };
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT;
	Timestamp at = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT;
	RamRange *ranges[] = { &range };
	uint8_t buf[1024];

	at.seconds = r->next.tv_sec++;
	range.size = RIG_RAM;
	m.version = MANIFEST_VERSION;
	m.created_at = &at;
	m.memory_size_bytes = RIG_RAM;
	m.vp_count = 1;
	m.page_size = MANIFEST_PAGE_SIZE;
	m.architecture = (char *)(uintptr_t)MANIFEST_ARCHITECTURE;
	m.ram = ranges;
	m.n_ram = 1;
	for (size_t i = 0; i < n; i++) {
		disk_file__init(&file[i]);
		file[i].file = (char *)(uintptr_t)names[i];
		files[i] = &file[i];
	}
	disk.device = (char *)(uintptr_t) "disk0";
	disk.n_layer = n;
	disk.layer = files;
	m.n_disk = n ? 1 : 0;
	m.disk = disks;
	if (parent)
		m.parent_id = (ProtobufCBinaryData){ UUID_SIZE, (uint8_t *)(uintptr_t)parent };
	return rig_memfd(buf, snapshot_manifest__pack(&m, buf));
}

__attribute__((unused)) static int rig_draft(struct rig *r, const uint8_t *parent)
{
	return rig_draft_disks(r, parent, NULL, 0);
}

__attribute__((unused)) static int rig_state(void)
{
	VmState s = VM_STATE__INIT;
	KvmState kvm = KVM_STATE__INIT;
	VcpuState vcpu = VCPU_STATE__INIT;
	VcpuState *vcpus[] = { &vcpu };
	uint8_t buf[1024];

	s.version = STATE_VERSION;
	kvm.version = vcpu.version = 1;
	s.kvm = &kvm;
	s.vcpu = vcpus;
	s.n_vcpu = 1;
	return rig_memfd(buf, vm_state__pack(&s, buf));
}

/* The commit of a frozen RAM file and of disks' files; all descriptors are closed then. */
__attribute__((unused)) static int rig_commit_disks(struct rig *r, int draft, int state, int ram,
						    const int *disks, size_t n, bool own,
						    PublishReply **kept)
{
	CommitRequest commit = COMMIT_REQUEST__INIT;
	PublishRequest m = PUBLISH_REQUEST__INIT;
	int fds[8] = { draft, state, ram };
	int status;

	for (size_t i = 0; i < n; i++)
		fds[3 + i] = disks[i];

	commit.ram_is_own = own;
	m.what_case = PUBLISH_REQUEST__WHAT_COMMIT;
	m.commit = &commit;
	status = rig_ask(r, &m, fds, 3 + n, kept, NULL);
	for (size_t i = 0; i < 3 + n; i++)
		close(fds[i]);
	return status;
}

__attribute__((unused)) static int rig_commit(struct rig *r, int draft, int state, int ram,
					      bool own, PublishReply **kept)
{
	return rig_commit_disks(r, draft, state, ram, NULL, 0, own, kept);
}

/* Writes known bytes with a hole in the middle, and gives a read-only descriptor for it. */
__attribute__((unused)) static int rig_freeze(int ram, uint8_t seed)
{
	struct io_fd_path path = io_fd_path(ram);
	uint8_t page[4096];
	int ro;

	memset(page, seed, sizeof(page));
	assert_int_equal(io_pwrite_full(ram, page, sizeof(page), 0), 0);
	assert_int_equal(io_pwrite_full(ram, page, sizeof(page), RIG_RAM - sizeof(page)), 0);
	ro = open(path.text, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	close(ram);
	return ro;
}

/* A whole save of a new RAM file; id may be NULL. */
__attribute__((unused)) static void rig_publish(struct rig *r, const char *name, uint8_t seed,
						const uint8_t *parent, uint8_t *id)
{
	PublishReply *reply = NULL;
	int ram = rig_ram(r, NULL, RIG_RAM);

	assert_true(ram >= 0);
	ram = rig_freeze(ram, seed);
	assert_int_equal(rig_save(r, name), 0);
	if (rig_commit(r, rig_draft(r, parent), rig_state(), ram, true, &reply) != 0)
		fail_msg("%s", reply->error);
	assert_int_equal(reply->id.len, UUID_SIZE);
	if (id)
		memcpy(id, reply->id.data, UUID_SIZE);
	proto_publish_free_reply(reply);
}

__attribute__((unused)) static struct store *rig_open(struct rig *r)
{
	struct store *store = NULL;
	struct err e = { 0 };

	if (cat_store_open(&store, r->store, CAT_OPEN_CREATE, &e) < 0)
		fail_msg("%s", e.text);
	return store;
}

/* Lets this process have `more` more descriptors than it has; -1: as many as at first. */
__attribute__((unused)) static void rig_limit_descriptors(int more)
{
	struct rlimit limit;
	int next = dup(0);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = more < 0 ? limit.rlim_max : (rlim_t)(next + more);
	if (next >= 0)
		close(next);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

__attribute__((unused)) static int rig_list_row(void *arg, const struct cat_row *row)
{
	char *out = arg;
	size_t n = strlen(out);

	snprintf(out + n, 1024 - n, "%s=%s ", row->name, cat_status_word(row->status));
	return 0;
}

/* "a=valid b=unverified " */
__attribute__((unused)) static void rig_expect(struct store *store, const char *expected)
{
	char text[1024] = "";
	struct err e = { 0 };

	if (cat_index_list(store, rig_list_row, text, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(text, expected);
}
