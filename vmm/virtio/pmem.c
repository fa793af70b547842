/* Persistent memory: see pmem.h. */
#define _GNU_SOURCE
#include "pmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/virtio_ids.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "proto/bounded.h"
#include "proto/snapdir.h"
#include "transport.h"

#define PMEM_VERSION 1
#define QUEUE_SIZE   64

/* virtio 1.2, 5.19.6 */
#define REQUEST_FLUSH 0
#define RESULT_OK     0
#define RESULT_EIO    1

/* The device configuration space, virtio 1.2, 5.19.4: little-endian, as the host is. */
struct pmem_config {
	uint64_t start, size;
};

struct pmem {
	struct virtio v; /* first */
	bool read_only;
	bool failed; /* the last flush: said once, not at each */
	struct ram memory;
};

static struct pmem *pmem_of(struct virtio *v)
{
	return (struct pmem *)v;
}

/* ---- the file ---- */

static bool is_sealed(int fd)
{
	int flags = 0;

	return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
	       (flags & (FS_VERITY_FL | FS_IMMUTABLE_FL | FS_APPEND_FL));
}

/* A manifest beside the file or, as a snapshot's folder of disks has it, one above. */
static bool is_in_snapshot(const char *path)
{
	static const char *const where[] = { "", "../" };
	const char *slash = strrchr(path, '/');
	const int len = slash ? (int)(slash + 1 - path) : 0;

	for (size_t i = 0; i < 2; i++) {
		auto_free char *manifest = NULL;

		if (asprintf(&manifest, "%.*s%s%s", len, path, where[i], SNAPDIR_MANIFEST) < 0) {
			manifest = NULL;
			return true;
		}
		if (access(manifest, F_OK) == 0)
			return true;
	}
	return false;
}

/* Each thing that says: this may be somebody's snapshot. */
static int check_may_write(int fd, const char *path, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", path);
	if (st.st_nlink != 1)
		return err_refuse(e, EMLINK,
				  "%s has other links, so it may be part of a snapshot: copy it, "
				  "or give it as %s,ro",
				  path, path);
	if (!(st.st_mode & 0222))
		return err_refuse(e, EACCES,
				  "%s is not writable, so it may be part of a snapshot: copy it, "
				  "or give it as %s,ro",
				  path, path);
	if (is_sealed(fd))
		return err_refuse(e, EPERM,
				  "%s is sealed (fs-verity, immutable or append-only): copy it, "
				  "or give it as %s,ro",
				  path, path);
	if (is_in_snapshot(path))
		return err_refuse(e, EEXIST,
				  "%s lies in a folder with a %s, so it is a snapshot's: copy it, "
				  "or give it as %s,ro",
				  path, SNAPDIR_MANIFEST, path);
	return 0;
}

/* Opened without side effects first: a FIFO would wait, and a snapshot shall not be touched. */
static int open_to_look(const char *path, bool read_only, struct err *e)
{
	auto_fd int fd =
		open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (read_only ? 0 : O_NOFOLLOW));
	struct stat st;

	if (fd < 0 && errno == ELOOP)
		return err_refuse(e, ELOOP, "%s is a symbolic link: give the pmem file itself",
				  path);
	if (fd < 0)
		return err_refuse(e, errno, "cannot open pmem file %s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", path);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "%s is not a regular file: pmem needs one", path);
	return take_fd(&fd);
}

static int lock_file(int fd, const char *path, bool read_only, struct err *e)
{
	if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return err_refuse(e, EBUSY, "%s is in use by another machine: %s", path,
				  read_only ? "end that one" : "copy it, or end that one");
	return err_sys(e, errno, "cannot lock %s", path);
}

