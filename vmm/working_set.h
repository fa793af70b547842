/*
 * The pages that a restored guest touches first: noted beside its snapshot, and read
 * ahead by later restores, in the order of the file, while their guests run already.
 *
 * What was touched is what this process has mapped of its RAM (/proc/self/pagemap). The
 * kernel maps what else it has in memory of a touched page's 64 KiB with it, so a set
 * that is noted while the snapshot is in the page cache is larger than need be.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "machine.h"
#include "proto/working_set.h"
#include "publisher.h"

/* Reads ahead, by a thread of its own. Zeroed: nothing is read. */
struct prefetch {
	pthread_t thread;
	bool started;
	atomic_bool stop;
	uint8_t *base; /* of a restored machine's RAM, which stays where it is */
	struct working_set set;
};

/*
 * Has the pages of `set` (taken over) read into the RAM of a restored machine. A failure
 * is none: the guest finds out by itself. Main thread, once.
 */
void prefetch_start(struct prefetch *p, const struct ram *ram, struct working_set *set);
/* Ends it, before the RAM goes. */
void prefetch_stop(struct prefetch *p);

/* Before a restored guest runs: what it touches is to be noted, so nothing is read ahead. */
void working_set_watch(const struct ram *ram);

/*
 * Notes what a restored machine has touched until now beside its snapshot, by the
 * publisher, and waits for that. Main thread, no save under way. *pages: how many they
 * are. 0 or a negative errno with words.
 */
int working_set_keep(struct machine *m, struct publisher *p, uint64_t *pages, struct err *e);
