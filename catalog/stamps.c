/*
 * stamps.db: what was verified, so that it need not be read again. What is
 * written here is trusted, so the file counts only if nobody but root and the
 * user it serves could have written it. Losing it costs time, nothing else.
 */
#define _GNU_SOURCE
#include "catalog/stamps.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/db.h"
#include "catalog/internal.h"

static const struct db_kind stamps_kind = {
	.what = "the stamps",
	.application_id = 0x736e7374, /* "snst" */
	.version = 1,
	.synchronous = "NORMAL",
	.schema = "CREATE TABLE stamp ("
		  " fs BLOB NOT NULL,"
		  " inode INTEGER NOT NULL,"
		  " generation INTEGER NOT NULL,"
		  " size INTEGER NOT NULL,"
		  " mtime_ns INTEGER NOT NULL,"
		  " ctime_ns INTEGER NOT NULL,"
		  " digest BLOB NOT NULL,"
		  " verified_at INTEGER NOT NULL,"
		  " PRIMARY KEY (fs, inode)"
		  ") STRICT, WITHOUT ROWID;",
};

/* What is done with stamps. ?1 to ?7 are as in the table; each open of a file asks for one. */
static const char *const statements[STAMP_STATEMENTS] = {
	[STAMP_TIME] = "SELECT verified_at FROM stamp WHERE fs = ?1 AND inode = ?2 AND "
		       "generation = ?3 AND size = ?4 AND mtime_ns = ?5 AND ctime_ns = ?6 AND "
		       "digest = ?7",
	[STAMP_FIND] = "SELECT verified_at, digest FROM stamp WHERE fs = ?1 AND inode = ?2 AND "
		       "generation = ?3 AND size = ?4 AND mtime_ns = ?5 AND ctime_ns = ?6",
	/* Of all that a stamp holds a link changes the ctime and nothing else. */
	[STAMP_FOLLOW] = "UPDATE stamp SET ctime_ns = ?6 WHERE fs = ?1 AND inode = ?2 AND "
			 "generation = ?3 AND size = ?4 AND mtime_ns = ?5 AND digest = ?7",
	[STAMP_FORGET] = "DELETE FROM stamp WHERE fs = ?1 AND inode = ?2 AND digest = ?7",
	[STAMP_GRANT] = "INSERT OR REPLACE INTO stamp VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, "
			"unixepoch())",
};

/* struct fsuuid2 and FS_IOC_GETFSUUID of Linux 6.9, which older headers lack. */
struct fs_uuid {
	uint8_t len;
	uint8_t uuid[16];
};
#define GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

/* Which file, in which version. */
struct identity {
	uint8_t fs[16];
	int64_t inode, generation, size, mtime_ns, ctime_ns;
};

/* A database that cannot be opened is left alone for so long. */
#define RETRY_SECONDS 10

static int identify(int fd, struct identity *id)
{
	struct fs_uuid uuid = { 0 };
	struct statfs fs;
	struct stat st;
	long generation = 0;

	memset(id, 0, sizeof(*id));
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (ioctl(fd, GET_FS_UUID, &uuid) == 0 && uuid.len == sizeof(uuid.uuid))
		memcpy(id->fs, uuid.uuid, sizeof(id->fs));
	else
		memcpy(id->fs, &fs.f_fsid, sizeof(fs.f_fsid));
	/* File systems without generations never reuse an inode number, or have no ioctl: 0. */
	if (ioctl(fd, FS_IOC_GETVERSION, &generation) == 0)
		id->generation = (int64_t)(uint32_t)generation;
	id->inode = (int64_t)st.st_ino;
	id->size = st.st_size;
	id->mtime_ns = nanoseconds(st.st_mtim);
	id->ctime_ns = nanoseconds(st.st_ctim);
	return 0;
}

