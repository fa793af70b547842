/* A snapshot bound to its directory: see snap.h. */
#define _GNU_SOURCE
#include "snap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

struct identity sfs_identity_of(const struct stat *st)
{
	return (struct identity){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size = st->st_size,
		.mtime = st->st_mtim,
		.ctime = st->st_ctim,
	};
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool sfs_identity_equal(const struct identity *a, const struct identity *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       same_time(&a->mtime, &b->mtime) && same_time(&a->ctime, &b->ctime);
}

int sfs_snap_open(struct snap **out, int snapshots_fd, const char *name)
{
	auto_fd int fd = openat(snapshots_fd, name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct snap *s;

	if (fd < 0)
		return errno == ENOTDIR || errno == ELOOP ? -ENOENT : -errno;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	if (fstat(fd, &s->stat) < 0) {
		free(s);
		return -EIO;
	}
	atomic_init(&s->refs, 1);
	pthread_mutex_init(&s->lock, NULL);
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->dirfd = take_fd(&fd);
	*out = s;
	return 0;
}

struct snap *sfs_snap_get(struct snap *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

static void free_view(struct view *v)
{
	v->dir.dirfd = -1; /* the snapshot's */
	proto_snapdir_close(&v->dir);
	free(v);
}

static void free_memos(struct memo *m)
{
	struct memo *next;

	for (; m; m = next) {
		next = m->next;
		free(m);
	}
}

void sfs_snap_put(struct snap *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
		return;
	if (s->view)
		free_view(s->view);
	free_memos(s->memos);
	close(s->dirfd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void sfs_snap_set_name(struct snap *s, const char *name)
{
	pthread_mutex_lock(&s->lock);
	snprintf(s->name, sizeof(s->name), "%s", name);
	pthread_mutex_unlock(&s->lock);
}

void sfs_snap_name(struct snap *s, char out[CAT_NAME_MAX + 1])
{
	pthread_mutex_lock(&s->lock);
	memcpy(out, s->name, sizeof(s->name));
	pthread_mutex_unlock(&s->lock);
}

/* Reads the manifest. Called with the lock held. NULL: out of memory. */
static struct view *load(struct snap *s, const struct identity *manifest)
{
	struct view *v = calloc(1, sizeof(*v));
	struct err e = { 0 };
	int rc, fd;

	if (!v)
		return NULL;
	v->refs = 1;
	v->manifest = *manifest;
	v->dir.dirfd = -1;
	/* proto_snapdir_open_fd() owns what it is given; the directory stays ours. */
	fd = fcntl(s->dirfd, F_DUPFD_CLOEXEC, 3);
	rc = fd < 0 ? err_sys(&e, errno, "cannot open snapshot %s", s->name)
		    : proto_snapdir_open_fd(&v->dir, fd, s->name, &e);
	if (rc == 0) {
		close(v->dir.dirfd);
		v->dir.dirfd = s->dirfd;
		return v;
	}
	v->dir.dirfd = -1;
	v->rc = rc == -ENOENT ? -EBADMSG : rc;
	/* What may pass (descriptors, memory, the disk) is tried again next time. */
	if (v->rc != -EBADMSG)
		v->manifest = (struct identity){ 0 };
	snprintf(v->problem, sizeof(v->problem), "%.*s", (int)strcspn(e.text, "\n"), e.text);
	if (!*v->problem)
		snprintf(v->problem, sizeof(v->problem), "manifest.bin cannot be read: %s",
			 strerror(-rc));
	return v;
}

/* Called with the lock held. */
static void unref(struct view *v)
{
	if (v && --v->refs == 0)
		free_view(v);
}

struct view *sfs_snap_view(struct snap *s)
{
	struct identity now = { 0 };
	struct stat st;
	struct view *v;

	if (fstatat(s->dirfd, SNAPDIR_MANIFEST, &st, AT_SYMLINK_NOFOLLOW) == 0)
		now = sfs_identity_of(&st);
	pthread_mutex_lock(&s->lock);
	if (!s->view || now.ino == 0 || !sfs_identity_equal(&s->view->manifest, &now)) {
		v = load(s, &now);
		if (v) {
			unref(s->view);
			s->view = v;
		}
	}
	v = s->view;
	if (v)
		v->refs++;
	pthread_mutex_unlock(&s->lock);
	return v;
}

struct view *sfs_view_get(struct snap *s, struct view *v)
{
	pthread_mutex_lock(&s->lock);
	v->refs++;
	pthread_mutex_unlock(&s->lock);
	return v;
}

void sfs_view_put(struct snap *s, struct view *v)
{
	pthread_mutex_lock(&s->lock);
	unref(v);
	pthread_mutex_unlock(&s->lock);
}

/* True where `name` in the store is this directory, not another one of that name. */
static bool has_name(const struct snap *s, struct store *store, const char *name)
{
	struct stat st;

	return fstatat(cat_store_snapshots_fd(store), name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_dev == s->stat.st_dev && st.st_ino == s->stat.st_ino;
}

/* The name that it has in the store now. 0 or -ENOENT. */
static int find_name(struct snap *s, const struct view *v, struct store *store,
		     char name[CAT_NAME_MAX + 1])
{
	sfs_snap_name(s, name);
	if (has_name(s, store, name))
		return 0;
	/* Renamed since it was looked up: its id tells the new name. */
	if (v->dir.manifest && v->dir.manifest->id.len == UUID_SIZE &&
	    cat_index_name_of(store, v->dir.manifest->id.data, name, NULL) == 0 &&
	    has_name(s, store, name))
		return 0;
	return -ENOENT;
}

bool sfs_snap_is_listed(struct snap *s, const struct view *v, struct store *store)
{
	char name[CAT_NAME_MAX + 1];

	return find_name(s, v, store, name) == 0;
}

int sfs_snap_row(struct snap *s, const struct view *v, struct store *store, struct cat_row *row)
{
	char name[CAT_NAME_MAX + 1];
	int rc = find_name(s, v, store, name);

	return rc < 0 ? rc : cat_index_find(store, name, row, NULL);
}

/* The memo of a file, made where there is none. Called with the lock held. NULL: no memory. */
static struct memo *memo_of(struct snap *s, size_t file)
{
	struct memo *m = s->memos;

	while (m && m->file != file)
		m = m->next;
	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->file = file;
	m->next = s->memos;
	s->memos = m;
	return m;
}

void sfs_snap_set_bad(struct snap *s, size_t file, const struct identity *id, const char *problem)
{
	struct memo *m;

	pthread_mutex_lock(&s->lock);
	m = memo_of(s, file);
	if (m) {
		m->bad = *id;
		snprintf(m->problem, sizeof(m->problem), "%s", problem);
	}
	pthread_mutex_unlock(&s->lock);
}

bool sfs_snap_is_bad(struct snap *s, size_t file, const struct identity *id,
		     char problem[SNAP_PROBLEM_MAX])
{
	const struct memo *m;
	bool bad;

	pthread_mutex_lock(&s->lock);
	for (m = s->memos; m && m->file != file;)
		m = m->next;
	bad = m && *m->problem && sfs_identity_equal(&m->bad, id);
	if (bad)
		memcpy(problem, m->problem, SNAP_PROBLEM_MAX);
	pthread_mutex_unlock(&s->lock);
	return bad;
}

bool sfs_snap_serve(struct snap *s, size_t file, const struct identity *id)
{
	struct memo *m;
	bool same = false;

	pthread_mutex_lock(&s->lock);
	m = memo_of(s, file);
	if (m) {
		same = sfs_identity_equal(&m->served, id);
		m->served = *id;
	}
	pthread_mutex_unlock(&s->lock);
	return same;
}
