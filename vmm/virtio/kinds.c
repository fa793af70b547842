/* The kinds of virtio devices. A new one is one file and one line here. */
#include "kinds.h"

#include <string.h>

#include "balloon.h"
#include "blk.h"
#include "pmem.h"
#include "vsock.h"

const struct virtio_ops *const virtio_kinds[] = {
	&virtio_blk_ops,   &virtio_net_ops,	&virtio_pmem_ops,    &virtio_rng_ops,
	&virtio_vsock_ops, &virtio_console_ops, &virtio_balloon_ops, NULL,
};

const struct virtio_ops *virtio_find_kind(const char *kind)
{
	for (size_t i = 0; virtio_kinds[i]; i++)
		if (strcmp(virtio_kinds[i]->kind, kind) == 0)
			return virtio_kinds[i];
	return NULL;
}
