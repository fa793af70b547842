/*
 * The control socket: a Unix stream socket (0600) that takes the console's
 * commands, one a line, and answers one JSON object a line, in order.
 * Main thread only.
 */
#pragma once

#include "loop.h"
#include "monitor.h"

#define CONTROL_CLIENTS 16
#define CONTROL_LINE	4096 /* bytes of a line, at most */

struct control;

struct control_client {
	struct control *control;
	int fd;	      /* -1: free */
	bool waiting; /* for the answer of a save: its next lines wait too */
	bool running; /* its lines are being run */
	bool ended;   /* it is closed when nothing is left to answer */
	size_t len;
	char line[CONTROL_LINE];
};

struct control {
	struct loop *loop;
	struct monitor *monitor;
	int fd; /* listening, -1: none */
	char path[108];
	struct control_client client[CONTROL_CLIENTS];
};

/*
 * Listens at `path`. A socket that nobody listens at any more is replaced;
 * anything else in the way is refused. 0 or a negative errno.
 */
int control_open(struct control *c, const char *path, struct loop *loop, struct monitor *monitor,
		 struct err *e);
/* Ends it and removes the socket. */
void control_close(struct control *c);
