/*
 * Listings: see ops.h. The root streams the store's own directory, so its cost
 * does not depend on an index; offsets that the kernel may come back to are
 * positions in our listing, for which the directory's own cookies are kept.
 *
 *	/		. .. latest .by-id .layers and then the snapshots
 *	/.by-id		. .. and the ids as they were at opendir()
 *	/.layers	likewise, those of layered ones
 *	/NAME		. .. and what sfs_children[] says
 *	/NAME/disks	. .. and the files that the manifest lists
 *	/.layers/ID	likewise
 */
#define _GNU_SOURCE
#include "ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/* One line of a listing. */
struct entry {
	char name[CAT_NAME_MAX + 1];
	ino_t ino;
	mode_t type;
};

struct listing {
	struct handle handle;
	pthread_mutex_t lock;
	/* Guarded by lock. */
	DIR *stream;		   /* of the root: snapshots/ */
	long *cookies;		   /* [i]: where the stream was before its i-th snapshot */
	size_t known;		   /* cookies that are set */
	size_t at;		   /* the snapshot that the stream gives next */
	uint8_t (*ids)[UUID_SIZE]; /* of .by-id and .layers: sorted, each once */
	size_t n_ids;
	bool layered; /* those of layered snapshots alone: of .layers */
};

#define COOKIES_STEP 256

static void free_listing(struct handle *h)
{
	struct listing *l = (struct listing *)h;

	if (l->stream)
		closedir(l->stream);
	pthread_mutex_destroy(&l->lock);
	free(l->cookies);
	free(l->ids);
	free(l);
}

