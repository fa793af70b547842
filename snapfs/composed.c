/* memory.bin, composed of layers: see composed.h. */
#define _GNU_SOURCE
#include "composed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "checked.h"
#include "maps.h"
#include "ops.h"
#include "rung.h"

#define PAGE MANIFEST_PAGE_SIZE

struct composed_layer {
	int fd; /* owned; -1: not open yet */
	struct identity id;
	struct checked *checked; /* owned; NULL: the file is known to be good */
	bool waits;		 /* to be found good as a whole: it has no tree */
};

struct composed {
	struct fs *fs;
	struct snap *snap;	 /* owned reference */
	struct view *view;	 /* held */
	const struct flat *flat; /* the view's */
	unsigned refs;		 /* guarded by the snapshot's lock */
	size_t n;
	struct composed_layer layer[MANIFEST_LAYERS_MAX];
};

int sfs_composed_new(struct fs *fs, struct snap *s, struct view *v, struct composed **out,
		     struct err *e)
{
	char name[CAT_NAME_MAX + 1];
	const struct flat *flat;
	struct composed *c;
	int rc;

	sfs_snap_name(s, name);
	rc = sfs_maps_get(v, name, &flat, e);
	if (rc < 0)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->fs = fs;
	c->snap = sfs_snap_get(s);
	c->view = sfs_view_get(s, v);
	c->flat = flat;
	c->refs = 1;
	c->n = v->dir.manifest->n_layer;
	for (size_t i = 0; i < c->n; i++)
		c->layer[i].fd = -1;
	*out = c;
	return 0;
}

static void free_composed(struct composed *c)
{
	for (size_t i = 0; i < c->n; i++) {
		sfs_checked_free(c->layer[i].checked);
		if (c->layer[i].fd >= 0)
			close(c->layer[i].fd);
	}
	sfs_view_put(c->snap, c->view);
	sfs_snap_put(c->snap);
	free(c);
}

void sfs_composed_put(struct composed *c)
{
	bool last;

	if (!c)
		return;
	pthread_mutex_lock(&c->snap->lock);
	last = --c->refs == 0;
	if (last && c->view->composed == c)
		c->view->composed = NULL;
	pthread_mutex_unlock(&c->snap->lock);
	if (last)
		free_composed(c);
}

/* --- opening --- */

/* By its tree, while it is verified; or, where it has none, once it is. 0 or 1: wait. */
static int open_unverified(struct composed *c, size_t i, const struct snapdir_file *what)
{
	struct composed_layer *l = &c->layer[i];
	const struct checked_file file = { c->fs, c->snap, i, l->fd, l->id };

	l->checked = sfs_checked_new(&file, c->view, what);
	l->waits = !l->checked;
	/* It is no failure of the open if nobody can do that now. */
	if (l->checked)
		sfs_verifier_begin(c->fs->verifier, c->snap, c->view, i, l->fd);
	return l->waits;
}

/* 0, 1: it has to be verified first, or a negative errno. */
static int open_layer(struct composed *c, size_t i, const char *name, struct err *e)
{
	struct composed_layer *l = &c->layer[i];
	char problem[SNAP_PROBLEM_MAX];
	struct snapdir_file what;
	struct stat st;
	int fd;

	proto_snapdir_file(c->view->dir.manifest, true, i, &what);
	fd = proto_snapdir_open_file(&c->view->dir, &what, name, e);
	if (fd < 0)
		return fd;
	l->fd = fd;
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "cannot look at %s of snapshot %s", what.path, name);
	l->id = sfs_identity_of(&st);
	switch (sfs_rung_decide(c->snap, i, fd, what.digest)) {
	case RUNG_SEALED:
	case RUNG_STAMPED:
		return 0;
	case RUNG_UNVERIFIED:
		return open_unverified(c, i, &what);
	case RUNG_DAMAGED:
		break;
	}
	/* A seal that measures another digest has not been seen before. */
	if (sfs_snap_is_bad(c->snap, i, &l->id, problem))
		return err_refuse(e, EBADMSG, "%s", problem);
	return err_refuse(e, EBADMSG, "%s does not have the manifest's digest", what.path);
}

