/* The kinds of virtio devices. A new one is one file and one line here. */
#include <string.h>

#include "virtio.h"
#include "vsock.h"

const struct virtio_ops *const virtio_kinds[] = {
	&virtio_vsock_ops,
	NULL,
};

const struct virtio_ops *virtio_find_kind(const char *kind)
{
	for (size_t i = 0; virtio_kinds[i]; i++)
		if (strcmp(virtio_kinds[i]->kind, kind) == 0)
			return virtio_kinds[i];
	return NULL;
}
