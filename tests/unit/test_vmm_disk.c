/* Disks: chains of files against a flat model, names, locks, freezing, power that is lost. */
#include "unit.h"

#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "base/io.h"
#include "vmm/fault.h"
#include "vmm/virtio/disk.h"

#define SIZE (300 * 4096 + 1536ULL) /* the last block is cut off */

struct rig {
	void *folder; /* first: its fixture */
	char path[128], overlay[128];
	uint8_t model[SIZE];
};

static const struct folder *folder_of(const struct rig *r)
{
	return r->folder;
}

/* A raw disk "disk.img" with random bytes, which are the model too. */
static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || folder_make(&r->folder) < 0)
		return -1;
	snprintf(r->path, sizeof(r->path), "%s/disk.img", folder_of(r)->path);
	snprintf(r->overlay, sizeof(r->overlay), "%s/clone", folder_of(r)->path);
	fill_random(r->model, SIZE, 7);
	folder_put(r->folder, "disk.img", r->model, SIZE);
	*state = r;
	return 0;
}

static int destroy(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	free(r);
	return folder_remove(&folder);
}

static struct disk *must_open(const struct rig *r, const char *overlay, bool read_only)
{
	struct disk *d = NULL;
	struct err e = { 0 };

	if (disk_open(r->path, overlay, read_only, &d, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(disk_size(d), SIZE);
	return d;
}

static void refuse_open(const struct rig *r, const char *overlay, bool read_only, const char *words)
{
	const unsigned before = open_descriptors();
	struct disk *d = NULL;
	struct err e = { 0 };

	assert_true(disk_open(r->path, overlay, read_only, &d, &e) < 0);
	assert_says(&e, words);
	assert_null(d);
	assert_int_equal(open_descriptors(), before);
}

static bool exists(const struct rig *r, const char *name)
{
	return faccessat(folder_of(r)->fd, name, F_OK, 0) == 0;
}

static void link_as(const struct rig *r, const char *from, const char *to)
{
	assert_int_equal(linkat(folder_of(r)->fd, from, folder_of(r)->fd, to, 0), 0);
}

static void assert_is_model(struct disk *d, const uint8_t *model)
{
	auto_free uint8_t *got = malloc(SIZE);
	struct iovec iov = { got, SIZE };

	assert_int_equal(disk_read(d, &iov, 1, 0), 0);
	for (size_t i = 0; i < SIZE; i++)
		if (got[i] != model[i])
			fail_msg("byte %zu of block %zu differs", i % 4096, i / 4096);
}

static void put(struct disk *d, uint8_t *model, uint64_t at, const void *bytes, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)bytes, len };

	assert_int_equal(disk_write(d, &iov, 1, at), 0);
	if (model)
		memcpy(model + at, bytes, len);
}

/* ---- random operations ---- */

/* Bytes in a few pieces, one of them empty. */
static unsigned pieces(uint8_t *buf, size_t len, uint32_t *seed, struct iovec iov[4])
{
	size_t a = next_random(seed) % (len + 1), b = next_random(seed) % (len - a + 1);

	iov[0] = (struct iovec){ buf, a };
	iov[1] = (struct iovec){ buf + a, 0 };
	iov[2] = (struct iovec){ buf + a, b };
	iov[3] = (struct iovec){ buf + a + b, len - a - b };
	return 4;
}

/* What a discard may leave: whole blocks are zeros, parts as they were. */
static void model_discard(uint8_t *model, uint64_t at, uint64_t len, bool raw)
{
	uint64_t start = raw ? at : (at + 4095) / 4096 * 4096;
	uint64_t end = raw ? at + len : (at + len) / 4096 * 4096;

	if (end > start)
		memset(model + start, 0, end - start);
}

static void one_operation(struct disk *d, uint8_t *model, uint32_t *seed)
{
	static uint8_t buf[SIZE];
	const uint64_t unit = next_random(seed) % 3 ? 512 : 4096;
	uint64_t at = next_random(seed) % (SIZE / unit) * unit;
	uint64_t most = next_random(seed) % 8 ? 20 * 4096 : SIZE;
	uint64_t len = next_random(seed) % ((most < SIZE - at ? most : SIZE - at) / 512 + 1) * 512;
	struct iovec iov[4];
	unsigned n = pieces(buf, len, seed, iov);

	switch (next_random(seed) % 16) {
	case 0:
		assert_int_equal(disk_flush(d), 0);
		break;
	case 1:
		assert_int_equal(disk_discard(d, at, len), 0);
		model_discard(model, at, len, disk_layers(d) == 1);
		break;
	case 2:
	case 3:
		assert_int_equal(disk_write_zeroes(d, at, len, next_random(seed) % 2), 0);
		memset(model + at, 0, len);
		break;
	case 4:
	case 5:
	case 6:
	case 7:
	case 8:
		fill_random(buf, len, *seed);
		assert_int_equal(disk_write(d, iov, n, at), 0);
		memcpy(model + at, buf, len);
		break;
	default:
		assert_int_equal(disk_read(d, iov, n, at), 0);
		assert_memory_equal(buf, model + at, len);
	}
}

