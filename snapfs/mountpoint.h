/*
 * The place of the mount: is it one where a mount may go, what is in the way,
 * and how to leave it again. Nothing here looks into a live mount of ours.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"

/*
 * Checks `given` and makes it ready: a dead mount there is detached (and that
 * is said in the log). Refused are what is no directory, what lies in the store
 * or holds it (`store`, resolved), and what is a mount of snapfs already.
 * *resolved is the caller's. 0 or a negative errno.
 */
int sfs_mountpoint_prepare(const char *given, const char *store, char **resolved, struct err *e);

/* That this process will be able to mount: /dev/fuse, fusermount3. 0 or a negative errno. */
int sfs_mountpoint_check_fuse(bool allow_other, struct err *e);

/* True where one of the two absolute, resolved paths is the other or lies in it. */
bool sfs_paths_overlap(const char *a, const char *b);

/*
 * Takes the mount at `path` away; lazily (it goes on for those who use it)
 * where it is busy, then *busy is true. 0 or a negative errno.
 */
int sfs_mountpoint_unmount(const char *path, bool *busy);