int sfs_composed_open(struct composed *c, struct composed_wait *wait, struct err *e)
{
	char name[CAT_NAME_MAX + 1];

	sfs_snap_name(c->snap, name);
	for (size_t i = 0; i < c->n; i++) {
		int rc = 0;

		if (c->layer[i].waits)
			c->layer[i].waits = false;
		else if (c->layer[i].fd < 0)
			rc = open_layer(c, i, name, e);
		if (rc == 1)
			*wait = (struct composed_wait){ i, c->layer[i].fd };
		if (rc)
			return rc;
	}
	return 0;
}

static bool is_alike(const struct composed *a, const struct composed *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (!sfs_identity_equal(&a->layer[i].id, &b->layer[i].id) ||
		    !a->layer[i].checked != !b->layer[i].checked)
			return false;
	return true;
}

struct composed *sfs_composed_share(struct composed *c)
{
	struct view *v = c->view;
	struct composed *other;

	pthread_mutex_lock(&c->snap->lock);
	other = v->composed;
	if (other && is_alike(other, c))
		other->refs++;
	else
		v->composed = other = c;
	pthread_mutex_unlock(&c->snap->lock);
	if (other != c)
		sfs_composed_put(c);
	return other;
}

bool sfs_composed_is_good(const struct composed *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->layer[i].checked)
			return false;
	return true;
}

bool sfs_composed_serve(const struct composed *c)
{
	/* Numbers that no file of the manifest has: of the layers as parts of memory.bin. */
	const size_t first = SNAP_FILES_MAX;
	bool same = sfs_snap_serve(c->snap, first + c->n, &c->view->manifest);

	for (size_t i = 0; i < c->n; i++)
		same = sfs_snap_serve(c->snap, first + i, &c->layer[i].id) && same;
	return same;
}

/* --- reading --- */

/* Pages [at, at + len) of a layer's file, in bytes. 0, -EIO or -ENOMEM. */
static int read_layer(const struct composed_layer *l, void *buf, size_t len, uint64_t at)
{
	if (l->checked)
		return sfs_checked_pread(l->checked, buf, len, at);
	/* A file that became shorter, or another, would reach the guest as it is. */
	if (!sfs_identity_holds(&l->id, l->fd))
		return -EIO;
	return io_pread_full(l->fd, buf, len, at) < 0 ? -EIO : 0;
}

/* What is left of the run from byte `at` of the RAM on. */
static uint64_t rest_of(const struct flat_run *r, uint64_t at)
{
	return (r->page + r->count) * PAGE - at;
}

/* Where byte `at` of the RAM is in the file of the run, which has it. */
static uint64_t in_file(const struct flat_run *r, uint64_t at)
{
	return at - r->page * PAGE + r->from * PAGE;
}

int sfs_composed_read(struct composed *c, void *buf, size_t len, uint64_t at)
{
	const struct flat_run *r = proto_flat_find(c->flat, at / PAGE);
	uint8_t *to = buf;

	for (; len > 0; r++) {
		const uint64_t rest = rest_of(r, at);
		const size_t n = rest < len ? (size_t)rest : len;
		int rc = 0;

		if (r->from == LAYERMAP_ZEROS)
			memset(to, 0, n);
		else
			rc = read_layer(&c->layer[r->layer], to, n, in_file(r, at));
		if (rc < 0)
			return rc;
		to += n;
		at += n;
		len -= n;
	}
	return 0;
}

