/*
 * The control socket: a Unix stream socket (0600) that takes the console's
 * commands, one a line, and answers one JSON object a line, in order.
 * Main thread only.
 */
#pragma once

#include "loop.h"
#include "monitor.h"
#include "unix_socket.h"

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
	struct unix_listener listener;
	struct control_client client[CONTROL_CLIENTS];
};

/* Listens at `path`, as unix_listen() has it. 0 or a negative errno with words. */
int control_open(struct control *c, const char *path, struct loop *loop, struct monitor *monitor,
		 struct err *e);
/* Ends it and removes the socket, if it is still this one. */
void control_close(struct control *c);
