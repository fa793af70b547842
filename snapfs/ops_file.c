/*
 * Opening and reading files: see ops.h. What is small is read, checked and
 * served from memory; memory.bin, layers and the disks' files are served from their
 * descriptors: as they are once they are known to be good, before that block by
 * block (checked.h), while the verifier sees to the whole. memory.bin of a layered
 * snapshot is composed (composed.h).
 */
#define _GNU_SOURCE
#include "ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/verify.h"
#include "checked.h"
#include "composed.h"
#include "maps.h"
#include "proto/working_set.h"
#include "rung.h"

/* An open file: bytes, or the descriptor of a large one. */
struct open_file {
	struct handle handle;
	/*
	 * The open's, and one for each read: who got the last bytes may have
	 * closed the file before the read that gave them has returned.
	 */
	atomic_uint refs;
	int fd;			   /* owned; -1: none */
	uint8_t *bytes;		   /* owned; NULL: none */
	size_t len;		   /* of bytes */
	struct fs *fs;		   /* fd's */
	struct node *node;	   /* held, fd's */
	bool counted;		   /* as an open of the node: sfs_passthrough_end() */
	struct identity id;	   /* of fd's, as it was when it was found good */
	struct checked *checked;   /* owned; NULL: fd's file is known to be good */
	struct composed *composed; /* held; NULL: it is no composed RAM */
};

static void put_file(struct open_file *f)
{
	if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	if (f->fd >= 0)
		close(f->fd);
	sfs_checked_free(f->checked);
	sfs_composed_put(f->composed);
	if (f->node)
		sfs_nodes_put(&f->fs->nodes, f->node);
	free(f->bytes);
	free(f);
}

/* The kernel has it open no more. */
static void drop_file(struct handle *h)
{
	struct open_file *f = (struct open_file *)h;

	if (f->counted)
		sfs_passthrough_end(&f->fs->passthrough, f->node);
	put_file(f);
}

static struct open_file *new_file(void)
{
	struct open_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->handle.drop = drop_file;
	atomic_init(&f->refs, 1);
	f->fd = -1;
	return f;
}

/* Answers an open with `f`, which the kernel's release puts. backing 0: reads come here. */
static void reply_open(fuse_req_t req, struct fuse_file_info *fi, struct open_file *f, int backing)
{
	struct handle_list *handles = &sfs_req_fs(req)->handles;
	int rc;

	fi->fh = (uintptr_t)f;
	fi->noflush = 1;
	sfs_handles_add(handles, &f->handle);
	rc = backing ? sfs_passthrough_reply(req, fi, backing) : fuse_reply_open(req, fi);
	/* The one who opened it may have gone: then no release comes. */
	if (rc < 0)
		sfs_handles_drop(handles, &f->handle);
}

/* True where the file that `name` is now is the one the node was made for. */
static bool is_nodes_file(const struct node *n, const struct view *v, const char *name)
{
	struct stat st;

	return sfs_view_look(v, name, &st) == 0 && st.st_dev == n->key.file_dev &&
	       st.st_ino == n->key.file_ino;
}

/* Reports damage found by an open; what may pass is only logged. Returns the errno for it. */
static int fail(const struct node *n, struct view *v, int rc, const struct err *e)
{
	char line[SNAP_PROBLEM_MAX];

	if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM)
		return rc;
	/* Being removed: its files go before it does, and that is no damage. */
	if (!sfs_snap_is_listed(n->snap, v))
		return -ESTALE;
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(e->text, "\n"), e->text);
	if (rc == -EBADMSG)
		sfs_snap_report(n->snap, v, CAT_DAMAGED, line);
	return -EIO;
}

