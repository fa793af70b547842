/*
 * What the sandbox allows: one row a system call, or a system call and the value
 * of one of its arguments, each with the reason. What is not here ends vmm.
 *
 * The list is for the life after set-up: running the guest and its devices,
 * saving, resetting, ending. It is read when vmm is built, by sandbox_gen.
 */
#pragma once

#include <stdint.h>

struct sandbox_rule {
	int call; /* SCMP_SYS(...) */
	const char *why;
	/* Where mask is not 0: only if (argument `arg` & mask) == value. */
	unsigned arg;
	uint64_t mask, value;
};

/* Ends with a row whose `why` is NULL. */
extern const struct sandbox_rule sandbox_rules[];

/*
 * Refused with ENOSYS, so that the caller takes its older way: clone3, whose
 * flags no filter can see; glibc goes on to clone.
 */
extern const int sandbox_unsupported;

/* Stands for vmm's own process id in the filter, until sandbox_enter() knows it. */
#define SANDBOX_OWN_PID 0x7fffff01U
