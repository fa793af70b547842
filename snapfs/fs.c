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
#include "composed.h"
#include "maps.h"
#include "mountopt.h"
#include "proto/working_set.h"

const struct fs_child sfs_children[] = {
	{ SNAPDIR_MANIFEST, NODE_MANIFEST, S_IFREG },
	{ SNAPDIR_STATE, NODE_STATE, S_IFREG },
	{ SNAPDIR_MEMORY, NODE_MEMORY, S_IFREG },
	{ WORKING_SET_FILE, NODE_WORKING_SET, S_IFREG },
	{ "manifest.json", NODE_JSON, S_IFREG },
	{ SNAPDIR_DISKS, NODE_DISKS, S_IFDIR },
	{ "status", NODE_STATUS, S_IFREG },
	{ "parent", NODE_PARENT, S_IFLNK },
	{ SNAPDIR_LAYERS, NODE_LAYERS_LINK, S_IFLNK },
};
const size_t sfs_children_count = sizeof(sfs_children) / sizeof(sfs_children[0]);

const char *sfs_child_name(enum node_kind kind)
{
	for (size_t i = 0; i < sfs_children_count; i++)
		if (sfs_children[i].kind == kind)
			return sfs_children[i].name;
	return NULL;
}

static void drop_node(struct node *n)
{
	sfs_snap_put(n->snap);
	free(n);
}

