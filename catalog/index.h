/*
 * The index: one SQLite row for each snapshot directory, so that listing does
 * not read them all. The directories are the truth; every function here first
 * brings the rows in line with them (a directory listing compared by name and
 * inode: no manifest is read that is known already).
 *
 * directory without row:	indexed; if a missing row has its id, that row is renamed
 * row without directory:	status missing, kept until `rm`
 * another manifest than the
 * row's, under the same name:	status replaced, until it is accepted
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/text.h"
#include "catalog/store.h"

#define CAT_NAME_MAX 128

enum cat_status {
	CAT_UNVERIFIED, /* not read yet, or not since it changed */
	CAT_VALID,	/* every byte was verified */
	CAT_DAMAGED,	/* a digest differed; `problem` says where */
	CAT_MISSING,	/* its directory is gone */
	CAT_REPLACED,	/* its manifest is not the one that was indexed */
};

/* "valid", "unverified", ...: as in list --json. */
const char *cat_status_word(enum cat_status status);

struct cat_row {
	char name[CAT_NAME_MAX + 1];
	uint8_t id[UUID_SIZE];
	bool has_parent;
	uint8_t parent[UUID_SIZE];
	char parent_name[CAT_NAME_MAX + 1]; /* empty: not in the store */
	int64_t created_seconds;
	int32_t created_nanos;
	char architecture[65];
	uint64_t memory_bytes;
	uint32_t vcpus;
	uint32_t layers;       /* 0: flat */
	uint64_t stored_bytes; /* of blocks, all files of the directory */
	uint64_t unique_bytes; /* of these, in files that have no other name */
	uint8_t manifest_digest[DIGEST_SIZE];
	enum cat_status status;
	char problem[512];   /* of a damaged one: file and reason */
	int64_t verified_at; /* Unix seconds of the last verification, 0: never */
};

/* Called for each row; a nonzero return stops the walk and is returned. */
typedef int (*cat_row_fn)(void *arg, const struct cat_row *row);

/* All snapshots, by time of creation, then id. 0 or a negative errno. */
int cat_index_list(struct store *store, cat_row_fn fn, void *arg, struct err *e);

/* One by name (or, with 36 characters, by id). 0 or -ENOENT. */
int cat_index_find(struct store *store, const char *name, struct cat_row *row, struct err *e);

/* The name of the snapshot with this id, the earliest if several. 0 or -ENOENT. */
int cat_index_name_of(struct store *store, const uint8_t id[UUID_SIZE], char name[CAT_NAME_MAX + 1],
		      struct err *e);

/* The good one (valid or unverified) with the greatest created_at, then id. 0 or -ENOENT. */
int cat_index_latest(struct store *store, char name[CAT_NAME_MAX + 1], struct err *e);

/*
 * Keeps the outcome of a verification (valid, unverified or damaged) of the
 * snapshot `name` as long as it still has this manifest. 0 or a negative errno.
 */
int cat_index_set_status(struct store *store, const char *name,
			 const uint8_t manifest_digest[DIGEST_SIZE], enum cat_status status,
			 const char *problem, struct err *e);
