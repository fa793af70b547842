/* What merkle.c (making a tree) and merkle_reader.c (using it) share, and nobody else sees. */
#pragma once

#include "merkle.h"

#define MERKLE_FAN	   128 /* hashes in a block */
#define MERKLE_ZERO_LEVELS 2   /* in these a block of zeros is the shorthand */

/* hash[0]: of a data block of zeros; hash[n]: of the tree block of level n - 1 over such. */
struct merkle_zeros {
	uint8_t hash[MERKLE_ZERO_LEVELS + 1][DIGEST_SIZE];
};

/* 0 or -ENOMEM. */
int merkle_zeros(struct digest_hasher *h, struct merkle_zeros *z);

/* The digest of a file with this size and root. 0 or -ENOMEM. */
int merkle_descriptor_digest(uint64_t size, const uint8_t root[DIGEST_SIZE],
			     uint8_t digest[DIGEST_SIZE]);
