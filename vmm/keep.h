/*
 * What a snapshot keeps beside the state: RAM, writable pmem, and the disks that
 * can be written. The save takes them in four steps:
 *
 *	list	which they are
 *	prepare	the guest runs: what takes time is done beforehand
 *	freeze	everything is held: their content is that of this moment
 *	settle	the guest runs again: no writable descriptor or mapping of what was
 *		frozen is left, and each is a few read-only files
 *
 * How the content is kept depends on where it is:
 *
 *	a file of the machine's own	memory: the guest goes on over a private
 *					mapping; a disk: on a new overlay
 *	such a disk or pmem, where the	a clone of the file is kept, and the guest
 *	file system makes clones	goes on with it as before
 *	RAM without such a file		is copied in rounds while the guest runs, as a layer
 *					over the machine's base where that is known (rounds.h)
 *	pmem without such a file	is written out
 *
 * Main thread only.
 */
#pragma once

#include "machine.h"
#include "proto/manifest.h"
#include "publisher.h"
#include "rounds.h"
#include "virtio/disk.h"

#define KEEP_MAX (1 + MACHINE_VIRTIO_MAX) /* RAM, then devices */

/* One of them. Empty descriptors are -1. */
struct kept {
	const struct keep_ops *ops;
	const char *name; /* of its device, "RAM": the machine's */
	struct ram *memory;
	unsigned slot; /* of the memory, in the order of vm_create() */
	struct disk *disk;
	const Disk *origin; /* whose files it was restored over, the machine's; NULL: none */

	struct machine *machine; /* of RAM */
	struct rounds *rounds;	 /* owned: RAM is copied by these */
	int copy_fd; /* a file of the publisher's, empty at first: its clone, or written out */
	bool cloned;
	struct ram frozen;
	struct ram_mapping old;

	struct disk_file *file; /* settled: what the snapshot holds, the bottom first */
	unsigned nfiles;
};

struct keep {
	struct machine *machine;
	unsigned n;
	struct kept item[KEEP_MAX]; /* RAM first */
	const char *way;	    /* how memory was frozen: "hand-over", "slot-swap" or "copy" */
};

/* True where a snapshot under m->disk_policy keeps the content of this device. */
bool keep_wants(const struct machine *m, const Device *d);

/* Lists what the machine has to keep. */
void keep_list(struct keep *k, struct machine *m);

/*
 * Asks the publisher whether the files of the devices, but those that are a snapshot's already,
 * could be linked into a snapshot `name`; the answer comes as publisher_send_save() says. 0 or
 * negative.
 */
int keep_ask(const struct keep *k, struct publisher *p, const char *name, struct err *e);

/* The same, for any name in the store, and waits for the answer: 0 or a negative errno. */
int keep_check(const struct keep *k, struct publisher *p, struct err *e);

/*
 * Each 0 or a negative errno with words. After a failure: keep_drop(). `state` has just
 * been taken: by it, another VM goes on with the guest over the frozen memory
 * (handover.h), where that could be prepared.
 */
int keep_prepare(struct keep *k, struct publisher *p, struct err *e);
int keep_freeze(struct keep *k, const VmState *state, struct err *e);
int keep_settle(struct keep *k, struct err *e);

/*
 * Puts the files of the devices into the manifest (`disk`, which has one entry for each
 * device whose content a machine can have; allocated for proto_manifest_free()),
 * under names of their own. 0 or -ENOMEM.
 */
int keep_describe(const struct keep *k, SnapshotManifest *manifest);

/* Hands all over to the publisher: publisher_send_commit(). 0 or a negative errno. */
int keep_commit(const struct keep *k, struct publisher *p, int manifest_fd, int state_fd,
		struct err *e);

/* The same for the layers of RAM, if it is saved as one more. 0 or a negative errno. */
int keep_describe_layers(const struct keep *k, SnapshotManifest *manifest);

/*
 * The descriptors of RAM as a commit has them: its file; or the maps, a new file that is the
 * caller's (*maps_fd), and the layers' files. Into fds[], of MANIFEST_LAYERS_MAX + 2. 0 or a
 * negative errno.
 */
int keep_list_ram(const struct keep *k, int fds[], size_t *n, int *maps_fd, struct err *e);

/* Undoes what was only prepared, closes and frees the rest. */
void keep_drop(struct keep *k);
