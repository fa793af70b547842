/* What the kernel has open: see handle.h. */
#include "handle.h"

#include <stddef.h>

void sfs_handles_init(struct handle_list *l)
{
	pthread_mutex_init(&l->lock, NULL);
	l->first = NULL;
}

void sfs_handles_destroy(struct handle_list *l)
{
	while (l->first)
		sfs_handles_drop(l, l->first);
	pthread_mutex_destroy(&l->lock);
}

void sfs_handles_add(struct handle_list *l, struct handle *h)
{
	pthread_mutex_lock(&l->lock);
	h->next = l->first;
	h->link = &l->first;
	if (h->next)
		h->next->link = &h->next;
	l->first = h;
	pthread_mutex_unlock(&l->lock);
}

void sfs_handles_drop(struct handle_list *l, struct handle *h)
{
	pthread_mutex_lock(&l->lock);
	*h->link = h->next;
	if (h->next)
		h->next->link = h->link;
	pthread_mutex_unlock(&l->lock);
	h->drop(h);
}
