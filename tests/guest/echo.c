/*
 * Gives back what it is sent: the host's end of a test guest's devices. Linked
 * statically, for the rig.
 *
 *	echo listen PATH	on a Unix socket, to any number of clients
 *	echo connect PATH	on a Unix socket that it connects to, until that ends
 *	echo inet PORT		by UDP and TCP, on every address
 *	echo ask PATH [WORD]	the other side: says WORD in a line to port 1234 of the
 *				guest whose vsock device is at PATH, ends with 0 if
 *				that gives it back
 *
 * It serves until it is killed, or what it connected to has ended (0); 1 if it
 * could not begin, 2 on bad usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define FDS_MAX 256

enum kind { LISTENER, DATAGRAMS, STREAM };

static struct pollfd fds[FDS_MAX];
static enum kind kinds[FDS_MAX];
static nfds_t nfds;

static int fail(const char *what)
{
	fprintf(stderr, "echo: %s: %s\n", what, strerror(errno));
	return 1;
}

static void add(int fd, enum kind kind)
{
	if (fd < 0 || nfds == FDS_MAX) {
		close(fd);
		return;
	}
	/* Who has gone without a word must not hold up the others. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ .tv_sec = 1 },
		   sizeof(struct timeval));
	fds[nfds] = (struct pollfd){ .fd = fd, .events = POLLIN };
	kinds[nfds++] = kind;
}

static void drop(nfds_t i)
{
	close(fds[i].fd);
	fds[i] = fds[--nfds];
	kinds[i] = kinds[nfds];
}

static bool write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n <= 0)
			return false;
		data += n;
		size -= (size_t)n;
	}
	return true;
}

static void serve(nfds_t i)
{
	static char data[65536];
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	ssize_t n;

	switch (kinds[i]) {
	case LISTENER:
		add(accept4(fds[i].fd, NULL, NULL, SOCK_CLOEXEC), STREAM);
		break;
	case DATAGRAMS:
		n = recvfrom(fds[i].fd, data, sizeof(data), 0, (struct sockaddr *)&from, &len);
		if (n >= 0)
			sendto(fds[i].fd, data, (size_t)n, 0, (struct sockaddr *)&from, len);
		break;
	case STREAM:
		n = read(fds[i].fd, data, sizeof(data));
		if (n <= 0 || !write_all(fds[i].fd, data, (size_t)n))
			drop(i);
		break;
	}
}

static int unix_socket(const char *path, bool listens)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(a.sun_path, path);
	if (!listens)
		return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : fd;
	unlink(path);
	return bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0 ? -1 : fd;
}

static int inet_socket(int type, unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    (type == SOCK_STREAM && listen(fd, 16) < 0))
		return -1;
	return fd;
}

/* True if exactly `want` comes. */
static bool hears(int fd, const char *want)
{
	char got[64] = "";
	size_t at = 0;

	while (at < strlen(want)) {
		ssize_t n = read(fd, got + at, strlen(want) - at);

		if (n <= 0)
			break;
		at += (size_t)n;
	}
	return strcmp(got, want) == 0;
}

/* The answer to CONNECT, up to the line's end: what follows it is the guest's. */
static bool is_connected(int fd)
{
	char line[64] = "";

	for (size_t at = 0; at < sizeof(line) - 1; at++)
		if (read(fd, line + at, 1) != 1 || line[at] == '\n')
			break;
	return strncmp(line, "OK ", 3) == 0;
}

static int ask(const char *path, const char *word)
{
	static const char order[] = "CONNECT 1234\n";
	char words[32];
	int fd = unix_socket(path, false);

	snprintf(words, sizeof(words), "%s\n", word);
	if (fd < 0 || !write_all(fd, order, strlen(order)) || !is_connected(fd))
		return fail("no connection");
	return write_all(fd, words, strlen(words)) && hears(fd, words) ? 0 : fail("no answer");
}

int main(int argc, char **argv)
{
	if (argc != 3 && (argc != 4 || strcmp(argv[1], "ask") != 0))
		return 2;
	signal(SIGPIPE, SIG_IGN);
	if (strcmp(argv[1], "ask") == 0)
		return ask(argv[2], argc == 4 ? argv[3] : "is it you?");
	if (strcmp(argv[1], "inet") == 0) {
		unsigned port = (unsigned)atoi(argv[2]);

		add(inet_socket(SOCK_DGRAM, port), DATAGRAMS);
		add(inet_socket(SOCK_STREAM, port), LISTENER);
	} else if (strcmp(argv[1], "listen") == 0) {
		add(unix_socket(argv[2], true), LISTENER);
	} else if (strcmp(argv[1], "connect") == 0) {
		add(unix_socket(argv[2], false), STREAM);
	} else {
		return 2;
	}
	if (nfds != (strcmp(argv[1], "inet") == 0 ? 2 : 1))
		return fail(argv[2]);
	while (nfds) {
		if (poll(fds, nfds, -1) < 0)
			return fail("poll");
		for (nfds_t i = nfds; i-- > 0;)
			if (fds[i].revents)
				serve(i);
	}
	return 0;
}
