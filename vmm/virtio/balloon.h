/*
 * The memory balloon (virtio-balloon): takes memory from the guest for the host,
 * as much as virtio_balloon_set_target() asks for, and gives the host what the
 * guest reports as free. What becomes of the pages is ram_discard()'s. The guest
 * takes a page back by touching it, and finds zeros or old bytes of its own
 * there: so PAGE_POISON is not offered.
 *
 *	queue 0		page numbers that the guest gives
 *	queue 1		page numbers that it takes back
 *	queue 2 to 4	ranges that are free: the specification has that at 4, and
 *			drivers that count only the queues they use (older Linux)
 *			have it at 2. No other queue above 1 is offered, so each
 *			of the three is it.
 *
 * Source: virtio 1.2, 5.5.
 */
#pragma once

#include "virtio.h"

extern const struct virtio_ops virtio_balloon_ops;

struct balloon_status {
	uint64_t target, actual; /* bytes: what is asked for; what the guest says it has given */
	uint64_t discarded;	 /* bytes whose memory went back to the host, repeats included */
	uint64_t kept;		 /* bytes that stayed, for their space is reserved */
	uint64_t ignored;	 /* pages or ranges that are no RAM */
};

/*
 * Asks the guest for a balloon of so many bytes (whole pages count), at most
 * its RAM; it follows in its own time, and takes back what it needs when it runs
 * out of memory. Any thread. 0 or -EINVAL with words.
 */
int virtio_balloon_set_target(struct virtio *v, uint64_t bytes, struct err *e);

/* Any thread. */
void virtio_balloon_get_status(struct virtio *v, struct balloon_status *s);