static int set_cookie(struct listing *l, size_t i, long cookie)
{
	if (i % COOKIES_STEP == 0) {
		long *grown = realloc(l->cookies, (i + COOKIES_STEP) * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->cookies = grown;
	}
	l->cookies[i] = cookie;
	l->known = i + 1;
	return 0;
}

/* True where the directory entry is a snapshot's. */
static bool is_snapshot(struct fs *fs, const struct dirent *d)
{
	struct stat st;

	if (cat_name_check(d->d_name, NULL) < 0)
		return false;
	if (d->d_type != DT_UNKNOWN)
		return d->d_type == DT_DIR;
	return fstatat(cat_store_snapshots_fd(fs->store), d->d_name, &st, AT_SYMLINK_NOFOLLOW) ==
		       0 &&
	       S_ISDIR(st.st_mode);
}

/*
 * The i-th snapshot of the stream. 1: got it, 0: the end, or a negative errno.
 * The kernel comes back to any place it was told of, so each gets its cookie
 * before it is told.
 */
static int stream_entry(struct fs *fs, struct listing *l, size_t i, struct entry *out)
{
	struct dirent *d;

	if (i >= l->known)
		return 0;
	if (i != l->at)
		seekdir(l->stream, l->cookies[i]);
	l->at = i;
	do {
		errno = 0;
		d = readdir(l->stream);
	} while (d && !is_snapshot(fs, d));
	if (!d)
		return -errno;
	l->at = i + 1;
	strcpy(out->name, d->d_name);
	out->type = S_IFDIR;
	out->ino = sfs_node_ino(
		&(struct node_key){ .kind = NODE_SNAPSHOT, .dir_ino = (uint64_t)d->d_ino });
	if (l->at == l->known && set_cookie(l, l->at, telldir(l->stream)) < 0)
		return -ENOMEM;
	return 1;
}

/* A link of the root or of .by-id, if it leads anywhere. 1, or 0: skip it. */
static int link_entry(struct fs *fs, const struct node_key *key, const char *name,
		      struct entry *out)
{
	const struct node n = { .key = *key };
	char target[FS_TARGET_MAX];

	if (sfs_fs_readlink(fs, &n, target) < 0)
		return 0;
	strcpy(out->name, name);
	out->type = S_IFLNK;
	out->ino = sfs_node_ino(key);
	return 1;
}

/* 1: entry `i` is in *out; 0: the end; -EAGAIN: there is none at this place; or an errno. */
static int root_entry(struct fs *fs, struct listing *l, uint64_t i, struct entry *out)
{
	const struct node_key latest = { .kind = NODE_LATEST };
	const struct node_key by_id = { .kind = NODE_BY_ID };
	const struct node_key layers = { .kind = NODE_ALL_LAYERS };

	if (i == 0)
		return link_entry(fs, &latest, FS_LATEST, out) ? 1 : -EAGAIN;
	if (i == 1) {
		*out = (struct entry){ FS_BY_ID, sfs_node_ino(&by_id), S_IFDIR };
		return 1;
	}
	if (i == 2) {
		*out = (struct entry){ FS_LAYERS, sfs_node_ino(&layers), S_IFDIR };
		return 1;
	}
	return stream_entry(fs, l, i - 3, out);
}

static int by_id_entry(struct fs *fs, const struct listing *l, uint64_t i, struct entry *out)
{
	struct node_key key = { .kind = NODE_ID_LINK };
	char name[UUID_TEXT_MAX];

	if (i >= l->n_ids)
		return 0;
	memcpy(key.id, l->ids[i], UUID_SIZE);
	return link_entry(fs, &key, uuid_format(key.id, name), out) ? 1 : -EAGAIN;
}

/* The index may be behind: whether it has layers is known by looking. */
static int layers_entry(struct fs *fs, const struct node *dir, const struct listing *l, uint64_t i,
			struct entry *out)
{
	struct node *n;
	struct stat st;

	if (i >= l->n_ids)
		return 0;
	uuid_format(l->ids[i], out->name);
	if (sfs_fs_lookup(fs, dir, out->name, &n, &st) < 0)
		return -EAGAIN;
	sfs_nodes_forget(&fs->nodes, n->id, 1);
	out->type = S_IFDIR;
	out->ino = st.st_ino;
	return 1;
}

static int snapshot_entry(struct fs *fs, const struct node *dir, uint64_t i, struct entry *out)
{
	if (i >= sfs_children_count)
		return 0;
	strcpy(out->name, sfs_children[i].name);
	out->type = sfs_children[i].type;
	out->ino = sfs_fs_child_ino(fs, dir, &sfs_children[i]);
	return out->ino ? 1 : -EAGAIN;
}

/* Of disks/ or of a snapshot's layers. */
static int file_entry(const struct node *dir, uint64_t i, struct entry *out)
{
	out->type = S_IFREG;
	return dir->key.kind == NODE_DISKS ? sfs_fs_disk(dir, i, out->name, &out->ino)
					   : sfs_fs_layer(dir, i, out->name, &out->ino);
}

/* The directory that `dir` is in. */
static struct node_key key_of_parent(const struct node *dir)
{
	if (dir->key.kind == NODE_LAYERS)
		return (struct node_key){ .kind = NODE_ALL_LAYERS };
	if (dir->key.kind != NODE_DISKS)
		return (struct node_key){ .kind = NODE_ROOT };
	return (struct node_key){ .kind = NODE_SNAPSHOT, .dir_ino = dir->key.dir_ino };
}

static int get_entry(struct fs *fs, const struct node *dir, struct listing *l, uint64_t i,
		     struct entry *out)
{
	const struct node_key parent = key_of_parent(dir);

	if (i < 2) {
		const struct node_key *key = i == 0 ? &dir->key : &parent;

		*out = (struct entry){ ".", sfs_node_ino(key), S_IFDIR };
		if (i == 1)
			strcpy(out->name, "..");
		return 1;
	}
	switch (dir->key.kind) {
	case NODE_ROOT:
		return root_entry(fs, l, i - 2, out);
	case NODE_BY_ID:
		return by_id_entry(fs, l, i - 2, out);
	case NODE_ALL_LAYERS:
		return layers_entry(fs, dir, l, i - 2, out);
	case NODE_DISKS:
	case NODE_LAYERS:
		return file_entry(dir, i - 2, out);
	default:
		return snapshot_entry(fs, dir, i - 2, out);
	}
}

/* Bytes of the reply that the entry takes; more than `room`: it was not added. */
static size_t add(fuse_req_t req, char *buf, size_t room, const struct entry *entry, off_t next)
{
	const struct stat st = { .st_ino = entry->ino, .st_mode = entry->type };

	return fuse_add_direntry(req, buf, room, entry->name, &st, next);
}

/* As add(), and the kernel learns the node, unless it is gone by now. */
static size_t add_plus(fuse_req_t req, const struct node *dir, char *buf, size_t room,
		       const struct entry *entry, off_t next)
{
	struct fs *fs = sfs_req_fs(req);
	struct fuse_entry_param e = { 0 };
	struct node *n = NULL;
	size_t size;

	/* "." and ".." are no lookups. */
	if (strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0) {
		if (sfs_fs_lookup(fs, dir, entry->name, &n, &e.attr) == 0)
			sfs_fs_fill_entry(n, &e);
		else
			n = NULL;
	}
	if (!n)
		e.attr = (struct stat){ .st_ino = entry->ino, .st_mode = entry->type };
	size = fuse_add_direntry_plus(req, buf, room, entry->name, &e, next);
	if (n && size > room)
		sfs_nodes_forget(&fs->nodes, n->id, 1);
	return size;
}

/* Fills buf from entry `i` on. Bytes, or a negative errno where not one entry was had. */
static ssize_t fill(fuse_req_t req, const struct node *dir, struct listing *l, char *buf,
		    size_t size, uint64_t i, bool plus)
{
	struct fs *fs = sfs_req_fs(req);
	struct entry entry = { 0 };
	size_t used = 0;

	for (;; i++) {
		int rc = get_entry(fs, dir, l, i, &entry);
		size_t n;

		if (rc == -EAGAIN)
			continue;
		if (rc == 0 || (rc < 0 && used))
			return (ssize_t)used;
		if (rc < 0)
			return rc;
		n = plus ? add_plus(req, dir, buf + used, size - used, &entry, (off_t)(i + 1))
			 : add(req, buf + used, size - used, &entry, (off_t)(i + 1));
		if (n > size - used)
			return (ssize_t)used;
		used += n;
	}
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct listing *l,
		 bool plus)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *dir = sfs_nodes_get(&fs->nodes, ino);
	auto_free char *buf = malloc(size);
	ssize_t n = -ENOMEM;

	if (buf && dir) {
		pthread_mutex_lock(&l->lock);
		n = fill(req, dir, l, buf, size, (uint64_t)off, plus);
		pthread_mutex_unlock(&l->lock);
	}
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
	if (dir)
		sfs_nodes_put(&fs->nodes, dir);
}

