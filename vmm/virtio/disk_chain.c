/*
 * Which files a disk is: names, locks, new overlays: see disk.h.
 *
 * A lock is taken before a byte of the file is looked at. Every layer is opened
 * read-only and locked shared at first; then the top is opened anew for writing,
 * locked for this process alone and read again. Between the two another machine may have
 * come and put an overlay over it: so it is asked for last whether there is one.
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "disk_impl.h"
#include "proto/snapdir.h"

#define NEW_MODE 0600

static const uint8_t raw_id[OVERLAY_ID_SIZE]; /* zeros: what lies below is the raw file */

/* ---- names ---- */

void disk_leaf_name(const char *stem, unsigned n, char *leaf)
{
	if (n)
		snprintf(leaf, NAME_MAX + 1, "%s.ov%u", stem, n);
	else
		snprintf(leaf, NAME_MAX + 1, "%s", stem);
}

/* NAME.ov7: a name that the rule above has made. */
static bool is_overlay_name(const char *leaf)
{
	size_t n = strlen(leaf), digits = 0;

	while (digits < n && leaf[n - 1 - digits] >= '0' && leaf[n - 1 - digits] <= '9')
		digits++;
	return digits && n > digits + 3 && memcmp(leaf + n - digits - 3, ".ov", 3) == 0;
}

static void forget_name(struct disk *d)
{
	if (d->dir >= 0)
		close(d->dir);
	free(d->stem);
	d->dir = -1;
	d->stem = NULL;
	d->next = 0;
}

/*
 * The folder and the name in it that `path` means, from which the overlays' names
 * are made. Symbolic links are followed once, here: the same file reached on two
 * ways has the same overlays.
 */
static int take_name(struct disk *d, const char *path, struct err *e)
{
	auto_free char *real = realpath(path, NULL);
	auto_free char *folder = NULL;
	const char *leaf;

	if (!real && errno != ENOENT)
		return err_sys(e, errno, "cannot open %s", path);
	folder = strdup(real ? real : path);
	if (!folder)
		return err_sys(e, ENOMEM, "cannot open %s", path);
	leaf = strrchr(folder, '/');
	forget_name(d);
	d->stem = strdup(leaf ? leaf + 1 : folder);
	if (leaf)
		folder[leaf == folder ? 1 : leaf - folder] = '\0';
	d->dir = open(leaf ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!d->stem || d->dir < 0)
		return err_sys(e, errno, "cannot open the folder of %s", path);
	if (is_overlay_name(d->stem))
		return err_usage(e, EINVAL,
				 "%s is an overlay by its name; give the disk that it belongs to",
				 path);
	/* Room for the number. */
	if (!*d->stem || strlen(d->stem) > NAME_MAX - 16)
		return err_usage(e, EINVAL, "%s is no name for a disk", path);
	return 0;
}

/* ---- locks ---- */

