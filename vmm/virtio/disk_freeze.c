/* Freezing a disk's files for a snapshot: see disk.h. */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "disk_impl.h"

int disk_try_reflink(struct disk *d, int fd)
{
	if (d->nlayers != 1 || ioctl(fd, FICLONE, d->layer[0].raw_fd) < 0)
		return -EOPNOTSUPP;
	return 0;
}

bool disk_is_anonymous(const struct disk *d)
{
	return !d->read_only && !d->stem;
}

/*
 * The new overlay is found by the name of the top. Where that is another file's by
 * now, or nobody's, what the guest writes would be lost, or lie over a strange file.
 */
static int check_name(struct disk *d, struct err *e)
{
	char leaf[NAME_MAX + 1];
	struct stat at, top;

	disk_leaf_name(d->stem, d->next - 1, leaf);
	if (fstat(disk_layer_fd(disk_top(d)), &top) < 0)
		return err_sys(e, errno, "cannot stat disk %s", d->what);
	if (fstatat(d->dir, leaf, &at, AT_SYMLINK_NOFOLLOW) == 0 && at.st_dev == top.st_dev &&
	    at.st_ino == top.st_ino)
		return 0;
	return err_refuse(e, ESTALE,
			  "disk %s cannot be kept: its file %s was removed, renamed or replaced "
			  "while the machine runs; put it back",
			  d->what, leaf);
}

int disk_freeze_prepare(struct disk *d, int top_fd, struct err *e)
{
	auto_fd int own = top_fd;
	auto_fd int frozen = -1;
	int rc = 0;

	if (d->read_only)
		return 0;
	if (d->prepared || disk_is_anonymous(d) != (top_fd >= 0))
		return err_env(e, EINVAL, "disk %s cannot be frozen twice at once", d->what);
	if (d->nlayers == DISK_LAYERS_MAX)
		return err_refuse(e, EMLINK,
				  "disk %s has %d layers, which is the most: copy it to a new file",
				  d->what, DISK_LAYERS_MAX);
	if (d->stem)
		rc = check_name(d, e);
	if (rc < 0)
		return rc;
	/* A description of its own: the writable one is closed when it is frozen. */
	frozen = open(io_fd_path(disk_layer_fd(disk_top(d))).text, O_RDONLY | O_CLOEXEC);
	if (frozen < 0)
		return err_sys(e, errno, "cannot open disk %s again for reading", d->what);
	if (d->stem)
		rc = disk_make_overlay(d, d->next, &d->new_top, e);
	else
		rc = disk_open_nameless(d, take_fd(&own), &d->new_top, e);
	if (rc < 0)
		return rc;
	d->frozen_fd = take_fd(&frozen);
	d->prepared = true;
	return 0;
}

/*
 * From our own lock on the top to a shared one of its read-only descriptor. There
 * is a moment without: who comes then finds the new overlay above, and goes away.
 */
static void share_lock(struct disk *d)
{
	if (flock(disk_layer_fd(disk_top(d)), LOCK_SH | LOCK_NB) < 0 ||
	    flock(d->frozen_fd, LOCK_SH | LOCK_NB) < 0)
		log_warn("disk %s: the lock of its frozen file is lost: %s", d->what,
			 strerror(errno));
}

int disk_freeze(struct disk *d, struct err *e)
{
	struct disk_layer *top = disk_top(d);
	int rc;

	if (d->read_only)
		return 0;
	if (!d->prepared)
		return err_env(e, EINVAL, "disk %s is not prepared for a freeze", d->what);
	rc = disk_flush(d);
	if (rc < 0)
		return err_sys(e, -rc, "cannot flush disk %s", d->what);
	share_lock(d);
	if (top->is_overlay)
		overlay_freeze(&top->o, d->frozen_fd);
	else {
		close(top->raw_fd);
		top->raw_fd = d->frozen_fd;
	}
	d->layer[d->nlayers++] = (struct disk_layer){ .is_overlay = true, .o = d->new_top };
	d->next++;
	d->frozen_fd = -1;
	d->prepared = false;
	return 0;
}

void disk_freeze_abort(struct disk *d)
{
	char leaf[NAME_MAX + 1];

	if (!d->prepared)
		return;
	if (d->stem) {
		disk_leaf_name(d->stem, d->next, leaf);
		unlinkat(d->dir, leaf, 0);
		fsync(d->dir);
	}
	overlay_close(&d->new_top);
	close(d->frozen_fd);
	d->frozen_fd = -1;
	d->prepared = false;
}

/* Another descriptor of a layer's file, read-only; negative errno. */
static int again_read_only(const struct disk *d, unsigned n)
{
	const int fd = disk_layer_fd(&d->layer[n]);
	const bool written = !d->read_only && n == d->nlayers - 1;
	int again = written ? open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC)
			    : fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return again < 0 ? -errno : again;
}

int disk_files(const struct disk *d, bool with_top, struct disk_file *file, unsigned room)
{
	unsigned n = d->read_only || with_top ? d->nlayers : d->nlayers - 1;
	unsigned got = 0;
	int rc = n > room ? -E2BIG : 0;

	while (rc >= 0 && got < n) {
		struct stat st;

		rc = again_read_only(d, got);
		if (rc < 0)
			break;
		file[got++].fd = rc;
		if (fstat(rc, &st) < 0)
			rc = -errno;
		else
			file[got - 1].size = (uint64_t)st.st_size;
	}
	if (rc >= 0)
		return (int)n;
	while (got)
		close(file[--got].fd);
	return rc;
}
