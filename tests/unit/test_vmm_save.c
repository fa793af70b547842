/*
 * Saves of a machine whose disk and pmem are written all the time: each snapshot has
 * them as they were at the moment of its RAM, and saves that fail lose nothing. The
 * machine runs on this host's /dev/kvm, its publisher is the real one.
 */
#include "machine_rig.h"

#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "proto/snapdir.h"
#include "vmm/save.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/pmem.h"

#define BLOCK	 4096U
#define BLOCKS	 2039U /* of the disk: a prime */
#define SIZE	 ((uint64_t)BLOCK * BLOCKS)
#define PART	 1536U /* of a block is written each time */
#define WORDS	 (PMEM / sizeof(uint64_t) / 512)
#define PMEM	 (2ULL << 20)
#define COUNT_AT (3ULL << 20) /* in RAM: how much was written; the guest does not use it */
#define ROUNDS	 12

/* What is written by the disk's iothread, without an end: the n-th is number n. */
struct work {
	struct rig *r;
	struct disk *disk;
	struct ram *pmem;
	int always; /* an eventfd that stays readable */
	uint64_t count;
	_Atomic uint64_t done; /* `count`, once it is in all three places; for other threads */
	int failed;
};

struct saving {
	void *folder; /* first: its fixture */
	struct rig *r;
	struct work work;
	struct publisher publisher;
	pid_t pid;
	struct save save;
	char disk[128], pmem[128], store[128];
	uint8_t before[SIZE]; /* the disk as it was given */
	bool done;
	int rc;
	struct err e;
};

/* ---- a publisher ---- */