static void run_model(struct rig *r, unsigned layers, unsigned operations, uint32_t seed)
{
	struct disk *d = must_open(r, NULL, false);
	struct err e = { 0 };

	for (unsigned i = 0; i < operations; i++) {
		one_operation(d, r->model, &seed);
		if (disk_layers(d) < layers && i % 100 == 99) {
			assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
			one_operation(d, r->model, &seed);
			assert_int_equal(disk_freeze(d, &e), 0);
		} else if (next_random(&seed) % 200 == 0) {
			disk_close(d);
			d = must_open(r, NULL, false);
		}
	}
	assert_int_equal(disk_layers(d), layers);
	assert_is_model(d, r->model);
	disk_close(d);
	d = must_open(r, NULL, true);
	assert_int_equal(disk_layers(d), layers);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void raw_disk_is_the_model(void **state)
{
	run_model(*state, 1, 2000, 1);
}

static void one_overlay_is_the_model(void **state)
{
	run_model(*state, 2, 4000, 2);
}

static void chain_of_five_is_the_model(void **state)
{
	run_model(*state, 5, 4000, 3);
}

static void long_chain_ends_with_words(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	struct err e = { 0 };
	uint8_t byte[512] = { 1 };

	for (unsigned i = 1; i < DISK_LAYERS_MAX; i++) {
		byte[1] = (uint8_t)i;
		put(d, r->model, i * 4096ULL, byte, 512);
		assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
		assert_int_equal(disk_freeze(d, &e), 0);
	}
	assert_true(disk_freeze_prepare(d, -1, &e) < 0);
	assert_says(&e, "copy it to a new file");
	assert_is_model(d, r->model);
	disk_close(d);
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), DISK_LAYERS_MAX);
	assert_is_model(d, r->model);
	disk_close(d);
	/* The written one is part of a snapshot now: there is no room for one more. */
	link_as(r, "disk.img.ov127", "kept");
	refuse_open(r, NULL, false, "copy the disk to a new file");
}

/* ---- bounds ---- */

static void io_outside_the_disk_is_einval(void **state)
{
	struct disk *d = must_open(*state, NULL, false);
	uint8_t byte[1024];
	struct iovec iov = { byte, sizeof(byte) };

	assert_int_equal(disk_read(d, &iov, 1, SIZE - 512), -EINVAL);
	assert_int_equal(disk_write(d, &iov, 1, SIZE - 512), -EINVAL);
	assert_int_equal(disk_read(d, &iov, 1, UINT64_MAX - 511), -EINVAL);
	assert_int_equal(disk_discard(d, SIZE, 512), -EINVAL);
	assert_int_equal(disk_write_zeroes(d, 512, UINT64_MAX, true), -EINVAL);
	assert_int_equal(disk_read(d, &iov, 1, SIZE - 1024), 0);
	assert_int_equal(disk_read(d, &iov, 0, SIZE), 0);
	disk_close(d);
}

static void read_only_disk_is_erofs(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, true);
	struct iovec iov = { r->model, 512 };

	assert_int_equal(disk_write(d, &iov, 1, 0), -EROFS);
	assert_int_equal(disk_discard(d, 0, 4096), -EROFS);
	assert_int_equal(disk_write_zeroes(d, 0, 4096, false), -EROFS);
	assert_int_equal(disk_flush(d), 0);
	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	assert_int_equal(disk_freeze(d, NULL), 0);
	assert_int_equal(disk_layers(d), 1);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void file_that_became_shorter_is_eio(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, true);
	uint8_t byte[512];
	struct iovec iov = { byte, sizeof(byte) };

	assert_int_equal(truncate(r->path, 4096), 0);
	assert_int_equal(disk_read(d, &iov, 1, 8192), -EIO);
	assert_int_equal(disk_read(d, &iov, 1, 0), 0);
	disk_close(d);
}

