/*
 * The two files of a snapshot directory that are made for people and programs:
 * `status` and manifest.json. Pure. What a manifest says was written by others:
 * bytes that are no UTF-8 and control characters never come through.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "catalog/index.h"
#include "proto/manifest.h"

struct description {
	const char *name;
	const char *id;			  /* 36 characters, NULL: unknown */
	const SnapshotManifest *manifest; /* NULL: damaged */
	bool layered;			  /* as struct snapdir has it */
	enum cat_status status;
	const char *problem; /* "" or one line */
	const char *memory;  /* how the RAM as a whole is known to be good, or not */
	/* How each file is known to be good, or not, as proto_snapdir_file() counts them. */
	const char *const *files;
	int64_t verified_at; /* Unix seconds, 0: never */
	const char *parent;  /* its name; "": not in the store */
};

/* Aligned lines of text. *text is the caller's. 0 or -ENOMEM. */
int sfs_describe_status(const struct description *d, char **text, size_t *len);

/* One JSON object, indented, with a final newline. *text is the caller's. 0 or -ENOMEM. */
int sfs_describe_json(const SnapshotManifest *m, char **text, size_t *len);