/* The whole manifest.bin, if it is the one in the view. */
static int read_manifest(const struct view *v, struct open_file *f, struct err *e)
{
	uint8_t digest[DIGEST_SIZE];
	int rc = io_read_file(v->dir.dirfd, SNAPDIR_MANIFEST, MANIFEST_MAX, &f->bytes, &f->len, e);

	if (rc == 0)
		rc = digest_sha256(f->bytes, f->len, digest);
	if (rc < 0)
		return rc;
	if (memcmp(digest, v->dir.manifest_digest, DIGEST_SIZE) != 0)
		return err_refuse(e, EBADMSG, "%s changed while it was opened", SNAPDIR_MANIFEST);
	return 0;
}

/* Neither damaged nor replaced, as far as is known without reading its files. */
static int check_condition(const struct node *n, struct view *v)
{
	struct condition c;

	if (atomic_load(&v->settled))
		return 0;
	/* It could not be read just now, which is no damage. */
	if (v->rc < 0 && v->rc != -EBADMSG)
		return v->rc;
	sfs_snap_condition(n->snap, v, &c);
	/* What the index calls damaged may have been mended: its digests will tell. */
	if (c.status != CAT_REPLACED && v->dir.manifest) {
		atomic_store(&v->settled, c.status == CAT_VALID);
		return 0;
	}
	/* Being removed: its files go before it does, and that is no damage. */
	if (!sfs_snap_is_listed(n->snap, v))
		return -ESTALE;
	sfs_snap_report(n->snap, v, c.status, c.problem);
	return -EIO;
}

/* The whole map of a layer, as it is in the file: there is one way only to write it. */
static int read_map(const struct node *n, const struct view *v, const char *name,
		    struct open_file *f, struct err *e)
{
	struct layermap map;
	int rc;

	if (!v->dir.layered || n->key.file >= v->dir.manifest->n_layer)
		return -ESTALE;
	rc = proto_snapdir_read_map(&v->dir, n->key.file, name, &map, e);
	if (rc < 0)
		return rc;
	rc = proto_layermap_encode(&map, &f->bytes, &f->len);
	proto_layermap_free(&map);
	return rc;
}

static void small_path(const struct node *n, char path[SNAPDIR_PATH_MAX])
{
	if (n->key.kind == NODE_LAYER_MAP)
		sfs_maps_path(n->key.file, path);
	else
		snprintf(path, SNAPDIR_PATH_MAX, "%s", sfs_child_name(n->key.kind));
}

static int open_checked(const struct node *n, struct view *v, struct open_file *f)
{
	char name[CAT_NAME_MAX + 1], path[SNAPDIR_PATH_MAX];
	struct err e = { 0 };
	int rc = check_condition(n, v);

	if (rc < 0)
		return rc;
	sfs_snap_name(n->snap, name);
	if (n->key.kind == NODE_MANIFEST)
		rc = read_manifest(v, f, &e);
	else if (n->key.kind == NODE_WORKING_SET)
		rc = io_read_file(v->dir.dirfd, WORKING_SET_FILE, WORKING_SET_MAX, &f->bytes,
				  &f->len, &e);
	else if (n->key.kind == NODE_LAYER_MAP)
		rc = read_map(n, v, name, f, &e);
	else
		rc = proto_snapdir_read_state(&v->dir, name, &f->bytes, &f->len, &e);
	/* What may come and go is no damage where it is not. */
	if (rc == -ENOENT && n->key.kind == NODE_WORKING_SET)
		return -ESTALE;
	if (rc < 0)
		return fail(n, v, rc, &e);
	/* Replaced since it was looked up: the kernel looks it up again. */
	small_path(n, path);
	return is_nodes_file(n, v, path) ? 0 : -ESTALE;
}

/* Files served from memory: manifest.bin, state.bin, maps, manifest.json, status. */
static int open_bytes(struct fs *fs, const struct node *n, struct open_file *f)
{
	struct view *v;
	char *text = NULL;
	int rc;

	if (n->key.kind == NODE_JSON || n->key.kind == NODE_STATUS) {
		rc = sfs_fs_text(fs, n, &text, &f->len);
		f->bytes = (uint8_t *)text;
		return rc;
	}
	v = sfs_snap_view(n->snap);
	if (!v)
		return -ENOMEM;
	rc = open_checked(n, v, f);
	sfs_view_put(n->snap, v);
	return rc;
}