static void guest_page_that_is_lost_is_efault_and_done_again(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, r->overlay, false);
	auto_fd int fd = memfd_create("guest", MFD_CLOEXEC);
	uint8_t *page, bytes[512];
	struct iovec iov[2];

	assert_int_equal(fault_install(), 0);
	assert_int_equal(ftruncate(fd, 8192), 0);
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(page != MAP_FAILED);
	fill_random(bytes, sizeof(bytes), 5);
	assert_int_equal(disk_write_zeroes(d, 8 * 4096, 4096, true), 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	iov[0] = (struct iovec){ bytes, 512 };
	iov[1] = (struct iovec){ page + 4096, 512 };
	assert_int_equal(disk_read(d, iov, 2, 0), -EFAULT);		  /* by the kernel */
	assert_int_equal(disk_read(d, iov, 2, 8 * 4096), -EFAULT);	  /* zeros */
	assert_int_equal(disk_write(d, iov, 2, 5 * 4096 + 512), -EFAULT); /* a part */
	iov[1] = (struct iovec){ page + 4096, 4096 };
	assert_int_equal(disk_write(d, &iov[1], 1, 6 * 4096), -EFAULT); /* a whole block */
	assert_is_model(d, (memset(r->model + 8 * 4096, 0, 4096), r->model));
	assert_int_equal(ftruncate(fd, 8192), 0);
	memset(page + 4096, 0x5a, 4096);
	assert_int_equal(disk_write(d, &iov[1], 1, 6 * 4096), 0);
	memset(r->model + 6 * 4096, 0x5a, 4096);
	assert_is_model(d, r->model);
	munmap(page, 8192);
	disk_close(d);
}

/* ---- power that is lost ---- */

/* The files as they are now, under other names: what a crash would leave at the worst. */
static void copy_as(const struct rig *r, const char *from, const char *to)
{
	auto_fd int in = openat(folder_of(r)->fd, from, O_RDONLY | O_CLOEXEC);
	auto_fd int out = folder_file(r->folder, to, "", 0);
	struct stat st;

	assert_int_equal(fstat(in, &st), 0);
	assert_int_equal(io_copy_file(in, out, (uint64_t)st.st_size, NULL), 0);
}

static void crash_leaves_the_last_flush(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *flushed = malloc(SIZE);
	struct disk *d = must_open(r, NULL, false), *after = NULL;
	uint8_t bytes[3 * 4096];
	char path[160];

	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	assert_int_equal(disk_freeze(d, NULL), 0);
	fill_random(bytes, sizeof(bytes), 9);
	put(d, r->model, 10 * 4096 + 512, bytes, sizeof(bytes));
	assert_int_equal(disk_write_zeroes(d, 20 * 4096, 8192, true), 0);
	memset(r->model + 20 * 4096, 0, 8192);
	assert_int_equal(disk_flush(d), 0);
	memcpy(flushed, r->model, SIZE);
	/* Not flushed: blocks that the overlay did not have. */
	put(d, NULL, 40 * 4096, bytes, sizeof(bytes));
	put(d, NULL, 60 * 4096 + 1024, bytes, 512);
	assert_int_equal(disk_discard(d, 80 * 4096, 40960), 0);
	copy_as(r, "disk.img", "crashed");
	copy_as(r, "disk.img.ov1", "crashed.ov1");
	disk_close(d);
	snprintf(path, sizeof(path), "%s/crashed", folder_of(r)->path);
	assert_int_equal(disk_open(path, NULL, false, &after, NULL), 0);
	assert_is_model(after, flushed);
	disk_close(after);
	/* The one that was closed in order has all. */
	memcpy(r->model + 40 * 4096, bytes, sizeof(bytes));
	memcpy(r->model + 60 * 4096 + 1024, bytes, 512);
	memset(r->model + 80 * 4096, 0, 40960);
	d = must_open(r, NULL, true);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void stale_data_of_an_unflushed_block_does_not_come_back(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, r->overlay, false);
	uint8_t bytes[4096];

	/* Data, then zeros, then a part: the rest of the block is zeros. */
	fill_random(bytes, sizeof(bytes), 4);
	put(d, r->model, 4096, bytes, sizeof(bytes));
	assert_int_equal(disk_discard(d, 4096, 4096), 0);
	memset(r->model + 4096, 0, 4096);
	put(d, r->model, 4096 + 512, bytes, 512);
	assert_is_model(d, r->model);
	disk_close(d);
}

/* ---- names ---- */

