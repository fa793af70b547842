/* The large files of a snapshot: see parts.h. */
#define _GNU_SOURCE
#include "catalog/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/merkle.h"
#include "catalog/internal.h"
#include "catalog/sealer.h"

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

/* Sizes as they are, and room for the digests: then the draft can be checked. */
static int fill_disks(const struct save *s, const SnapshotManifest *draft, struct err *e)
{
	size_t at = 0;

	for (size_t i = 0; i < draft->n_disk; i++) {
		const Disk *d = draft->disk[i];

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
	if (!proto_manifest_disks_hold(draft))
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

static int list_parts(struct parts *w, struct err *e)
{
	const struct save *s = w->save;
	const size_t n = 1 + s->n_disks;

	w->part = calloc(n, sizeof(*w->part));
	if (!w->part)
		return err_sys(e, ENOMEM, "cannot save %s", s->place->path);
	for (w->n = 0; w->n < n; w->n++) {
		struct part *p = &w->part[w->n];
		struct stat st;

		*p = (struct part){ .fd = -1, .lease = { .fd = -1 } };
		p->from = w->n ? s->disks[w->n - 1] : s->ram;
		p->what = w->n ? device_of(w->draft, w->n - 1) : "RAM";
		if (w->n)
			take_promise(w->draft, w->n - 1, p);
		proto_snapdir_file(w->draft, w->draft->n_layer > 0, w->n, &p->file);
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

int cat_parts_list(struct parts *w, struct save *s, SnapshotManifest *draft, struct err *e)
{
	int rc = fill_disks(s, draft, e);

	*w = (struct parts){ .save = s, .draft = draft };
	return rc < 0 ? rc : list_parts(w, e);
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

/* Opens the snapshot that the machine was restored from or last saved as, where the store has it.
 */
static bool open_parent(const struct parts *w, struct snapdir *d)
{
	const struct save *s = w->save;
	char name[CAT_NAME_MAX + 1];

	return s->store && w->draft->parent_id.len == UUID_SIZE &&
	       cat_index_name_of(s->store, w->draft->parent_id.data, name, NULL) == 0 &&
	       proto_snapdir_open(d, cat_store_snapshots_fd(s->store), name, name, NULL) == 0;
}

/* The file of it that has this digest. */
static bool find_file(const struct snapdir *d, uint64_t size, const uint8_t digest[DIGEST_SIZE],
		      struct snapdir_file *f)
{
	for (size_t i = 0; i < proto_snapdir_files(d->manifest, d->layered); i++) {
		proto_snapdir_file(d->manifest, d->layered, i, f);
		if (f->size == size && memcmp(f->digest, digest, DIGEST_SIZE) == 0)
			return true;
	}
	return false;
}

/* The file of the parent that was promised; -1: there is none. */
static int find_in_parent(const struct parts *w, const struct part *p)
{
	struct snapdir_file f;
	struct snapdir d;
	int fd = -1;

	if (!open_parent(w, &d))
		return -1;
	if (find_file(&d, p->file.size, p->promise, &f))
		fd = proto_snapdir_open_file(&d, &f, "the parent", NULL);
	proto_snapdir_close(&d);
	return fd < 0 ? -1 : fd;
}

/* The tree of a file that is not hashed again; failing is no harm. */
static void link_tree(const struct parts *w, const struct part *p)
{
	struct snapdir_file f;
	struct snapdir d;

	if (!open_parent(w, &d))
		return;
	if (find_file(&d, p->file.size, p->digest, &f) &&
	    linkat(d.dirfd, f.tree, w->save->place->dir, p->file.tree, 0) < 0 && errno != ENOENT)
		log_info("the tree of %s is not kept: %s", p->file.path, strerror(errno));
	proto_snapdir_close(&d);
}

/*
 * A file of another snapshot that was passed from where it cannot be linked, the
 * mount or a copy: linked from the store if that has it, else copied.
 */
static int put_from_parent(const struct parts *w, struct part *p, struct err *e)
{
	auto_fd int fd = find_in_parent(w, p);
	const int passed = p->from;
	int rc;

	if (fd >= 0) {
		cat_lease_drop(&p->lease);
		p->from = fd;
		rc = link_part(w->save, p, false);
		p->from = passed;
		if (rc == 0)
			return 0;
	}
	notice(w->save, "%s of %s was copied into the snapshot", p->file.path, p->what);
	return copy_part(w->save, p, e);
}

/* A disk may be a hundred times the RAM: what is not a snapshot's is linked, or not saved. */
static int put_disk(const struct parts *w, struct part *p, struct err *e)
{
	const struct save *s = w->save;
	int rc = link_part(s, p, false);
	const char *excuse = link_excuse(-rc);

	if (rc == 0)
		return 0;
	if (!excuse)
		return err_sys(e, -rc, "cannot link a file of %s into %s", p->what, s->place->path);
	if (p->promised)
		return put_from_parent(w, p, e);
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

int cat_parts_put(struct parts *w, struct err *e)
{
	struct save *s = w->save;
	int rc = 0;

	if (w->n > 1 && mkdirat(s->place->dir, SNAPDIR_DISKS, STORE_DIR_MODE) < 0)
		return err_sys(e, errno, "cannot make %s of %s", SNAPDIR_DISKS, s->place->path);
	for (size_t i = 0; rc == 0 && i < w->n; i++) {
		rc = i ? put_disk(w, &w->part[i], e) : put_ram(s, &w->part[i], e);
		if (rc == 0)
			rc = settle_part(s, &w->part[i], e);
	}
	return rc;
}

/* Hashes the file, and keeps its tree beside it. */
static int hash_part(const struct save *s, struct part *p, struct io_progress *progress)
{
	auto_fd int tree = -1;
	struct merkle m;
	int rc;

	merkle_layout(&m, p->file.size);
	if (m.tree_size) {
		tree = openat(s->place->dir, p->file.tree,
			      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, STORE_FILE_MODE);
		if (tree < 0)
			return -errno;
	}
	rc = cat_lease_digest(&p->lease, p->fd, p->file.size, tree, progress, p->digest);
	if (rc == 0 && tree >= 0 && fsync(tree) < 0)
		rc = -errno;
	return rc;
}

static int digest_part(const struct parts *w, struct part *p, struct io_progress *progress,
		       struct err *e)
{
	const struct save *s = w->save;
	int rc = 0;

	if (p->stamped)
		link_tree(w, p);
	else
		rc = hash_part(s, p, progress);
	if (rc < 0)
		return err_sys(e, -rc, "cannot digest %s of %s", p->file.path, s->place->path);
	if (p->promised && memcmp(p->digest, p->promise, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG,
				  "%s of %s is not what it was when the machine was restored: it "
				  "is damaged",
				  p->file.path, p->what);
	if (fsync(p->fd) < 0)
		return err_sys(e, errno, "cannot sync %s", p->file.path);
	return 0;
}

static int digest_parts(const struct parts *w, struct err *e)
{
	const struct save *s = w->save;
	struct progress_sum sum = { .whole = s->progress };
	struct io_progress progress = cat_progress_part(&sum);

	for (size_t i = 0; i < w->n; i++)
		sum.total += w->part[i].file.size;
	for (size_t i = 0; i < w->n; i++) {
		int rc = digest_part(w, &w->part[i], &progress, e);

		if (rc < 0)
			return rc;
		sum.before += w->part[i].file.size;
	}
	return 0;
}

/* What was computed goes to where the manifest has it. */
static void fill_digests(const struct parts *w)
{
	size_t at = 1;

	for (size_t i = 0; i < w->draft->n_disk; i++)
		for (size_t k = 0; k < w->draft->disk[i]->n_layer; k++)
			memcpy(w->draft->disk[i]->layer[k]->digest.data, w->part[at++].digest,
			       DIGEST_SIZE);
}

int cat_parts_digest(struct parts *w, struct err *e)
{
	int rc = digest_parts(w, e);

	if (rc == 0)
		fill_digests(w);
	return rc;
}

/* Its own name and the one in the place: more, and it is another snapshot's as well. */
static bool is_only_here(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_nlink <= 2;
}

void cat_parts_restore_modes(const struct parts *w)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->part[i].linked && w->part[i].was_mode != STORE_FILE_MODE &&
		    is_only_here(w->part[i].from))
			fchmod(w->part[i].from, w->part[i].was_mode);
}

void cat_parts_forget(struct parts *w)
{
	for (size_t i = 0; i < w->n; i++) {
		cat_lease_drop(&w->part[i].lease);
		if (w->part[i].fd >= 0)
			close(w->part[i].fd);
	}
	free(w->part);
}

void cat_parts_seal(struct parts *w)
{
	const struct save *s = w->save;
	struct stat st;

	for (size_t i = 0; s->sealer && i < w->n; i++)
		if (fstat(w->part[i].fd, &st) == 0 && st.st_nlink == 1)
			cat_sealer_add(s->sealer, w->part[i].fd);
}

/* The stamps at once, or (before Linux 6.13) by who keeps the leases long enough. */
void cat_parts_stamp(struct parts *w)
{
	struct save *s = w->save;

	if (!s->store || w->n == 0)
		return;
	s->due = calloc(w->n, sizeof(*s->due));
	for (size_t i = 0; i < w->n; i++) {
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
