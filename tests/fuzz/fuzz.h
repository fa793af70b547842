/*
 * What the fuzz targets share. Each fuzz_X.c has one LLVMFuzzerTestOneInput()
 * for one parser: with clang it is a libFuzzer target, in every other build
 * replay.c runs it over corpus/fuzz_X/.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold whatever the input is. */
#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			__builtin_trap();                                                          \
	} while (0)