static void raw_bytes_are_never_taken_for_an_overlay(void **state)
{
	struct rig *r = *state;
	auto_fd int fd = open(r->path, O_RDWR | O_CLOEXEC);
	auto_fd int fake = folder_file(r->folder, "fake", "", 0);
	struct disk *d;

	/* The guest writes an overlay's first blocks on its disk. */
	assert_int_equal(overlay_format(fake, SIZE, NULL, NULL), 0);
	assert_int_equal(io_pread_full(fake, r->model, 8192, 0), 0);
	assert_int_equal(io_pwrite_full(fd, r->model, 8192, 0), 0);
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), 1);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void overlay_name_as_a_disk_is_refused(void **state)
{
	struct rig *r = *state;

	link_as(r, "disk.img", "x.ov1");
	snprintf(r->path, sizeof(r->path), "%s/x.ov1", folder_of(r)->path);
	refuse_open(r, NULL, false, "is an overlay by its name");
}

static void names_that_are_not_there_are_said(void **state)
{
	struct rig *r = *state;
	char path[sizeof(r->path)];

	refuse_open(r, r->overlay, true, "clone is missing");
	refuse_open(r, "/nowhere/at/all", false, "cannot open the folder of /nowhere/at/all");
	memcpy(path, r->path, sizeof(path));
	snprintf(r->path, sizeof(r->path), "%s/other", folder_of(r)->path);
	refuse_open(r, NULL, false, "other is missing");
	snprintf(r->path, sizeof(r->path), "%s", folder_of(r)->path);
	refuse_open(r, NULL, false, "not a regular file");
	memcpy(r->path, path, sizeof(path));
	assert_int_equal(truncate(r->path, 1000), 0);
	refuse_open(r, NULL, false, "1000 bytes");
	assert_int_equal(truncate(r->path, 0), 0);
	refuse_open(r, NULL, false, "0 bytes");
}

static void overlay_option_leaves_the_base_alone(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *base = malloc(SIZE);
	struct disk *a, *b;
	uint8_t bytes[512];
	char second[160];

	memcpy(base, r->model, SIZE);
	snprintf(second, sizeof(second), "%s/second", folder_of(r)->path);
	a = must_open(r, r->overlay, false);
	b = must_open(r, second, false); /* two clones of one disk at once */
	fill_random(bytes, sizeof(bytes), 11);
	put(a, r->model, 4096 * 7, bytes, sizeof(bytes));
	assert_is_model(a, r->model);
	assert_is_model(b, base);
	disk_close(a);
	disk_close(b);
	a = must_open(r, r->overlay, false);
	assert_is_model(a, r->model);
	assert_int_equal(disk_layers(a), 2);
	disk_close(a);
	a = must_open(r, NULL, false);
	assert_is_model(a, base);
	disk_close(a);
}

static void overlay_stays_with_the_layers_it_was_made_over(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *clone = malloc(SIZE);
	struct disk *d = must_open(r, r->overlay, false);
	uint8_t bytes[512] = { 42 };

	disk_close(d);
	memcpy(clone, r->model, SIZE);
	/* The base becomes part of a snapshot and goes on in an overlay of its own. */
	link_as(r, "disk.img", "kept");
	d = must_open(r, NULL, false);
	put(d, r->model, 0, bytes, 512);
	disk_close(d);
	assert_true(exists(r, "disk.img.ov1"));
	d = must_open(r, r->overlay, false);
	assert_int_equal(disk_layers(d), 2);
	assert_is_model(d, clone);
	disk_close(d);
	d = must_open(r, NULL, true);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void overlay_over_another_one_is_refused(void **state)
{
	struct rig *r = *state;
	struct disk *d;

	link_as(r, "disk.img", "kept");
	d = must_open(r, r->overlay, false);
	disk_close(d);
	link_as(r, "clone", "disk.img.ov1"); /* right: made over the raw file */
	link_as(r, "clone", "disk.img.ov2"); /* wrong */
	refuse_open(r, NULL, true, "not made over");
	assert_int_equal(unlinkat(folder_of(r)->fd, "disk.img.ov2", 0), 0);
	d = must_open(r, NULL, true);
	disk_close(d);
	/* And of another size. */
	assert_int_equal(truncate(r->path, 4096), 0);
	refuse_open(r, NULL, true, "is for a disk of");
}

static void hostile_overlay_of_a_disk_is_refused(void **state)
{
	struct rig *r = *state;

	folder_put(r->folder, "disk.img.ov1", "nothing", 7);
	refuse_open(r, NULL, false, "disk.img.ov1: it is shorter");
	assert_int_equal(unlinkat(folder_of(r)->fd, "disk.img.ov1", 0), 0);
	assert_int_equal(symlinkat("disk.img", folder_of(r)->fd, "disk.img.ov1"), 0);
	refuse_open(r, NULL, false, "symbolic link");
	assert_int_equal(unlinkat(folder_of(r)->fd, "disk.img.ov1", 0), 0);
	assert_int_equal(mkfifoat(folder_of(r)->fd, "disk.img.ov1", 0600), 0);
	refuse_open(r, NULL, false, "not a regular file");
}

/* ---- what is never written ---- */

static void linked_file_is_never_written(void **state)
{
	struct rig *r = *state;
	uint8_t bytes[512] = { 1, 2, 3 };
	struct disk *d;

	link_as(r, "disk.img", "kept");
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), 2);
	put(d, r->model, 0, bytes, 512);
	disk_close(d);
	/* Its overlay is written as long as it has one name, */
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), 2);
	put(d, r->model, 512, bytes, 512);
	disk_close(d);
	link_as(r, "disk.img.ov1", "kept.1");
	d = must_open(r, NULL, true);
	assert_int_equal(disk_layers(d), 2);
	disk_close(d);
	assert_false(exists(r, "disk.img.ov2"));
	/* and then neither. */
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), 3);
	put(d, r->model, 1024, bytes, 512);
	assert_is_model(d, r->model);
	disk_close(d);
	assert_true(exists(r, "disk.img.ov2"));
}