/* True for the files that are not read to be opened. */
static bool is_large(const struct node *n)
{
	return n->key.kind == NODE_MEMORY || n->key.kind == NODE_DISK || n->key.kind == NODE_LAYER;
}

/* An open of a large file on its way. */
struct large_open {
	struct verify_waiter waiter;
	fuse_req_t req;
	struct fuse_file_info fi;
	struct fs *fs;
	struct node *node;	  /* held */
	struct view *view;	  /* held, may be NULL */
	struct snapdir_file what; /* as the view has it */
	struct open_file *file;	  /* owned, may be NULL */
};

/* Has the kernel read it by itself, if it may and can. 0 or -ESTALE. */
static int choose_opening(struct large_open *o, int *backing)
{
	struct fs *fs = o->fs;
	bool retire;
	enum opening how = sfs_passthrough_begin(&fs->passthrough, o->node, o->file->fd,
						 !o->file->checked, &retire, backing);

	if (retire)
		sfs_nodes_retire(&fs->nodes, o->node);
	o->file->counted = how != OPEN_STALE;
	return how == OPEN_STALE ? -ESTALE : 0;
}

/* Answers it with rc and frees it. */
static void finish(struct large_open *o, int rc)
{
	int backing = 0;

	if (rc == 0)
		rc = choose_opening(o, &backing);
	if (rc == 0)
		reply_open(o->req, &o->fi, take_ptr(&o->file), backing);
	else
		fuse_reply_err(o->req, -rc);
	put_file(o->file);
	if (o->view)
		sfs_view_put(o->node->snap, o->view);
	sfs_nodes_put(&o->fs->nodes, o->node);
	free(o);
}

static void serve_composed(struct large_open *o);

/* Called by a verifier thread. */
static void verified(struct verify_waiter *w, int rc)
{
	struct large_open *o = (struct large_open *)w;

	/* Waits for an interrupted() under way, which finds nothing to cancel. */
	fuse_req_interrupt_func(o->req, NULL, NULL);
	if (rc == 0 && o->file->composed) {
		serve_composed(o); /* the next layer, if any */
		return;
	}
	if (rc == 0)
		o->fi.keep_cache = sfs_snap_serve(o->node->snap, o->node->key.file, &o->file->id);
	finish(o, rc < 0 ? -EIO : 0);
}

/* Called by libfuse, with the request locked, when the opener got a signal. */
static void interrupted(fuse_req_t req, void *data)
{
	struct large_open *o = data;

	(void)req;
	if (sfs_verifier_cancel(o->fs->verifier, &o->waiter))
		finish(o, -EINTR);
}

/* Of the file fd, of this number. */
static void wait_for_verification(struct large_open *o, size_t file, int fd)
{
	int rc;

	o->waiter.done = verified;
	fuse_req_interrupt_func(o->req, interrupted, o);
	rc = sfs_verifier_wait(o->fs->verifier, o->node->snap, o->view, file, fd, &o->waiter);
	if (rc == 0)
		return; /* o is verified()'s or interrupted()'s */
	fuse_req_interrupt_func(o->req, NULL, NULL);
	finish(o, rc);
}

/* Of a RAM that is composed: its layers' files are opened when it is served. */
static int prepare_composed(struct large_open *o)
{
	const struct identity *made_by = &o->view->manifest;
	struct err e = { 0 };
	int rc;

	/* The manifest is another one since it was looked up, or the RAM has been made flat. */
	if (!o->view->dir.layered || made_by->dev != o->node->key.file_dev ||
	    made_by->ino != o->node->key.file_ino)
		return -ESTALE;
	rc = sfs_composed_new(o->fs, o->node->snap, o->view, &o->file->composed, &e);
	return rc < 0 ? fail(o->node, o->view, rc, &e) : 0;
}

