/*
 * The nodes that the kernel knows: one for each file, directory or link of the
 * mount that it has looked up and not yet forgotten. Knows nothing of FUSE.
 *
 * A node is found by its number (the kernel's requests) or by its key (a
 * lookup that ends at the same thing gets the same node). Numbers are never
 * given twice. It lives as long as the kernel's lookups or a request use it.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define NODE_ROOT_ID 1 /* FUSE's number of the root */

enum node_kind {
	NODE_ROOT,
	NODE_LATEST,	 /* /latest */
	NODE_BY_ID,	 /* /.by-id */
	NODE_ALL_LAYERS, /* /.layers; up to here there is one of each, and node.c counts on it */
	NODE_ID_LINK,	 /* /.by-id/ID */
	NODE_SNAPSHOT,	 /* /NAME */
	NODE_MANIFEST,	 /* and its files */
	NODE_STATE,
	NODE_MEMORY,
	NODE_WORKING_SET,
	NODE_JSON,
	NODE_STATUS,
	NODE_PARENT,
	NODE_LAYERS_LINK,
	NODE_DISKS,	/* /NAME/disks */
	NODE_DISK,	/* and its files */
	NODE_LAYERS,	/* /.layers/ID */
	NODE_LAYER,	/* and its files: N.ram */
	NODE_LAYER_MAP, /* N.map */
	NODE_KINDS
};

/*
 * What a node stands for: the directory of the snapshot and the file in it by
 * device and inode, never by name. Nothing here holds them open, so the number of
 * a directory that is removed may be given again: its birth tells them apart, on
 * file systems that keep it. The fields that a kind does not have are 0; there is
 * no padding, so keys compare by memcmp().
 */
struct node_key {
	uint64_t kind; /* enum node_kind */
	uint64_t dir_dev, dir_ino;
	uint64_t dir_born; /* ns since 1970; 0: the file system does not say */
	uint64_t file_dev, file_ino;
	/*
	 * NODE_DISK, NODE_LAYER and its map: its number in the manifest (proto_snapdir_file()).
	 * NODE_MEMORY: 0, or NODE_COMPOSED: it is made of layers, and file_ino is that of the
	 * manifest that says so.
	 */
	uint64_t file;
	uint8_t id[16]; /* NODE_ID_LINK: the snapshot's */
};

#define NODE_COMPOSED UINT64_MAX

struct snap;

struct node {
	struct node_key key;
	uint64_t id;	   /* the kernel's number of it */
	struct snap *snap; /* owned reference: the directory it is of; NULL: none */
	/* Guarded by the table's lock. */
	uint64_t lookups; /* that the kernel holds */
	uint64_t uses;	  /* that requests hold */
	bool retired;	  /* found by its number only */
	struct node *next_by_id, *next_by_key;
	struct stat seen; /* of a file of the store, at the last look; by the snapshot's lock */
	/* Of its file; guarded by the lock of passthrough.h. */
	struct {
		unsigned count; /* opens that the kernel has */
		int backing;	/* the id by which the kernel reads it; 0: this process serves */
	} opened;
};

/* Gives back what the node owns, and the node. Called without the table's lock. */
typedef void (*node_drop_fn)(struct node *n);

struct node_table {
	node_drop_fn drop;
	pthread_mutex_t lock;
	/* Guarded by lock. */
	struct node **by_id, **by_key; /* chained, `buckets` each, a power of two */
	size_t buckets, count;
	uint64_t next_id;
};

/* 0 or -ENOMEM. The table starts empty; the first node added is number 1, the root. */
int sfs_nodes_init(struct node_table *t, node_drop_fn drop);
/* Drops all nodes, whoever uses them: for when no request can come any more. */
void sfs_nodes_destroy(struct node_table *t);

/*
 * The node of this key with one more lookup, or NULL. The lookup is the
 * kernel's once it is told of the node; sfs_nodes_forget() takes it back.
 */
struct node *sfs_nodes_find(struct node_table *t, const struct node_key *key);

/*
 * Puts in `fresh` (key, snap, seen set; malloc()ed; taken over) with one lookup.
 * If a node of that key is there, it gets the lookup and `fresh` is dropped.
 * Returns the node.
 */
struct node *sfs_nodes_add(struct node_table *t, struct node *fresh);

/* The node of this number, held until sfs_nodes_put(); or NULL. */
struct node *sfs_nodes_get(struct node_table *t, uint64_t id);
void sfs_nodes_put(struct node_table *t, struct node *n);

/* From now on a lookup of its key makes another node. Those who have it keep it. */
void sfs_nodes_retire(struct node_table *t, struct node *n);

/* The kernel gives back `n` lookups. */
void sfs_nodes_forget(struct node_table *t, uint64_t id, uint64_t n);

/* Inode number for stat(2): unique and stable while what it is of exists (node.c says why). */
ino_t sfs_node_ino(const struct node_key *key);
