/*
 * The store on disk: its directories, its lock, its descriptors.
 *
 *	STORE/catalog.db	index of the directories (index.h), a cache of them
 *	STORE/stamps.db		what was verified (stamps.h), 0600
 *	STORE/lock		flock: shared by every operation, exclusive to replace an index
 *	STORE/snapshots/NAME/	published
 *	STORE/staging/ID/	being written, flocked by its writer
 *	STORE/trash/		removed, being unlinked
 *	STORE/ram/		RAM files: O_TMPFILE by default
 *
 * Any thread may use an open store; it is not carried across fork() or
 * daemon(): open it afterwards (SQLite forbids it).
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct store;

enum cat_open {
	CAT_OPEN_EXISTING = 0,
	CAT_OPEN_CREATE = 1, /* make what is missing, 0700 */
};

/*
 * Where the store is: `given`, else $SNAPFS_STORE, else /var/lib/snapfs for
 * root and $XDG_STATE_HOME/snapfs (~/.local/state/snapfs) for others. Makes
 * the path absolute. *path is the caller's. 0 or a negative errno.
 */
int cat_store_locate(const char *given, char **path, struct err *e);

/*
 * Opens the store at `path`, removes what a crash left (staging without its
 * writer, trash), opens the index; its rows are compared with the directories by who
 * asks for them. On a store that cannot be
 * written the index is built in memory. 0 or a negative errno.
 */
int cat_store_open(struct store **store, const char *path, enum cat_open how, struct err *e);
void cat_store_close(struct store *store);

/* The absolute path of the store, and descriptors of its directories: the store's own. */
const char *cat_store_path(const struct store *store);
int cat_store_root_fd(const struct store *store);
int cat_store_snapshots_fd(const struct store *store);

/*
 * A snapshot's name: 1 to 128 bytes of letters, digits and ._-+:@, not starting
 * with '.' or '-', not "latest". 0 or -EINVAL with words.
 */
int cat_name_check(const char *name, struct err *e);
