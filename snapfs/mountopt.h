/*
 * The words of the command line that shape the mount: the -o list, as a person,
 * fstab(5), mount.fuse3(8) or an automounter writes it, and the file mode.
 * Pure: nothing here looks at the system.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct mount_options {
	char *fuse;	       /* what libfuse is given, comma separated; owned, may be NULL */
	char *mode;	       /* of mode=OCTAL, owned, may be NULL */
	bool allow_other;      /* others than the mounting user may look in */
	bool nopassthrough;    /* this process serves all reads */
	bool noverify;	       /* nothing is verified before it is opened */
	unsigned verify_after; /* seconds until it is, in idle time; 0: not given */
};

/*
 * Sorts the words of a comma separated list (may be NULL): those libfuse is
 * given, those that are for mount(8) and systemd and are dropped, those that
 * are refused. May be called for several lists, one after the other; start
 * with a zeroed *o. 0 or a negative errno with err_usage words.
 */
int sfs_mountopt_parse(struct mount_options *o, const char *list, struct err *e);
void sfs_mountopt_free(struct mount_options *o);

/*
 * An octal file mode that only gives read permission, at least the owner's:
 * 0400 to 0444. 0 or -EINVAL with err_usage words.
 */
int sfs_mode_parse(const char *text, mode_t *mode, struct err *e);

/* The mode of a directory for that of a file: searchable where it is readable. */
mode_t sfs_mode_of_dir(mode_t file_mode);