/* 0 where stamps.db may be believed, or is not there yet. */
static int check_owner(const struct store *store, struct err *e)
{
	struct stat st;

	if (fstatat(store->root, STORE_STAMPS, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISREG(st.st_mode) && st.st_nlink == 1 && !(st.st_mode & 077) &&
	    (st.st_uid == 0 || st.st_uid == geteuid()))
		return 0;
	return err_refuse(e, EPERM, "%s/%s is ignored, for others may have written it: rm %s/%s",
			  store->path, STORE_STAMPS, store->path, STORE_STAMPS);
}

void cat_stamps_finalize(struct store *store)
{
	for (size_t i = 0; i < STAMP_STATEMENTS; i++)
		sqlite3_finalize(take_ptr(&store->stamps_statements[i]));
}

static void close_stamps(struct store *store)
{
	cat_stamps_finalize(store);
	cat_db_abandon(store->stamps);
	store->stamps = NULL;
}

/* Damaged. Nobody is waited for: who has it open sees that it is gone. */
static void discard(struct store *store)
{
	close_stamps(store);
	unlinkat(store->root, STORE_STAMPS, 0);
	unlinkat(store->root, STORE_STAMPS "-wal", 0);
	unlinkat(store->root, STORE_STAMPS "-shm", 0);
}

static int open_stamps(struct store *store)
{
	auto_free char *path = NULL;
	int rc;

	if (asprintf(&path, "%s/%s", store->path, STORE_STAMPS) < 0)
		return -ENOMEM;
	for (int tries = 0; tries < 2; tries++) {
		rc = check_owner(store, NULL);
		if (rc == 0)
			rc = cat_db_open(&store->stamps, path, &stamps_kind, NULL);
		if (rc != -EUCLEAN)
			return rc;
		discard(store);
	}
	return rc;
}

/*
 * The open database, or NULL: then nothing is stamped. stamps_mutex is held. A
 * daemon lives long: the file may have been removed or made anew meanwhile.
 */
static sqlite3 *get_stamps(struct store *store)
{
	struct stat st;

	if (store->stamps && (fstatat(store->root, STORE_STAMPS, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			      st.st_dev != store->stamps_dev || st.st_ino != store->stamps_ino))
		close_stamps(store);
	if (store->stamps || !store->writable || monotonic_seconds() < store->stamps_after)
		return store->stamps;
	if (open_stamps(store) == 0 &&
	    fstatat(store->root, STORE_STAMPS, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		store->stamps_dev = st.st_dev;
		store->stamps_ino = st.st_ino;
	} else {
		close_stamps(store);
		store->stamps_after = monotonic_seconds() + RETRY_SECONDS;
	}
	return store->stamps;
}

static void bind_identity(sqlite3_stmt *s, const struct identity *id, const uint8_t *digest)
{
	sqlite3_bind_blob(s, 1, id->fs, sizeof(id->fs), SQLITE_STATIC);
	sqlite3_bind_int64(s, 2, id->inode);
	sqlite3_bind_int64(s, 3, id->generation);
	sqlite3_bind_int64(s, 4, id->size);
	sqlite3_bind_int64(s, 5, id->mtime_ns);
	sqlite3_bind_int64(s, 6, id->ctime_ns);
	/* Not every statement has it. */
	if (digest)
		sqlite3_bind_blob(s, 7, digest, DIGEST_SIZE, SQLITE_STATIC);
}

/* What a statement about a stamp finds. */
struct found {
	int64_t when;
	uint8_t digest[DIGEST_SIZE]; /* where it selects that, too */
};

static void read_row(sqlite3_stmt *s, struct found *out)
{
	*out = (struct found){ .when = sqlite3_column_int64(s, 0) };
	if (sqlite3_column_count(s) > 1 && sqlite3_column_bytes(s, 1) == DIGEST_SIZE)
		memcpy(out->digest, sqlite3_column_blob(s, 1), DIGEST_SIZE);
}

/* Runs one statement about a stamp: 1 with *found, 0 without a row, or a negative errno. */
static int run(struct store *store, enum stamp_statement what, const struct identity *id,
	       const uint8_t *digest, struct found *found)
{
	sqlite3_stmt **s = &store->stamps_statements[what];
	int rc = -EROFS;
	sqlite3 *db;

	pthread_mutex_lock(&store->stamps_mutex);
	db = get_stamps(store);
	if (db)
		rc = *s ? 0 : cat_db_prepare(db, statements[what], s, NULL);
	if (rc == 0) {
		bind_identity(*s, id, digest);
		rc = cat_db_step(db, *s, NULL);
	}
	if (rc == 1 && found)
		read_row(*s, found);
	if (*s) {
		/* What is bound is the caller's, and ends with it. */
		sqlite3_reset(*s);
		sqlite3_clear_bindings(*s);
	}
	if (rc == -EUCLEAN)
		discard(store);
	pthread_mutex_unlock(&store->stamps_mutex);
	return rc;
}

int64_t cat_stamp_time(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE])
{
	struct identity id;
	struct found found;

	return identify(fd, &id) == 0 && run(store, STAMP_TIME, &id, digest, &found) == 1
		       ? found.when
		       : 0;
}

bool cat_stamp_find(struct store *store, int fd, uint8_t digest[DIGEST_SIZE])
{
	struct identity id;
	struct found found;

	if (identify(fd, &id) < 0 || run(store, STAMP_FIND, &id, NULL, &found) != 1)
		return false;
	memcpy(digest, found.digest, DIGEST_SIZE);
	return true;
}

bool cat_stamp_holds(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE])
{
	return cat_stamp_time(store, fd, digest) != 0;
}

void cat_stamp_follow(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE], bool held)
{
	struct identity id;

	if (held && identify(fd, &id) == 0)
		run(store, STAMP_FOLLOW, &id, digest, NULL);
}

