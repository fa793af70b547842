/*
 * Many machines from one snapshot: this process starts a vmm for each, whose command
 * line is its own with {n} replaced by the number of the clone (1 and up), tells when
 * they run, and ends with the last of them. It has no part in what they do.
 */
#pragma once

#include "options.h"

/*
 * Adds what of the options cannot be that of several machines: a path or interface
 * without {n}. 0 or a negative errno with err_usage words.
 */
int clones_check(const struct options *o, struct err *e);

/*
 * Starts them and waits for all. On standard output a line for each that runs or has
 * ended, and one when all run (with --json an object each). SIGINT and SIGTERM are
 * passed on; a clone that outlives a second one is killed. argv is that of the options.
 * 0: all have ended with 0; else a negative errno with words.
 */
int clones_run(const struct options *o, int argc, char **argv, struct err *e);
