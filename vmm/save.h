/*
 * Saving a running machine, in four steps:
 *
 *	ask	the publisher checks the name and holds a place; the guest runs
 *	take	the vCPUs are held, the state is taken; RAM, writable pmem and disks
 *		are frozen, cloned, or, where they are no file, written out (keep.h)
 *	publish	the guest runs on; the publisher links, digests, syncs, publishes
 *	done	the caller is told; the snapshot is durable, or nothing is left
 *
 * A save that fails leaves the guest running. Main thread only.
 */
#pragma once

#include <stdint.h>

#include "keep.h"
#include "machine.h"
#include "publisher.h"

struct save_result {
	uint8_t id[UUID_SIZE];
	const char *path;   /* where the snapshot is, valid during the call */
	char *notices;	    /* sentences, one a line, may be empty; valid during the call */
	int64_t pause_ns;   /* first kick to last vCPU running */
	const char *freeze; /* how memory was frozen (keep.h) */
	/* of RAM that was copied, in rounds (rounds.h): */
	bool copied, layer;
	uint64_t pages_changed, pages_left, bytes_written;
	unsigned rounds;
};

/* Told once: rc 0 and the result, or a negative errno and the words. */
typedef void (*save_done_fn)(void *arg, int rc, const struct save_result *result,
			     const struct err *e);

enum save_phase { SAVE_IDLE, SAVE_ASKED, SAVE_PUBLISHING, SAVE_ABORTING };

struct save {
	struct machine *machine;
	struct publisher *publisher;
	enum save_phase phase;
	save_done_fn done;
	void *arg;
	int64_t pause_ns;
	uint64_t bytes_done, bytes_total; /* of the publish */
	struct err failure;		  /* while SAVE_ABORTING: why */
	int failure_rc;
	struct timing timing;  /* of the save that is under way */
	struct keep keep;      /* what it keeps, until that is passed on */
	struct rounds *rounds; /* owned: RAM as it was passed on, until it is published */
};

void save_init(struct save *s, struct machine *m, struct publisher *p);

/* Starts it. 0: `done` will be called; else nothing was started. */
int save_start(struct save *s, const char *name, save_done_fn done, void *arg, struct err *e);

/*
 * Whether a save could be started now and would not be refused for what the
 * machine is: 0, or a negative errno with all reasons, one a line.
 */
int save_possible(struct save *s, struct err *e);

/* Takes the publisher's next reply: call it when its socket is readable. */
void save_on_reply(struct save *s);
