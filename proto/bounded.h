/*
 * protobuf-c decoding within a bound: a message of few bytes can ask for much
 * memory (an empty submessage costs two bytes on the wire), so the allocator
 * that decodes what others wrote stops at a budget.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

/*
 * Unpacks, taking at most `budget` bytes of memory; the message is freed with
 * protobuf_c_message_free_unpacked(m, NULL). NULL: not such a message, or over
 * the budget.
 */
ProtobufCMessage *proto_unpack_bounded(const ProtobufCMessageDescriptor *type, const uint8_t *buf,
				       size_t len, size_t budget);