static void read_only_file_is_never_written(void **state)
{
	struct rig *r = *state;
	struct disk *d;

	assert_int_equal(chmod(r->path, 0400), 0);
	d = must_open(r, NULL, false);
	assert_int_equal(disk_layers(d), 2);
	disk_close(d);
}

/* ---- locks ---- */

static void second_writer_and_reader_are_refused(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);

	refuse_open(r, NULL, false, "in use by another machine");
	refuse_open(r, NULL, true, "in use by another machine");
	refuse_open(r, r->overlay, false, "in use by another machine");
	assert_false(exists(r, "clone"));
	disk_close(d);
	d = must_open(r, NULL, true);
	refuse_open(r, NULL, false, "in use by another machine");
	disk_close(must_open(r, NULL, true)); /* readers are many */
	disk_close(d);
	d = must_open(r, r->overlay, false);
	refuse_open(r, r->overlay, false, "in use by another machine");
	refuse_open(r, NULL, false, "in use by another machine");
	disk_close(d);
	disk_close(must_open(r, NULL, false));
}

static void lock_follows_a_freeze(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	auto_fd int fd = open(r->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	refuse_open(r, NULL, false, "in use by another machine");
	assert_int_equal(disk_freeze(d, NULL), 0);
	refuse_open(r, NULL, false, "in use by another machine");
	refuse_open(r, NULL, true, "in use by another machine");
	/* The frozen file may be read by others, and by nobody written. */
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0);
	disk_close(d);
}

static void disk_in_a_snapshot_is_only_read(void **state)
{
	struct rig *r = *state;
	const struct folder *f = folder_of(r);
	struct disk_identity id;
	struct err e = { 0 };

	assert_int_equal(mkdirat(f->fd, "snapshot", 0700), 0);
	assert_int_equal(mkdirat(f->fd, "snapshot/disks", 0700), 0);
	folder_put(f, "snapshot/manifest.bin", "", 0);
	assert_int_equal(renameat(f->fd, "disk.img", f->fd, "snapshot/disks/disk0.0"), 0);
	snprintf(r->path, sizeof(r->path), "%s/snapshot/disks/disk0.0", f->path);
	refuse_open(r, NULL, false, "lies in a folder with a manifest.bin");
	assert_true(disk_probe(r->path, NULL, false, &id, &e) < 0);
	assert_false(exists(r, "snapshot/disks/disk0.0.ov1"));
	disk_close(must_open(r, NULL, true));
	disk_close(must_open(r, r->overlay, false)); /* over it, in a folder of its own */
	snprintf(r->overlay, sizeof(r->overlay), "%s/snapshot/clone", f->path);
	refuse_open(r, r->overlay, false, "lies in a folder with a manifest.bin");
}

