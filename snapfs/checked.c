/* Block by block: see checked.h. */
#define _GNU_SOURCE
#include "checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/merkle.h"
#include "catalog/verify.h"

#define TRIES 3 /* links to a file come and go while it is hashed, but not all the time */

struct checked {
	struct checked_file file;
	struct view *view; /* held */
	struct snapdir_file what;
	struct merkle_reader *tree; /* owned */
	atomic_bool bad;	    /* damage was told of already */
	pthread_mutex_t lock;
	/* Under lock: the file as it was when it was hashed and found good, for the tree is bad. */
	bool whole;
	struct identity hashed;
};

struct checked *sfs_checked_new(const struct checked_file *file, struct view *view,
				const struct snapdir_file *what)
{
	struct merkle_reader *tree = proto_snapdir_open_tree(&view->dir, what);
	struct checked *c = tree ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		merkle_close(tree);
		return NULL;
	}
	c->file = *file;
	c->view = sfs_view_get(file->node->snap, view);
	c->what = *what;
	c->tree = tree;
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

void sfs_checked_free(struct checked *c)
{
	if (!c)
		return;
	merkle_close(c->tree);
	sfs_view_put(c->file.node->snap, c->view);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* Reports damage, once for each open. `block` NULL: nobody knows which one is wrong. */
static void report(struct checked *c, const uint64_t *block)
{
	const struct checked_file *f = &c->file;
	char problem[SNAP_PROBLEM_MAX];
	int n;

	if (atomic_exchange(&c->bad, true))
		return;
	n = snprintf(problem, sizeof(problem), "%s does not have the manifest's digest",
		     c->what.path);
	if (block)
		snprintf(problem + n, sizeof(problem) - (size_t)n,
			 ": block %llu (byte %llu and on) is wrong", (unsigned long long)*block,
			 (unsigned long long)(*block * DIGEST_BLOCK));
	sfs_snap_set_bad(f->node->snap, f->node->key.file, &f->id, problem);
	sfs_snap_report(f->node->snap, c->view, CAT_DAMAGED, problem);
}

/*
 * The tree is of no use: the file itself is asked, whole. -EAGAIN: it is good, what is
 * read of it from now on; or another negative errno.
 */
static int hash_whole(struct checked *c)
{
	struct stat st;
	int rc = fstat(c->file.fd, &st) < 0 ? -errno : 0;

	if (rc == 0)
		rc = cat_stamp_verify(c->file.fs->store, c->file.fd, c->what.size, c->what.digest,
				      -1, NULL, NULL);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&c->lock);
	c->whole = true;
	c->hashed = sfs_identity_of(&st);
	pthread_mutex_unlock(&c->lock);
	return -EAGAIN;
}

/* True where nobody has touched it since it was hashed. */
static bool is_as_hashed(struct checked *c)
{
	struct identity now;
	struct stat st;
	bool same;

	pthread_mutex_lock(&c->lock);
	same = c->whole && fstat(c->file.fd, &st) == 0;
	if (same) {
		now = sfs_identity_of(&st);
		same = sfs_identity_equal(&c->hashed, &now);
	}
	pthread_mutex_unlock(&c->lock);
	return same;
}

/* Checks what was read into buf: whole blocks. 0, -EAGAIN (to be read again) or another errno. */
static int check_blocks(struct checked *c, uint64_t at, const void *buf, size_t len)
{
	uint64_t block = 0;
	int rc;

	if (is_as_hashed(c))
		return 0;
	rc = merkle_check(c->tree, at, buf, len, &block);
	if (rc == -EBADMSG)
		report(c, &block);
	if (rc != -EUCLEAN)
		return rc;
	rc = hash_whole(c);
	if (rc == -EBADMSG)
		report(c, NULL);
	return rc;
}

/* Whole blocks of the file, right ones. 0 or a negative errno. */
static int read_blocks(struct checked *c, void *buf, size_t len, uint64_t at)
{
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < TRIES; i++) {
		rc = io_pread_full(c->file.fd, buf, len, at);
		if (rc == 0)
			rc = check_blocks(c, at, buf, len);
	}
	return rc;
}

void sfs_checked_read(struct checked *c, fuse_req_t req, size_t size, off_t off)
{
	const uint64_t all = c->what.size, mask = DIGEST_BLOCK - 1;
	auto_free uint8_t *buf = NULL;
	uint64_t from, end;
	int rc;

	if ((uint64_t)off >= all || size == 0) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (size > all - (uint64_t)off)
		size = (size_t)(all - (uint64_t)off);
	from = (uint64_t)off & ~mask;
	end = ((uint64_t)off + size + mask) & ~mask;
	if (end > all)
		end = all;
	buf = malloc((size_t)(end - from));
	rc = buf ? read_blocks(c, buf, (size_t)(end - from), from) : -ENOMEM;
	if (rc < 0)
		fuse_reply_err(req, rc == -ENOMEM ? ENOMEM : EIO);
	else
		fuse_reply_buf(req, (const char *)buf + ((uint64_t)off - from), size);
}
