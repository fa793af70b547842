/*
 * Into the background, and telling whoever waits that the mount is served: the
 * parent that was called, by a pipe; the service manager, by sd_notify's
 * message. The parent returns when the child serves, or has failed.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct daemon {
	bool foreground;
	bool is_ready;
	int report; /* to the parent; -1: none */
};

/*
 * In the foreground: nothing but 0. Else forks: 0 in the child, with a session
 * of its own; 1 in the parent once the child serves; in the parent of a child
 * that failed, its negative errno and words.
 */
int sfs_daemon_start(struct daemon *d, bool foreground, struct err *e);

/* It serves: tells so, and a background daemon lets go of its terminal. */
void sfs_daemon_ready(struct daemon *d);

/* It failed, with rc: true where the parent was told and will say so. */
bool sfs_daemon_failed(struct daemon *d, int rc, const struct err *e);
