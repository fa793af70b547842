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
#include "base/merkle.h"
#include "catalog/internal.h"
#include "catalog/publish.h"
#include "proto/bounded.h"
#include "proto/snapdir.h"

#define DRAFT_BUDGET (16U << 20)

/* A file too large to be read whole: memory.bin, then the files of disks. */
struct part {
	struct snapdir_file file; /* path and size */
	const char *what;	  /* it is, for people: its device's name, or "RAM" */
	bool promised;		  /* the manifest said its digest: it is another snapshot's file */
	uint8_t promise[DIGEST_SIZE];
	bool stamped; /* its digest is known by its stamp, it is not hashed again */
	uint8_t digest[DIGEST_SIZE];
	int from; /* as it was passed, the caller's */
	int fd;	  /* in the place, read-only, owned */
	struct lease lease;
	bool linked;
	mode_t was_mode; /* of the file that was passed */
};

/* What cat_save_commit() works with besides what it was given. */
struct work {
	SnapshotManifest *draft; /* owned */
	uint8_t *state;		 /* owned */
	size_t state_size;
	struct part *part; /* owned, as proto_snapdir_file() counts them */
	size_t n_part;
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

/* --- the large files --- */

/* Sizes as they are, and room for the digests: then the draft can be checked. */
static int fill_disks(const struct save *s, const struct work *w, struct err *e)
{
	size_t at = 0;

	for (size_t i = 0; i < w->draft->n_disk; i++) {
		const Disk *d = w->draft->disk[i];

		for (size_t k = 0; k < d->n_layer; k++, at++) {
			DiskFile *f = d->layer[k];
			struct stat st;

			if (at == s->n_disks || fstat(s->disks[at], &st) < 0 ||
			    !S_ISREG(st.st_mode))
				return err_refuse(e, EINVAL,
						  "a disk is not passed as a regular file");
			if (f->size && f->size != (uint64_t)st.st_size)
				return err_refuse(
					e, EINVAL,
					"a file of a disk has %lld bytes, the manifest says %llu",
					(long long)st.st_size, (unsigned long long)f->size);
			f->size = (uint64_t)st.st_size;
			if (f->digest.len == DIGEST_SIZE)
				continue;
			free(f->digest.data);
			f->digest.data = calloc(1, DIGEST_SIZE);
			f->digest.len = f->digest.data ? DIGEST_SIZE : 0;
		}
	}
	if (at != s->n_disks)
		return err_refuse(e, EINVAL, "%zu files of disks are passed, the manifest says %zu",
				  s->n_disks, at);
	/* From here on their names may be used as such. */
	if (!proto_manifest_disks_hold(w->draft))
		return err_refuse(e, EBADMSG, "the manifest that was passed has impossible disks");
	return 0;
}

/* The n-th file of all disks. */
static const DiskFile *disk_file(const SnapshotManifest *m, size_t file)
{
	for (size_t i = 0; i < m->n_disk; i++) {
		if (file < m->disk[i]->n_layer)
			return m->disk[i]->layer[file];
		file -= m->disk[i]->n_layer;
	}
	return NULL;
}

/* The device that it is of. */
static const char *device_of(const SnapshotManifest *m, size_t file)
{
	for (size_t i = 0; i < m->n_disk; i++) {
		if (file < m->disk[i]->n_layer)
			return m->disk[i]->device;
		file -= m->disk[i]->n_layer;
	}
	return "";
}

/* A digest in the draft that is not only room for one. */
static void take_promise(const SnapshotManifest *m, size_t file, struct part *p)
{
	static const uint8_t none[DIGEST_SIZE];
	const DiskFile *f = disk_file(m, file);

	memcpy(p->promise, f->digest.data, DIGEST_SIZE);
	p->promised = memcmp(p->promise, none, DIGEST_SIZE) != 0;
}

static int list_parts(const struct save *s, struct work *w, struct err *e)
{
	const size_t n = 1 + s->n_disks;

	w->part = calloc(n, sizeof(*w->part));
	if (!w->part)
		return err_sys(e, ENOMEM, "cannot save %s", s->place->path);
	for (w->n_part = 0; w->n_part < n; w->n_part++) {
		struct part *p = &w->part[w->n_part];
		struct stat st;

		*p = (struct part){ .fd = -1, .lease = { .fd = -1 } };
		p->from = w->n_part ? s->disks[w->n_part - 1] : s->ram;
		p->what = w->n_part ? device_of(w->draft, w->n_part - 1) : "RAM";
		if (w->n_part)
			take_promise(w->draft, w->n_part - 1, p);
		proto_snapdir_file(w->draft, w->n_part, &p->file);
		if (fstat(p->from, &st) < 0 || !S_ISREG(st.st_mode))
			return err_refuse(e, EINVAL, "the %s is not passed as a regular file",
					  p->what);
		if ((uint64_t)st.st_size != p->file.size)
			return err_refuse(
				e, EINVAL, "the %s file has %lld bytes, the manifest says %llu",
				p->what, (long long)st.st_size, (unsigned long long)p->file.size);
		p->was_mode = st.st_mode & 07777;
	}
	return 0;
}

/*
 * A lease on a frozen file, granted only if nobody can write it any more. The
 * last close of a mapping may come a moment after its owner has seen it done.
 */
static struct lease lease_frozen(int fd)
{
	struct lease l = cat_lease_take(fd);

