/* Working sets, kept beside their snapshots: see publish.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/internal.h"
#include "catalog/publish.h"
#include "proto/snapdir.h"
#include "proto/working_set.h"

/* The file, whole and checked. *buf is the caller's. */
static int read_checked(int fd, const struct snapdir *d, uint8_t **buf, size_t *len, struct err *e)
{
	const uint64_t pages = d->manifest->memory_size_bytes / MANIFEST_PAGE_SIZE;
	auto_free uint8_t *data = NULL;
	struct working_set s;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)WORKING_SET_MAX)
		return err_refuse(e, EBADMSG, "a working set is a file of at most %u bytes",
				  WORKING_SET_MAX);
	*len = (size_t)st.st_size;
	data = malloc(*len ? *len : 1);
	rc = data ? io_pread_full(fd, data, *len, 0) : -ENOMEM;
	if (rc == 0)
		rc = proto_working_set_parse(data, *len, pages, &s);
	if (rc == -EBADMSG)
		return err_refuse(e, EBADMSG, "this is no working set of that snapshot");
	if (rc < 0)
		return err_sys(e, -rc, "cannot read the working set");
	rc = memcmp(s.id, d->manifest->id.data, UUID_SIZE);
	proto_working_set_free(&s);
	if (rc != 0)
		return err_refuse(e, EBADMSG, "this is no working set of that snapshot");
	*buf = take_ptr(&data);
	return 0;
}

/* Takes the place of what is there; the directory's time is the snapshot's. */
static int put(const struct store *store, const struct snapdir *d, const uint8_t *buf, size_t len)
{
	const struct timespec times[2] = { d->stat.st_atim, d->stat.st_mtim };
	char name[48];
	int rc;

	snprintf(name, sizeof(name), "working-set-%ld", (long)getpid());
	unlinkat(store->staging, name, 0);
	rc = io_write_file(store->staging, name, buf, len, STORE_FILE_MODE, NULL);
	if (rc == 0 && renameat(store->staging, name, d->dirfd, WORKING_SET_FILE) < 0)
		rc = -errno;
	if (rc < 0)
		unlinkat(store->staging, name, 0);
	futimens(d->dirfd, times);
	return rc == 0 && fsync(d->dirfd) < 0 ? -errno : rc;
}

static int keep(struct store *store, const struct snapdir *d, int fd, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len = 0;
	int rc = read_checked(fd, d, &buf, &len, e);

	if (rc < 0)
		return rc;
	rc = put(store, d, buf, len);
	return rc < 0 ? err_sys(e, -rc, "cannot keep the working set") : 0;
}

int cat_working_set_keep(struct store *store, const uint8_t id[UUID_SIZE], int fd, struct err *e)
{
	char name[CAT_NAME_MAX + 1];
	struct snapdir d = { 0 };
	int rc = cat_store_need_writable(store, e);

	if (rc == 0)
		rc = cat_index_name_of(store, id, name, NULL);
	if (rc == -ENOENT)
		return err_refuse(e, ENOENT,
				  "the snapshot that this machine was restored from is not in the "
				  "store: its working set is not kept");
	if (rc == 0)
		rc = proto_snapdir_open(&d, cat_store_snapshots_fd(store), name, name, e);
	if (rc < 0)
		return rc;
	rc = d.manifest ? keep(store, &d, fd, e) : -EINVAL;
	proto_snapdir_close(&d);
	return rc;
}
