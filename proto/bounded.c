/* Decoding within a memory budget: see bounded.h. */
#include "bounded.h"

#include <stdlib.h>

static void *take(void *arg, size_t size)
{
	size_t *left = arg;

	if (size > *left)
		return NULL;
	*left -= size;
	/* protobuf-c fills in what it allocates but for the padding. */
	return calloc(1, size ? size : 1);
}

static void give_back(void *arg, void *p)
{
	(void)arg;
	free(p);
}

ProtobufCMessage *proto_unpack_bounded(const ProtobufCMessageDescriptor *type, const uint8_t *buf,
				       size_t len, size_t budget)
{
	ProtobufCAllocator allocator = {
		.alloc = take,
		.free = give_back,
		.allocator_data = &budget,
	};

	return protobuf_c_message_unpack(type, &allocator, len, buf);
}
