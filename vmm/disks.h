/*
 * The disks and persistent memory of a machine, as its snapshots know them.
 *
 *	kept		its files are the snapshot's (keep.h): a restore goes on over
 *			them, or, if --disk or --pmem names a file, over that
 *	external	only read, or seen to by the user (--disk-policy external): the
 *			snapshot knows its size, and the file's inode and time of change
 */
#pragma once

#include "machine.h"
#include "proto/manifest.h"
#include "publisher.h"

/* Adds to the manifest (allocated for proto_manifest_free()) what they are now. 0 or negative. */
int disks_describe(struct machine *m, SnapshotManifest *manifest);

/*
 * At a restore, each for the devices of `config`, which are the manifest's.
 *
 * forget_paths: what is kept has no path but what the command line gives it later;
 * the size that the guest knows is put into each. 0 or -ENOMEM.
 */
int disks_forget_paths(const SnapshotManifest *manifest, Machine *config);

/*
 * Whether the files that `config` names are there and have the size that the guest
 * knows, those only read are what they were, and the kept ones (fds[i], in the order of
 * proto_snapdir_file(); negative: could not be opened, which has been said) fit
 * together. Looks, and touches nothing. 0 or -EINVAL with a sentence each.
 */
int disks_preflight(const SnapshotManifest *manifest, const Machine *config, const int *fds,
		    struct err *e);

/*
 * Gives the machine's devices the kept files, which are taken over: they become
 * -1. What a guest writes to a disk goes to its overlay=FILE, or to a file of the
 * publisher's. After machine_add_virtio(). 0 or a negative errno.
 */
int disks_attach(struct machine *m, const SnapshotManifest *manifest, int *fds, struct publisher *p,
		 struct err *e);
