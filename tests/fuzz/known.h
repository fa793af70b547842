/*
 * Whether a message has only fields that are known, in it and below. With
 * unknown ones protobuf-c does not promise to read again what it has written:
 * it takes a field number 0 that is written in three bytes, and writes it in
 * the one byte that it refuses.
 */
#pragma once

#include <stdbool.h>

#include <protobuf-c/protobuf-c.h>

static inline const void *member(const ProtobufCMessage *m, unsigned offset)
{
	return (const char *)m + offset;
}

static inline bool only_known(const ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;

	if (m->n_unknown_fields)
		return false;
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		ProtobufCMessage *const *below = member(m, f->offset);
		size_t n = 1;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(const size_t *)member(m, f->quantifier_offset);
			below = *(ProtobufCMessage *const *const *)below;
		}
		for (size_t j = 0; j < n; j++)
			if (below[j] && !only_known(below[j]))
				return false;
	}
	return true;
}