	for (int tries = 0; l.refused == EAGAIN && tries < 10; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		l = cat_lease_take(fd);
	}
	return l;
}

/* Why a file was not linked, or NULL where that failure is one of saving. */
static const char *link_excuse(int errnum)
{
	switch (errnum) {
	case EXDEV:
		return "is on another file system";
	case ENOENT:
		return "has lost its last name";
	case EPERM:
	case EACCES:
		return "may not be linked";
	case EMLINK:
		return "has too many links";
	case EAGAIN:
		return "is still open for writing";
	default:
		return NULL;
	}
}

/*
 * 0, or the negative errno that kept it from being linked. A file that is stamped,
 * as most of a disk that is saved again, is stamped once it is linked: under the
 * lease nobody can have changed it.
 */
static int link_part(const struct save *s, struct part *p, bool give_back)
{
	struct io_fd_path path = io_fd_path(p->from);

	if (fsync(p->from) < 0)
		return -errno;
	if (give_back)
		cat_ram_give_back(p->from);
	p->lease = lease_frozen(p->from);
	if (p->lease.refused == EAGAIN)
		return -EAGAIN;
	p->stamped = s->store && p->lease.fd >= 0 && cat_stamp_find(s->store, p->from, p->digest);
	if (linkat(AT_FDCWD, path.text, s->place->dir, p->file.path, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	p->linked = true;
	return 0;
}

static int copy_part(const struct save *s, struct part *p, struct err *e)
{
	auto_fd int to = openat(s->place->dir, p->file.path,
				O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc;

	cat_lease_drop(&p->lease);
	p->stamped = false;
	if (to < 0)
		return err_sys(e, errno, "cannot make %s", p->file.path);
	rc = io_copy_file(p->from, to, p->file.size, s->progress);
	if (rc == 0 && fsync(to) < 0)
		rc = -errno;
	return rc < 0 ? err_sys(e, -rc, "cannot copy the %s to %s", p->what, s->place->path) : 0;
}

static int put_ram(struct save *s, struct part *p, struct err *e)
{
	int rc = s->link_ram ? link_part(s, p, true) : -ENOTSUP;
	const char *excuse = link_excuse(-rc);

	if (rc == 0)
		return 0;
	if (s->link_ram && !excuse)
		return err_sys(e, -rc, "cannot link the RAM file into %s", s->place->path);
	if (s->link_ram)
		notice(s, "the RAM was copied into the snapshot: the RAM file %s", excuse);
	return copy_part(s, p, e);
}

/* The file of the parent that has this digest; -1: there is none. */
static int find_in_parent(const struct save *s, const struct work *w, const struct part *p)
{
	char name[CAT_NAME_MAX + 1];
	struct snapdir d;
	int fd = -1;

	if (!s->store || w->draft->parent_id.len != UUID_SIZE ||
	    cat_index_name_of(s->store, w->draft->parent_id.data, name, NULL) < 0 ||
	    proto_snapdir_open(&d, cat_store_snapshots_fd(s->store), name, name, NULL) < 0)
		return -1;
	for (size_t i = 1; fd < 0 && i < proto_snapdir_files(d.manifest); i++) {
		struct snapdir_file f;

		proto_snapdir_file(d.manifest, i, &f);
		if (f.size == p->file.size && memcmp(f.digest, p->promise, DIGEST_SIZE) == 0)
			fd = proto_snapdir_open_file(&d, &f, name, NULL);
	}
	proto_snapdir_close(&d);
	return fd < 0 ? -1 : fd;
}

/*
 * A file of another snapshot that was passed from where it cannot be linked, the
 * mount or a copy: linked from the store if that has it, else copied.
 */
static int put_from_parent(struct save *s, const struct work *w, struct part *p, struct err *e)
{
	auto_fd int fd = find_in_parent(s, w, p);
	const int passed = p->from;
	int rc;

	if (fd >= 0) {
		cat_lease_drop(&p->lease);
		p->from = fd;
		rc = link_part(s, p, false);
		p->from = passed;
		if (rc == 0)
			return 0;
	}
	notice(s, "%s of %s was copied into the snapshot", p->file.path, p->what);
	return copy_part(s, p, e);
}

/* A disk may be a hundred times the RAM: what is not a snapshot's is linked, or not saved. */
static int put_disk(struct save *s, const struct work *w, struct part *p, struct err *e)
{
	int rc = link_part(s, p, false);
	const char *excuse = link_excuse(-rc);

	if (rc == 0)
		return 0;
	if (!excuse)
		return err_sys(e, -rc, "cannot link a file of %s into %s", p->what, s->place->path);
	if (p->promised)
		return put_from_parent(s, w, p, e);
	return err_refuse(e, -rc,
			  "%s cannot be kept with the snapshot, for its file %s: mend that, or "
			  "start vmm with --disk-policy external",
			  p->what, excuse);
}

/* Opens what was put in place, read-only for ever. */
static int settle_part(const struct save *s, struct part *p, struct err *e)
{
	p->fd = openat(s->place->dir, p->file.path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (p->fd < 0)
		return err_sys(e, errno, "cannot open %s", p->file.path);
	/* Before the digest: nothing may change the ctime that the stamp will hold. */
	if (fchmod(p->fd, STORE_FILE_MODE) < 0)
		return err_sys(e, errno, "cannot set the mode of %s", p->file.path);
	if (p->lease.fd < 0)
		p->lease = cat_lease_take(p->fd);
	else if (fstat(p->lease.fd, &p->lease.st) < 0)
		return err_sys(e, errno, "cannot stat %s", p->file.path);
	if (p->stamped)
		cat_stamp_follow(s->store, p->fd, p->digest, true);
	return 0;
}

static int put_parts(struct save *s, struct work *w, struct err *e)
{
	int rc = 0;

	if (w->n_part > 1 && mkdirat(s->place->dir, SNAPDIR_DISKS, STORE_DIR_MODE) < 0)
		return err_sys(e, errno, "cannot make %s of %s", SNAPDIR_DISKS, s->place->path);
	for (size_t i = 0; rc == 0 && i < w->n_part; i++) {
		rc = i ? put_disk(s, w, &w->part[i], e) : put_ram(s, &w->part[i], e);
		if (rc == 0)
			rc = settle_part(s, &w->part[i], e);
	}
	return rc;
}

static int digest_part(const struct save *s, struct part *p, struct io_progress *progress,
		       struct err *e)
{
	int rc = 0;

	if (!p->stamped)
		rc = cat_lease_digest(&p->lease, p->fd, p->file.size, progress, p->digest);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read %s of %s", p->file.path, s->place->path);
	if (p->promised && memcmp(p->digest, p->promise, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "%s of %s is not what it was when the machine was restored: it "
				  "is damaged",
				  p->file.path, p->what);
	if (fsync(p->fd) < 0)
		return err_sys(e, errno, "cannot sync %s", p->file.path);
	return 0;
}

static int digest_parts(const struct save *s, struct work *w, struct err *e)
{
	struct progress_sum sum = { .whole = s->progress };
	struct io_progress progress = cat_progress_part(&sum);

	for (size_t i = 0; i < w->n_part; i++)
		sum.total += w->part[i].file.size;
	for (size_t i = 0; i < w->n_part; i++) {
		int rc = digest_part(s, &w->part[i], &progress, e);

		if (rc < 0)
			return rc;
		sum.before += w->part[i].file.size;
	}
	return 0;
}

/* What was computed goes to where the manifest has it. */
static void fill_digests(struct work *w)
{
	size_t at = 1;

	for (size_t i = 0; i < w->draft->n_disk; i++)
		for (size_t k = 0; k < w->draft->disk[i]->n_layer; k++)
			memcpy(w->draft->disk[i]->layer[k]->digest.data, w->part[at++].digest,
			       DIGEST_SIZE);
}

/* A failed save leaves no file of others looking like a snapshot's. */
static void restore_modes(const struct work *w)
{
	for (size_t i = 0; i < w->n_part; i++)
		if (w->part[i].linked && w->part[i].was_mode != STORE_FILE_MODE)
			fchmod(w->part[i].from, w->part[i].was_mode);
}

static void forget_parts(struct work *w)
{
	for (size_t i = 0; i < w->n_part; i++) {
		cat_lease_drop(&w->part[i].lease);
		if (w->part[i].fd >= 0)
			close(w->part[i].fd);
	}
	free(w->part);
}

/* --- state.bin and manifest.bin --- */

/* Encodes the manifest with all that the publisher knows, and reads it back to check it. */
static int encode(struct save *s, struct work *w, const uint8_t *state_digest, uint8_t **buf,
		  size_t *len, struct err *e)
{
	SnapshotManifest m = *w->draft; /* shares what the draft owns */
	const struct timespec created = { m.created_at->seconds, m.created_at->nanos };
	SnapshotManifest *back = NULL;
	int rc = uuid_make(&created, s->id);

	if (rc < 0)
		return err_sys(e, -rc, "cannot make an id");
	fill_digests(w);
	m.id = (ProtobufCBinaryData){ UUID_SIZE, s->id };
	m.name_at_creation = s->place->name;
	m.state_size = w->state_size;
	m.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)(uintptr_t)state_digest };
	m.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, w->part[0].digest };
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

static int sync_disks(const struct save *s, struct err *e)
{
	auto_fd int fd = openat(s->place->dir, SNAPDIR_DISKS,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0
		       ? err_sys(e, errno, "cannot sync %s of %s", SNAPDIR_DISKS, s->place->path)
		       : 0;
}

static int write_files(struct save *s, struct work *w, struct err *e)
{
	const Timestamp *at = w->draft->created_at;
	struct timespec times[2] = { { at->seconds, at->nanos }, { at->seconds, at->nanos } };
	uint8_t state_digest[DIGEST_SIZE];
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = merkle_digest(w->state, w->state_size, state_digest);

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
	if (w->n_part > 1)
		rc = sync_disks(s, e);
	if (rc < 0)
		return rc;
	/* The directory's time is the snapshot's, whoever looks at it. */
	futimens(s->place->dir, times);
	if (fsync(s->place->dir) < 0)
		return err_sys(e, errno, "cannot sync %s", s->place->path);
	return 0;
}

/* The stamps at once, or (before Linux 6.13) by who keeps the leases long enough. */
static void stamp(struct save *s, struct work *w)
{
	if (!s->store || w->n_part == 0)
		return;
	s->due = calloc(w->n_part, sizeof(*s->due));
	for (size_t i = 0; i < w->n_part; i++) {
		struct part *p = &w->part[i];
		int64_t wait_ns = 0;
		int rc;

		/* It has one, which is as old as when it was hashed. */
		if (p->stamped)
			continue;
		rc = cat_stamp_grant(s->store, &p->lease, p->digest, &wait_ns);

		if (rc != -EAGAIN || !s->due) {
			s->unstamped |= rc < 0;
			continue;
		}
		if (wait_ns > s->stamp_wait_ns)
			s->stamp_wait_ns = wait_ns;
		memcpy(s->due[s->n_due].digest, p->digest, DIGEST_SIZE);
		s->due[s->n_due++].lease = p->lease;
		p->lease.fd = -1;
	}
}

static int commit(struct save *s, struct work *w, struct err *e)
{
	bool in_store = s->place->in_store;
	int rc = read_draft(s, w, e);

	if (rc == 0)
		rc = read_state(s, w, e);
	if (rc == 0)
		rc = fill_disks(s, w, e);
	if (rc == 0)
		rc = list_parts(s, w, e);
	if (rc == 0)
		rc = put_parts(s, w, e);
	if (rc == 0)
		rc = digest_parts(s, w, e);
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
	struct work w = { 0 };
	int rc = commit(s, &w, e);

	rc = explain(s, &w, rc, e);
	if (rc < 0 && s->place->dir >= 0)
		restore_modes(&w);
	forget_parts(&w);
	proto_manifest_free(w.draft);
	free(w.state);
	return rc;
}