/* What was seen to be wrong is not known to be good, whatever was seen before. */
static void forget(struct store *store, int fd, const uint8_t digest[DIGEST_SIZE])
{
	struct identity id;

	if (identify(fd, &id) == 0)
		run(store, STAMP_FORGET, &id, digest, NULL);
}

/*
 * From Linux 6.13 two changes of a file never leave the same ctime once it was
 * looked at: on the file systems that have multigrain timestamps.
 */
static bool has_fine_times(int fd)
{
	unsigned major = 0, minor = 0;
	struct utsname u;
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0 ||
	    (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC &&
	     fs.f_type != BTRFS_SUPER_MAGIC && fs.f_type != TMPFS_MAGIC))
		return false;
	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		return false;
	return major > 6 || (major == 6 && minor >= 13);
}

#define SETTLED_NS 2000000000LL

int cat_stamp_grant(struct store *store, struct lease *l, const uint8_t digest[DIGEST_SIZE],
		    int64_t *wait_ns)
{
	struct timespec now;
	struct identity id;
	int64_t age;
	int rc;

	if (!cat_lease_unbroken(l))
		return -EBUSY;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	age = nanoseconds(now) - nanoseconds(l->st.st_ctim);
	if (!has_fine_times(l->fd) && age < SETTLED_NS) {
		*wait_ns = age < 0 ? SETTLED_NS : SETTLED_NS - age;
		return -EAGAIN;
	}
	/* What was hashed is in the page cache: it must outlive the stamp. */
	if (fsync(l->fd) < 0)
		return -errno;
	rc = identify(l->fd, &id);
	if (rc < 0 || !cat_lease_unbroken(l))
		return rc < 0 ? rc : -EBUSY;
	return run(store, STAMP_GRANT, &id, digest, NULL);
}

int cat_stamp_verify(struct store *store, int fd, uint64_t size, const uint8_t digest[DIGEST_SIZE],
		     int tree_fd, struct io_progress *progress, struct err *e)
{
	struct lease l = cat_lease_take(fd);
	uint8_t seen[DIGEST_SIZE];
	int64_t wait_ns;
	int rc = cat_lease_digest(&l, fd, size, tree_fd, progress, seen);

	if (rc == -ENODATA)
		rc = err_refuse(e, EBADMSG, "it is shorter than the manifest says");
	else if (rc < 0)
		err_sys(e, -rc, "it cannot be read");
	else if (memcmp(seen, digest, DIGEST_SIZE) != 0) {
		forget(store, fd, digest);
		rc = err_refuse(e, EBADMSG, "it does not have the manifest's digest");
	} else {
		cat_stamp_grant(store, &l, digest, &wait_ns);
	}
	cat_lease_drop(&l);
	return rc;
}

void cat_stamp_problem(struct store *store, struct err *e)
{
	check_owner(store, e);
}
