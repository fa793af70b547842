/* How the things of the tree look: attributes, link targets, made texts: see fs.h. */
#define _GNU_SOURCE
#include "fs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "composed.h"
#include "describe.h"
#include "maps.h"
#include "rung.h"

/* Times beyond it have no RFC 3339 form, and a hostile manifest may claim any. */
#define TIME_MAX 253402300799

static int name_of(struct fs *fs, const uint8_t id[UUID_SIZE], const char *prefix,
		   char target[FS_TARGET_MAX])
{
	char name[CAT_NAME_MAX + 1];
	int rc = cat_index_name_of(fs->store, id, name, NULL);

	if (rc < 0)
		return rc;
	snprintf(target, FS_TARGET_MAX, "%s%s", prefix, name);
	return 0;
}

static int parent_of(struct fs *fs, struct snap *s, const char *prefix, char target[FS_TARGET_MAX])
{
	struct view *v = sfs_snap_view(s);
	const SnapshotManifest *m = v ? v->dir.manifest : NULL;
	int rc = v ? -ENOENT : -ENOMEM;

	if (m && m->parent_id.len == UUID_SIZE)
		rc = name_of(fs, m->parent_id.data, prefix, target);
	if (v)
		sfs_view_put(s, v);
	return rc;
}

int sfs_fs_readlink(struct fs *fs, const struct node *n, char target[FS_TARGET_MAX])
{
	char name[CAT_NAME_MAX + 1];
	int rc;

	switch (n->key.kind) {
	case NODE_LATEST:
		rc = cat_index_latest(fs->store, name, NULL);
		if (rc == 0)
			snprintf(target, FS_TARGET_MAX, "%s", name);
		return rc;
	case NODE_ID_LINK:
		return name_of(fs, n->key.id, "../", target);
	case NODE_PARENT:
		return parent_of(fs, n->snap, "../", target);
	case NODE_LAYERS_LINK:
		return sfs_fs_layers_link(fs, n->snap, target);
	default:
		return -EINVAL;
	}
}

enum rung sfs_fs_rung(struct snap *s, const struct view *v, size_t i)
{
	struct snapdir_file f;
	auto_fd int fd = -1;

	if (!v->dir.manifest || i >= proto_snapdir_files(v->dir.manifest, v->dir.layered))
		return RUNG_DAMAGED;
	proto_snapdir_file(v->dir.manifest, v->dir.layered, i, &f);
	fd = proto_snapdir_open_file(&v->dir, &f, "", NULL);
	return fd < 0 ? RUNG_DAMAGED : sfs_rung_decide(s, i, fd, f.digest);
}

enum rung sfs_fs_ram_rung(struct snap *s, const struct view *v)
{
	enum rung worst = RUNG_SEALED;

	if (!v->dir.manifest)
		return RUNG_DAMAGED;
	for (size_t i = 0; i < proto_snapdir_ram_files(v->dir.manifest, v->dir.layered); i++) {
		const enum rung one = sfs_fs_rung(s, v, i);

		worst = one > worst ? one : worst;
	}
	return worst;
}

/* How what is on this rung is known to be good, in words. */
static const char *rung_words(enum rung rung)
{
	switch (rung) {
	case RUNG_SEALED:
		return "sealed: the kernel checks each read";
	case RUNG_STAMPED:
		return "stamped: verified, and unchanged since";
	case RUNG_UNVERIFIED:
		return "not verified since it was written; the next open verifies it";
	case RUNG_DAMAGED:
		break;
	}
	return "damaged";
}

