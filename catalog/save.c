/* A snapshot made durable and published: see publish.h for the order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/publish.h"
#include "proto/bounded.h"
#include "proto/snapdir.h"

#define DRAFT_BUDGET (16U << 20)

/* What cat_save_commit() works with besides what it was given. */
struct work {
	SnapshotManifest *draft; /* owned */
	uint8_t *state;		 /* owned */
	size_t state_size;
	int memory; /* memory.bin in the place, read-only, owned */
	struct lease lease;
	bool linked;
	mode_t was_mode; /* of the RAM file that was linked */
};

static void notice(struct save *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void notice(struct save *s, const char *fmt, ...)
{
	va_list ap;

	if (s->n_notice == SAVE_NOTICES)
		return;
	va_start(ap, fmt);
	vsnprintf(s->notice[s->n_notice++], sizeof(s->notice[0]), fmt, ap);
	va_end(ap);
}

/* Names what is missing where that is space; any other failure keeps its words. */
static int explain(const struct save *s, const struct work *w, int rc, struct err *e)
{
	char need[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];
	struct statvfs fs = { 0 };

	if (rc != -ENOSPC && rc != -EDQUOT)
		return rc;
	fstatvfs(s->place->holder, &fs);
	return err_env(e, -rc,
		       "there is no space for snapshot %s: it needs up to %s and %s are free; make "
		       "room and save again",
		       s->place->path,
		       text_format_size(w->draft ? w->draft->memory_size_bytes : 0, need),
		       text_format_size((uint64_t)fs.f_bavail * fs.f_frsize, have));
}

/* Reads a passed file whole, of at most `max` bytes. */
static int read_passed(int fd, const char *what, size_t max, uint8_t **buf, size_t *len,
		       struct err *e)
{
	auto_free uint8_t *data = NULL;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "the %s is not passed as a regular file", what);
	if (st.st_size < 0 || (uint64_t)st.st_size > max)
		return err_refuse(e, EFBIG, "the %s has %lld bytes, more than %zu", what,
				  (long long)st.st_size, max);
	*len = (size_t)st.st_size;
	data = malloc(*len ? *len : 1);
	if (!data)
		return err_sys(e, ENOMEM, "cannot read the %s", what);
	rc = io_pread_full(fd, data, *len, 0);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read the %s", what);
	*buf = take_ptr(&data);
	return 0;
}

static int read_draft(const struct save *s, struct work *w, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = read_passed(s->draft, "manifest", MANIFEST_MAX, &buf, &len, e);

	if (rc < 0)
		return rc;
	w->draft = (SnapshotManifest *)proto_unpack_bounded(&snapshot_manifest__descriptor, buf,
							    len, DRAFT_BUDGET);
	if (!w->draft || !w->draft->created_at || w->draft->created_at->seconds < 0 ||
	    w->draft->created_at->nanos < 0 || w->draft->created_at->nanos > 999999999)
		return err_refuse(e, EBADMSG, "the manifest that was passed is not one");
	return 0;
}

static int read_state(const struct save *s, struct work *w, struct err *e)
{
	VmState *state = NULL;
	int rc = read_passed(s->state, "state", STATE_MAX, &w->state, &w->state_size, e);

	if (rc == 0)
		rc = proto_state_decode(w->state, w->state_size, &state, e);
	if (rc == 0)
		proto_state_free(state);
	return rc;
}

static int check_ram(const struct save *s, struct work *w, struct err *e)
{
	struct stat st;

	if (fstat(s->ram, &st) < 0 || !S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "the RAM is not passed as a regular file");
	if ((uint64_t)st.st_size != w->draft->memory_size_bytes)
		return err_refuse(e, EINVAL, "the RAM file has %lld bytes, the manifest says %llu",
				  (long long)st.st_size,
				  (unsigned long long)w->draft->memory_size_bytes);
	w->was_mode = st.st_mode & 07777;
	return 0;
}

/* --- memory.bin --- */