static int lock(int fd, int how, const char *what, struct err *e)
{
	if (flock(fd, how | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return err_env(e, EBUSY, "%s is in use by another machine", what);
	return err_sys(e, errno, "cannot lock %s", what);
}

/* ---- layers ---- */

static void close_layer(struct disk_layer *l)
{
	if (l->is_overlay)
		overlay_close(&l->o);
	else if (l->raw_fd >= 0)
		close(l->raw_fd);
	l->raw_fd = -1;
}

static const uint8_t *layer_id(const struct disk_layer *l)
{
	return l->is_overlay ? l->o.h.id : raw_id;
}

/* The raw file fd (taken over) as the bottom. */
static int add_raw(struct disk *d, int fd, const char *what, struct err *e)
{
	auto_fd int own = fd;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", what);
	if (!S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "%s is not a regular file", what);
	if (st.st_size == 0 || st.st_size % 512)
		return err_refuse(e, EINVAL,
				  "%s has %lld bytes: a disk has a multiple of 512, and not none",
				  what, (long long)st.st_size);
	d->size = (uint64_t)st.st_size;
	d->layer[d->nlayers++] = (struct disk_layer){ .raw_fd = take_fd(&own) };
	return 0;
}

/* Lays the overlay, which it takes over, over what is there. */
static int push_overlay(struct disk *d, struct overlay *o, const char *what, struct err *e)
{
	int rc = 0;

	if (d->nlayers == DISK_LAYERS_MAX)
		rc = err_refuse(e, EMLINK,
				"%s would be layer %u of a disk, which has at most %d: copy "
				"the disk to a new file",
				what, d->nlayers + 1, DISK_LAYERS_MAX);
	else if (o->h.size != d->size)
		rc = err_refuse(e, EINVAL, "%s is for a disk of %llu bytes, the one below has %llu",
				what, (unsigned long long)o->h.size, (unsigned long long)d->size);
	else if (memcmp(o->h.below, layer_id(disk_top(d)), OVERLAY_ID_SIZE) != 0)
		rc = err_refuse(e, EINVAL, "%s was not made over the file that is below it now",
				what);
	if (rc < 0) {
		overlay_close(o);
		return rc;
	}
	d->layer[d->nlayers++] = (struct disk_layer){ .is_overlay = true, .o = *o };
	return 0;
}

static int add_overlay(struct disk *d, int fd, bool writable, const char *what, struct err *e)
{
	struct overlay o;
	int rc = overlay_open(&o, fd, writable, what, e);

	return rc < 0 ? rc : push_overlay(d, &o, what, e);
}

/* Of the layers only those up to the one with this id, which an overlay names as below it. */
static int cut_to(struct disk *d, const uint8_t *id, const char *what, struct err *e)
{
	unsigned keep = d->nlayers;

	while (keep && memcmp(layer_id(&d->layer[keep - 1]), id, OVERLAY_ID_SIZE) != 0)
		keep--;
	if (keep == 0)
		return err_refuse(e, EINVAL, "%s was not made over %s", what, d->what);
	while (d->nlayers > keep)
		close_layer(&d->layer[--d->nlayers]);
	return 0;
}

/* ---- opening what is there ---- */

/* A file of the folder, read-only; locked shared where `locked`. */
static int open_leaf(struct disk *d, const char *leaf, bool locked, struct err *e)
{
	auto_fd int fd = io_open_regular(d->dir, leaf, NULL, e);
	int rc;

	if (fd < 0 || !locked)
		return take_fd(&fd);
	rc = lock(fd, LOCK_SH, leaf, e);
	return rc < 0 ? rc : take_fd(&fd);
}

/* All overlays of the stem that follow one another. */
static int add_numbered(struct disk *d, bool locked, struct err *e)
{
	for (d->next = 1;; d->next++) {
		char leaf[NAME_MAX + 1];
		struct err why = { 0 };
		int fd, rc;

		disk_leaf_name(d->stem, d->next, leaf);
		fd = open_leaf(d, leaf, locked, &why);
		if (fd == -ENOENT)
			return 0;
		if (fd < 0) {
			if (e)
				*e = why;
			return fd;
		}
		rc = add_overlay(d, fd, false, leaf, e);
		if (rc < 0)
			return rc;
	}
}

static int add_base(struct disk *d, const char *path, bool locked, struct err *e)
{
	int fd, rc = take_name(d, path, e);

	if (rc < 0)
		return rc;
	fd = open_leaf(d, d->stem, locked, e);
	if (fd < 0)
		return err_prefix(e, fd, "the disk %s", path);
	rc = add_raw(d, fd, path, e);
	return rc < 0 ? rc : add_numbered(d, locked, e);
}

/* The overlay FILE and its own; 1 where it is missing. */
static int add_named_overlay(struct disk *d, const char *path, bool locked, struct err *e)
{
	struct overlay o;
	int fd, rc = take_name(d, path, e);

	if (rc < 0)
		return rc;
	if (faccessat(d->dir, d->stem, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return 1;
	fd = open_leaf(d, d->stem, locked, e);
	if (fd < 0)
		return err_prefix(e, fd, "the overlay %s", path);
	rc = overlay_open(&o, fd, false, path, e);
	if (rc < 0)
		return rc;
	rc = cut_to(d, o.h.below, path, e);
	if (rc < 0) {
		overlay_close(&o);
		return rc;
	}
	rc = push_overlay(d, &o, path, e);
	return rc < 0 ? rc : add_numbered(d, locked, e);
}

/* ---- new overlays ---- */

/* A new file in the folder without a name, or, where there are none, with one that nobody uses. */
static int make_nameless(int dir, const char *leaf, char temp[NAME_MAX + 1])
{
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, NEW_MODE);

	*temp = '\0';
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	snprintf(temp, NAME_MAX + 1, ".%.*s.%d", NAME_MAX - 16, leaf, (int)getpid());
	fd = openat(dir, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, NEW_MODE);
	return fd < 0 ? -errno : fd;
}

/* Its name, durable, and only if nobody has it. */
static int give_name(int dir, int fd, const char *temp, const char *leaf)
{
	int rc = *temp ? renameat2(dir, temp, dir, leaf, RENAME_NOREPLACE)
		       : linkat(AT_FDCWD, io_fd_path(fd).text, dir, leaf, AT_SYMLINK_FOLLOW);

	if (rc < 0)
		return -errno;
	if (fsync(dir) == 0)
		return 0;
	rc = -errno;
	unlinkat(dir, leaf, 0);
	return rc;
}

int disk_make_overlay(struct disk *d, unsigned n, struct overlay *o, struct err *e)
{
	char leaf[NAME_MAX + 1], temp[NAME_MAX + 1];
	auto_fd int fd = -1;
	int rc;

	disk_leaf_name(d->stem, n, leaf);
	fd = make_nameless(d->dir, leaf, temp);
	if (fd < 0)
		return err_sys(e, -fd, "cannot make the overlay %s", leaf);
	rc = overlay_format(fd, d->size, layer_id(disk_top(d)), e);
	if (rc == 0)
		rc = lock(fd, LOCK_EX, leaf, e);
	if (rc == 0) {
		rc = give_name(d->dir, fd, temp, leaf);
		if (rc == -EEXIST)
			err_env(e, EEXIST, "%s has just been made by another machine", leaf);
		else if (rc < 0)
			err_sys(e, -rc, "cannot make the overlay %s", leaf);
	}
	if (rc < 0 && *temp)
		unlinkat(d->dir, temp, 0);
	return rc < 0 ? rc : overlay_open(o, take_fd(&fd), true, leaf, e);
}

/* Puts a new overlay over the top, and says why. */
static int put_overlay(struct disk *d, const char *why, struct err *e)
{
	char leaf[NAME_MAX + 1], top[NAME_MAX + 1];
	struct overlay o;
	int rc;

	disk_leaf_name(d->stem, d->next, leaf);
	disk_leaf_name(d->stem, d->next ? d->next - 1 : 0, top);
	if (d->nlayers == DISK_LAYERS_MAX)
		return err_refuse(e, EMLINK,
				  "%s has %d layers, which is the most: copy the disk to a new "
				  "file",
				  d->what, DISK_LAYERS_MAX);
	rc = disk_make_overlay(d, d->next, &o, e);
	if (rc < 0)
		return why ? err_prefix(e, rc, "%s %s", top, why) : rc;
	d->next++;
	if (why)
		log_info("disk %s: %s %s; it stays as it is, writes go to %s", d->what, top, why,
			 leaf);
	return push_overlay(d, &o, leaf, e);
}

/* ---- the top ---- */

/* Why the file is never written; NULL: it may be. */
static const char *why_not(const struct stat *st)
{
	if (st->st_nlink != 1)
		return "has other links and may be part of a snapshot";
	if (!(st->st_mode & (S_IWUSR | S_IWGRP | S_IWOTH)))
		return "is marked read-only";
	return NULL;
}

/* The top's layer becomes fd, which is taken over; what the file says is read again. */
static int replace_top(struct disk *d, int fd, const char *leaf, struct err *e)
{
	const bool is_overlay = disk_top(d)->is_overlay;
	uint64_t size = d->size;
	int rc;

	d->nlayers--;
	if (is_overlay)
		return add_overlay(d, fd, true, leaf, e);
	rc = add_raw(d, fd, leaf, e);
	if (rc == 0 && d->size != size)
		return err_env(e, EBUSY, "%s changes while it is opened", leaf);
	return rc;
}

/*
 * Makes the disk one that can be written: its top locked for this process alone,
 * or a new overlay over it.
 */
static int open_top(struct disk *d, struct err *e)
{
	char leaf[NAME_MAX + 1], above[NAME_MAX + 1];
	struct stat was, st;
	auto_fd int fd = -1;
	int rc;

	disk_leaf_name(d->stem, d->next - 1, leaf);
	disk_leaf_name(d->stem, d->next, above);
	if (fstat(disk_layer_fd(disk_top(d)), &was) < 0)
		return err_sys(e, errno, "cannot stat %s", leaf);
	if (why_not(&was))
		return put_overlay(d, why_not(&was), e);
	fd = openat(d->dir, leaf, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS || errno == ETXTBSY))
		return put_overlay(d, "cannot be opened for writing", e);
	if (fd < 0)
		return err_sys(e, errno, "cannot open %s for writing", leaf);
	/* Gives the shared lock back, which would be in our own way. */
	close_layer(disk_top(d));
	rc = lock(fd, LOCK_EX, leaf, e);
	if (rc < 0)
		return rc;
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot stat %s", leaf);
	if (st.st_ino != was.st_ino || st.st_dev != was.st_dev || why_not(&st) ||
	    faccessat(d->dir, above, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return err_env(e, EBUSY, "%s is in use by another machine", leaf);
	return replace_top(d, take_fd(&fd), leaf, e);
}

/* ---- a whole disk ---- */

static struct disk *new_disk(const char *what, bool read_only)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->what = strdup(what);
	d->dir = d->frozen_fd = -1;
	d->read_only = read_only;
	d->unflushed = true; /* whoever wrote it before may have died */
	if (d->what)
		return d;
	free(d);
	return NULL;
}

static void free_disk(struct disk *d)
{
	while (d->nlayers)
		close_layer(&d->layer[--d->nlayers]);
	forget_name(d);
	free(d->what);
	free(d);
}

/*
 * A snapshot's file, of which the name says nothing of the others of its disk; an
 * overlay beside it would be a stranger in the snapshot.
 */
static int check_folder(const struct disk *d, struct err *e)
{
	/* beside the file, or one above, as a snapshot's folder of disks has it */
	if (faccessat(d->dir, SNAPDIR_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW) < 0 &&
	    faccessat(d->dir, "../" SNAPDIR_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return err_refuse(e, EEXIST,
			  "%s lies in a folder with a %s, so it is a snapshot's, where nothing is "
			  "written: restore that snapshot, or give the file with ,ro",
			  d->stem, SNAPDIR_MANIFEST);
}

/* `live`: to be used, not only looked at. */
static int open_named(struct disk *d, const char *path, const char *overlay, bool live,
		      struct err *e)
{
	int rc = add_base(d, path, live, e);

	if (rc == 0 && overlay && *overlay)
		rc = add_named_overlay(d, overlay, live, e);
	if (rc == 1 && d->read_only)
		return err_refuse(e, ENOENT, "the overlay %s is missing", overlay);
	if (rc >= 0 && !d->read_only && check_folder(d, e) < 0)
		return -EEXIST;
	if (rc < 0 || d->read_only || !live)
		return rc < 0 ? rc : 0;
	return rc == 1 ? put_overlay(d, NULL, e) : open_top(d, e);
}

int disk_open(const char *path, const char *overlay, bool read_only, struct disk **out,
	      struct err *e)
{
	struct disk *d = new_disk(path, read_only);
	int rc;

	if (!d)
		return err_sys(e, ENOMEM, "cannot open the disk %s", path);
	rc = open_named(d, path, overlay, true, e);
	if (rc < 0) {
		free_disk(d);
		return rc;
	}
	*out = d;
	return 0;
}

int disk_probe(const char *path, const char *overlay, bool read_only, struct disk_identity *id,
	       struct err *e)
{
	struct disk *d = new_disk(path, read_only);
	int rc;

	if (!d)
		return err_sys(e, ENOMEM, "cannot look at the disk %s", path);
	rc = open_named(d, path, overlay, false, e);
	if (rc == 0)
		rc = disk_identify(d, id);
	free_disk(d);
	return rc;
}

int disk_open_nameless(struct disk *d, int fd, struct overlay *o, struct err *e)
{
	auto_fd int own = fd;
	int rc = overlay_format(fd, d->size, layer_id(disk_top(d)), e);

	return rc < 0 ? rc : overlay_open(o, take_fd(&own), true, d->what, e);
}

/* A snapshot's file fd, which it takes over, over what is there. */
static int add_given(struct disk *d, int fd, struct err *e)
{
	auto_fd int own = fd;
	char what[NAME_MAX + 1];
	int rc;

	snprintf(what, sizeof(what), "file %u of disk %s", d->nlayers, d->what);
	rc = lock(fd, LOCK_SH, what, e);
	if (rc < 0)
		return rc;
	return d->nlayers ? add_overlay(d, take_fd(&own), false, what, e)
			  : add_raw(d, take_fd(&own), what, e);
}

/* What a guest's writes go to, over files that are given. */
static int add_given_top(struct disk *d, int top_fd, const char *overlay, struct err *e)
{
	auto_fd int own = top_fd;
	struct overlay o;
	int rc;

	if (d->read_only)
		return 0;
	if (!overlay || !*overlay) {
		rc = disk_open_nameless(d, take_fd(&own), &o, e);
		return rc < 0 ? rc : push_overlay(d, &o, d->what, e);
	}
	rc = take_name(d, overlay, e);
	if (rc == 0)
		rc = check_folder(d, e);
	if (rc < 0)
		return rc;
	/* An older one would change the disk under a guest that remembers it as it was. */
	if (faccessat(d->dir, d->stem, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return err_refuse(e, EEXIST,
				  "the overlay %s exists; the disk of a snapshot needs a new one",
				  overlay);
	return put_overlay(d, NULL, e);
}

int disk_open_fds(const char *name, const int *fds, unsigned n, int top_fd, const char *overlay,
		  bool read_only, struct disk **out, struct err *e)
{
	struct disk *d = new_disk(name, read_only);
	int rc = 0;

	if (!d)
		rc = err_sys(e, ENOMEM, "cannot open the disk %s", name);
	else if (n == 0 || n > DISK_LAYERS_MAX)
		rc = err_refuse(e, EINVAL, "disk %s has %u files; 1 to %d are allowed", name, n,
				DISK_LAYERS_MAX);
	for (unsigned i = 0; i < n; i++) {
		if (rc == 0)
			rc = add_given(d, fds[i], e);
		else
			close(fds[i]);
	}
	if (rc == 0)
		rc = add_given_top(d, top_fd, overlay, e);
	else if (top_fd >= 0)
		close(top_fd);
	if (rc == 0) {
		*out = d;
		return 0;
	}
	if (d)
		free_disk(d);
	return rc;
}

void disk_close(struct disk *d)
{
	int rc;

	if (!d)
		return;
	disk_freeze_abort(d);
	rc = disk_flush(d);
	if (rc < 0)
		log_error("disk %s: the last writes may be lost: %s", d->what, strerror(-rc));
	free_disk(d);
}

int disk_identify(const struct disk *d, struct disk_identity *id)
{
	struct stat st;

	if (fstat(disk_layer_fd(&d->layer[d->nlayers - 1]), &st) < 0)
		return -errno;
	*id = (struct disk_identity){
		.size = d->size,
		.inode = st.st_ino,
		.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
	};
	return 0;
}
