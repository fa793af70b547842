/*
 * Unix stream sockets with a path, none of which blocks: one that listens, and
 * connections to those of others.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/err.h"

#define UNIX_PATH_MAX (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1)

/* A socket that listens at a path, and which file there is its own. */
struct unix_listener {
	int fd; /* -1: none */
	char path[UNIX_PATH_MAX + 1];
	dev_t dev;
	ino_t ino;
};

/*
 * Listens at `path` (1 to UNIX_PATH_MAX bytes) with mode 0600. A socket that is
 * there and that nobody listens on is replaced; anything else is left and
 * refused with -EADDRINUSE. `what` stands before the path in the words. 0 or a
 * negative errno, then l->fd is -1.
 */
int unix_listen(struct unix_listener *l, const char *what, const char *path, struct err *e);

/* Closes it, and removes the path if it is still this socket. */
void unix_listener_close(struct unix_listener *l);

/*
 * Connects to `path`, without waiting. The descriptor (O_NONBLOCK, O_CLOEXEC) or
 * a negative errno: -ECONNREFUSED and -ENOENT where nobody listens, -EAGAIN
 * where too many wait already.
 */
int unix_connect(const char *path);