/*
 * A lease on the frozen RAM, granted only if nobody can write it any more. The
 * last close of a mapping may come a moment after its owner has seen it done.
 */
static struct lease lease_ram(int ram)
{
	struct lease l = cat_lease_take(ram);

	for (int tries = 0; l.refused == EAGAIN && tries < 10; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		l = cat_lease_take(ram);
	}
	return l;
}

/* Why it was not linked, or NULL where that failure is one of saving. */
static const char *link_excuse(int errnum)
{
	switch (errnum) {
	case EXDEV:
		return "the RAM file is on another file system";
	case ENOENT:
		return "the RAM file has lost its last name";
	case EPERM:
	case EACCES:
		return "the RAM file may not be linked";
	case EMLINK:
		return "the RAM file has too many links";
	case EAGAIN:
		return "the RAM file is still open for writing";
	default:
		return NULL;
	}
}

/* 0, or the negative errno that kept it from being linked. */
static int link_ram(struct save *s, struct work *w)
{
	struct io_fd_path path = io_fd_path(s->ram);

	if (fsync(s->ram) < 0)
		return -errno;
	cat_ram_give_back(s->ram);
	w->lease = lease_ram(s->ram);
	if (w->lease.refused == EAGAIN)
		return -EAGAIN;
	if (linkat(AT_FDCWD, path.text, s->place->dir, SNAPDIR_MEMORY, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	w->linked = true;
	return 0;
}

static int copy_ram(struct save *s, struct work *w, struct err *e)
{
	auto_fd int to = openat(s->place->dir, SNAPDIR_MEMORY,
				O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc;

	cat_lease_drop(&w->lease);
	if (to < 0)
		return err_sys(e, errno, "cannot make %s", SNAPDIR_MEMORY);
	rc = io_copy_file(s->ram, to, w->draft->memory_size_bytes, s->progress);
	if (rc == 0 && fsync(to) < 0)
		rc = -errno;
	return rc < 0 ? err_sys(e, -rc, "cannot copy the RAM to %s", s->place->path) : 0;
}

static int put_memory(struct save *s, struct work *w, struct err *e)
{
	int rc = s->link_ram ? link_ram(s, w) : -ENOTSUP;

	if (rc < 0) {
		const char *excuse = link_excuse(-rc);

		if (s->link_ram && !excuse)
			return err_sys(e, -rc, "cannot link the RAM file into %s", s->place->path);
		if (s->link_ram)
			notice(s, "the RAM was copied into the snapshot: %s", excuse);
		rc = copy_ram(s, w, e);
	}
	if (rc < 0)
		return rc;
	w->memory = openat(s->place->dir, SNAPDIR_MEMORY, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (w->memory < 0)
		return err_sys(e, errno, "cannot open %s", SNAPDIR_MEMORY);
	/* Before the digest: nothing may change the ctime that the stamp will hold. */
	if (fchmod(w->memory, STORE_FILE_MODE) < 0)
		return err_sys(e, errno, "cannot set the mode of %s", SNAPDIR_MEMORY);
	if (w->lease.fd < 0)
		w->lease = cat_lease_take(w->memory);
	else if (fstat(w->lease.fd, &w->lease.st) < 0)
		return err_sys(e, errno, "cannot stat %s", SNAPDIR_MEMORY);
	return 0;
}

static int digest_memory(struct save *s, struct work *w, struct err *e)
{
	int rc = cat_lease_digest(&w->lease, w->memory, w->draft->memory_size_bytes, s->progress,
				  s->memory_digest);

	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s of %s", SNAPDIR_MEMORY, s->place->path);
	return fsync(w->memory) < 0 ? err_sys(e, errno, "cannot sync %s", SNAPDIR_MEMORY) : 0;
}

/* --- state.bin and manifest.bin --- */

/* Encodes the manifest with all that the publisher knows, and reads it back to check it. */
static int encode(struct save *s, const struct work *w, const uint8_t *state_digest, uint8_t **buf,
		  size_t *len, struct err *e)
{
	SnapshotManifest m = *w->draft; /* shares what the draft owns */
	const struct timespec created = { m.created_at->seconds, m.created_at->nanos };
	SnapshotManifest *back = NULL;
	int rc = uuid_make(&created, s->id);

	if (rc < 0)
		return err_sys(e, -rc, "cannot make an id");
	m.id = (ProtobufCBinaryData){ UUID_SIZE, s->id };
	m.name_at_creation = s->place->name;
	m.state_size = w->state_size;
	m.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)(uintptr_t)state_digest };
	m.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, s->memory_digest };
	rc = proto_manifest_encode(&m, buf, len, e);
	if (rc == 0)
		rc = proto_manifest_decode(*buf, *len, &back, e);
	if (rc < 0)
		return rc;
	if (e)
		*e = (struct err){ 0 };
	rc = proto_manifest_check(back, e);
	proto_manifest_free(back);
	return rc < 0 ? rc : digest_sha256(*buf, *len, s->manifest_digest);
}

static int write_files(struct save *s, const struct work *w, struct err *e)
{
	const Timestamp *at = w->draft->created_at;
	struct timespec times[2] = { { at->seconds, at->nanos }, { at->seconds, at->nanos } };
	uint8_t state_digest[DIGEST_SIZE];
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = digest_verity(w->state, w->state_size, state_digest);

	if (rc < 0)
		return err_sys(e, -rc, "cannot digest the state");
	rc = io_write_file(s->place->dir, SNAPDIR_STATE, w->state, w->state_size, STORE_FILE_MODE,
			   e);
	if (rc == 0)
		rc = encode(s, w, state_digest, &buf, &len, e);
	if (rc == 0)
		rc = io_write_file(s->place->dir, SNAPDIR_MANIFEST, buf, len, STORE_FILE_MODE, e);
	if (rc < 0)
		return rc;
	/* The directory's time is the snapshot's, whoever looks at it. */
	futimens(s->place->dir, times);
	if (fsync(s->place->dir) < 0)
		return err_sys(e, errno, "cannot sync %s", s->place->path);
	return 0;
}

/* The stamp at once, or (before Linux 6.13) by who keeps the lease long enough. */
static void stamp(struct save *s, struct work *w)
{
	if (!s->store)
		return;
	if (cat_stamp_grant(s->store, &w->lease, s->memory_digest, &s->stamp_wait_ns) != -EAGAIN)
		return;
	s->lease = w->lease;
	w->lease.fd = -1;
}

static int commit(struct save *s, struct work *w, struct err *e)
{
	bool in_store = s->place->in_store;
	int rc = read_draft(s, w, e);

	if (rc == 0)
		rc = read_state(s, w, e);
	if (rc == 0)
		rc = check_ram(s, w, e);
	if (rc == 0)
		rc = put_memory(s, w, e);
	if (rc == 0)
		rc = digest_memory(s, w, e);
	if (rc == 0)
		rc = write_files(s, w, e);
	/* The name is free: a missing one of it must not make this a replaced one. */
	if (rc == 0 && in_store)
		cat_index_drop(s->store, s->place->name, NULL);
	if (rc == 0)
		rc = cat_place_publish(s->place, s->store, e);
	if (rc < 0)
		return rc;
	stamp(s, w);
	/* It is published. An index that cannot be written now will find it later. */
	if (in_store)
		cat_index_add(s->store, s->place->name, NULL);
	return 0;
}

int cat_save_commit(struct save *s, struct err *e)
{
	struct work w = { .memory = -1, .lease = { .fd = -1 } };
	int rc;

	s->lease.fd = -1;
	rc = commit(s, &w, e);
	rc = explain(s, &w, rc, e);
	/* A RAM file with a path of its own is not left looking like a snapshot's. */
	if (rc < 0 && w.linked && s->place->dir >= 0)
		fchmod(s->ram, w.was_mode);
	cat_lease_drop(&w.lease);
	if (w.memory >= 0)
		close(w.memory);
	proto_manifest_free(w.draft);
	free(w.state);
	return rc;
}