static int status_text(struct fs *fs, struct snap *s, const struct view *v, char **text,
		       size_t *len)
{
	char name[CAT_NAME_MAX + 1], parent[FS_TARGET_MAX] = "", id[UUID_TEXT_MAX];
	struct description d = { .manifest = v->dir.manifest,
				 .layered = v->dir.layered,
				 .parent = parent };
	const char *files[SNAP_FILES_MAX];
	struct condition c;

	sfs_snap_name(s, name);
	sfs_snap_examine(s, v, &c);
	d.name = c.indexed ? c.row.name : name;
	d.memory = "unknown";
	if (d.manifest) {
		d.memory = rung_words(sfs_fs_ram_rung(s, v));
		d.id = uuid_format(d.manifest->id.data, id);
		parent_of(fs, s, "", parent);
		for (size_t i = 0; i < proto_snapdir_files(d.manifest, d.layered); i++)
			files[i] = rung_words(sfs_fs_rung(s, v, i));
	}
	d.status = c.status;
	d.problem = c.problem;
	d.files = files;
	d.verified_at = c.indexed ? c.row.verified_at : 0;
	return sfs_describe_status(&d, text, len);
}

int sfs_fs_text(struct fs *fs, const struct node *n, char **text, size_t *len)
{
	struct view *v = sfs_snap_view(n->snap);
	int rc;

	if (!v)
		return -ENOMEM;
	if (n->key.kind == NODE_STATUS)
		rc = status_text(fs, n->snap, v, text, len);
	else
		rc = v->dir.manifest ? sfs_describe_json(v->dir.manifest, text, len) : -ENOENT;
	sfs_view_put(n->snap, v);
	return rc;
}

/* A snapshot's time is its creation's; of a damaged one, its directory's. */
static int snapshot_time(struct snap *s, struct timespec *t)
{
	struct view *v = sfs_snap_view(s);
	const Timestamp *created;

	if (!v)
		return -ENOMEM;
	*t = s->at.mtime;
	if (v->dir.manifest) {
		created = v->dir.manifest->created_at;
		t->tv_sec = created->seconds < 0	  ? 0
			    : created->seconds > TIME_MAX ? TIME_MAX
							  : (time_t)created->seconds;
		t->tv_nsec = created->nanos;
	}
	sfs_view_put(s, v);
	return 0;
}

static void set_times(struct stat *st, const struct timespec *t)
{
	st->st_atim = *t;
	st->st_mtim = *t;
	st->st_ctim = *t;
}

static int stat_top(struct fs *fs, struct stat *st)
{
	struct stat snapshots;

	if (fstat(cat_store_snapshots_fd(fs->store), &snapshots) < 0)
		return -errno;
	st->st_mode = S_IFDIR | fs->dir_mode;
	set_times(st, &snapshots.st_mtim);
	return 0;
}

static int stat_link(struct fs *fs, const struct node *n, struct stat *st)
{
	char target[FS_TARGET_MAX];
	int rc = sfs_fs_readlink(fs, n, target);

	if (rc < 0)
		return rc;
	if (n->snap) {
		struct timespec t;

		rc = snapshot_time(n->snap, &t);
		set_times(st, &t);
	} else {
		rc = stat_top(fs, st);
	}
	st->st_mode = S_IFLNK | 0777;
	st->st_size = (off_t)strlen(target);
	return rc;
}

/* Where the node's file is in the snapshot's directory. 0, or -ENOENT: nowhere any more. */
static int path_of(const struct node *n, const struct view *v, char path[SNAPDIR_PATH_MAX])
{
	const char *name = sfs_child_name(n->key.kind);
	struct snapdir_file f;

	if (n->key.kind == NODE_LAYER_MAP) {
		sfs_maps_path(n->key.file, path);
		return 0;
	}
	if (name) {
		snprintf(path, SNAPDIR_PATH_MAX, "%s", name);
		return 0;
	}
	if (!v->dir.manifest || n->key.file >= proto_snapdir_files(v->dir.manifest, v->dir.layered))
		return -ENOENT;
	proto_snapdir_file(v->dir.manifest, v->dir.layered, n->key.file, &f);
	memcpy(path, f.path, SNAPDIR_PATH_MAX);
	return 0;
}

/*
 * Looks at the node's file. One that was removed or replaced is as it was seen last:
 * those who have it open go on with it. 0 or a negative errno.
 */
