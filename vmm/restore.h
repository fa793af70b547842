/*
 * Restoring a machine from a snapshot directory: in the mount, in a store, or a
 * copy anywhere.
 *
 * Preflight reads and checks everything and reports all that does not fit
 * together, before anything of the host is touched; then the machine is built
 * over a private mapping of memory.bin, so that the snapshot never changes and
 * any number of machines can start from it.
 */
#pragma once

#include "base.h"
#include "clock.h"
#include "host_ask.h"
#include "machine.h"
#include "proto/snapdir.h"
#include "proto/working_set.h"
#include "publisher.h"

struct restore_options {
	const char *dir;
	uint64_t memory;     /* --memory, 0: not given; must match */
	uint32_t processors; /* --processors, 0: not given; must match */
	bool trust_memory;
	bool wait_verified; /* read whole what the mount would check block by block */
	enum clock_mode clock;
	const struct options *devices; /* what of devices is to be another */
};

/* A snapshot that passed preflight. */
struct restore {
	struct snapdir dir;
	VmState *state; /* owned */
	/* Of the files of proto_snapdir_file(): read-only, verified, owned. RAM's are the first. */
	int *fds;
	size_t nfds, n_ram_fds;
	struct base base; /* what the machine goes on from, as far as preflight has read it */
	struct flat flat; /* where RAM is in its files */
	Machine *config;  /* of the virtio devices, as overridden; owned */
	enum clock_mode clock;
	struct host_ask ask;
	struct kvm_host kvm; /* as preflight has asked it; the machine's then */
	char label[256];
};

/*
 * Opens, checks and verifies. memory.bin and the disks' files are hashed whole,
 * with progress, each unless the mount has vouched for it, or the store has a
 * stamp for it, or trust_memory says not to. 0; -EBADMSG, -EINVAL and others with all words.
 */
int restore_preflight(struct restore *r, const struct restore_options *o, struct publisher *p,
		      struct err *e);
void restore_close(struct restore *r);

/*
 * The pages that a guest of it touches first, where they were noted; else none. The caller's.
 * Once machine m has been restored from it.
 */
void restore_working_set(const struct restore *r, const struct machine *m, struct working_set *s);

/*
 * Builds the machine (after machine_init()) as the snapshot says, held. The
 * publisher is asked for files that guests write to. 0 or a negative errno.
 */
int restore_machine(struct restore *r, struct machine *m, struct publisher *p, struct err *e);