/* Puts in a node; takes over the reference to snap. NULL: out of memory. */
static struct node *add_node(struct fs *fs, const struct node_key *key, struct snap *snap,
			     const struct stat *seen)
{
	struct node *n = malloc(sizeof(*n));

	if (!n) {
		sfs_snap_put(snap);
		return NULL;
	}
	*n = (struct node){ .key = *key, .snap = snap };
	if (seen)
		n->seen = *seen;
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
	rc = sfs_snaps_init(&fs->snaps, store);
	if (rc < 0)
		return rc;
	rc = sfs_nodes_init(&fs->nodes, drop_node);
	if (rc < 0) {
		sfs_snaps_destroy(&fs->snaps);
		return rc;
	}
	rc = sfs_verifier_start(&fs->verifier, store);
	if (rc < 0) {
		sfs_nodes_destroy(&fs->nodes);
		sfs_snaps_destroy(&fs->snaps);
		return rc;
	}
	sfs_handles_init(&fs->handles);
	sfs_passthrough_init(
		&fs->passthrough,
		openat(cat_store_root_fd(store), "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC),
		passthrough);
	if (!add_node(fs, &root, NULL, NULL)) {
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
	sfs_snaps_destroy(&fs->snaps);
	return true;
}

static int lookup_snapshot(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { .kind = NODE_SNAPSHOT };
	struct snap_dir dir;
	struct snap *s;
	int rc;

	if (cat_name_check(name, NULL) < 0)
		return -ENOENT;
	rc = sfs_snaps_look(&fs->snaps, name, &dir);
	if (rc < 0)
		return rc;
	key.dir_dev = dir.dev;
	key.dir_ino = dir.ino;
	key.dir_born = dir.born;
	*n = sfs_nodes_find(&fs->nodes, &key);
	if (*n) {
		/* Known, perhaps by another name until now. */
		sfs_snap_set_name((*n)->snap, name);
		return 0;
	}
	s = sfs_snap_new(&fs->snaps, &dir, name);
	if (!s)
		return -ENOMEM;
	*n = add_node(fs, &key, s, NULL);
	return *n ? 0 : -ENOMEM;
}

static int lookup_root(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { 0 };

	if (strcmp(name, FS_LATEST) == 0)
		key.kind = NODE_LATEST;
	else if (strcmp(name, FS_BY_ID) == 0)
		key.kind = NODE_BY_ID;
	else if (strcmp(name, FS_LAYERS) == 0)
		key.kind = NODE_ALL_LAYERS;
	else
		return lookup_snapshot(fs, name, n);
	*n = add_node(fs, &key, NULL, NULL);
	return *n ? 0 : -ENOMEM;
}

static int lookup_id(struct fs *fs, const char *name, struct node **n)
{
	struct node_key key = { .kind = NODE_ID_LINK };

	if (uuid_parse(name, key.id) < 0)
		return -ENOENT;
	*n = add_node(fs, &key, NULL, NULL);
	return *n ? 0 : -ENOMEM;
}

static const struct fs_child *find_child(const char *name)
{
	for (size_t i = 0; i < sfs_children_count; i++)
		if (strcmp(sfs_children[i].name, name) == 0)
			return &sfs_children[i];
	return NULL;
}

bool sfs_fs_is_stored(enum node_kind kind)
{
	return kind >= NODE_MANIFEST && kind <= NODE_WORKING_SET;
}

/* What a node in the directory `dir` stands for. */
static struct node_key key_in(const struct node *dir, enum node_kind kind)
{
	return (struct node_key){
		.kind = kind,
		.dir_dev = dir->key.dir_dev,
		.dir_ino = dir->key.dir_ino,
		.dir_born = dir->key.dir_born,
	};
}

/* The node of that key in `dir`, made where there is none. */
static int node_in(struct fs *fs, const struct node *dir, const struct node_key *key,
		   const struct stat *seen, struct node **n)
{
	*n = sfs_nodes_find(&fs->nodes, key);
	if (!*n)
		*n = add_node(fs, key, sfs_snap_get(dir->snap), seen);
	return *n ? 0 : -ENOMEM;
}

/* The file at `path` of the store, in `dir`; or the RAM, composed. */
static int stored_in(struct fs *fs, const struct node *dir, const struct view *v, const char *path,
		     struct node_key *key, struct node **n)
{
	const bool composed = key->kind == NODE_MEMORY && v->dir.layered;
	struct stat st;
	int rc = composed ? sfs_composed_look(v, &st) : sfs_view_look(v, path, &st);

	if (rc < 0)
		return rc;
	if (composed)
		key->file = NODE_COMPOSED;
	key->file_dev = st.st_dev;
	key->file_ino = st.st_ino;
	return node_in(fs, dir, key, &st, n);
}

static int lookup_child(struct fs *fs, const struct node *dir, const char *name, struct node **n)
{
	const struct fs_child *child = find_child(name);
	struct node_key key;
	struct view *v;
	int rc;

	if (!child)
		return -ENOENT;
	key = key_in(dir, child->kind);
	if (!sfs_fs_is_stored(child->kind))
		return node_in(fs, dir, &key, NULL, n);
	v = sfs_snap_view(dir->snap);
	if (!v)
		return -ENOMEM;
	rc = stored_in(fs, dir, v, name, &key, n);
	sfs_view_put(dir->snap, v);
	return rc;
}

/* The file of that name in disks/, by the manifest. Its number; 0: there is none. */
static size_t find_disk(const struct view *v, const char *name, struct snapdir_file *f)
{
	const SnapshotManifest *m = v->dir.manifest;
	const size_t n = m ? proto_snapdir_files(m, v->dir.layered) : 0;

	for (size_t i = m ? proto_snapdir_ram_files(m, v->dir.layered) : 0; i < n; i++) {
		proto_snapdir_file(v->dir.manifest, v->dir.layered, i, f);
		if (strcmp(f->path + sizeof(SNAPDIR_DISKS), name) == 0)
			return i;
	}
	return 0;
}

static int lookup_disk(struct fs *fs, const struct node *dir, const char *name, struct node **n)
{
	struct node_key key = key_in(dir, NODE_DISK);
	struct view *v = sfs_snap_view(dir->snap);
	struct snapdir_file f;
	int rc;

	if (!v)
		return -ENOMEM;
	key.file = find_disk(v, name, &f);
	rc = key.file ? stored_in(fs, dir, v, f.path, &key, n) : -ENOENT;
	sfs_view_put(dir->snap, v);
	return rc;
}

int sfs_fs_disk(const struct node *dir, size_t i, char name[MANIFEST_FILE_MAX + 1], ino_t *ino)
{
	struct node_key key = { .kind = NODE_DISK };
	struct view *v = sfs_snap_view(dir->snap);
	const SnapshotManifest *m = v ? v->dir.manifest : NULL;
	struct snapdir_file f;
	struct stat st;
	int rc = 0;

	if (!v)
		return -ENOMEM;
	i += m ? proto_snapdir_ram_files(m, v->dir.layered) : 0;
	if (m && i < proto_snapdir_files(m, v->dir.layered)) {
		proto_snapdir_file(m, v->dir.layered, i, &f);
		rc = sfs_view_look(v, f.path, &st) < 0 ? -EAGAIN : 1;
	}
	sfs_view_put(dir->snap, v);
	if (rc != 1)
		return rc;
	snprintf(name, MANIFEST_FILE_MAX + 1, "%.*s", MANIFEST_FILE_MAX,
		 f.path + sizeof(SNAPDIR_DISKS));
	key.file_ino = st.st_ino;
	*ino = sfs_node_ino(&key);
	return 1;
}

/* The directory of the layers of this snapshot, if it has this id, and layers. */
static int layers_of(struct fs *fs, const char *name, const uint8_t uuid[UUID_SIZE],
		     struct node **n)
{
	struct node_key key;
	struct node *dir;
	struct view *v;
	int rc = lookup_snapshot(fs, name, &dir);

	if (rc < 0)
		return rc;
	key = key_in(dir, NODE_LAYERS);
	v = sfs_snap_view(dir->snap);
	if (!v)
		rc = -ENOMEM;
	else if (!v->dir.layered || memcmp(v->dir.manifest->id.data, uuid, UUID_SIZE) != 0)
		rc = -ENOENT;
	else
		rc = node_in(fs, dir, &key, NULL, n);
	if (v)
		sfs_view_put(dir->snap, v);
	sfs_nodes_forget(&fs->nodes, dir->id, 1);
	return rc;
}

struct layered {
	const uint8_t *id;
	char name[CAT_NAME_MAX + 1];
};

/* Stops at the first layered one of the id. */
static int find_layered(void *arg, const struct cat_row *row)
{
	struct layered *l = arg;

	if (row->layers == 0 || row->status == CAT_MISSING ||
	    memcmp(row->id, l->id, UUID_SIZE) != 0)
		return 0;
	memcpy(l->name, row->name, sizeof(l->name));
	return 1;
}

/*
 * Of several snapshots with this id the earliest that is layered: a copy of it may be
 * flat. All are gone through only where the earliest of all is.
 */
static int lookup_layers(struct fs *fs, const char *id, struct node **n)
{
	uint8_t uuid[UUID_SIZE];
	struct layered l = { .id = uuid };
	int rc;

	if (uuid_parse(id, uuid) < 0)
		return -ENOENT;
	rc = cat_index_name_of(fs->store, uuid, l.name, NULL);
	if (rc < 0)
		return rc;
	rc = layers_of(fs, l.name, uuid, n);
	if (rc == -ENOENT && cat_index_list(fs->store, find_layered, &l, NULL) == 1)
		rc = layers_of(fs, l.name, uuid, n);
	return rc;
}

/* What a file of /.layers/ID is called: N.ram, N.map. */
static void layer_path(const struct view *v, size_t i, enum node_kind kind,
		       char path[SNAPDIR_PATH_MAX])
{
	struct snapdir_file f;

	if (kind == NODE_LAYER_MAP) {
		sfs_maps_path(i, path);
		return;
	}
	proto_snapdir_file(v->dir.manifest, true, i, &f);
	memcpy(path, f.path, SNAPDIR_PATH_MAX);
}

/* The i-th of all such files: the layers from the bottom, each with its map. */
static enum node_kind layer_kind(size_t i)
{
	return i % 2 ? NODE_LAYER_MAP : NODE_LAYER;
}

/* How many there are; of which number 1, the map of the bottom, does not exist. */
static size_t layer_files(const struct view *v)
{
	return v->dir.layered ? 2 * v->dir.manifest->n_layer : 0;
}

static int lookup_layer(struct fs *fs, const struct node *dir, const char *name, struct node **n)
{
	struct view *v = sfs_snap_view(dir->snap);
	char path[SNAPDIR_PATH_MAX];
	int rc = -ENOENT;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < layer_files(v); i++) {
		struct node_key key = key_in(dir, layer_kind(i));

		layer_path(v, i / 2, layer_kind(i), path);
		if (i == 1 || strcmp(path + sizeof(SNAPDIR_LAYERS), name) != 0)
			continue;
		key.file = i / 2;
		rc = stored_in(fs, dir, v, path, &key, n);
		break;
	}
	sfs_view_put(dir->snap, v);
	return rc;
}

int sfs_fs_layer(const struct node *dir, size_t i, char name[MANIFEST_FILE_MAX + 1], ino_t *ino)
{
	struct node_key key = { .kind = layer_kind(i) };
	struct view *v = sfs_snap_view(dir->snap);
	char path[SNAPDIR_PATH_MAX];
	struct stat st;
	int rc = 0;

	if (!v)
		return -ENOMEM;
	if (i < layer_files(v)) {
		layer_path(v, i / 2, layer_kind(i), path);
		rc = i == 1 || sfs_view_look(v, path, &st) < 0 ? -EAGAIN : 1;
	}
	sfs_view_put(dir->snap, v);
	if (rc != 1)
		return rc;
	snprintf(name, MANIFEST_FILE_MAX + 1, "%.*s", MANIFEST_FILE_MAX,
		 path + sizeof(SNAPDIR_LAYERS));
	key.file_ino = st.st_ino;
	*ino = sfs_node_ino(&key);
	return 1;
}

/* True where what the two say of their layers is the same. */
static bool has_same_layers(const SnapshotManifest *a, const SnapshotManifest *b)
{
	for (size_t i = 0; a->n_layer == b->n_layer && i < a->n_layer; i++) {
		const Layer *x = a->layer[i], *y = b->layer[i];

		if (x->size != y->size || x->map_size != y->map_size ||
		    memcmp(x->digest.data, y->digest.data, DIGEST_SIZE) != 0 ||
		    (i && memcmp(x->map_digest.data, y->map_digest.data, DIGEST_SIZE) != 0))
			return false;
	}
	return a->n_layer == b->n_layer;
}

/* True where the layers that /.layers/ID has are those of the view. */
static bool is_shown(struct fs *fs, const struct view *v, const char *id)
{
	struct node *n;
	struct view *shown;
	bool same;

	if (lookup_layers(fs, id, &n) < 0)
		return false;
	shown = sfs_snap_view(n->snap);
	same = shown && shown->dir.layered && has_same_layers(shown->dir.manifest, v->dir.manifest);
	if (shown)
		sfs_view_put(n->snap, shown);
	sfs_nodes_forget(&fs->nodes, n->id, 1);
	return same;
}

/*
 * A directory that repeats an id without being a copy has no link: what is known of
 * the files that it would lead to is about other content.
 */
int sfs_fs_layers_link(struct fs *fs, struct snap *s, char target[FS_TARGET_MAX])
{
	struct view *v = sfs_snap_view(s);
	char id[UUID_TEXT_MAX];
	int rc = -ENOENT;

	if (!v)
		return -ENOMEM;
	if (v->dir.layered && is_shown(fs, v, uuid_format(v->dir.manifest->id.data, id))) {
		snprintf(target, FS_TARGET_MAX, "../" FS_LAYERS "/%s", id);
		rc = 0;
	}
	sfs_view_put(s, v);
	return rc;
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
	case NODE_ALL_LAYERS:
		rc = lookup_layers(fs, name, n);
		break;
	case NODE_LAYERS:
		rc = lookup_layer(fs, parent, name, n);
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
	e->entry_timeout = sfs_fs_is_stored(n->key.kind) ? e->attr_timeout : 0;
}

/* True where the snapshot `dir` has that child. */
static bool has_child(struct fs *fs, const struct node *dir, const struct fs_child *child)
{
	struct node n = { .key = { .kind = child->kind }, .snap = dir->snap };
	struct stat st;
	struct view *v;
	int rc;

	if (!sfs_fs_is_stored(child->kind))
		return sfs_fs_stat(fs, &n, &st) == 0;
	v = sfs_snap_view(dir->snap);
	if (!v)
		return false;
	rc = child->kind == NODE_MEMORY && v->dir.layered ? sfs_composed_look(v, &st)
							  : sfs_view_look(v, child->name, &st);
	sfs_view_put(dir->snap, v);
	return rc == 0;
}

ino_t sfs_fs_child_ino(struct fs *fs, const struct node *dir, const struct fs_child *child)
{
	const struct node_key key = key_in(dir, child->kind);

	return has_child(fs, dir, child) ? sfs_node_ino(&key) : 0;
}
