/*
 * The node table: see node.h. Two chained hashes that double together; one
 * lock, held for a few instructions.
 */
#include "node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 256

/* FNV-1a: keys are inode numbers and ids; nothing is gained by colliding them. */
static size_t hash_key(const struct node_key *key)
{
	const uint8_t *p = (const uint8_t *)key;
	uint64_t h = 0xcbf29ce484222325;

	for (size_t i = 0; i < sizeof(*key); i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return (size_t)(h ^ h >> 32);
}

static struct node **chain_of_id(struct node_table *t, uint64_t id)
{
	return &t->by_id[id & (t->buckets - 1)];
}

static struct node **chain_of_key(struct node_table *t, const struct node_key *key)
{
	return &t->by_key[hash_key(key) & (t->buckets - 1)];
}

static void chain(struct node_table *t, struct node *n)
{
	struct node **id = chain_of_id(t, n->id);
	struct node **key = chain_of_key(t, &n->key);

	n->next_by_id = *id;
	*id = n;
	if (n->retired)
		return;
	n->next_by_key = *key;
	*key = n;
}

static void unchain_key(struct node_table *t, struct node *n)
{
	struct node **p;

	for (p = chain_of_key(t, &n->key); *p != n; p = &(*p)->next_by_key)
		;
	*p = n->next_by_key;
}

static void unchain(struct node_table *t, struct node *n)
{
	struct node **p;

	for (p = chain_of_id(t, n->id); *p != n; p = &(*p)->next_by_id)
		;
	*p = n->next_by_id;
	if (!n->retired)
		unchain_key(t, n);
	t->count--;
}

int sfs_nodes_init(struct node_table *t, node_drop_fn drop)
{
	*t = (struct node_table){ .drop = drop, .buckets = BUCKETS_MIN, .next_id = NODE_ROOT_ID };
	t->by_id = calloc(t->buckets, sizeof(*t->by_id));
	t->by_key = calloc(t->buckets, sizeof(*t->by_key));
	if (!t->by_id || !t->by_key) {
		free(t->by_id);
		free(t->by_key);
		return -ENOMEM;
	}
	pthread_mutex_init(&t->lock, NULL);
	return 0;
}

void sfs_nodes_destroy(struct node_table *t)
{
	for (size_t i = 0; i < t->buckets; i++) {
		struct node *next;

		for (struct node *n = t->by_id[i]; n; n = next) {
			next = n->next_by_id;
			t->drop(n);
		}
	}
	free(t->by_id);
	free(t->by_key);
	pthread_mutex_destroy(&t->lock);
}

/* Called with the lock held. A table that cannot grow goes on with longer chains. */
static void grow(struct node_table *t)
{
	size_t was = t->buckets;
	struct node **old = t->by_id;
	struct node **by_id = calloc(was * 2, sizeof(*by_id));
	struct node **by_key = calloc(was * 2, sizeof(*by_key));

	if (!by_id || !by_key) {
		free(by_id);
		free(by_key);
		return;
	}
	free(t->by_key);
	t->by_id = by_id;
	t->by_key = by_key;
	t->buckets = was * 2;
	for (size_t i = 0; i < was; i++) {
		struct node *next;

		for (struct node *n = old[i]; n; n = next) {
			next = n->next_by_id;
			chain(t, n);
		}
	}
	free(old);
}

/* Called with the lock held. */
static struct node *find(struct node_table *t, const struct node_key *key)
{
	for (struct node *n = *chain_of_key(t, key); n; n = n->next_by_key)
		if (memcmp(&n->key, key, sizeof(*key)) == 0)
			return n;
	return NULL;
}

struct node *sfs_nodes_find(struct node_table *t, const struct node_key *key)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	n = find(t, key);
	if (n)
		n->lookups++;
	pthread_mutex_unlock(&t->lock);
	return n;
}

struct node *sfs_nodes_add(struct node_table *t, struct node *fresh)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	n = find(t, &fresh->key);
	if (!n) {
		if (t->count >= t->buckets)
			grow(t);
		n = fresh;
		n->id = t->next_id++;
		n->lookups = 0;
		n->uses = 0;
		chain(t, n);
		t->count++;
	}
	n->lookups++;
	pthread_mutex_unlock(&t->lock);
	if (n != fresh)
		t->drop(fresh);
	return n;
}

struct node *sfs_nodes_get(struct node_table *t, uint64_t id)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	for (n = *chain_of_id(t, id); n; n = n->next_by_id)
		if (n->id == id)
			break;
	if (n)
		n->uses++;
	pthread_mutex_unlock(&t->lock);
	return n;
}

/* Ends the lock; drops the node if nobody knows it any more. */
static void settle(struct node_table *t, struct node *n)
{
	bool last = n->lookups == 0 && n->uses == 0;

	if (last)
		unchain(t, n);
	pthread_mutex_unlock(&t->lock);
	if (last)
		t->drop(n);
}

void sfs_nodes_put(struct node_table *t, struct node *n)
{
	pthread_mutex_lock(&t->lock);
	n->uses--;
	settle(t, n);
}

void sfs_nodes_retire(struct node_table *t, struct node *n)
{
	pthread_mutex_lock(&t->lock);
	if (!n->retired)
		unchain_key(t, n);
	n->retired = true;
	pthread_mutex_unlock(&t->lock);
}

void sfs_nodes_forget(struct node_table *t, uint64_t id, uint64_t count)
{
	struct node *n;

	pthread_mutex_lock(&t->lock);
	for (n = *chain_of_id(t, id); n; n = n->next_by_id)
		if (n->id == id)
			break;
	/* The root is never forgotten, whatever the kernel says at its end. */
	if (!n || id == NODE_ROOT_ID) {
		pthread_mutex_unlock(&t->lock);
		return;
	}
	n->lookups -= count < n->lookups ? count : n->lookups;
	settle(t, n);
}

/*
 * The number of the snapshot's directory in the store, with room for the kind
 * below it: so a listing can tell the number of what nobody has looked up yet.
 * Only a node whose directory is gone may share it with another one. The four bits shifted out are
 * unused by the file systems a store lies on (ext4: 32 bits, XFS and btrfs: below 2^60).
 */
_Static_assert(NODE_KINDS - NODE_ID_LINK <= 16, "the room for the kind");

ino_t sfs_node_ino(const struct node_key *key)
{
	const uint64_t kind = key->kind - NODE_ID_LINK;
	uint64_t id = 0;

	switch (key->kind) {
	case NODE_ROOT:
	case NODE_LATEST:
	case NODE_BY_ID:
	case NODE_ALL_LAYERS:
		return NODE_ROOT_ID + key->kind;
	case NODE_ID_LINK:
		/* The low 60 bits of a UUIDv7 are random. */
		memcpy(&id, key->id + 8, sizeof(id));
		return (ino_t)(id << 4 | kind);
	case NODE_DISK:
	case NODE_LAYER:
	case NODE_LAYER_MAP:
		/* Where two disks share a file, or two snapshots do, it is one. */
		return (ino_t)(key->file_ino << 4 | kind);
	default:
		return (ino_t)(key->dir_ino << 4 | kind);
	}
}
