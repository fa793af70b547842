/* Block by block: see checked.h. */
#define _GNU_SOURCE
#include "checked.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/merkle.h"
#include "catalog/verify.h"

struct checked {
	struct checked_file file;
	struct view *view; /* held */
	struct snapdir_file what;
	struct merkle_reader *tree; /* owned */
	atomic_bool whole;	    /* the file was hashed and is good: the tree was bad */
	atomic_bool bad;	    /* damage was told of already */
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
	c->view = sfs_view_get(file->snap, view);
	c->what = *what;
	c->tree = tree;
	return c;
}

void sfs_checked_free(struct checked *c)
{
	if (!c)
		return;
	merkle_close(c->tree);
	sfs_view_put(c->file.snap, c->view);
	free(c);
}

/* Reports the block that is wrong, once for each open. */
static void report_block(struct checked *c, uint64_t block)
{
	const struct checked_file *f = &c->file;
	char problem[SNAP_PROBLEM_MAX];

	if (atomic_exchange(&c->bad, true))
		return;
	snprintf(problem, sizeof(problem),
		 "%s does not have the manifest's digest: block %llu (byte %llu and on) is wrong",
		 c->what.path, (unsigned long long)block,
		 (unsigned long long)(block * DIGEST_BLOCK));
	sfs_snap_set_bad(f->snap, f->number, &f->id, problem);
	sfs_snap_report(f->snap, c->view, CAT_DAMAGED, problem);
}

/* The tree is of no use: the file itself is asked, whole. 0 or a negative errno. */
static int hash_whole(struct checked *c)
{
	int rc = cat_stamp_verify(c->file.fs->store, c->file.fd, c->what.size, c->what.digest, -1,
				  NULL, NULL);

	if (rc == 0)
		atomic_store(&c->whole, true);
	return rc;
}

/* Checks what was read into buf: whole blocks. 0 or -EIO. */
static int check_blocks(struct checked *c, uint64_t at, const void *buf, size_t len)
{
	uint64_t block = 0;
	int rc = 0;

	if (!atomic_load(&c->whole))
		rc = merkle_check(c->tree, at, buf, len, &block);
	if (rc == -EUCLEAN)
		rc = hash_whole(c);
	if (rc == -EBADMSG)
		report_block(c, block);
	return rc < 0 ? -EIO : 0;
}

int sfs_checked_pread(struct checked *c, void *buf, size_t len, uint64_t at)
{
	int rc = io_pread_full(c->file.fd, buf, len, at);

	return rc == 0 ? check_blocks(c, at, buf, len) : -EIO;
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
	rc = buf ? sfs_checked_pread(c, buf, (size_t)(end - from), from) : -ENOMEM;
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_buf(req, (const char *)buf + ((uint64_t)off - from), size);
}
