/* Names, attributes, and the table of all requests: see ops.h. */
#define _GNU_SOURCE
#include "ops.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "catalog/mount.h"

#define XATTR_PROBLEM "user.snapfs.problem"
#define XATTR_RUNG    "user.snapfs.rung" /* of a large file; vmm asks for it */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;

	/* Many clones fault at once; the default of 12 would let them wait for each other. */
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	if (conn->capable & FUSE_CAP_SPLICE_WRITE)
		conn->want |= FUSE_CAP_SPLICE_WRITE;
	/*
	 * The kernel would ask for the attributes, which it may not keep, before each
	 * read from its cache: a round trip for every 4 KiB. Nothing is gained: what
	 * was verified stays right in the cache, and an open of a file that has
	 * changed since does not keep it.
	 */
	conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
	sfs_passthrough_ask(&fs->passthrough, conn);
	if (fs->ready)
		fs->ready(fs->ready_arg);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *dir = sfs_nodes_get(&fs->nodes, parent);
	struct fuse_entry_param e = { 0 };
	struct node *n;
	int rc = dir ? sfs_fs_lookup(fs, dir, name, &n, &e.attr) : -ESTALE;

	if (rc < 0) {
		fuse_reply_err(req, -rc);
	} else {
		sfs_fs_fill_entry(n, &e);
		if (fuse_reply_entry(req, &e) < 0)
			sfs_nodes_forget(&fs->nodes, e.ino, 1);
	}
	if (dir)
		sfs_nodes_put(&fs->nodes, dir);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	sfs_nodes_forget(&sfs_req_fs(req)->nodes, ino, count);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		sfs_nodes_forget(&sfs_req_fs(req)->nodes, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *n = sfs_nodes_get(&fs->nodes, ino);
	struct stat st;
	int rc = n ? sfs_fs_stat(fs, n, &st) : -ESTALE;

	(void)fi;
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st, sfs_fs_attr_timeout(n));
	if (n)
		sfs_nodes_put(&fs->nodes, n);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *n = sfs_nodes_get(&fs->nodes, ino);
	char target[FS_TARGET_MAX];
	int rc = n ? sfs_fs_readlink(fs, n, target) : -ESTALE;

	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_readlink(req, target);
	if (n)
		sfs_nodes_put(&fs->nodes, n);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	(void)ino;
	if (fstatvfs(cat_store_snapshots_fd(sfs_req_fs(req)->store), &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	st.f_namemax = CAT_NAME_MAX;
	fuse_reply_statfs(req, &st);
}

/* What is wrong with the snapshot that the node is of. Its length, 0: nothing. */
static size_t problem_of(struct fs *fs, fuse_ino_t ino, char problem[SNAP_PROBLEM_MAX])
{
	struct node *n = sfs_nodes_get(&fs->nodes, ino);
	struct view *v = n && n->snap ? sfs_snap_view(n->snap) : NULL;
	struct condition c = { 0 };

	if (v) {
		sfs_snap_examine(n->snap, v, &c);
		sfs_view_put(n->snap, v);
	}
	if (n)
		sfs_nodes_put(&fs->nodes, n);
	memcpy(problem, c.problem, sizeof(c.problem));
	return strlen(problem);
}

/* The rung of a large file, in one word. Its length, 0: it is none. */
static size_t rung_of(struct fs *fs, fuse_ino_t ino, char word[MOUNT_XATTR_MAX])
{
	static const char *const words[] = {
		[RUNG_SEALED] = "sealed",
		[RUNG_STAMPED] = "stamped",
		[RUNG_UNVERIFIED] = "unverified",
		[RUNG_DAMAGED] = "damaged",
	};
	struct node *n = sfs_nodes_get(&fs->nodes, ino);
	const uint64_t kind = n ? n->key.kind : NODE_ROOT;
	bool is_large = kind == NODE_MEMORY || kind == NODE_DISK || kind == NODE_LAYER;
	struct view *v = is_large ? sfs_snap_view(n->snap) : NULL;

	*word = '\0';
	if (v) {
		snprintf(word, MOUNT_XATTR_MAX, "%s",
			 words[kind == NODE_MEMORY ? sfs_fs_ram_rung(n->snap, v)
						   : sfs_fs_rung(n->snap, v, n->key.file)]);
		sfs_view_put(n->snap, v);
	}
	if (n)
		sfs_nodes_put(&fs->nodes, n);
	return strlen(word);
}

/* What the root says of the mount. Its length, 0: it has no such attribute. */
static size_t mount_attribute(struct fs *fs, const char *name, char value[MOUNT_XATTR_MAX])
{
	char why[PASSTHROUGH_WHY_MAX];

	*value = '\0';
	if (strcmp(name, MOUNT_XATTR_STORE) == 0)
		snprintf(value, MOUNT_XATTR_MAX, "%s", cat_store_path(fs->store));
	else if (strcmp(name, MOUNT_XATTR_READS) != 0)
		return 0;
	else if (sfs_passthrough_works(&fs->passthrough, why))
		snprintf(value, MOUNT_XATTR_MAX, "passthrough");
	else
		snprintf(value, MOUNT_XATTR_MAX, "daemon: %s", why);
	return strlen(value);
}

/* Answers with a value of len bytes as getxattr(2) and listxattr(2) want it. */
static void reply_xattr(fuse_req_t req, const char *value, size_t len, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (size < len)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char value[MOUNT_XATTR_MAX];
	size_t len = 0;

	if (strcmp(name, XATTR_PROBLEM) == 0)
		len = problem_of(sfs_req_fs(req), ino, value);
	else if (strcmp(name, XATTR_RUNG) == 0)
		len = rung_of(sfs_req_fs(req), ino, value);
	else if (ino == NODE_ROOT_ID)
		len = mount_attribute(sfs_req_fs(req), name, value);
	if (len)
		reply_xattr(req, value, len, size);
	else
		fuse_reply_err(req, ENODATA);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char problem[SNAP_PROBLEM_MAX];
	static const char of_mount[] = MOUNT_XATTR_STORE "\0" MOUNT_XATTR_READS;
	size_t len = problem_of(sfs_req_fs(req), ino, problem);

	if (ino == NODE_ROOT_ID)
		reply_xattr(req, of_mount, sizeof(of_mount), size);
	else
		reply_xattr(req, XATTR_PROBLEM, len ? sizeof(XATTR_PROBLEM) : 0, size);
}

/*
 * What changes anything is refused. The mount is read-only, so the kernel
 * refuses most of it before; not after `mount -o remount,rw`.
 */
static void refuse_create(fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode,
			  struct fuse_file_info *fi)
{
	(void)ino, (void)name, (void)mode, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void refuse_mknod(fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode, dev_t dev)
{
	(void)ino, (void)name, (void)mode, (void)dev;
	fuse_reply_err(req, EROFS);
}

static void refuse_mkdir(fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode)
{
	(void)ino, (void)name, (void)mode;
	fuse_reply_err(req, EROFS);
}

static void refuse_name(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	(void)ino, (void)name;
	fuse_reply_err(req, EROFS);
}

static void refuse_symlink(fuse_req_t req, const char *link, fuse_ino_t ino, const char *name)
{
	(void)link, (void)ino, (void)name;
	fuse_reply_err(req, EROFS);
}

static void refuse_rename(fuse_req_t req, fuse_ino_t ino, const char *name, fuse_ino_t to,
			  const char *newname, unsigned flags)
{
	(void)ino, (void)name, (void)to, (void)newname, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void refuse_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t to, const char *name)
{
	(void)ino, (void)to, (void)name;
	fuse_reply_err(req, EROFS);
}

static void refuse_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int set,
			   struct fuse_file_info *fi)
{
	(void)ino, (void)st, (void)set, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void refuse_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			    size_t size, int flags)
{
	(void)ino, (void)name, (void)value, (void)size, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void refuse_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
			 struct fuse_file_info *fi)
{
	(void)ino, (void)buf, (void)size, (void)off, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void refuse_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			     struct fuse_file_info *fi)
{
	(void)ino, (void)mode, (void)off, (void)len, (void)fi;
	fuse_reply_err(req, EROFS);
}

const struct fuse_lowlevel_ops sfs_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.readlink = op_readlink,
	.statfs = op_statfs,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.open = sfs_op_open,
	.read = sfs_op_read,
	.lseek = sfs_op_lseek,
	.release = sfs_op_release,
	.opendir = sfs_op_opendir,
	.readdir = sfs_op_readdir,
	.readdirplus = sfs_op_readdirplus,
	.releasedir = sfs_op_releasedir,
	.create = refuse_create,
	.mknod = refuse_mknod,
	.mkdir = refuse_mkdir,
	.unlink = refuse_name,
	.rmdir = refuse_name,
	.symlink = refuse_symlink,
	.rename = refuse_rename,
	.link = refuse_link,
	.setattr = refuse_setattr,
	.setxattr = refuse_setxattr,
	.removexattr = refuse_name,
	.write = refuse_write,
	.fallocate = refuse_fallocate,
};
