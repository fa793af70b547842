/*
 * The life of the mount: mounted, served by several threads, unmounted by
 * `umount`, `fusermount3 -u` or a signal.
 */
#pragma once

#include <stdbool.h>

#include "fs.h"

/*
 * Holds back the signals that end the mount, in this thread and those it will
 * start; ignores those that end nothing. Call it first. In the background a
 * hangup is none of ours.
 */
void sfs_session_hold_signals(bool foreground);

/*
 * Mounts `fs` at `mountpoint` (resolved) with `options` for libfuse (may be
 * NULL) and serves until it is unmounted. fs->ready is called on the way.
 * SIGTERM, SIGINT: unmounts; if it is busy, detaches it and serves those who
 * have it open until they close it, or until a second signal ends the process.
 * 0 or a negative errno.
 */
int sfs_session_run(struct fs *fs, const char *mountpoint, const char *options, struct err *e);