static void start_publisher(struct saving *s)
{
	const char *bin = getenv("BIN");
	char path[256];
	int pair[2];

	snprintf(path, sizeof(path), "%s/snapctl", bin ? bin : "build/bin");
	assert_int_equal(access(path, X_OK), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		if (pair[1] == 3)
			fcntl(3, F_SETFD, 0);
		else
			dup2(pair[1], 3);
		execl(path, "snapctl", "--store", s->store, "publish", (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	s->publisher = (struct publisher){ .sock = pair[0], .spare = -1 };
}

static void end_publisher(struct saving *s, bool kill_it)
{
	if (kill_it)
		kill(s->pid, SIGKILL);
	else
		publisher_stop(&s->publisher);
	assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
}

/* ---- what is written ---- */

static void part_of(uint64_t n, uint8_t part[PART])
{
	for (size_t i = 0; i < PART; i += sizeof(n))
		memcpy(part + i, &n, sizeof(n));
}

/* Not block after block: what belongs together shall lie in several files. */
static uint64_t block_of(uint64_t n)
{
	return n * 37 % BLOCKS;
}

static void write_one(void *arg, uint32_t events)
{
	struct work *w = arg;
	const uint64_t n = ++w->count;
	uint8_t part[PART];
	struct iovec iov = { part, PART };

	(void)events;
	part_of(n, part);
	w->failed |= disk_write(w->disk, &iov, 1, block_of(n) * BLOCK + 512);
	/* Seldom: mostly the save has to see to it that all is in the files. */
	if (n % 10007 == 0)
		w->failed |= disk_flush(w->disk);
	w->failed |= ram_write(w->pmem, w->pmem->region[0].guest_address + n % WORDS * BLOCK, &n,
			       sizeof(n));
	w->failed |= ram_write(&w->r->m.ram, COUNT_AT, &n, sizeof(n));
	atomic_store(&w->done, n);
}

static void assert_disk_is(const struct saving *s, struct disk *d, uint64_t count)
{
	auto_free uint8_t *want = malloc(SIZE), *got = malloc(SIZE);
	struct iovec iov = { got, SIZE };

	assert_true(count > 0);
	memcpy(want, s->before, SIZE);
	for (uint64_t n = count > BLOCKS ? count - BLOCKS + 1 : 1; n <= count; n++)
		part_of(n, want + block_of(n) * BLOCK + 512);
	assert_int_equal(disk_size(d), SIZE);
	assert_int_equal(disk_read(d, &iov, 1, 0), 0);
	for (size_t i = 0; i < SIZE; i++)
		if (want[i] != got[i])
			fail_msg("after %llu writes: byte %zu of block %zu differs",
				 (unsigned long long)count, i % BLOCK, i / BLOCK);
}

static void assert_pmem_is(int fd, uint64_t count)
{
	for (uint64_t n = count > WORDS ? count - WORDS + 1 : 1; n <= count; n++) {
		uint64_t got = 0;

		assert_int_equal(pread(fd, &got, sizeof(got), (off_t)(n % WORDS * BLOCK)),
				 sizeof(got));
		assert_int_equal(got, n);
	}
}

/* ---- the machine ---- */

static Device *device(const char *name, const char *kind, const char *path)
{
	Device *d = malloc(sizeof(*d));

	device__init(d);
	d->name = strdup(name);
	d->kind = strdup(kind);
	d->path = strdup(path);
	return d;
}

static void add_devices(struct saving *s)
{
	Machine *config = malloc(sizeof(*config));
	struct machine *m = &s->r->m;
	struct err e = { 0 };

	machine__init(config);
	config->device = calloc(2, sizeof(*config->device));
	config->n_device = 2;
	config->device[0] = device("disk0", "virtio-blk", s->disk);
	config->device[1] = device("pmem0", "virtio-pmem", s->pmem);
	if (machine_add_virtio(m, config, &e) < 0 || machine_place_memories(m, &e) < 0)
		fail_msg("%s", e.text);
	s->work = (struct work){
		.r = s->r,
		.disk = virtio_blk_disk(machine_find_virtio(m, "disk0")),
		.pmem = virtio_pmem_memory(machine_find_virtio(m, "pmem0")),
		.always = eventfd(1, EFD_CLOEXEC),
	};
	/* It stands: the loop is ours. */
	assert_int_equal(
		loop_add(&m->virtio[0]->io->loop, s->work.always, EPOLLIN, write_one, &s->work), 0);
}

static int make_saving(void **state)
{
	struct saving *s = calloc(1, sizeof(*s));
	const struct folder *f;

	if (!s || folder_make(&s->folder) < 0)
		return -1;
	*state = s;
	f = s->folder;
	snprintf(s->disk, sizeof(s->disk), "%s/disk.img", f->path);
	snprintf(s->pmem, sizeof(s->pmem), "%s/pmem.img", f->path);
	snprintf(s->store, sizeof(s->store), "%s/store", f->path);
	fill_random(s->before, SIZE, 11);
	folder_put(f, "disk.img", s->before, SIZE);
	folder_put(f, "pmem.img", "", 0);
	assert_int_equal(truncate(s->pmem, (off_t)PMEM), 0);
	start_publisher(s);
	s->r = calloc(1, sizeof(*s->r));
	s->r->ram = -1;
	start_console(s->r, 1);
	assert_int_equal(ram_map_memfd(&s->r->m.ram, RAM_SIZE, NULL), 0);
	add_devices(s);
	boot_demo(s->r);
	save_init(&s->save, &s->r->m, &s->publisher);
	machine_release(&s->r->m, HOLD_USER);
	return 0;
}

static int drop_saving(void **state)
{
	struct saving *s = *state;

	if (s->r)
		finish(s->r);
	close(s->work.always);
	end_publisher(s, false);
	return folder_remove(&s->folder) < 0 ? -1 : (free(s), 0);
}

/* Writes go on until there are `more` of them. */
static void wait_for_writes(struct saving *s, uint64_t more)
{
	const uint64_t from = atomic_load(&s->work.done);

	while (atomic_load(&s->work.done) < from + more)
		listen_to(s->r);
}

/* ---- saves ---- */

static void on_done(void *arg, int rc, const struct save_result *result, const struct err *e)
{
	struct saving *s = arg;

	(void)result;
	s->done = true;
	s->rc = rc;
	if (e)
		s->e = *e;
}

static void finish_save(struct saving *s)
{
	while (!s->done)
		save_on_reply(&s->save);
}

static int save_as(struct saving *s, const char *name)
{
	struct err e = { 0 };

	s->done = false;
	s->e = (struct err){ 0 };
	if (save_start(&s->save, name, on_done, s, &e) < 0)
		fail_msg("%s", e.text);
	finish_save(s);
	return s->rc;
}

/* No descriptor of this process can write the file, and no mapping. */
static void assert_not_writable(const struct stat *kept)
{
	auto_file FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long inode;
	char line[512], rights[8];

	for (int fd = 0; fd < 1024; fd++) {
		struct stat st;

		if (fstat(fd, &st) == 0 && st.st_ino == kept->st_ino && st.st_dev == kept->st_dev)
			assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	}
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		assert_int_equal(sscanf(line, "%*x-%*x %7s %*x %*x:%*x %lu", rights, &inode), 2);
		if (inode == kept->st_ino)
			assert_false(rights[1] == 'w' && rights[3] == 's');
	}
}

static int open_kept(const struct saving *s, const char *name, const char *file)
{
	char path[384];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/snapshots/%s/%s", s->store, name, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fd;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0400);
	assert_not_writable(&st);
	return fd;
}

/* What the snapshot's RAM, in layers or not, has at COUNT_AT. */
static uint64_t count_in_ram(const struct saving *s, const char *name)
{
	const struct flat_run *r;
	struct snapdir_file file;
	struct snapdir d;
	struct flat flat;
	uint64_t count = 0;
	char path[256];
	auto_fd int fd = -1;

	snprintf(path, sizeof(path), "%s/snapshots/%s", s->store, name);
	assert_int_equal(proto_snapdir_open(&d, AT_FDCWD, path, name, NULL), 0);
	assert_int_equal(proto_snapdir_read_flat(&d, name, &flat, NULL), 0);
	r = proto_flat_find(&flat, COUNT_AT / RAM_PAGE);
	assert_true(r->from != LAYERMAP_ZEROS);
	proto_snapdir_file(d.manifest, d.layered, r->layer, &file);
	fd = open_kept(s, name, file.path);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &count, sizeof(count),
			       (off_t)((r->from + COUNT_AT / RAM_PAGE - r->page) * RAM_PAGE)),
			 sizeof(count));
	proto_flat_free(&flat);
	proto_snapdir_close(&d);
	return count;
}

