/* A snapshot bound to its directory: see snap.h. */
#define _GNU_SOURCE
#include "snap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "maps.h"

#define KEPT_MIN 16
#define KEPT_MAX 4096

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

bool sfs_identity_holds(const struct identity *id, int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_size == id->size && same_time(&st.st_mtim, &id->mtime);
}

/* How many keep their view, and with it a descriptor: the rest is for files that are open. */
static size_t most_kept(void)
{
	struct rlimit limit;
	rlim_t n = 0;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		n = limit.rlim_cur / 4;
	return n < KEPT_MIN ? KEPT_MIN : n > KEPT_MAX ? KEPT_MAX : (size_t)n;
}

int sfs_snaps_init(struct snaps *of, struct store *store)
{
	*of = (struct snaps){ .store = store, .most = most_kept() };
	of->kept = calloc(of->most, sizeof(struct snap *));
	if (!of->kept)
		return -ENOMEM;
	pthread_mutex_init(&of->lock, NULL);
	return 0;
}

void sfs_snaps_destroy(struct snaps *of)
{
	free(of->kept);
	pthread_mutex_destroy(&of->lock);
}

static int look(int at, const char *name, int flags, struct snap_dir *dir)
{
	struct statx st;

	if (statx(at, name, flags | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME, &st) <
	    0)
		return -errno;
	if (!S_ISDIR(st.stx_mode))
		return -ENOENT;
	*dir = (struct snap_dir){
		.dev = makedev(st.stx_dev_major, st.stx_dev_minor),
		.ino = st.stx_ino,
		.mtime = { .tv_sec = st.stx_mtime.tv_sec, .tv_nsec = st.stx_mtime.tv_nsec },
	};
	if (st.stx_mask & STATX_BTIME)
		dir->born = (uint64_t)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec;
	return 0;
}

int sfs_snaps_look(const struct snaps *of, const char *name, struct snap_dir *dir)
{
	return look(cat_store_snapshots_fd(of->store), name, AT_SYMLINK_NOFOLLOW, dir);
}

static bool is_same_dir(const struct snap_dir *a, const struct snap_dir *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->born == b->born;
}

struct snap *sfs_snap_new(struct snaps *of, const struct snap_dir *dir, const char *name)
{
	struct snap *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->of = of;
	s->at = *dir;
	atomic_init(&s->refs, 1);
	pthread_mutex_init(&s->lock, NULL);
	snprintf(s->name, sizeof(s->name), "%s", name);
	return s;
}

