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

struct checked {
	struct checked_file file;
	struct view *view; /* held */
	struct snapdir_file what;
	struct merkle_reader *tree; /* owned */
	atomic_bool bad;	    /* damage was told of already */

	/* Where the tree is bad: the file was hashed whole, once for all who read it by this open.
	 */
	pthread_mutex_t hashing;
	int outcome;		/* under hashing: 1: not yet; 0: good; or a negative errno */
	struct identity hashed; /* the file then; constant once `whole` is true */
	atomic_bool whole;	/* outcome is 0 */
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
	c->outcome = 1;
	pthread_mutex_init(&c->hashing, NULL);
	return c;
}

void sfs_checked_free(struct checked *c)
{
	if (!c)
		return;
	pthread_mutex_destroy(&c->hashing);
	merkle_close(c->tree);
	sfs_view_put(c->file.snap, c->view);
	free(c);
}

static void report(struct checked *c, const char *problem)
{
	const struct checked_file *f = &c->file;

	sfs_snap_set_bad(f->snap, f->number, &f->id, problem);
	sfs_snap_report(f->snap, c->view, CAT_DAMAGED, problem);
}

/* Both report what is wrong once for each open. */
static void report_block(struct checked *c, uint64_t block)
{
	char problem[SNAP_PROBLEM_MAX];

	if (atomic_exchange(&c->bad, true))
		return;
	snprintf(problem, sizeof(problem),
		 "%s does not have the manifest's digest: block %llu (byte %llu and on) is wrong",
		 c->what.path, (unsigned long long)block,
		 (unsigned long long)(block * DIGEST_BLOCK));
	report(c, problem);
}

/* Which block it is nobody knows where the tree is bad: what the rest of it tells. */
static void report_whole(struct checked *c)
{
	char problem[SNAPDIR_DAMAGE_MAX];

	if (atomic_exchange(&c->bad, true))
		return;
	proto_snapdir_tell_damage(&c->view->dir, &c->what, c->file.fd, problem);
	report(c, problem);
}

/*
 * False where the file was written or cut since it was hashed whole. Its ctime may move:
 * links to it come and go.
 */
static bool is_as_hashed(const struct checked *c)
{
	const struct timespec *then = &c->hashed.mtime;
	struct stat st;

	return fstat(c->file.fd, &st) == 0 && st.st_size == c->hashed.size &&
	       st.st_mtim.tv_sec == then->tv_sec && st.st_mtim.tv_nsec == then->tv_nsec;
}

/* The whole file against the manifest's digest, as it is from before this to after it. */
static int hash_now(struct checked *c)
{
	struct stat st;
	int rc;

	if (fstat(c->file.fd, &st) < 0)
		return -errno;
	c->hashed = sfs_identity_of(&st);
	rc = cat_stamp_verify(c->file.fs->store, c->file.fd, c->what.size, c->what.digest, -1, NULL,
			      NULL);
	if (rc == -EBADMSG)
		report_whole(c);
	return rc == 0 && !is_as_hashed(c) ? -EIO : rc;
}

/*
 * The tree is of no use: the file itself is asked, whole. Those who come meanwhile wait for
 * the outcome, which is that of this open from then on. 0 or a negative errno.
 */
static int hash_whole(struct checked *c)
{
	int rc;

	pthread_mutex_lock(&c->hashing);
	if (c->outcome > 0) {
		rc = hash_now(c);
		/* What may pass is no outcome. */
		if (rc != -ENOMEM)
			c->outcome = rc;
		atomic_store(&c->whole, rc == 0);
	} else {
		rc = c->outcome;
	}
	pthread_mutex_unlock(&c->hashing);
	return rc;
}

/* Whole blocks, good ones by the tree. 0, -EUCLEAN: the tree cannot tell; or another errno. */
static int read_by_tree(struct checked *c, uint64_t at, void *buf, size_t len)
{
	uint64_t block = 0;
	int rc = io_pread_full(c->file.fd, buf, len, at);

	if (rc == 0)
		rc = merkle_check(c->tree, at, buf, len, &block);
	if (rc == -EBADMSG)
		report_block(c, block);
	return rc;
}

/* The same of a file that was hashed: good if it has not changed until they were read. */
static int read_hashed(const struct checked *c, uint64_t at, void *buf, size_t len)
{
	int rc = io_pread_full(c->file.fd, buf, len, at);

	return rc == 0 && !is_as_hashed(c) ? -EIO : rc;
}

/* Whole blocks, all of which are good. 0 or a negative errno. */
static int read_blocks(struct checked *c, uint64_t at, void *buf, size_t len)
{
	if (!atomic_load(&c->whole)) {
		int rc = read_by_tree(c, at, buf, len);

		if (rc != -EUCLEAN)
			return rc;
		rc = hash_whole(c);
		if (rc < 0)
			return rc;
	}
	/* Once more, if need be: what was read before it was hashed may be other bytes. */
	return read_hashed(c, at, buf, len);
}

int sfs_checked_pread(struct checked *c, void *buf, size_t len, uint64_t at)
{
	int rc = read_blocks(c, at, buf, len);

	return rc < 0 ? -EIO : 0;
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
	/* In whole pages the kernel copies them faster. */
	buf = aligned_alloc(DIGEST_BLOCK, (size_t)((end - from + mask) & ~mask));
	rc = buf ? read_blocks(c, from, buf, (size_t)(end - from)) : -ENOMEM;
	if (rc < 0)
		fuse_reply_err(req, rc == -ENOMEM ? ENOMEM : EIO);
	else
		fuse_reply_buf(req, (const char *)buf + ((uint64_t)off - from), size);
}