/* Disk, pmem and RAM of the snapshot are of one moment; how much was written by then. */
static uint64_t assert_of_one_moment(const struct saving *s, const char *name)
{
	auto_fd int pmem = open_kept(s, name, "disks/pmem0.0");
	int fds[DISK_LAYERS_MAX];
	struct disk *d = NULL;
	uint64_t count = 0;
	unsigned n = 0;
	struct err e = { 0 };

	assert_true(pmem >= 0);
	count = count_in_ram(s, name);
	for (;; n++) {
		char file[32];

		snprintf(file, sizeof(file), "disks/disk0.%u", n);
		fds[n] = open_kept(s, name, file);
		if (fds[n] < 0)
			break;
	}
	assert_true(n > 0);
	if (disk_open_fds(name, fds, n, -1, NULL, true, &d, &e) < 0)
		fail_msg("%s", e.text);
	assert_disk_is(s, d, count);
	assert_pmem_is(pmem, count);
	disk_close(d);
	return count;
}

/* The next start of the disk by its path sees all that was written. */
static void assert_path_has_all(struct saving *s)
{
	struct disk *d = NULL;
	struct err e = { 0 };

	finish(s->r);
	s->r = NULL;
	assert_int_equal(s->work.failed, 0);
	if (disk_open(s->disk, NULL, false, &d, &e) < 0)
		fail_msg("%s", e.text);
	assert_disk_is(s, d, s->work.count);
	disk_close(d);
}

static void saves_have_disk_pmem_and_ram_of_one_moment(void **state)
{
	struct saving *s = *state;
	uint64_t count[ROUNDS];
	char name[16];

	for (unsigned i = 0; i < ROUNDS; i++) {
		wait_for_writes(s, 500);
		snprintf(name, sizeof(name), "s%u", i);
		if (save_as(s, name) < 0)
			fail_msg("%s", s->e.text);
		count[i] = assert_of_one_moment(s, name);
		assert_true(i == 0 || count[i] > count[i - 1]);
	}
	wait_for_writes(s, 500);
	/* What was written since has changed none of them. */
	for (unsigned i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		assert_int_equal(assert_of_one_moment(s, name), count[i]);
	}
	assert_path_has_all(s);
}

static void forget_lost(const struct saving *s)
{
	auto_fd int manifest = open_kept(s, "lost", "manifest.bin");
	char command[512];

	if (manifest < 0)
		return;
	assert_of_one_moment(s, "lost");
	snprintf(command, sizeof(command), "rm -rf '%s/snapshots/lost'", s->store);
	assert_int_equal(system(command), 0);
}