struct snap *sfs_snap_get(struct snap *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

/* Called with the lock held, or for the last time. v may be NULL. */
static void unref(struct view *v)
{
	if (!v || --v->refs > 0)
		return;
	proto_snapdir_close(&v->dir);
	sfs_maps_free(v->maps);
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
	pthread_mutex_lock(&s->of->lock);
	if (s->of->kept[s->slot] == s)
		s->of->kept[s->slot] = NULL;
	pthread_mutex_unlock(&s->of->lock);
	unref(s->view);
	free_memos(s->memos);
	free(s->said);
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

/* The directory, by this name, if it is this one. The descriptor, -ESTALE or another errno. */
static int open_as(const struct snap *s, const char *name)
{
	auto_fd int fd = openat(cat_store_snapshots_fd(s->of->store), name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct snap_dir dir = { 0 };
	int rc;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? -ESTALE : -errno;
	rc = look(fd, "", AT_EMPTY_PATH, &dir);
	if (rc < 0)
		return rc;
	return is_same_dir(&dir, &s->at) ? take_fd(&fd) : -ESTALE;
}

/* As open_as(), by whatever name it has now. Called with the lock held. */
static int open_dir(struct snap *s)
{
	char name[CAT_NAME_MAX + 1];
	int fd = open_as(s, s->name);

	/* Renamed since it was looked up: its id tells the new name. */
	if (fd == -ESTALE && cat_index_name_of(s->of->store, s->id, name, NULL) == 0) {
		fd = open_as(s, name);
		if (fd >= 0)
			memcpy(s->name, name, sizeof(name));
	}
	return fd;
}

/* What the directory at `fd` (taken over) holds. Called with the lock held. */
static void load(struct snap *s, struct view *v, int fd)
{
	struct err e = { 0 };
	struct stat st;
	/* proto_snapdir_open_fd() closes what it is given where the manifest is bad. */
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (fstatat(fd, SNAPDIR_MANIFEST, &st, AT_SYMLINK_NOFOLLOW) == 0)
		v->manifest = sfs_identity_of(&st);
	v->rc = own < 0 ? err_sys(&e, errno, "cannot open snapshot %s", s->name)
			: proto_snapdir_open_fd(&v->dir, own, s->name, &e);
	if (v->rc == 0 && v->dir.layered) {
		v->maps = sfs_maps_new();
		if (!v->maps) {
			proto_snapdir_close(&v->dir);
			v->rc = -ENOMEM;
		}
	}
	if (v->rc == 0) {
		close(fd);
		memcpy(s->id, v->dir.manifest->id.data, sizeof(s->id));
		return;
	}
	v->dir = (struct snapdir){ .dirfd = fd };
	if (v->rc == -ENOENT)
		v->rc = -EBADMSG;
	snprintf(v->problem, sizeof(v->problem), "%.*s", (int)strcspn(e.text, "\n"), e.text);
	if (!*v->problem)
		snprintf(v->problem, sizeof(v->problem), "manifest.bin cannot be read: %s",
			 strerror(-v->rc));
}

/* The snapshot as it is now. Called with the lock held. NULL: out of memory. */
static struct view *new_view(struct snap *s)
{
	struct view *v = calloc(1, sizeof(*v));
	int fd;

	if (!v)
		return NULL;
	v->refs = 1;
	v->dir.dirfd = -1;
	fd = open_dir(s);
	if (fd >= 0) {
		load(s, v, fd);
	} else {
		v->rc = fd;
		snprintf(v->problem, sizeof(v->problem), "cannot open snapshot %s: %s", s->name,
			 strerror(-fd));
	}
	return v;
}

/* What is layered may be made flat, or the reverse, without another manifest. */
static bool is_ram_where_it_was(const struct view *v)
{
	struct stat st;

	return !v->dir.manifest || v->dir.manifest->n_layer == 0 ||
	       (fstat(v->dir.dirfd, &st) == 0 && same_time(&st.st_mtim, &v->dir.stat.st_mtim));
}

/* True where the view shows the directory as it is. Called with the lock held. */
static bool is_fresh(const struct view *v)
{
	struct identity now;
	struct stat st;

	/* What may pass (descriptors, memory, the disk) is tried again. */
	if (v->rc < 0 && v->rc != -EBADMSG)
		return false;
	if (fstatat(v->dir.dirfd, SNAPDIR_MANIFEST, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	now = sfs_identity_of(&st);
	return sfs_identity_equal(&v->manifest, &now) && is_ram_where_it_was(v);
}

/* Another one keeps its view now: this one ends. Called without any lock. */
static void end_keeping(struct snap *s)
{
	pthread_mutex_lock(&s->lock);
	unref(take_ptr(&s->view));
	pthread_mutex_unlock(&s->lock);
	sfs_snap_put(s);
}

/*
 * Has the snapshot among the kept, of which the one that is so longest gives way.
 * Called without its lock.
 */
static void keep(struct snap *s)
{
	struct snaps *of = s->of;
	struct snap *other = NULL;
	unsigned refs;

	pthread_mutex_lock(&of->lock);
	if (of->kept[s->slot] != s) {
		s->slot = of->next++ % of->most;
		other = of->kept[s->slot];
		of->kept[s->slot] = s;
	}
	/* One whose last reference is just being given back frees its view by itself. */
	refs = other ? atomic_load(&other->refs) : 0;
	while (refs > 0 && !atomic_compare_exchange_weak(&other->refs, &refs, refs + 1))
		;
	pthread_mutex_unlock(&of->lock);
	if (refs > 0)
		end_keeping(other);
}

struct view *sfs_snap_view(struct snap *s)
{
	bool is_new = false;
	struct view *v;

	pthread_mutex_lock(&s->lock);
	if (!s->view || !is_fresh(s->view)) {
		unref(s->view);
		s->view = new_view(s);
		is_new = s->view;
	}
	v = s->view;
	if (v)
		v->refs++;
	pthread_mutex_unlock(&s->lock);
	if (is_new)
		keep(s);
	return v;
}

struct view *sfs_view_get(struct snap *s, struct view *v)
{
	pthread_mutex_lock(&s->lock);
	v->refs++;
	pthread_mutex_unlock(&s->lock);
	return v;
}

int sfs_view_look(const struct view *v, const char *path, struct stat *st)
{
	*st = (struct stat){ 0 };
	if (v->dir.dirfd >= 0)
		return fstatat(v->dir.dirfd, path, st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	return v->rc == -ESTALE ? -ENOENT : v->rc;
}

void sfs_view_put(struct snap *s, struct view *v)
{
	pthread_mutex_lock(&s->lock);
	unref(v);
	pthread_mutex_unlock(&s->lock);
}

/* True where `name` in the store is this directory, not another one of that name. */
static bool has_name(const struct snap *s, const char *name)
{
	struct snap_dir dir = { 0 };

	return sfs_snaps_look(s->of, name, &dir) == 0 && is_same_dir(&dir, &s->at);
}

/* The name that it has in the store now. 0 or -ENOENT. */
static int find_name(struct snap *s, const struct view *v, char name[CAT_NAME_MAX + 1])
{
	sfs_snap_name(s, name);
	if (has_name(s, name))
		return 0;
	/* Renamed since it was looked up: its id tells the new name. */
	if (v->dir.manifest && v->dir.manifest->id.len == UUID_SIZE &&
	    cat_index_name_of(s->of->store, v->dir.manifest->id.data, name, NULL) == 0 &&
	    has_name(s, name))
		return 0;
	return -ENOENT;
}

bool sfs_snap_is_listed(struct snap *s, const struct view *v)
{
	char name[CAT_NAME_MAX + 1];

	return find_name(s, v, name) == 0;
}

int sfs_snap_row(struct snap *s, const struct view *v, struct cat_row *row)
{
	char name[CAT_NAME_MAX + 1];
	int rc = find_name(s, v, name);

	return rc < 0 ? rc : cat_index_find(s->of->store, name, row, NULL);
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

/* Links to it may come and go, which moves its ctime. */
static bool is_same_content(const struct identity *a, const struct identity *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       same_time(&a->mtime, &b->mtime);
}

bool sfs_snap_serve(struct snap *s, size_t file, const struct identity *id)
{
	struct memo *m;
	bool same = false;

	pthread_mutex_lock(&s->lock);
	m = memo_of(s, file);
	if (m) {
		same = is_same_content(&m->served, id);
		m->served = *id;
	}
	pthread_mutex_unlock(&s->lock);
	return same;
}
