/* Guest RAM: see ram.h. */
#define _GNU_SOURCE
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fault.h"

unsigned ram_layout(uint64_t size, struct ram_region region[RAM_REGIONS])
{
	uint64_t low = size < RAM_HOLE_START ? size : RAM_HOLE_START;

	region[0] = (struct ram_region){ .size = low };
	if (size == low)
		return 1;
	region[1] = (struct ram_region){ RAM_HOLE_END, size - low, low };
	return 2;
}

/* A core dump of vmm is about vmm; and a fork shall not copy a guest. */
static void advise(void *p, uint64_t size)
{
	madvise(p, size, MADV_DONTDUMP);
	madvise(p, size, MADV_DONTFORK);
}

static uint8_t *map(int fd, const struct ram *ram)
{
	const uint64_t size = ram->size;
	const int flags = ram->backing == RAM_PRIVATE ? MAP_PRIVATE : MAP_SHARED;
	const int prot = ram->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	void *p = mmap(NULL, size, prot, flags | MAP_NORESERVE, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	advise(p, size);
	return p;
}

static uint64_t *new_bitmap(uint64_t size)
{
	return calloc((size / RAM_PAGE + 63) / 64, sizeof(uint64_t));
}

/* Maps what *ram says: size, regions, backing, read_only. Takes fd. */
static int map_described(struct ram *ram, int fd, struct err *e)
{
	auto_fd int own = fd;

	ram->fd = -1;
	ram->written = new_bitmap(ram->size);
	if (!ram->written)
		return err_sys(e, ENOMEM, "cannot map guest RAM");
	ram->base = map(fd, ram);
	if (!ram->base) {
		int errnum = errno;

		free(ram->written);
		ram->written = NULL;
		return err_sys(e, errnum, "cannot map guest RAM of %llu bytes",
			       (unsigned long long)ram->size);
	}
	ram->fd = take_fd(&own);
	ram->log_dirty = ram->backing == RAM_PRIVATE && !ram->read_only;
	return 0;
}

int ram_map(struct ram *ram, enum ram_backing backing, int fd, uint64_t size, struct err *e)
{
	*ram = (struct ram){ .size = size, .backing = backing };
	ram->nregions = ram_layout(size, ram->region);
	return map_described(ram, fd, e);
}

int ram_map_at(struct ram *ram, enum ram_backing backing, int fd, uint64_t size, uint64_t address,
	       bool read_only, struct err *e)
{
	*ram = (struct ram){
		.size = size,
		.nregions = 1,
		.region = { { .guest_address = address, .size = size } },
		.backing = read_only ? RAM_PRIVATE : backing,
		.read_only = read_only,
	};
	return map_described(ram, fd, e);
}

/* ---- layers ---- */

static int map_run(const struct ram *ram, const struct flat_run *r)
{
	const bool zeros = r->from == LAYERMAP_ZEROS;
	const uint64_t size = r->count * RAM_PAGE;
	void *at = ram->base + r->page * RAM_PAGE;
	void *p = mmap(at, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (zeros ? MAP_ANONYMOUS : 0),
		       zeros ? -1 : ram->layers->fd[r->layer],
		       zeros ? 0 : (off_t)(r->from * RAM_PAGE));

	if (p == MAP_FAILED)
		return -errno;
	advise(p, size);
	return 0;
}

/* Into the private mapping, whose own pages these become. */
static int read_run(const struct ram *ram, const struct flat_run *r)
{
	static const uint8_t zeros[RAM_PAGE];
	uint8_t *at = ram->base + r->page * RAM_PAGE;
	int rc = 0;

	if (r->from != LAYERMAP_ZEROS)
		return io_pread_full(ram->layers->fd[r->layer], at, r->count * RAM_PAGE,
				     r->from * RAM_PAGE);
	for (uint64_t i = 0; rc == 0 && i < r->count; i++)
		rc = fault_copy(at + i * RAM_PAGE, zeros, RAM_PAGE);
	return rc;
}

static int compare_counts(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* So many pages a run must have at least to be mapped; runs of just so many: as *room says. */
static int choose(const struct flat *f, uint64_t *least, uint64_t *room)
{
	auto_free uint64_t *counts = malloc(f->n * sizeof(*counts));
	size_t n = 0;

	if (!counts)
		return -ENOMEM;
	for (size_t i = 0; i < f->n; i++)
		if (f->run[i].layer)
			counts[n++] = f->run[i].count;
	*least = 0;
	*room = n;
	if (n <= RAM_RUNS_MAX)
		return 0;
	qsort(counts, n, sizeof(*counts), compare_counts);
	*least = counts[RAM_RUNS_MAX - 1];
	*room = 0;
	for (size_t i = 0; i < RAM_RUNS_MAX; i++)
		*room += counts[i] == *least;
	return 0;
}

static int map_runs(const struct ram *ram)
{
	const struct flat *f = &ram->layers->flat;
	uint64_t least, room;
	int rc = choose(f, &least, &room);

	for (size_t i = 0; rc == 0 && i < f->n; i++) {
		const struct flat_run *r = &f->run[i];
		bool mapped;

		if (r->layer == 0)
			continue;
		mapped = r->count > least || (r->count == least && room > 0);
		room -= mapped && r->count == least;
		rc = mapped ? map_run(ram, r) : read_run(ram, r);
	}
	return rc;
}

static struct ram_layers *take_layers(int *fds, unsigned n, struct flat *flat)
{
	struct ram_layers *l = malloc(sizeof(*l) + n * sizeof(l->fd[0]));

	if (!l)
		return NULL;
	l->flat = *flat;
	*flat = (struct flat){ 0 };
	l->n = n;
	l->fd[0] = -1;
	for (unsigned i = 1; i < n; i++)
		l->fd[i] = take_fd(&fds[i]);
	return l;
}

int ram_map_layers(struct ram *ram, int *fds, unsigned n, struct flat *flat, uint64_t size,
		   struct err *e)
{
	struct ram_layers *l = take_layers(fds, n, flat);
	int rc = ram_map(ram, RAM_PRIVATE, take_fd(&fds[0]), size, e);

	ram->layers = l;
	if (rc == 0 && !l)
		rc = err_sys(e, ENOMEM, "cannot map guest RAM");
	if (rc == 0) {
		rc = map_runs(ram);
		if (rc < 0)
			err_sys(e, -rc, "cannot map the layers of guest RAM");
	}
	if (rc == 0)
		return 0;
	for (unsigned i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(take_fd(&fds[i]));
	proto_flat_free(flat);
	ram_unmap(ram);
	return rc;
}

int ram_map_memfd(struct ram *ram, uint64_t size, struct err *e)
{
	auto_fd int fd = memfd_create("guest-ram", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return err_sys(e, errno, "cannot make guest RAM of %llu bytes",
			       (unsigned long long)size);
	return ram_map(ram, RAM_MEMFD, take_fd(&fd), size, e);
}

static void free_layers(struct ram_layers *l)
{
	for (unsigned i = 1; l && i < l->n; i++)
		if (l->fd[i] >= 0)
			close(l->fd[i]);
	if (l)
		proto_flat_free(&l->flat);
	free(l);
}

void ram_unmap(struct ram *ram)
{
	if (ram->base)
		munmap(ram->base, ram->size);
	if (ram->fd >= 0)
		close(ram->fd);
	free_layers(ram->layers);
	free(ram->written);
	*ram = (struct ram){ .fd = -1 };
}

/* The flat offset of [address, address + len), or UINT64_MAX. */
static uint64_t offset_of(const struct ram *ram, uint64_t address, uint64_t len)
{
	for (unsigned i = 0; i < ram->nregions; i++) {
		const struct ram_region *r = &ram->region[i];

		if (address >= r->guest_address && address - r->guest_address <= r->size &&
		    len <= r->size - (address - r->guest_address))
			return r->offset + (address - r->guest_address);
	}
	return UINT64_MAX;
}

bool ram_contains(const struct ram *ram, uint64_t address, uint64_t len)
{
	return offset_of(ram, address, len) != UINT64_MAX;
}

uint64_t ram_end(const struct ram *ram)
{
	const struct ram_region *last = &ram->region[ram->nregions - 1];

	return last->guest_address + last->size;
}

int ram_read(const struct ram *ram, uint64_t address, void *buf, uint64_t len)
{
	uint64_t offset = offset_of(ram, address, len);

	if (offset == UINT64_MAX)
		return -EINVAL;
	return fault_copy(buf, ram->base + offset, len);
}

static void mark(struct ram *ram, uint64_t offset, uint64_t len)
{
	const uint64_t last = (offset + len - 1) / RAM_PAGE;
	uint64_t page = offset / RAM_PAGE;

	/* A word at a time: a guest may have gigabytes marked by one request. */
	while (page <= last) {
		const uint64_t end = (page | 63) < last ? page | 63 : last;
		const uint64_t bits = UINT64_MAX >> (63 - (end - page));

		__atomic_fetch_or(&ram->written[page / 64], bits << (page % 64), __ATOMIC_RELEASE);
		page = end + 1;
	}
}

int ram_write(struct ram *ram, uint64_t address, const void *buf, uint64_t len)
{
	uint64_t offset = offset_of(ram, address, len);
	int rc;

	if (offset == UINT64_MAX)
		return -EINVAL;
	if (ram->read_only)
		return -EROFS;
	if (len == 0)
		return 0;
	rc = fault_copy(ram->base + offset, buf, len);
	/*
	 * Marked behind it, whatever came of it: who takes the mark and copies the page has
	 * what was written. A page half written before a fault has changed too.
	 */
	mark(ram, offset, len);
	return rc;
}

/* The flat offset of an aligned 16-bit word, or UINT64_MAX. */
static uint64_t offset_of_word(const struct ram *ram, uint64_t address)
{
	return address % sizeof(uint16_t) ? UINT64_MAX : offset_of(ram, address, sizeof(uint16_t));
}

int ram_load16(const struct ram *ram, uint64_t address, uint16_t *value)
{
	uint64_t offset = offset_of_word(ram, address);

	if (offset == UINT64_MAX)
		return -EINVAL;
	return fault_load16((const uint16_t *)(const void *)(ram->base + offset), value);
}

int ram_store16(struct ram *ram, uint64_t address, uint16_t value)
{
	uint64_t offset = offset_of_word(ram, address);
	int rc;

	if (offset == UINT64_MAX)
		return -EINVAL;
	rc = fault_store16((uint16_t *)(void *)(ram->base + offset), value);
	mark(ram, offset, sizeof(value));
	return rc;
}

void *ram_host(struct ram *ram, uint64_t address, uint64_t len, bool written)
{
	uint64_t offset = offset_of(ram, address, len);

	if (offset == UINT64_MAX)
		return NULL;
	if (written && len)
		mark(ram, offset, len);
	return ram->base + offset;
}

void ram_take_written(struct ram *ram, uint64_t *bits)
{
	const uint64_t words = (ram->size / RAM_PAGE + 63) / 64;

	for (uint64_t i = 0; i < words; i++)
		/* Mostly there is nothing: a look is cheaper than an exchange. */
		if (__atomic_load_n(&ram->written[i], __ATOMIC_RELAXED))
			bits[i] |= __atomic_exchange_n(&ram->written[i], 0, __ATOMIC_ACQUIRE);
}

uint64_t ram_take_fault(const struct ram *ram)
{
	const uintptr_t at = (uintptr_t)fault_take_address();
	const uint64_t offset = at - (uintptr_t)ram->base;

	for (unsigned i = 0; at && i < ram->nregions; i++) {
		const struct ram_region *r = &ram->region[i];

		if (offset >= r->offset && offset - r->offset < r->size)
			return r->guest_address + (offset - r->offset);
	}
	return UINT64_MAX;
}

int ram_discard(struct ram *ram, uint64_t address, uint64_t len)
{
	const uint64_t offset = offset_of(ram, address, len);
	const int advice = ram->backing == RAM_PRIVATE ? MADV_DONTNEED : MADV_REMOVE;
	int rc;

	if (offset == UINT64_MAX || (address | len) % RAM_PAGE)
		return -EINVAL;
	if (ram->read_only)
		return -EROFS;
	if (ram->backing == RAM_SHARED && !ram->may_punch)
		return -EOPNOTSUPP;
	if (len == 0)
		return 0;
	rc = madvise(ram->base + offset, len, advice) < 0 ? -errno : 0;
	mark(ram, offset, len);
	return rc;
}

int ram_freeze_prepare(const struct ram *ram, struct ram *frozen, struct err *e)
{
	/* A description of its own: the writable one is closed after the freeze. */
	int fd = open(io_fd_path(ram->fd).text, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "cannot open the RAM file again for reading");
	*frozen = (struct ram){ .size = ram->size,
				.nregions = ram->nregions,
				.backing = RAM_PRIVATE };
	memcpy(frozen->region, ram->region, sizeof(frozen->region));
	return map_described(frozen, fd, e);
}

void ram_freeze_commit(struct ram *ram, struct ram *frozen, struct ram_mapping *old)
{
	/* Nobody shall write what is read from now on: our own lock, if any, is shared. */
	flock(ram->fd, LOCK_SH | LOCK_NB);
	flock(frozen->fd, LOCK_SH | LOCK_NB);
	*old = (struct ram_mapping){ ram->base, ram->size, ram->fd };
	free(ram->written);
	*ram = *frozen;
	*frozen = (struct ram){ .fd = -1 };
}

void ram_release(struct ram_mapping *old)
{
	/* In pieces: one munmap of gigabytes holds the address space's lock all along. */
	const uint64_t piece = 64ULL << 20;

	for (uint64_t off = 0; old->base && off < old->size; off += piece)
		munmap(old->base + off, old->size - off < piece ? old->size - off : piece);
	if (old->fd >= 0)
		close(old->fd);
	*old = (struct ram_mapping){ .fd = -1 };
}

/* Whether a line of smaps begins a mapping; then whether it is one of RAM's. */
static bool begins_mapping(const char *line, const struct ram *ram, bool *is_ram)
{
	const uint64_t base = (uintptr_t)ram->base;
	unsigned long long from, to;
	char after;

	/* "7f3b4c000000-7f3b6c000000 rw-p ..."; fields are "Rss:   12 kB" */
	if (sscanf(line, "%llx-%llx%c", &from, &to, &after) != 3)
		return false;
	*is_ram = from >= base && to <= base + ram->size;
	return true;
}

int ram_usage(const struct ram *ram, uint64_t *resident, uint64_t *own)
{
	/* A memory file has no file behind it: its pages are the machine's own. */
	const char *own_field = ram->backing == RAM_MEMFD ? "Rss" : "Anonymous";
	auto_file FILE *f = fopen("/proc/self/smaps", "re");
	char line[512], field[32];
	bool is_ram = false;

	if (!f)
		return -errno;
	*resident = *own = 0;
	while (fgets(line, sizeof(line), f)) {
		unsigned long long kib;

		if (begins_mapping(line, ram, &is_ram) || !is_ram)
			continue;
		if (sscanf(line, "%31[A-Za-z_]: %llu kB", field, &kib) != 2)
			continue;
		if (strcmp(field, "Rss") == 0)
			*resident += kib * 1024;
		if (strcmp(field, own_field) == 0)
			*own += kib * 1024;
	}
	return ferror(f) ? -EIO : 0;
}