/* The publisher is killed when it has been asked, while the state is taken, and later. */
static void saves_that_fail_lose_nothing(void **state)
{
	struct saving *s = *state;
	char name[16];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct err e = { 0 };

		wait_for_writes(s, 300);
		s->done = false;
		assert_int_equal(save_start(&s->save, "lost", on_done, s, &e), 0);
		for (unsigned answers = i % 3; answers && !s->done; answers--)
			save_on_reply(&s->save);
		end_publisher(s, true);
		finish_save(s);
		publisher_stop(&s->publisher);
		start_publisher(s);
		wait_for_writes(s, 300);
		snprintf(name, sizeof(name), "s%u", i);
		if (save_as(s, name) < 0)
			fail_msg("%s", s->e.text);
		assert_of_one_moment(s, name);
		assert_int_equal(save_start(&s->save, name, on_done, s, &e), 0);
		s->done = false;
		finish_save(s);
		assert_true(s->rc < 0);
		assert_says(&s->e, "there is a snapshot");
		/* It may have been published before the end came. */
		forget_lost(s);
	}
	assert_path_has_all(s);
}

/* A full disk, say: saves that are tried again and again do not make the disk longer. */
static void memory_that_cannot_be_written_out_leaves_the_disk_as_it_is(void **state)
{
	struct saving *s = *state;
	struct machine *m = &s->r->m;
	struct keep k;
	struct err e = { 0 };

	wait_for_writes(s, 300);
	keep_list(&k, m);
	if (keep_prepare(&k, &s->publisher, &e) < 0)
		fail_msg("%s", e.text);
	assert_true(k.item[0].copy_fd >= 0);
	assert_int_equal(close(k.item[0].copy_fd), 0);
	k.item[0].copy_fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	machine_hold(m, HOLD_SAVE);
	assert_true(keep_freeze(&k, NULL, &e) < 0);
	machine_release(m, HOLD_SAVE);
	keep_drop(&k);
	assert_int_equal(disk_layers(s->work.disk), 1);
	assert_int_equal(s->work.pmem->backing, RAM_SHARED);
	wait_for_writes(s, 300);
	assert_path_has_all(s);
	assert_int_equal(faccessat(((struct folder *)s->folder)->fd, "disk.img.ov1", F_OK, 0), -1);
}

/* Said before a save has made one more, also of a machine whose files are mostly a snapshot's. */
static void too_many_files_are_refused_beforehand(void **state)
{
	struct saving *s = *state;
	struct disk *d = NULL;
	struct keep k = { .n = 3 };
	struct err e = { 0 };
	char path[160];

	snprintf(path, sizeof(path), "%s.other", s->disk);
	folder_put(s->folder, "disk.img.other", s->before, SIZE);
	assert_int_equal(disk_open(path, NULL, false, &d, &e), 0);
	k.item[1] = k.item[2] = (struct kept){ .name = "disk0", .disk = d };
	while (disk_layers(d) < DISK_LAYERS_MAX) {
		if (disk_layers(d) == 121) {
			assert_int_equal(keep_check(&k, &s->publisher, &e), -EINVAL);
			assert_says(&e, "of 242 files, of which a snapshot has at most 240");
			assert_int_equal(keep_ask(&k, &s->publisher, "a", &e), -EINVAL);
		}
		assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
		assert_int_equal(disk_freeze(d, NULL), 0);
	}
	k.n = 2;
	assert_int_equal(keep_check(&k, &s->publisher, &e), -EINVAL);
	assert_says(&e, "disk0 has 128 files, which is the most");
	disk_close(d);
}

#define ON_SAVING(name)                                                                            \
	{                                                                                          \
#name, run_##name, make_saving, drop_saving, NULL                                  \
	}

WRAP(saves_have_disk_pmem_and_ram_of_one_moment)
WRAP(saves_that_fail_lose_nothing)
WRAP(memory_that_cannot_be_written_out_leaves_the_disk_as_it_is)
WRAP(too_many_files_are_refused_beforehand)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_SAVING(saves_have_disk_pmem_and_ram_of_one_moment),
		ON_SAVING(saves_that_fail_lose_nothing),
		ON_SAVING(memory_that_cannot_be_written_out_leaves_the_disk_as_it_is),
		ON_SAVING(too_many_files_are_refused_beforehand),
	};
	int rc = need_kvm();

	return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