/* Once all layers are open. */
static void serve_composed(struct large_open *o)
{
	struct composed_wait wait;
	struct err e = { 0 };
	int rc = sfs_composed_open(o->file->composed, &wait, &e);

	if (rc == 1) {
		wait_for_verification(o, wait.layer, wait.fd);
		return;
	}
	if (rc < 0) {
		finish(o, fail(o->node, o->view, rc, &e));
		return;
	}
	if (sfs_composed_is_good(o->file->composed) && !atomic_load(&o->view->settled))
		sfs_snap_settle(o->node->snap, o->view);
	o->file->composed = sfs_composed_share(o->file->composed);
	o->fi.keep_cache = sfs_composed_serve(o->file->composed);
	finish(o, 0);
}

/* Opens the file and looks at it. 0, or the negative errno of the open. */
static int prepare_large(struct large_open *o)
{
	struct node *n = o->node;
	char name[CAT_NAME_MAX + 1];
	struct err e = { 0 };
	struct stat st;
	int rc;

	o->view = sfs_snap_view(n->snap);
	if (!o->view)
		return -ENOMEM;
	rc = check_condition(n, o->view);
	if (rc < 0)
		return rc;
	sfs_snap_name(n->snap, name);
	if (n->key.file == NODE_COMPOSED)
		return prepare_composed(o);
	/* The manifest is another one since it was looked up. */
	if (n->key.file >= proto_snapdir_files(o->view->dir.manifest, o->view->dir.layered))
		return -ESTALE;
	proto_snapdir_file(o->view->dir.manifest, o->view->dir.layered, n->key.file, &o->what);
	rc = proto_snapdir_open_file(&o->view->dir, &o->what, name, &e);
	if (rc < 0)
		return fail(n, o->view, rc, &e);
	o->file->fd = rc;
	if (fstat(o->file->fd, &st) < 0)
		return -EIO;
	if (st.st_dev != n->key.file_dev || st.st_ino != n->key.file_ino)
		return -ESTALE;
	o->file->id = sfs_identity_of(&st);
	return 0;
}

/*
 * Serves it at once, if there is a tree to check its blocks by, and has it verified
 * meanwhile. False: there is none.
 */
static bool serve_checked(struct large_open *o)
{
	const struct checked_file file = { o->fs, o->node->snap, o->node->key.file, o->file->fd,
					   o->file->id };

	o->file->checked = sfs_checked_new(&file, o->view, &o->what);
	if (!o->file->checked)
		return false;
	/* It is no failure of the open if nobody can do that now. */
	sfs_verifier_begin(o->fs->verifier, o->node->snap, o->view, o->node->key.file, o->file->fd);
	/* What the kernel gets is right, and so is what it has, if it is of this file. */
	o->fi.keep_cache = sfs_snap_serve(o->node->snap, o->node->key.file, &o->file->id);
	finish(o, 0);
	return true;
}

static void serve_by_rung(struct large_open *o)
{
	struct snap *s = o->node->snap;
	char problem[SNAP_PROBLEM_MAX];

	switch (sfs_rung_decide(s, o->node->key.file, o->file->fd, o->what.digest)) {
	case RUNG_SEALED:
	case RUNG_STAMPED:
		sfs_snap_serve(s, o->node->key.file, &o->file->id);
		if (!atomic_load(&o->view->settled))
			sfs_snap_settle(s, o->view);
		/* Else each open would throw out the pages of running clones. */
		o->fi.keep_cache = 1;
		finish(o, 0);
		return;
	case RUNG_UNVERIFIED:
		if (!serve_checked(o))
			wait_for_verification(o, o->node->key.file, o->file->fd);
		return;
	case RUNG_DAMAGED:
		/* A seal that measures another digest has not been seen before. */
		if (!sfs_snap_is_bad(s, o->node->key.file, &o->file->id, problem))
			snprintf(problem, sizeof(problem), "%s does not have the manifest's digest",
				 o->what.path);
		sfs_snap_report(s, o->view, CAT_DAMAGED, problem);
		finish(o, -EIO);
		return;
	}
}

