/*
 * What the kernel has open: files and listings, from the reply to their open
 * until their release. Kept in a list, because the end of a mount does not
 * release them: then the list is what is left to give back.
 */
#pragma once

#include <pthread.h>

/* The first member of what is open. */
struct handle {
	void (*drop)(struct handle *h); /* gives it back */
	/* Guarded by the list's lock. */
	struct handle *next, **link;
};

struct handle_list {
	pthread_mutex_t lock;
	/* Guarded by lock. */
	struct handle *first;
};

void sfs_handles_init(struct handle_list *l);
/* Drops all that is left, for when no request can come any more. */
void sfs_handles_destroy(struct handle_list *l);

/* Before the kernel is told of it. */
void sfs_handles_add(struct handle_list *l, struct handle *h);
/* Takes it out and drops it. */
void sfs_handles_drop(struct handle_list *l, struct handle *h);