void sfs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	list(req, ino, size, off, (struct listing *)(uintptr_t)fi->fh, false);
}

void sfs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	list(req, ino, size, off, (struct listing *)(uintptr_t)fi->fh, true);
}

static int collect_id(void *arg, const struct cat_row *row)
{
	static const uint8_t none[UUID_SIZE];
	struct listing *l = arg;

	/* One that was never readable has no id. */
	if (row->status == CAT_MISSING || memcmp(row->id, none, UUID_SIZE) == 0)
		return 0;
	if (l->layered && row->layers == 0)
		return 0;
	if (l->n_ids % COOKIES_STEP == 0) {
		void *grown = realloc(l->ids, (l->n_ids + COOKIES_STEP) * sizeof(*l->ids));

		if (!grown)
			return -ENOMEM;
		l->ids = grown;
	}
	memcpy(l->ids[l->n_ids++], row->id, UUID_SIZE);
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, UUID_SIZE);
}

static int list_ids(struct fs *fs, struct listing *l, bool layered)
{
	size_t n = 0;
	int rc;

	l->layered = layered;
	rc = cat_index_list(fs->store, collect_id, l, NULL);
	if (rc < 0 || l->n_ids == 0)
		return rc;
	qsort(l->ids, l->n_ids, sizeof(*l->ids), compare_ids);
	for (size_t i = 0; i < l->n_ids; i++)
		if (i == 0 || memcmp(l->ids[i], l->ids[n - 1], UUID_SIZE) != 0)
			memmove(l->ids[n++], l->ids[i], UUID_SIZE);
	l->n_ids = n;
	return 0;
}

static int open_stream(struct fs *fs, struct listing *l)
{
	auto_fd int fd =
		openat(cat_store_snapshots_fd(fs->store), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	l->stream = fdopendir(fd);
	if (!l->stream)
		return -errno;
	take_fd(&fd); /* the stream's */
	return set_cookie(l, 0, telldir(l->stream));
}

static void reply_opendir(fuse_req_t req, struct fuse_file_info *fi, struct listing *l)
{
	struct handle_list *handles = &sfs_req_fs(req)->handles;

	fi->fh = (uintptr_t)l;
	sfs_handles_add(handles, &l->handle);
	/* The one who opened it may have gone: then no release comes. */
	if (fuse_reply_open(req, fi) < 0)
		sfs_handles_drop(handles, &l->handle);
}

void sfs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = sfs_req_fs(req);
	struct node *dir = sfs_nodes_get(&fs->nodes, ino);
	struct listing *l = calloc(1, sizeof(*l));
	int rc = dir ? 0 : -ESTALE;

	if (!l) {
		rc = -ENOMEM;
	} else {
		l->handle.drop = free_listing;
		pthread_mutex_init(&l->lock, NULL);
		if (rc == 0 && dir->key.kind == NODE_ROOT)
			rc = open_stream(fs, l);
		else if (rc == 0 &&
			 (dir->key.kind == NODE_BY_ID || dir->key.kind == NODE_ALL_LAYERS))
			rc = list_ids(fs, l, dir->key.kind == NODE_ALL_LAYERS);
		else if (rc == 0 && dir->key.kind != NODE_SNAPSHOT && dir->key.kind != NODE_DISKS &&
			 dir->key.kind != NODE_LAYERS)
			rc = -ENOTDIR;
	}
	if (rc < 0) {
		fuse_reply_err(req, -rc);
		if (l)
			free_listing(&l->handle);
	} else {
		reply_opendir(req, fi, l);
	}
	if (dir)
		sfs_nodes_put(&fs->nodes, dir);
}

void sfs_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	sfs_handles_drop(&sfs_req_fs(req)->handles, (struct handle *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}
