/*
 * RAM that is no file of the machine's own, saved: copied in rounds while the guest runs,
 * each time what has changed since the round before, until little is left for the pause.
 *
 *	a base is known		the pages that have changed since it, as one more layer
 *	none is			all pages that hold data, as a file of the whole RAM
 *
 * Main thread only.
 */
#pragma once

#include "layer_out.h"
#include "machine.h"

#define ROUNDS_MAX  8
#define ROUNDS_LEFT (4ULL << 20) /* bytes: no more is a pause of some milliseconds */

struct rounds {
	struct machine *machine;
	bool layer; /* else all of the RAM */
	struct layer_out out;
	struct pageset todo;
	struct base_map map; /* of the new layer, once it is finished */
	uint64_t changed;    /* pages that had changed when it began */
	uint64_t left;	     /* pages that were left for the pause */
	unsigned n;	     /* rounds, that in the pause not counted */
};

/* Whether a save of the machine would be a layer now. 0, 1 or a negative errno. */
int rounds_want_layer(struct machine *m, struct err *e);

/*
 * Copies to the empty file fd (the caller's, for as long as this lasts) while the guest
 * runs; rounds_rest() the rest, when everything is held; rounds_finish() makes it whole.
 * Each 0 or a negative errno with words; after a failure: rounds_fail().
 */
int rounds_begin(struct rounds **r, struct machine *m, int fd, bool layer, struct err *e);
int rounds_rest(struct rounds *r, struct err *e);
int rounds_finish(struct rounds *r, struct err *e);

/* Nothing came of the save: what it has copied counts as changed again. Frees it; NULL is fine. */
void rounds_fail(struct rounds *r);
void rounds_free(struct rounds *r);