/* Takes over the hold on the node. */
static void open_large(fuse_req_t req, struct node *n, const struct fuse_file_info *fi)
{
	struct large_open *o = calloc(1, sizeof(*o));
	int rc;

	if (!o) {
		fuse_reply_err(req, ENOMEM);
		sfs_nodes_put(&sfs_req_fs(req)->nodes, n);
		return;
	}
	*o = (struct large_open){ .req = req, .fi = *fi, .fs = sfs_req_fs(req), .node = n };
	o->file = new_file();
	if (!o->file) {
		finish(o, -ENOMEM);
		return;
	}
	o->file->fs = o->fs;
	o->file->node = sfs_nodes_get(&o->fs->nodes, n->id);
	rc = prepare_large(o);
	if (rc < 0)
		finish(o, rc);
	else if (o->file->composed)
		serve_composed(o);
	else
		serve_by_rung(o);
}

static bool is_file(const struct node *n)
{
	return is_large(n) || n->key.kind == NODE_LAYER_MAP ||
	       (n->key.kind >= NODE_MANIFEST && n->key.kind <= NODE_STATUS);
}

void sfs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *n = sfs_nodes_get(&fs->nodes, ino);
	struct open_file *f;
	int rc;

	if (!n || !n->snap || !is_file(n)) {
		rc = n ? -EINVAL : -ESTALE;
	} else if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
		rc = -EROFS;
	} else if (is_large(n)) {
		open_large(req, n, fi);
		return;
	} else {
		f = new_file();
		rc = f ? open_bytes(fs, n, f) : -ENOMEM;
		if (rc == 0) {
			/* Each open has its own status: the size the kernel knows may be old. */
			fi->direct_io = n->key.kind == NODE_STATUS;
			reply_open(req, fi, f, 0);
		} else {
			put_file(f);
		}
	}
	if (rc < 0)
		fuse_reply_err(req, -rc);
	if (n)
		sfs_nodes_put(&fs->nodes, n);
}

static void read_bytes(fuse_req_t req, const struct open_file *f, size_t size, off_t off)
{
	size_t at = (uint64_t)off < f->len ? (size_t)off : f->len;

	if (size > f->len - at)
		size = f->len - at;
	fuse_reply_buf(req, (const char *)f->bytes + at, size);
}

static void read_large(fuse_req_t req, const struct open_file *f, size_t size, off_t off)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);

	/* A file that became shorter would reach the guest as zeros. */
	if (!sfs_identity_holds(&f->id, f->fd)) {
		fuse_reply_err(req, EIO);
		return;
	}
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
	buf.buf[0].fd = f->fd;
	buf.buf[0].pos = off;
	fuse_reply_data(req, &buf, 0);
}

void sfs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct open_file *f = (struct open_file *)(uintptr_t)fi->fh;

	(void)ino;
	atomic_fetch_add(&f->refs, 1);
	if (f->composed)
		sfs_composed_reply(f->composed, req, size, off);
	else if (f->fd < 0)
		read_bytes(req, f, size, off);
	else if (f->checked)
		sfs_checked_read(f->checked, req, size, off);
	else
		read_large(req, f, size, off);
	put_file(f);
}

void sfs_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	const struct open_file *f = (struct open_file *)(uintptr_t)fi->fh;
	off_t at;

	(void)ino;
	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (f->fd >= 0 || f->composed) {
		/* The descriptor's position is used by nobody. */
		at = f->composed ? sfs_composed_seek(f->composed, off, whence)
				 : lseek(f->fd, off, whence);
		if (at < 0) {
			fuse_reply_err(req, f->composed ? (int)-at : errno);
			return;
		}
	} else if (off < 0 || (uint64_t)off >= f->len) {
		fuse_reply_err(req, ENXIO);
		return;
	} else {
		at = whence == SEEK_DATA ? off : (off_t)f->len;
	}
	fuse_reply_lseek(req, at);
}

void sfs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	sfs_handles_drop(&sfs_req_fs(req)->handles, (struct handle *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}