static void probe_looks_and_touches_nothing(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	struct disk_identity id, same;
	struct err e = { 0 };
	struct stat st;

	assert_int_equal(disk_probe(r->path, r->overlay, false, &id, &e), 0); /* though in use */
	assert_int_equal(id.size, SIZE);
	assert_int_equal(stat(r->path, &st), 0);
	assert_int_equal(id.inode, st.st_ino);
	assert_int_equal(disk_identify(d, &same), 0);
	assert_memory_equal(&id, &same, sizeof(id));
	disk_close(d);
	link_as(r, "disk.img", "kept");
	assert_int_equal(disk_probe(r->path, NULL, false, &id, &e), 0);
	assert_false(exists(r, "disk.img.ov1"));
	assert_false(exists(r, "clone"));
	assert_true(disk_probe(r->path, r->overlay, true, &id, &e) < 0);
	assert_says(&e, "clone is missing");
}

/* ---- freezing ---- */

static void freeze_keeps_the_files_while_the_disk_goes_on(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *kept = malloc(SIZE);
	struct disk *d = must_open(r, NULL, false), *old = NULL;
	struct disk_file file[4];
	uint8_t bytes[512] = { 7 };
	int fds[2];

	assert_int_equal(disk_files(d, false, file, 4), 0);
	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	put(d, r->model, 0, bytes, 512); /* the guest still runs */
	assert_int_equal(disk_freeze(d, NULL), 0);
	put(d, r->model, 8192, bytes, 512);
	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	assert_int_equal(disk_freeze(d, NULL), 0);
	memcpy(kept, r->model, SIZE);
	put(d, r->model, 512, bytes, 512);
	assert_int_equal(disk_write_zeroes(d, 8192, 65536, true), 0);
	memset(r->model + 8192, 0, 65536);
	assert_int_equal(disk_files(d, false, file, 1), -E2BIG);
	assert_int_equal(disk_files(d, false, file, 4), 2);
	assert_int_equal(file[0].size, SIZE);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fcntl(file[i].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
		assert_int_equal(fcntl(file[i].fd, F_GETFD), FD_CLOEXEC);
		fds[i] = file[i].fd;
	}
	assert_int_equal(disk_open_fds("disk0", fds, 2, -1, NULL, true, &old, NULL), 0);
	assert_is_model(old, kept);
	assert_is_model(d, r->model);
	disk_close(old);
	disk_close(d);
}

static void frozen_file_has_no_writer_left(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	auto_fd int fd = -1;

	for (int i = 0; i < 2; i++) { /* the raw file, an overlay */
		assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
		assert_int_equal(disk_freeze(d, NULL), 0);
	}
	/* A read lease is granted only where nobody has the file open for writing. */
	fd = open(r->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
	close(fd);
	fd = openat(folder_of(r)->fd, "disk.img.ov1", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
	disk_close(d);
}

static void freeze_aborted_leaves_nothing(void **state)
{
	struct rig *r = *state;
	const unsigned before = open_descriptors();
	struct disk *d = must_open(r, NULL, false);
	struct err e = { 0 };
	uint8_t bytes[512] = { 9 };

	for (int i = 0; i < 3; i++) {
		assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
		assert_true(exists(r, "disk.img.ov1"));
		assert_true(disk_freeze_prepare(d, -1, &e) < 0);
		disk_freeze_abort(d);
		disk_freeze_abort(d);
		assert_false(exists(r, "disk.img.ov1"));
	}
	assert_true(disk_freeze(d, &e) < 0);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
	put(d, r->model, 0, bytes, 512);
	disk_close(d); /* as well an abort */
	assert_false(exists(r, "disk.img.ov1"));
	assert_int_equal(open_descriptors(), before);
	d = must_open(r, NULL, false);
	assert_is_model(d, r->model);
	disk_close(d);
}

static void freeze_whose_name_is_taken_is_refused(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	struct err e = { 0 };

	folder_put(r->folder, "disk.img.ov1", "mine", 4);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), -EEXIST);
	assert_says(&e, "disk.img.ov1");
	disk_freeze_abort(d);
	assert_true(exists(r, "disk.img.ov1"));
	disk_close(d);
}

/* The overlay would be of a disk that is not there, or lie over a strange one at the next start. */
static void freeze_beside_a_name_that_is_not_its_own_is_refused(void **state)
{
	struct rig *r = *state;
	const int folder = folder_of(r)->fd;
	struct disk *d = must_open(r, NULL, false);
	struct err e = { 0 };

	assert_int_equal(renameat(folder, "disk.img", folder, "moved.img"), 0);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), -ESTALE);
	assert_says(&e, "disk.img was removed, renamed or replaced");
	folder_put(r->folder, "disk.img", r->model, SIZE);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), -ESTALE);
	assert_false(exists(r, "disk.img.ov1"));
	/* It is mended by what was asked for. */
	assert_int_equal(renameat(folder, "moved.img", folder, "disk.img"), 0);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
	assert_int_equal(disk_freeze(d, &e), 0);
	/* The same of an overlay that is the top. */
	assert_int_equal(unlinkat(folder, "disk.img.ov1", 0), 0);
	assert_int_equal(disk_freeze_prepare(d, -1, &e), -ESTALE);
	assert_says(&e, "disk.img.ov1 was removed");
	assert_is_model(d, r->model);
	disk_close(d);
}

