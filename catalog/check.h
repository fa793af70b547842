/*
 * A look over the whole store, RAM unread: does the index agree with the
 * directories, is anything left over, does anybody else have access? Changes
 * nothing.
 */
#pragma once

#include "catalog/store.h"

struct finding {
	const char *about;   /* a snapshot's name, or a path in the store */
	const char *problem; /* one clause */
	const char *mend;    /* the command that mends it, "" if none does */
};

/* Called for each finding. A nonzero return stops the check and is returned. */
typedef int (*cat_finding_fn)(void *arg, const struct finding *f);

/* 0, whatever was found, or a negative errno if it could not look. */
int cat_store_check(struct store *store, cat_finding_fn fn, void *arg, struct err *e);

/* "ok", or in words what is wrong with the index's file. Static text. */
const char *cat_index_health(struct store *store);
