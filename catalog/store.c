/* The store on disk, opened: see store.h. */
#define _GNU_SOURCE
#include "catalog/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "catalog/internal.h"

/* The default for whoever runs it; NULL without a home directory. */
static char *default_path(void)
{
	const char *state = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	char *path = NULL;
	int n;

	if (geteuid() == 0)
		return strdup("/var/lib/snapfs");
	/* The XDG specification: a relative path in it is to be ignored. */
	if (state && state[0] == '/')
		n = asprintf(&path, "%s/snapfs", state);
	else if (home && home[0] == '/')
		n = asprintf(&path, "%s/.local/state/snapfs", home);
	else
		return NULL;
	return n < 0 ? NULL : path;
}

int cat_store_locate(const char *given, char **path, struct err *e)
{
	const char *env = getenv("SNAPFS_STORE");
	auto_free char *cwd = NULL;

	if (given && !*given)
		return err_usage(e, EINVAL, "--store needs a directory");
	if (!given && env && *env)
		given = env;
	if (!given) {
		*path = default_path();
		return *path ? 0
			     : err_env(e, ENOENT,
				       "there is no home directory to keep a store in; give "
				       "--store");
	}
	if (given[0] == '/') {
		*path = strdup(given);
		return *path ? 0 : err_sys(e, ENOMEM, "cannot find the store");
	}
	cwd = getcwd(NULL, 0);
	if (!cwd || asprintf(path, "%s/%s", cwd, given) < 0)
		return err_sys(e, cwd ? ENOMEM : errno, "cannot find the store %s", given);
	return 0;
}

/* Opens STORE itself, making it first if asked to. */
static int open_root(struct store *s, const char *path, enum cat_open how, struct err *e)
{
	int rc = how == CAT_OPEN_CREATE ? io_make_dirs(path, STORE_DIR_MODE) : 0;

	/* A read-only file system says so even where the directory exists. */
	if (rc < 0 && rc != -EROFS && rc != -EACCES && rc != -ENOTDIR)
		return err_sys(e, -rc, "cannot make the store %s", path);
	s->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->root < 0 && errno == ENOENT && rc == 0)
		return err_refuse(e, ENOENT,
				  "there is no store at %s; `vmm` makes one, or give --store",
				  path);
	if (s->root < 0 && errno == ENOTDIR)
		return err_refuse(e, ENOTDIR, "%s is not a directory, so it is no store", path);
	if (s->root < 0 && rc < 0)
		return err_sys(e, -rc, "cannot make the store %s", path);
	if (s->root < 0)
		return err_sys(e, errno, "cannot open the store %s", path);
	s->path = realpath(path, NULL);
	return s->path ? 0 : err_sys(e, errno, "cannot open the store %s", path);
}

static int open_part(struct store *s, const char *name, int *fd, struct err *e)
{
	if (s->writable && mkdirat(s->root, name, STORE_DIR_MODE) < 0 && errno != EEXIST)
		return err_sys(e, errno, "cannot make %s/%s", s->path, name);
	*fd = openat(s->root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*fd < 0 && errno == ENOTDIR)
		return err_refuse(e, ENOTDIR, "%s/%s is not a directory", s->path, name);
	return *fd < 0 ? err_sys(e, errno, "cannot open %s/%s", s->path, name) : 0;
}

/*
 * Whether `path` is a store may only be asked before its parts are made: a
 * command given a wrong directory must not leave five more in it.
 */
static int check_is_store(const struct store *s, enum cat_open how, struct err *e)
{
	struct stat st;

	if (how == CAT_OPEN_CREATE)
		return 0;
	if (fstatat(s->root, "snapshots", &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	return err_refuse(e, ENOENT,
			  "%s is not a store: it has no snapshots directory; `vmm` makes one, or "
			  "give --store",
			  s->path);
}

static int open_parts(struct store *s, struct err *e)
{
	int rc = open_part(s, "snapshots", &s->snapshots, e);

	if (rc < 0 || !s->writable)
		return rc;
	rc = open_part(s, "staging", &s->staging, e);
	if (rc == 0)
		rc = open_part(s, "trash", &s->trash, e);
	if (rc == 0)
		rc = open_part(s, "ram", &s->ram, e);
	return rc;
}

int cat_store_open_bare(struct store **store, const char *path, enum cat_open how, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_sys(e, ENOMEM, "cannot open the store %s", path);
	s->root = s->snapshots = s->staging = s->trash = s->ram = -1;
	pthread_mutex_init(&s->mutex, NULL);
	pthread_mutex_init(&s->stamps_mutex, NULL);
	rc = open_root(s, path, how, e);
	if (rc == 0)
		rc = check_is_store(s, how, e);
	if (rc == 0) {
		s->writable = faccessat(s->root, ".", W_OK | X_OK, AT_EACCESS) == 0;
		rc = open_parts(s, e);
	}
	if (rc < 0) {
		cat_store_close(s);
		return rc;
	}
	*store = s;
	return 0;
}

static int open_index(struct store *store, void *arg, struct err *e)
{
	(void)store, (void)arg, (void)e;
	/* It is open by now. Whatever is asked of it looks at the directories first. */
	return 0;
}

int cat_store_open(struct store **store, const char *path, enum cat_open how, struct err *e)
{
	struct store *s;
	int rc = cat_store_open_bare(&s, path, how, e);

	if (rc < 0)
		return rc;
	cat_store_sweep(s);
	rc = cat_index_run(s, open_index, NULL, e);
	if (rc < 0) {
		cat_store_close(s);
		return rc;
	}
	*store = s;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void cat_store_close(struct store *store)
{
	if (!store)
		return;
	sqlite3_close(store->db);
	cat_stamps_finalize(store);
	sqlite3_close(store->stamps);
	close_fd(store->ram);
	close_fd(store->trash);
	close_fd(store->staging);
	close_fd(store->snapshots);
	close_fd(store->root);
	pthread_mutex_destroy(&store->stamps_mutex);
	pthread_mutex_destroy(&store->mutex);
	free(store->path);
	free(store);
}

const char *cat_store_path(const struct store *store)
{
	return store->path;
}

int cat_store_root_fd(const struct store *store)
{
	return store->root;
}

int cat_store_snapshots_fd(const struct store *store)
{
	return store->snapshots;
}

int cat_store_need_writable(const struct store *store, struct err *e)
{
	if (store->writable)
		return 0;
	return err_env(e, EROFS, "the store %s cannot be written (read-only, or not yours)",
		       store->path);
}

int cat_store_lock(const struct store *store, int how)
{
	/* Opened anew each time: threads that share a descriptor would share its lock. */
	auto_fd int fd = openat(store->root, STORE_LOCK,
				(store->writable ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC |
					O_NOFOLLOW | O_NONBLOCK,
				0600);
	int rc;

	if (fd < 0)
		return store->writable ? -errno : -ENOENT;
	do
		rc = flock(fd, how);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : take_fd(&fd);
}
