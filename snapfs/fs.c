/* The tree: see fs.h. */
#define _GNU_SOURCE
#include "fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "mountopt.h"

const struct fs_child sfs_children[] = {
	{ SNAPDIR_MANIFEST, NODE_MANIFEST, S_IFREG }, { SNAPDIR_STATE, NODE_STATE, S_IFREG },
	{ SNAPDIR_MEMORY, NODE_MEMORY, S_IFREG },     { "manifest.json", NODE_JSON, S_IFREG },
	{ SNAPDIR_DISKS, NODE_DISKS, S_IFDIR },	      { "status", NODE_STATUS, S_IFREG },
	{ "parent", NODE_PARENT, S_IFLNK },
};
const size_t sfs_children_count = sizeof(sfs_children) / sizeof(sfs_children[0]);

static void drop_node(struct node *n)
{
	sfs_snap_put(n->snap);
	if (n->fd >= 0)
		close(n->fd);
	free(n);
}

/* Puts in a node; takes over the references to snap and fd. NULL: out of memory. */
static struct node *add_node(struct fs *fs, const struct node_key *key, struct snap *snap, int fd)
{
	struct node *n = malloc(sizeof(*n));

	if (!n) {
		sfs_snap_put(snap);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	*n = (struct node){ .key = *key, .snap = snap, .fd = fd };
	return sfs_nodes_add(&fs->nodes, n);
}

int sfs_fs_init(struct fs *fs, struct store *store, mode_t file_mode, bool passthrough)
{
	const struct node_key root = { .kind = NODE_ROOT };
	struct stat st;
	int rc;

	*fs = (struct fs){
		.store = store,
		.file_mode = file_mode,
		.dir_mode = sfs_mode_of_dir(file_mode),
	};
	if (fstat(cat_store_root_fd(store), &st) < 0)
		return -errno;
	fs->uid = st.st_uid;
	fs->gid = st.st_gid;
	rc = sfs_verifier_start(&fs->verifier, store);
	if (rc < 0)
		return rc;
	rc = sfs_nodes_init(&fs->nodes, drop_node);
	if (rc < 0) {
		sfs_verifier_stop(fs->verifier);
		return rc;
	}
	sfs_handles_init(&fs->handles);
	sfs_passthrough_init(
		&fs->passthrough,
		openat(cat_store_root_fd(store), "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC),
		passthrough);
	if (!add_node(fs, &root, NULL, -1)) {
		sfs_fs_destroy(fs);
		return -ENOMEM;
	}
	return 0;
}

bool sfs_fs_quiesce(struct fs *fs)
{
	if (fs->verifier && !sfs_verifier_stop(fs->verifier))
		return false;
	fs->verifier = NULL;
	return true;
}

bool sfs_fs_destroy(struct fs *fs)
{
	if (!sfs_fs_quiesce(fs))
		return false;
	sfs_handles_destroy(&fs->handles);
	sfs_passthrough_destroy(&fs->passthrough);
	sfs_nodes_destroy(&fs->nodes);
	return true;
}

static int lookup_snapshot(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { .kind = NODE_SNAPSHOT };
	struct snap *s;
	int rc;

	if (cat_name_check(name, NULL) < 0)
		return -ENOENT;
	rc = sfs_snap_open(&s, cat_store_snapshots_fd(fs->store), name);
	if (rc < 0)
		return rc;
	key.dir_dev = s->stat.st_dev;
	key.dir_ino = s->stat.st_ino;
	*n = sfs_nodes_find(&fs->nodes, &key);
	if (*n) {
		/* Known, perhaps by another name until now. */
		sfs_snap_put(s);
		sfs_snap_set_name((*n)->snap, name);
		return 0;
	}
	*n = add_node(fs, &key, s, -1);
	return *n ? 0 : -ENOMEM;
}

static int lookup_root(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { 0 };

	if (strcmp(name, FS_LATEST) == 0)
		key.kind = NODE_LATEST;
	else if (strcmp(name, FS_BY_ID) == 0)
		key.kind = NODE_BY_ID;
	else
		return lookup_snapshot(fs, name, n);
	*n = add_node(fs, &key, NULL, -1);
	return *n ? 0 : -ENOMEM;
}

static int lookup_id(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { .kind = NODE_ID_LINK };

	if (uuid_parse(name, key.id) < 0)
		return -ENOENT;
	*n = add_node(fs, &key, NULL, -1);
	return *n ? 0 : -ENOMEM;
}

static const struct fs_child *find_child(const char *name)
{
	for (size_t i = 0; i < sfs_children_count; i++)
		if (strcmp(sfs_children[i].name, name) == 0)
			return &sfs_children[i];
	return NULL;
}

/* True for the files that lie in the store. */
static bool is_stored(enum node_kind kind)
{
	return kind == NODE_MANIFEST || kind == NODE_STATE || kind == NODE_MEMORY;
}

static int lookup_child(struct fs *fs, const struct node *dir, const char *name, struct node **n)
{
	struct node_key key = { .dir_dev = dir->key.dir_dev, .dir_ino = dir->key.dir_ino };
	const struct fs_child *child = find_child(name);
	auto_fd int fd = -1;

	if (!child)
		return -ENOENT;
	key.kind = child->kind;
	if (is_stored(child->kind)) {
		struct stat st;

		/* Whatever it is, it is only looked at: O_PATH opens no FIFO and follows no link.
		 */
		fd = openat(dir->snap->dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0)
			return -errno;
		key.file_dev = st.st_dev;
		key.file_ino = st.st_ino;
	}
	*n = sfs_nodes_find(&fs->nodes, &key);
	if (*n)
		return 0;
	*n = add_node(fs, &key, sfs_snap_get(dir->snap), take_fd(&fd));
	return *n ? 0 : -ENOMEM;
}

/* disks/ or what is in it, to be looked at only. */
static int open_disks(const struct node *dir)
{
	int fd = openat(dir->snap->dirfd, SNAPDIR_DISKS,
			O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* The number of the file of that name in disks/, by the manifest as it is now. */
static int find_disk(const struct node *dir, const char *name, uint64_t *file)
{
	struct view *v = sfs_snap_view(dir->snap);
	size_t n = v && v->dir.manifest ? proto_snapdir_files(v->dir.manifest) : 0;
	int rc = v ? -ENOENT : -ENOMEM;

	for (size_t i = 1; rc == -ENOENT && i < n; i++) {
		struct snapdir_file f;

		proto_snapdir_file(v->dir.manifest, i, &f);
		if (strcmp(f.path + sizeof(SNAPDIR_DISKS), name) != 0)
			continue;
		*file = i;
		rc = 0;
	}
	if (v)
		sfs_view_put(dir->snap, v);
	return rc;
}

static int lookup_disk(struct fs *fs, const struct node *dir, const char *name, struct node **n)
{
	struct node_key key = {
		.kind = NODE_DISK,
		.dir_dev = dir->key.dir_dev,
		.dir_ino = dir->key.dir_ino,
	};
	auto_fd int disks = -1;
	auto_fd int fd = -1;
	struct stat st;
	int rc = find_disk(dir, name, &key.file);

	if (rc < 0)
		return rc;
	disks = open_disks(dir);
	if (disks < 0)
		return disks;
	fd = openat(disks, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	key.file_dev = st.st_dev;
	key.file_ino = st.st_ino;
	*n = sfs_nodes_find(&fs->nodes, &key);
	if (*n)
		return 0;
	*n = add_node(fs, &key, sfs_snap_get(dir->snap), take_fd(&fd));
	return *n ? 0 : -ENOMEM;
}

int sfs_fs_disk(const struct node *dir, size_t i, char name[MANIFEST_FILE_MAX + 1], ino_t *ino)
{
	struct node_key key = { .kind = NODE_DISK };
	struct view *v = sfs_snap_view(dir->snap);
	auto_fd int disks = -1;
	struct snapdir_file f;
	struct stat st;
	bool more;

	if (!v)
		return -ENOMEM;
	more = v->dir.manifest && i + 1 < proto_snapdir_files(v->dir.manifest);
	if (more)
		proto_snapdir_file(v->dir.manifest, i + 1, &f);
	sfs_view_put(dir->snap, v);
	if (!more)
		return 0;
	disks = open_disks(dir);
	snprintf(name, MANIFEST_FILE_MAX + 1, "%.*s", MANIFEST_FILE_MAX,
		 f.path + sizeof(SNAPDIR_DISKS));
	if (disks < 0 || fstatat(disks, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -EAGAIN;
	key.file_ino = st.st_ino;
	*ino = sfs_node_ino(&key);
	return 1;
}

int sfs_fs_lookup(struct fs *fs, const struct node *parent, const char *name, struct node **n,
		  struct stat *st)
{
	int rc;

	switch (parent->key.kind) {
	case NODE_ROOT:
		rc = lookup_root(fs, name, n);
		break;
	case NODE_BY_ID:
		rc = lookup_id(fs, name, n);
		break;
	case NODE_SNAPSHOT:
		rc = lookup_child(fs, parent, name, n);
		break;
	case NODE_DISKS:
		rc = lookup_disk(fs, parent, name, n);
		break;
	default:
		return -ENOTDIR;
	}
	if (rc < 0)
		return rc;
	rc = sfs_fs_stat(fs, *n, st);
	if (rc < 0)
		sfs_nodes_forget(&fs->nodes, (*n)->id, 1);
	return rc;
}

/*
 * A path walk looks names up, and each answer brings fresh attributes: those kept
 * are for the request that follows at once, which else is a round trip more. Texts
 * that are made when they are asked for are never kept.
 */
double sfs_fs_attr_timeout(const struct node *n)
{
	return n->key.kind == NODE_JSON || n->key.kind == NODE_STATUS ? 0 : 1;
}

/*
 * The names of snapshots are the store's, whoever changes it: never kept. Those of
 * a snapshot's files never lead elsewhere, as the directory is no name but what it
 * was bound to; and an open of a file that is not there any more, or that is another
 * one, has the kernel look again (ESTALE).
 */
void sfs_fs_fill_entry(const struct node *n, struct fuse_entry_param *e)
{
	e->ino = n->id;
	e->attr_timeout = sfs_fs_attr_timeout(n);
	e->entry_timeout = is_stored(n->key.kind) ? e->attr_timeout : 0;
}

ino_t sfs_fs_child_ino(struct fs *fs, const struct node *dir, const struct fs_child *child)
{
	struct node n = {
		.key = { .kind = child->kind, .dir_ino = dir->key.dir_ino },
		.snap = dir->snap,
	};
	struct stat st;

	if (is_stored(child->kind)
		    ? fstatat(dir->snap->dirfd, child->name, &st, AT_SYMLINK_NOFOLLOW) < 0
		    : sfs_fs_stat(fs, &n, &st) < 0)
		return 0;
	return sfs_node_ino(&n.key);
}
