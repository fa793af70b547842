/*
 * The file system as a tree: what is where, and how it looks to stat(2).
 * Knows the store and the nodes, and nothing of FUSE's requests.
 *
 *	/NAME/{manifest,state,memory}.bin	files of the store
 *	/NAME/working-set			file of the store, where one was noted
 *	/NAME/disks/				files of the store, as the manifest lists them
 *	/NAME/{manifest.json,status}		made here
 *	/NAME/parent -> ../PARENT		while it is in the store
 *	/NAME/layers -> ../.layers/ID		of a layered one, whose memory.bin is composed
 *	/latest -> NAME
 *	/.by-id/ID -> ../NAME
 *	/.layers/ID/N.{ram,map}			files of the store: the layers
 *
 * The root lists snapshots/ itself and each name is looked up there, so every
 * change shows at once, whoever made it; the index is asked for links only.
 */
#pragma once

#include <sys/stat.h>

#include "catalog/store.h"
#include "handle.h"
#include "node.h"
#include "passthrough.h"
#include "rung.h"
#include "snap.h"
#include "verifier.h"

#define FS_LATEST     "latest"
#define FS_BY_ID      ".by-id"
#define FS_LAYERS     ".layers"
#define FS_TARGET_MAX (CAT_NAME_MAX + 4) /* "../NAME" */

struct fs {
	struct store *store;
	struct snaps snaps;
	struct verifier *verifier; /* NULL: stopped */
	struct node_table nodes;
	struct handle_list handles;
	struct passthrough passthrough;
	uid_t uid; /* the store's owner: of everything here */
	gid_t gid;
	mode_t file_mode, dir_mode;
	void (*ready)(void *arg); /* called once the kernel is served; may be NULL */
	void *ready_arg;
};

/* Over an open store, which it does not own. 0 or a negative errno. */
int sfs_fs_init(struct fs *fs, struct store *store, mode_t file_mode, bool passthrough);

/*
 * Ends the verifications, for when requests come no more. False: a file is
 * being hashed by a thread that cannot be stopped, and may still answer one.
 */
bool sfs_fs_quiesce(struct fs *fs);

/*
 * Quiesces and frees. False: it could not be quiesced, so neither `fs` nor the
 * store may be freed: end the process by _exit().
 */
bool sfs_fs_destroy(struct fs *fs);

/* What a snapshot's directory holds, in the order of a listing. */
struct fs_child {
	const char *name;
	enum node_kind kind;
	mode_t type; /* S_IFREG, S_IFLNK, S_IFDIR */
};
extern const struct fs_child sfs_children[];
extern const size_t sfs_children_count;
/* NULL: no such child. */
const char *sfs_child_name(enum node_kind kind);

/* True for the files of a snapshot's own directory that lie in the store. */
bool sfs_fs_is_stored(enum node_kind kind);

/*
 * The node `name` of the directory `parent`, with one more lookup, and its
 * attributes. 0, -ENOENT, -ENOTDIR, or another negative errno.
 */
int sfs_fs_lookup(struct fs *fs, const struct node *parent, const char *name, struct node **n,
		  struct stat *st);

/*
 * Tells the kernel of a node: its number, and how long it may keep what
 * e->attr says of it without asking again.
 */
void sfs_fs_fill_entry(const struct node *n, struct fuse_entry_param *e);

/* Seconds that the kernel may keep a node's attributes. */
double sfs_fs_attr_timeout(const struct node *n);

/* Attributes of a node. 0, -ENOENT (it is gone), or another negative errno. */
int sfs_fs_stat(struct fs *fs, struct node *n, struct stat *st);

/* What the link points to. 0, -ENOENT, -EINVAL (no link), or another negative errno. */
int sfs_fs_readlink(struct fs *fs, const struct node *n, char target[FS_TARGET_MAX]);

/* The rung of file number i of the manifest, as it would be opened now. */
enum rung sfs_fs_rung(struct snap *s, const struct view *v, size_t i);

/* That of the RAM: of its layers, the one of which least is known. */
enum rung sfs_fs_ram_rung(struct snap *s, const struct view *v);

/* What /NAME/layers points to. 0, -ENOENT: it is not there, or another negative errno. */
int sfs_fs_layers_link(struct fs *fs, struct snap *s, char target[FS_TARGET_MAX]);

/* The text of NODE_STATUS or NODE_JSON, the caller's. 0 or a negative errno. */
int sfs_fs_text(struct fs *fs, const struct node *n, char **text, size_t *len);

/*
 * The i-th file of disks/ or of /.layers/ID (`dir`) for a listing: its name there and
 * inode number. 1, 0: there are no more, -EAGAIN: it is not there, or another
 * negative errno.
 */
int sfs_fs_disk(const struct node *dir, size_t i, char name[MANIFEST_FILE_MAX + 1], ino_t *ino);
int sfs_fs_layer(const struct node *dir, size_t i, char name[MANIFEST_FILE_MAX + 1], ino_t *ino);

/* Inode number that the entry `name` of a listing has, for d_ino. 0: there is none. */
ino_t sfs_fs_child_ino(struct fs *fs, const struct node *dir, const struct fs_child *child);