/* Answers from one file that is known to be good. False: it is not so simple. */
static bool reply_direct(struct composed *c, fuse_req_t req, size_t size, uint64_t at)
{
	const struct flat_run *r = proto_flat_find(c->flat, at / PAGE);
	const struct composed_layer *l = &c->layer[r->layer];
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);

	if (r->from == LAYERMAP_ZEROS || rest_of(r, at) < size || l->checked)
		return false;
	if (!sfs_identity_holds(&l->id, l->fd)) {
		fuse_reply_err(req, EIO);
		return true;
	}
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
	buf.buf[0].fd = l->fd;
	buf.buf[0].pos = (off_t)in_file(r, at);
	fuse_reply_data(req, &buf, 0);
	return true;
}

void sfs_composed_reply(struct composed *c, fuse_req_t req, size_t size, off_t off)
{
	const uint64_t all = c->flat->pages * PAGE, at = (uint64_t)off;
	auto_free uint8_t *buf = NULL;
	uint64_t from, end;
	int rc;

	if (at >= all || size == 0) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (size > all - at)
		size = (size_t)(all - at);
	if (reply_direct(c, req, size, at))
		return;
	from = at / PAGE * PAGE;
	end = (at + size + PAGE - 1) / PAGE * PAGE;
	buf = malloc((size_t)(end - from));
	rc = buf ? sfs_composed_read(c, buf, (size_t)(end - from), from) : -ENOMEM;
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_buf(req, (const char *)buf + (at - from), size);
}

/* --- looking --- */

/* The first such place in the run from byte `at` of the RAM on; at its end: it has none. */
static uint64_t seek_in_run(const struct composed *c, const struct flat_run *r, uint64_t at,
			    int whence)
{
	const uint64_t end = (r->page + r->count) * PAGE, file = in_file(r, at);
	off_t found;

	if (r->from == LAYERMAP_ZEROS)
		return whence == SEEK_HOLE ? at : end;
	/* The descriptor's position is used by nobody. */
	found = lseek(c->layer[r->layer].fd, (off_t)file, whence);
	if (found < 0)
		return end;
	return (uint64_t)found - file < end - at ? at + ((uint64_t)found - file) : end;
}

off_t sfs_composed_seek(const struct composed *c, off_t off, int whence)
{
	const uint64_t all = c->flat->pages * PAGE;
	uint64_t at = (uint64_t)off;

	if (off < 0 || at >= all)
		return -ENXIO;
	for (const struct flat_run *r = proto_flat_find(c->flat, at / PAGE); at < all; r++) {
		const uint64_t found = seek_in_run(c, r, at, whence);

		if (found < (r->page + r->count) * PAGE)
			return (off_t)found;
		at = found;
	}
	return whence == SEEK_HOLE ? (off_t)all : -ENXIO;
}

int sfs_composed_look(const struct view *v, struct stat *st)
{
	const SnapshotManifest *m = v->dir.manifest;
	const uint64_t most = (m->memory_size_bytes + 511) / 512;
	uint64_t blocks = 0;
	struct stat file = { 0 };

	*st = (struct stat){
		.st_dev = v->manifest.dev,
		.st_ino = v->manifest.ino,
		.st_mode = S_IFREG,
		.st_size = (off_t)m->memory_size_bytes,
		.st_mtim = v->manifest.mtime,
		.st_ctim = v->manifest.ctime,
	};
	for (size_t i = 0; i < m->n_layer; i++) {
		struct snapdir_file what;
		int rc;

		proto_snapdir_file(m, true, i, &what);
		rc = sfs_view_look(v, what.path, &file);
		/* One that is not there is told of by the open. */
		if (rc == -ENOENT || rc == -ENOTDIR)
			continue;
		if (rc < 0)
			return rc;
		blocks += (uint64_t)file.st_blocks;
		st->st_mtim = file.st_mtim;
		st->st_ctim = file.st_ctim;
	}
	/* What a layer covers is there all the same, but more than the whole it cannot be. */
	st->st_blocks = (blkcnt_t)(blocks < most ? blocks : most);
	return 0;
}