/* ---- from descriptors ---- */

static int nameless(const struct rig *r)
{
	int fd = openat(folder_of(r)->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void anonymous_chain_goes_on_and_is_frozen(void **state)
{
	struct rig *r = *state;
	const unsigned before = open_descriptors();
	auto_free uint8_t *base = malloc(SIZE);
	struct disk *d = NULL;
	struct disk_file file[4];
	struct err e = { 0 };
	uint8_t bytes[512] = { 3 };
	int fd = open(r->path, O_RDONLY | O_CLOEXEC);

	memcpy(base, r->model, SIZE);
	assert_int_equal(disk_open_fds("disk0", &fd, 1, nameless(r), NULL, false, &d, &e), 0);
	assert_true(disk_is_anonymous(d));
	put(d, r->model, 512, bytes, 512);
	assert_true(disk_freeze_prepare(d, -1, &e) < 0);
	assert_int_equal(disk_freeze_prepare(d, nameless(r), &e), 0);
	disk_freeze_abort(d);
	assert_int_equal(disk_freeze_prepare(d, nameless(r), &e), 0);
	assert_int_equal(disk_freeze(d, &e), 0);
	put(d, r->model, 81920, bytes, 512);
	assert_is_model(d, r->model);
	assert_int_equal(disk_layers(d), 3);
	/* The frozen one can still be given a name, by whoever publishes it. */
	assert_int_equal(disk_files(d, false, file, 4), 2);
	assert_int_equal(linkat(AT_FDCWD, io_fd_path(file[1].fd).text, folder_of(r)->fd,
				"published", AT_SYMLINK_FOLLOW),
			 0);
	close(file[0].fd);
	close(file[1].fd);
	disk_close(d);
	assert_int_equal(open_descriptors(), before);
	d = must_open(r, NULL, true);
	assert_is_model(d, base);
	disk_close(d);
}

static void snapshot_with_a_named_overlay_needs_a_new_one(void **state)
{
	struct rig *r = *state;
	const unsigned before = open_descriptors();
	struct disk *d = NULL;
	struct err e = { 0 };
	int fd = open(r->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(disk_open_fds("disk0", &fd, 1, -1, r->overlay, false, &d, &e), 0);
	assert_false(disk_is_anonymous(d));
	assert_int_equal(disk_freeze_prepare(d, -1, &e), 0);
	assert_int_equal(disk_freeze(d, &e), 0);
	assert_true(exists(r, "clone.ov1"));
	disk_close(d);
	fd = open(r->path, O_RDONLY | O_CLOEXEC);
	assert_true(disk_open_fds("disk0", &fd, 1, -1, r->overlay, false, &d, &e) < 0);
	assert_says(&e, "needs a new one");
	assert_int_equal(open_descriptors(), before);
}

static void hostile_chain_of_descriptors_is_refused(void **state)
{
	struct rig *r = *state;
	const unsigned before = open_descriptors();
	int fds[2] = { open(r->path, O_RDONLY | O_CLOEXEC), open(r->path, O_RDONLY | O_CLOEXEC) };
	struct disk *d = NULL;
	struct err e = { 0 };

	assert_true(disk_open_fds("disk0", fds, 2, nameless(r), NULL, false, &d, &e) < 0);
	assert_says(&e, "file 1 of disk disk0: it is no overlay");
	assert_true(disk_open_fds("disk0", fds, 0, nameless(r), NULL, false, &d, &e) < 0);
	assert_says(&e, "has 0 files");
	assert_int_equal(open_descriptors(), before);
}

static void reflink_is_whole_or_not_supported(void **state)
{
	struct rig *r = *state;
	struct disk *d = must_open(r, NULL, false);
	auto_fd int fd = nameless(r);
	int rc = disk_try_reflink(d, fd);

	if (rc == 0) {
		auto_free uint8_t *got = malloc(SIZE);

		assert_int_equal(io_pread_full(fd, got, SIZE, 0), 0);
		assert_memory_equal(got, r->model, SIZE);
	} else {
		assert_int_equal(rc, -EOPNOTSUPP);
	}
	assert_int_equal(disk_freeze_prepare(d, -1, NULL), 0);
	assert_int_equal(disk_freeze(d, NULL), 0);
	assert_int_equal(disk_try_reflink(d, fd), -EOPNOTSUPP); /* more than one file */
	disk_close(d);
}

/* ---- a full file system ---- */

/* On a tmpfs of 1 MiB of this child's own. 0, 77 where it may not mount, else a failure. */
static int write_until_full(const char *folder)
{
	static uint8_t bytes[64 << 10], got[64 << 10];
	struct iovec iov = { bytes, sizeof(bytes) }, back = { got, sizeof(got) };
	struct disk *d = NULL;
	char path[160];
	uint64_t at;
	int fd, rc = 0;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", folder, "tmpfs", 0, "size=1m") < 0)
		return 77;
	snprintf(path, sizeof(path), "%s/small", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0400); /* so: an overlay */
	if (fd < 0 || ftruncate(fd, 8 << 20) < 0 || disk_open(path, NULL, false, &d, NULL) < 0)
		return 1;
	memset(bytes, 0x77, sizeof(bytes));
	for (at = 0; rc == 0 && at < 8 << 20; at += sizeof(bytes))
		rc = disk_write(d, &iov, 1, at);
	if (rc != -ENOSPC || at < 2 * sizeof(bytes))
		return 2;
	if (disk_read(d, &back, 1, 0) < 0 || memcmp(got, bytes, sizeof(got)) != 0)
		return 3;
	/* Room made by a discard is room for the guest again. */
	if (disk_discard(d, 0, 2 * sizeof(bytes)) < 0 ||
	    disk_write(d, &iov, 1, at - sizeof(bytes)) < 0 || disk_flush(d) < 0)
		return 4;
	if (disk_read(d, &back, 1, 0) < 0 || !io_is_zero(got, sizeof(got)))
		return 5;
	disk_close(d);
	return 0;
}

static void full_file_system_is_enospc_and_loses_nothing(void **state)
{
	struct rig *r = *state;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(write_until_full(folder_of(r)->path));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("a tmpfs cannot be mounted here: needs root\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define ON_DISK(f) cmocka_unit_test_setup_teardown(f, make, destroy)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_DISK(raw_disk_is_the_model),
		ON_DISK(one_overlay_is_the_model),
		ON_DISK(chain_of_five_is_the_model),
		ON_DISK(long_chain_ends_with_words),
		ON_DISK(io_outside_the_disk_is_einval),
		ON_DISK(read_only_disk_is_erofs),
		ON_DISK(file_that_became_shorter_is_eio),
		ON_DISK(guest_page_that_is_lost_is_efault_and_done_again),
		ON_DISK(crash_leaves_the_last_flush),
		ON_DISK(stale_data_of_an_unflushed_block_does_not_come_back),
		ON_DISK(raw_bytes_are_never_taken_for_an_overlay),
		ON_DISK(overlay_name_as_a_disk_is_refused),
		ON_DISK(names_that_are_not_there_are_said),
		ON_DISK(overlay_option_leaves_the_base_alone),
		ON_DISK(overlay_stays_with_the_layers_it_was_made_over),
		ON_DISK(overlay_over_another_one_is_refused),
		ON_DISK(hostile_overlay_of_a_disk_is_refused),
		ON_DISK(linked_file_is_never_written),
		ON_DISK(read_only_file_is_never_written),
		ON_DISK(second_writer_and_reader_are_refused),
		ON_DISK(disk_in_a_snapshot_is_only_read),
		ON_DISK(lock_follows_a_freeze),
		ON_DISK(probe_looks_and_touches_nothing),
		ON_DISK(freeze_keeps_the_files_while_the_disk_goes_on),
		ON_DISK(frozen_file_has_no_writer_left),
		ON_DISK(freeze_aborted_leaves_nothing),
		ON_DISK(freeze_whose_name_is_taken_is_refused),
		ON_DISK(freeze_beside_a_name_that_is_not_its_own_is_refused),
		ON_DISK(anonymous_chain_goes_on_and_is_frozen),
		ON_DISK(snapshot_with_a_named_overlay_needs_a_new_one),
		ON_DISK(hostile_chain_of_descriptors_is_refused),
		ON_DISK(reflink_is_whole_or_not_supported),
		ON_DISK(full_file_system_is_enospc_and_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
