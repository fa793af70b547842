/* What the parts of fuzz_seeds share. */
#pragma once

#include <stddef.h>

/* Writes the seed `name` of a target, or ends the program. */
void put(const char *target, const char *name, const void *bytes, size_t len);

/* seeds_ram.c: maps of layers, and working sets. */
void layermaps(void);
void working_sets(void);
