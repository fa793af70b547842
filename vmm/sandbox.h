/*
 * The sandbox that vmm runs in once everything is opened: what a guest that has
 * broken into vmm can still do is what vmm itself needs, and no more.
 *
 * See sandbox_rules.c for what is allowed, sandbox.c for how.
 */
#pragma once

#include "base/err.h"

/*
 * Enters it, for good: no new privileges, no capabilities (also none in the
 * bounding set, where the process may drop them), and a filter of system calls.
 * A call that is not allowed ends the process with STATUS_ENVIRONMENT and a line
 * on standard error.
 *
 * The process must have one thread (-EBUSY): threads made later have all of it,
 * while capabilities cannot be taken from those that are there. The children
 * that it has already are not in it. 0 or a negative errno.
 */
int sandbox_enter(struct err *e);
