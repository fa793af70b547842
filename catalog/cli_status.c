/* snapctl status: the store as a whole, and where it is mounted. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/check.h"
#include "catalog/cli.h"
#include "catalog/mount.h"

#define STATUSES (CAT_REPLACED + 1)

struct totals {
	uint64_t of[STATUSES], n, unique, stored;
};

static int add_up(void *arg, const struct cat_row *row)
{
	struct totals *t = arg;

	t->n++;
	if ((unsigned)row->status < STATUSES)
		t->of[row->status]++;
	if (row->status != CAT_MISSING) {
		t->unique += row->unique_bytes;
		t->stored += row->stored_bytes;
	}
	return 0;
}

static const char *fs_name(int fd)
{
	static const struct {
		unsigned long magic;
		const char *name;
	} known[] = {
		{ EXT4_SUPER_MAGIC, "ext4" },
		{ XFS_SUPER_MAGIC, "xfs" },
		{ BTRFS_SUPER_MAGIC, "btrfs" },
		{ TMPFS_MAGIC, "tmpfs" },
		{ F2FS_SUPER_MAGIC, "f2fs" },
		{ NFS_SUPER_MAGIC, "nfs" },
		{ OVERLAYFS_SUPER_MAGIC, "overlayfs" },
		{ 0x2fc12fc1, "zfs" },
		{ 0x65735546, "fuse" },
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return "unknown";
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if ((unsigned long)fs.f_type == known[i].magic)
			return known[i].name;
	return "unknown";
}

/* --- mounts --- */

/* Whether the mount at `path` is one of this store; then `reads` says who serves it. */
static bool is_of_store(const struct cli *cli, const char *path, char reads[MOUNT_XATTR_MAX])
{
	auto_free char *own = realpath(cat_store_path(cli->store), NULL);
	char store[MOUNT_XATTR_MAX];
	ssize_t n = getxattr(path, MOUNT_XATTR_STORE, store, sizeof(store) - 1);

	/* A dead one, and one that others may not look into, say nothing. */
	if (n < 0 || !own)
		return false;
	store[n] = '\0';
	n = getxattr(path, MOUNT_XATTR_READS, reads, MOUNT_XATTR_MAX - 1);
	reads[n < 0 ? 0 : n] = '\0';
	return strcmp(store, own) == 0;
}

/* Where the store is mounted: an array of {"mount_point", "reads"}, or NULL without memory. */
static json_t *find_mounts(const struct cli *cli)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	json_t *found = json_array();
	char line[4 * PATH_MAX], reads[MOUNT_XATTR_MAX];
	struct mntent entry;

	while (f && found && getmntent_r(f, &entry, line, sizeof(line)))
		if (strcmp(entry.mnt_type, "fuse.snapfs") == 0 &&
		    is_of_store(cli, entry.mnt_dir, reads))
			json_array_append_new(found, json_pack("{s:o, s:o}", "mount_point",
							       cli_string(entry.mnt_dir), "reads",
							       cli_string(reads)));
	if (f)
		endmntent(f);
	return found;
}

static void print_mounts(const json_t *mounts)
{
	const json_t *m;
	size_t i;

	json_array_foreach(mounts, i, m)
		printf("mounted at   %s\n  reads      %s\n",
		       json_string_value(json_object_get(m, "mount_point")),
		       json_string_value(json_object_get(m, "reads")));
}

int cli_status(struct cli *cli, struct err *e)
{
	const char *health = cat_index_health(cli->store);
	int root = cat_store_root_fd(cli->store);
	char used[TEXT_SIZE_MAX], left[TEXT_SIZE_MAX];
	struct statvfs fs = { 0 };
	struct totals t = { 0 };
	json_t *counts = json_object(), *mounts;
	auto_free char *path = text_clean(cat_store_path(cli->store));
	uint64_t free_bytes;
	int rc = cat_index_list(cli->store, add_up, &t, e);

	if (rc < 0) {
		json_decref(counts);
		return rc;
	}
	mounts = find_mounts(cli);
	fstatvfs(root, &fs);
	free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	for (unsigned i = 0; i < STATUSES; i++)
		json_object_set_new(counts, cat_status_word((enum cat_status)i),
				    json_integer((json_int_t)t.of[i]));
	if (cli->args.json)
		return cli_print_json(
			json_pack("{s:s, s:s, s:I, s:o, s:I, s:I, s:I, s:s, s:o}", "store", path,
				  "file_system", fs_name(root), "snapshots", (json_int_t)t.n,
				  "by_status", counts, "stored_bytes", (json_int_t)t.stored,
				  "unique_bytes", (json_int_t)t.unique, "free_bytes",
				  (json_int_t)free_bytes, "index", health, "mounts", mounts),
			e);
	json_decref(counts);
	printf("store        %s\nfile system  %s\nsnapshots    %" PRIu64 "\n", path ? path : "",
	       fs_name(root), t.n);
	for (unsigned i = 0; i < STATUSES; i++)
		if (t.of[i])
			printf("  %-11s%" PRIu64 "\n", cat_status_word((enum cat_status)i),
			       t.of[i]);
	printf("used         %s\nfree         %s\nindex        %s\n",
	       text_format_size(t.stored, used), text_format_size(free_bytes, left), health);
	print_mounts(mounts);
	json_decref(mounts);
	return 0;
}