static int open_file(const char *path, bool read_only, struct err *e)
{
	auto_fd int look = open_to_look(path, read_only, e);
	auto_fd int fd = -1;
	int rc = look < 0 ? look : 0;

	if (rc == 0 && !read_only)
		rc = check_may_write(look, path, e);
	if (rc < 0)
		return rc;
	/* Through the descriptor: the very file that was looked at. */
	fd = read_only ? take_fd(&look) : open(io_fd_path(look).text, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_refuse(e, errno, "cannot open pmem file %s for writing: %s", path,
				  strerror(errno));
	rc = lock_file(fd, path, read_only, e);
	/* Once more now that no machine can save it into a snapshot meanwhile. */
	if (rc == 0 && !read_only)
		rc = check_may_write(fd, path, e);
	return rc < 0 ? rc : take_fd(&fd);
}

/* ---- its memory ---- */

static int check_size(uint64_t size, const char *path, struct err *e)
{
	const uint64_t next = (size | (VIRTIO_PMEM_UNIT - 1)) + 1;

	if (size && size % VIRTIO_PMEM_UNIT == 0 && size <= VIRTIO_PMEM_END_MAX)
		return 0;
	if (size > VIRTIO_PMEM_END_MAX)
		return err_refuse(e, EFBIG, "pmem file %s has %llu bytes, which is too much", path,
				  (unsigned long long)size);
	return err_refuse(e, EINVAL,
			  "pmem file %s has %llu bytes, and needs a multiple of 2 MiB: "
			  "truncate -s %llu %s",
			  path, (unsigned long long)size, (unsigned long long)next, path);
}

/* Takes fd. `path` is for words. */
static int map_file(struct pmem *p, int fd, enum ram_backing backing, const char *path,
		    struct err *e)
{
	auto_fd int own = fd;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", path);
	rc = check_size((uint64_t)st.st_size, path, e);
	if (rc < 0)
		return rc;
	if (p->memory.size && p->memory.size != (uint64_t)st.st_size)
		return err_refuse(
			e, EINVAL, "pmem file %s has %llu bytes, the machine's pmem has %llu", path,
			(unsigned long long)st.st_size, (unsigned long long)p->memory.size);
	rc = ram_map_at(&p->memory, backing, take_fd(&own), (uint64_t)st.st_size,
			p->memory.region[0].guest_address, p->read_only, e);
	return rc < 0 ? err_prefix(e, rc, "pmem file %s", path) : 0;
}

int virtio_pmem_map(struct virtio *v, int fd, enum ram_backing backing, struct err *e)
{
	struct pmem *p = pmem_of(v);

	if (p->memory.base) {
		close(fd);
		return err_refuse(e, EINVAL, "%s has its memory already", v->dev.name);
	}
	return map_file(p, fd, backing, v->dev.name, e);
}

int virtio_pmem_place(struct virtio *v, uint64_t *end, struct err *e)
{
	struct ram *memory = &pmem_of(v)->memory;
	const uint64_t from = *end > RAM_HOLE_END ? *end : RAM_HOLE_END;
	uint64_t at, ends;

	if (__builtin_add_overflow(from, VIRTIO_PMEM_ALIGN - 1, &at) ||
	    __builtin_add_overflow(at & ~(VIRTIO_PMEM_ALIGN - 1), memory->size, &ends) ||
	    ends > VIRTIO_PMEM_END_MAX)
		return err_refuse(e, E2BIG, "%s does not fit into the guest's addresses",
				  v->dev.name);
	memory->region[0].guest_address = at & ~(VIRTIO_PMEM_ALIGN - 1);
	*end = ends;
	return 0;
}

struct ram *virtio_pmem_memory(struct virtio *v)
{
	return &pmem_of(v)->memory;
}

/* ---- the device ---- */

static void close_pmem(struct virtio *v)
{
	ram_unmap(&pmem_of(v)->memory);
	virtio_fini(v);
	free(v);
}

static int open_memory(struct pmem *p, const Device *config, struct err *e)
{
	int fd;

	if (!*config->path)
		return check_size(config->size, config->name, e);
	fd = open_file(config->path, config->read_only, e);
	return fd < 0 ? fd : map_file(p, fd, RAM_SHARED, config->path, e);
}

static int open_pmem(const Device *config, struct virtio **out, struct err *e)
{
	struct pmem *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_sys(e, ENOMEM, "cannot make %s", config->name);
	virtio_init(&p->v, &virtio_pmem_ops, 1, QUEUE_SIZE, 0, sizeof(struct pmem_config));
	p->read_only = config->read_only;
	p->memory = (struct ram){ .fd = -1, .size = config->size };
	rc = open_memory(p, config, e);
	if (rc < 0) {
		close_pmem(&p->v);
		return rc;
	}
	*out = &p->v;
	return 0;
}

static void read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	const struct ram *memory = &pmem_of(v)->memory;
	const struct pmem_config config = { memory->region[0].guest_address, memory->size };

	memcpy(buf, (const uint8_t *)&config + offset, len);
}

/*
 * What the guest has written is in the page cache already: it stores to the
 * mapping. Memory that is not the file's own any more lasts as RAM does, by saves.
 */
static uint32_t flush(struct pmem *p)
{
	const bool failed = p->memory.backing == RAM_SHARED && fdatasync(p->memory.fd) < 0;

	if (failed && !p->failed)
		log_warn("%s cannot be flushed, which its guest is told: %s", p->v.dev.name,
			 strerror(errno));
	p->failed = failed;
	return failed ? RESULT_EIO : RESULT_OK;
}

/* One flush a callback, for each may take seconds and a save waits for the callback's end. */
static void notify(struct virtio *v, unsigned q)
{
	struct virtq_chain c;
	uint32_t type, result;
	int rc;

	if (!virtio_pop(v, q, &c))
		return;
	rc = virtq_read(&c, v->ram, 0, &type, sizeof(type));
	if (rc == 0) {
		result = type == REQUEST_FLUSH ? flush(pmem_of(v)) : RESULT_EIO;
		rc = virtq_write(&c, v->ram, 0, &result, sizeof(result));
	}
	if (rc < 0) {
		virtio_memory_failed(v, q, rc);
		return;
	}
	if (!virtio_push(v, q, &c, sizeof(result)))
		return;
	virtio_signal(v, q);
	virtio_kick(v, q);
}

/* ---- state ---- */

static int save(struct virtio *v, uint8_t **buf, size_t *len)
{
	const struct ram *memory = &pmem_of(v)->memory;
	PmemState s = PMEM_STATE__INIT;

	s.start = memory->region[0].guest_address;
	s.size = memory->size;
	*buf = malloc(pmem_state__get_packed_size(&s) + 1);
	if (!*buf)
		return -ENOMEM;
	*len = pmem_state__pack(&s, *buf);
	return 0;
}

/* The guest has its memory mapped: it must lie where it lay. */
static int load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len, struct err *e)
{
	const struct ram *memory = &pmem_of(v)->memory;
	PmemState *s = (PmemState *)proto_unpack_bounded(&pmem_state__descriptor, buf, len, 4096);
	bool same;

	(void)version;
	if (!s)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", v->dev.name);
	same = s->start == memory->region[0].guest_address && s->size == memory->size;
	pmem_state__free_unpacked(s, NULL);
	if (same)
		return 0;
	return err_refuse(e, EINVAL,
			  "the saved state of %s has its memory elsewhere, or of another size",
			  v->dev.name);
}

const struct virtio_ops virtio_pmem_ops = {
	.kind = "virtio-pmem",
	.id = VIRTIO_ID_PMEM,
	.version = PMEM_VERSION,
	.max = VM_PMEM_MAX,
	.blocks = true,
	.open = open_pmem,
	.close = close_pmem,
	.read_config = read_config,
	.notify = notify,
	.save = save,
	.load = load,
};
