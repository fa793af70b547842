/*
 * state.bin: its codec. The layout is in state.proto.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "state.pb-c.h"

#define STATE_VERSION 1
#define STATE_MAX     (16U << 20) /* bytes of the file */

/*
 * Decodes within bounds: versions known, counts and names sensible. The sizes
 * of KVM's structures are vmm's to check. Free with proto_state_free().
 * 0, -EBADMSG or -ENOMEM.
 */
int proto_state_decode(const uint8_t *buf, size_t len, VmState **out, struct err *e);

/* *buf is the caller's to free. 0, -EFBIG or -ENOMEM. */
int proto_state_encode(const VmState *s, uint8_t **buf, size_t *len, struct err *e);

void proto_state_free(VmState *s);
