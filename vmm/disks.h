/*
 * The disks and persistent memory of a machine, as its snapshots know them.
 *
 * A snapshot keeps RAM and state; of a disk it keeps what it was: its size, and
 * the file's inode and time of change. One that is only read is the same at a
 * restore, or is named by --disk. One that can be written goes on changing after
 * the save: such a machine is saved only with --disk-policy external, by which
 * the user says to see to the disks.
 */
#pragma once

#include "machine.h"
#include "proto/manifest.h"

/*
 * Whether the machine's disks let it be saved under m->disk_policy. 0, or -EINVAL
 * with a sentence for each that does not.
 */
int disks_check_policy(struct machine *m, struct err *e);

/* Adds to the manifest (allocated for proto_manifest_free()) what they are now. 0 or negative. */
int disks_describe(struct machine *m, SnapshotManifest *manifest);

/*
 * At a restore: whether the files that `config` names (the manifest's devices, as
 * overridden) are there and have the size that the guest knows, and those only read
 * are what they were. Looks, and touches nothing. 0 or -EINVAL with a sentence each.
 */
int disks_preflight(const SnapshotManifest *manifest, const Machine *config, struct err *e);
