/* Files put into the place of a snapshot, by link or copy: see parts.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/seal.h"
#include "catalog/internal.h"
#include "catalog/parts.h"

void cat_save_notice(struct save *s, const char *fmt, ...)
{
	va_list ap;

	if (s->n_notice == SAVE_NOTICES)
		return;
	va_start(ap, fmt);
	vsnprintf(s->notice[s->n_notice++], sizeof(s->notice[0]), fmt, ap);
	va_end(ap);
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
	p->sealed = !p->stamped && p->promised && seal_measure(p->from, p->promise) > 0;
	if (p->sealed)
		memcpy(p->digest, p->promise, DIGEST_SIZE);
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
	p->stamped = p->sealed = false;
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
		cat_save_notice(s, "the RAM was copied into the snapshot: the RAM file %s", excuse);
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
void cat_parts_link_tree(const struct parts *w, const struct part *p)
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
	cat_save_notice(w->save, "%s of %s was copied into the snapshot", p->file.path, p->what);
	return copy_part(w->save, p, e);
}

/* A layer of the RAM: linked, or else copied, as flat RAM is. */
static int put_layer(const struct parts *w, struct part *p, struct err *e)
{
	struct save *s = w->save;
	int rc = link_part(s, p, false);
	const char *excuse = link_excuse(-rc);

	if (rc == 0)
		return 0;
	if (!excuse)
		return err_sys(e, -rc, "cannot link %s into %s", p->file.path, s->place->path);
	if (p->promised)
		return put_from_parent(w, p, e);
	cat_save_notice(s, "%s was copied into the snapshot: its file %s", p->file.path, excuse);
	return copy_part(s, p, e);
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

static int make_folder(const struct save *s, const char *name, struct err *e)
{
	if (mkdirat(s->place->dir, name, STORE_DIR_MODE) < 0)
		return err_sys(e, errno, "cannot make %s of %s", name, s->place->path);
	return 0;
}

int cat_parts_put(struct parts *w, struct err *e)
{
	struct save *s = w->save;
	int rc = w->layered ? make_folder(s, SNAPDIR_LAYERS, e) : 0;

	if (rc == 0 && w->n > w->n_ram)
		rc = make_folder(s, SNAPDIR_DISKS, e);
	for (size_t i = 0; rc == 0 && i < w->n; i++) {
		struct part *p = &w->part[i];

		rc = i >= w->n_ram ? put_disk(w, p, e)
		     : w->layered  ? put_layer(w, p, e)
				   : put_ram(s, p, e);
		if (rc == 0)
			rc = settle_part(s, p, e);
	}
	return rc;
}
