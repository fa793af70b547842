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

/*
 * The two halves of it, for a report of all that is wrong. parse: what can be
 * parsed within bounds, free as above; 0, -EBADMSG or -ENOMEM. check: adds
 * (err_also) a sentence for each thing that is wrong; 0 or -EBADMSG. -E2BIG:
 * of another version, or with too much or little of something: no more can be
 * said, and the rest of the state is not to be looked at.
 */
int proto_state_parse(const uint8_t *buf, size_t len, VmState **out, struct err *e);
int proto_state_check(const VmState *s, struct err *e);

/* *buf is the caller's to free. 0, -EFBIG or -ENOMEM. */
int proto_state_encode(const VmState *s, uint8_t **buf, size_t *len, struct err *e);

void proto_state_free(VmState *s);
