/*
 * What a restore needs to know of the host's KVM, asked by a thread of its own while
 * the snapshot is read: each takes the better part of a millisecond, and neither waits
 * for the other. It has ended when host_ask_end() returns: there is none but the main one
 * when the sandbox closes.
 */
#pragma once

#include <pthread.h>

#include "preflight.h"

struct host_ask {
	pthread_t thread;
	bool asking; /* it runs: what follows is its */
	int rc;
	struct err problem;
	struct kvm_host kvm;
	struct preflight_host host;
};

/* Opens KVM, and asks it. */
void host_ask_begin(struct host_ask *a);

/*
 * Waits for the answer, which *kvm (the caller's then) and a->host are; probes, where
 * the snapshot needs it (preflight_wants_probe()). 0 or a negative errno.
 */
int host_ask_end(struct host_ask *a, struct kvm_host *kvm, const SnapshotManifest *m,
		 const VmState *s, struct err *e);

/* Frees all that host_ask_end() has not given away. */
void host_ask_close(struct host_ask *a);
