/*
 * Which pages of RAM have changed. Three know something of it:
 *
 *	KVM's dirty log		what the guest, and KVM itself, has written
 *	ram->written		what vmm has written for it, or taken away
 *	a struct vm before	what it had logged when a reset made another
 *
 * Collected into one set, machine.dirty: the pages that are not, or may not be,
 * what they are in the snapshot that the machine goes on from (base.h).
 *
 * A page is cleared in the log before it is copied: what changes it afterwards shows
 * the next time. Main thread only.
 */
#pragma once

#include "machine.h"

/*
 * Has the guest's writes logged from now on, where they are not: RAM of a memory file,
 * before its first save. The guest may run. 0 or a negative errno.
 */
int dirty_start(struct machine *m, struct err *e);

/*
 * Adds to m->dirty what has changed since the last call, and forgets it elsewhere. The
 * guest may run; devices are stopped for a moment, so that what they have under way is
 * in memory. RAM whose writes are not logged (RAM_SHARED) adds nothing. 0 or a negative
 * errno: what was found by then is in the set.
 */
int dirty_collect(struct machine *m, struct err *e);