static int look(struct node *n, struct stat *file)
{
	struct view *v = sfs_snap_view(n->snap);
	char path[SNAPDIR_PATH_MAX];
	int rc;

	if (!v)
		return -ENOMEM;
	rc = path_of(n, v, path);
	if (rc == 0)
		rc = n->key.kind == NODE_MEMORY && v->dir.layered ? sfs_composed_look(v, file)
								  : sfs_view_look(v, path, file);
	sfs_view_put(n->snap, v);
	pthread_mutex_lock(&n->snap->lock);
	if (rc == 0 && file->st_dev == n->key.file_dev && file->st_ino == n->key.file_ino)
		n->seen = *file;
	else if (rc == 0 || rc == -ENOENT)
		*file = n->seen;
	pthread_mutex_unlock(&n->snap->lock);
	return rc == -ENOENT ? 0 : rc;
}

/* A file of the store: its own size, blocks and times. What is no regular file is empty. */
static int stat_stored(struct fs *fs, struct node *n, struct stat *st)
{
	struct stat file = { 0 };
	int rc = look(n, &file);

	if (rc < 0)
		return rc;
	st->st_mode = S_IFREG | fs->file_mode;
	if (S_ISREG(file.st_mode)) {
		st->st_size = file.st_size;
		st->st_blocks = file.st_blocks;
	}
	st->st_atim = file.st_mtim;
	st->st_mtim = file.st_mtim;
	st->st_ctim = file.st_ctim;
	return 0;
}

static int stat_made(struct fs *fs, const struct node *n, struct stat *st)
{
	auto_free char *text = NULL;
	struct timespec t;
	size_t len = 0;
	int rc = sfs_fs_text(fs, n, &text, &len);

	if (rc == 0)
		rc = snapshot_time(n->snap, &t);
	if (rc < 0)
		return rc;
	st->st_mode = S_IFREG | fs->file_mode;
	st->st_size = (off_t)len;
	st->st_blocks = (blkcnt_t)((len + 511) / 512);
	set_times(st, &t);
	return 0;
}

/* A directory of a snapshot: its times are the snapshot's. */
static int stat_dir(struct fs *fs, const struct node *n, struct stat *st)
{
	struct timespec t;
	int rc = snapshot_time(n->snap, &t);

	st->st_mode = S_IFDIR | fs->dir_mode;
	st->st_nlink = 2;
	set_times(st, &t);
	return rc;
}

/* disks/ is there where the manifest has files for it. */
static int stat_disks(struct fs *fs, const struct node *n, struct stat *st)
{
	struct view *v = sfs_snap_view(n->snap);
	bool any;

	if (!v)
		return -ENOMEM;
	any = v->dir.manifest && proto_snapdir_files(v->dir.manifest, v->dir.layered) >
					 proto_snapdir_ram_files(v->dir.manifest, v->dir.layered);
	sfs_view_put(n->snap, v);
	return any ? stat_dir(fs, n, st) : -ENOENT;
}

int sfs_fs_stat(struct fs *fs, struct node *n, struct stat *st)
{
	*st = (struct stat){
		.st_ino = sfs_node_ino(&n->key),
		.st_nlink = 1,
		.st_uid = fs->uid,
		.st_gid = fs->gid,
		.st_blksize = 4096,
	};
	switch ((enum node_kind)n->key.kind) {
	case NODE_ROOT:
	case NODE_BY_ID:
	case NODE_ALL_LAYERS:
		return stat_top(fs, st);
	case NODE_LATEST:
	case NODE_ID_LINK:
	case NODE_PARENT:
	case NODE_LAYERS_LINK:
		return stat_link(fs, n, st);
	case NODE_SNAPSHOT:
	case NODE_LAYERS:
		return stat_dir(fs, n, st);
	case NODE_DISKS:
		return stat_disks(fs, n, st);
	case NODE_MANIFEST:
	case NODE_STATE:
	case NODE_MEMORY:
	case NODE_WORKING_SET:
	case NODE_DISK:
	case NODE_LAYER:
	case NODE_LAYER_MAP:
		return stat_stored(fs, n, st);
	case NODE_JSON:
	case NODE_STATUS:
		return stat_made(fs, n, st);
	case NODE_KINDS:
		break;
	}
	return -EINVAL;
}
