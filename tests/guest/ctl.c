/*
 * Says one command to a vmm's control socket and prints the one line of JSON
 * that comes back: what `nc -U` does where there is one. Linked statically, for
 * the rig.
 *
 *     ctl [-t SECONDS] SOCKET WORD...
 *
 * Ends with 0 if the reply says "ok": true, 1 if it says something else, 2 on
 * bad usage and 3 if there was no reply (no socket, closed, too slow).
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REPLY_MAX (1 << 20)

enum { SAID_OK, SAID_ELSE, BAD_USAGE, NO_REPLY };

static int fail(const char *what)
{
	fprintf(stderr, "ctl: %s: %s\n", what, strerror(errno));
	return NO_REPLY;
}

static int dial(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(to.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(to.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Sends the words as one line, in one piece. */
static int send_line(int fd, char **word, int words)
{
	char line[4096];
	size_t len = 0;
	for (int i = 0; i < words; i++) {
		int n = snprintf(line + len, sizeof(line) - len, "%s%c", word[i],
				 i + 1 < words ? ' ' : '\n');
		if (n < 0 || (size_t)n >= sizeof(line) - len) {
			errno = E2BIG;
			return -1;
		}
		len += (size_t)n;
	}
	return send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -1;
}

/* Reads up to the first line end, which it takes away; -1 if none comes in time. */
static int read_line(int fd, char *buf, size_t size, int seconds)
{
	time_t end = time(NULL) + seconds;
	size_t len = 0;
	while (len < size - 1) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		time_t left = end - time(NULL);
		if (left <= 0 || poll(&p, 1, (int)left * 1000) == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		ssize_t n = read(fd, buf + len, size - 1 - len);
		if (n <= 0) {
			errno = n ? errno : ECONNRESET;
			return -1;
		}
		len += (size_t)n;
		buf[len] = '\0';
		char *nl = strchr(buf, '\n');
		if (nl) {
			*nl = '\0';
			return 0;
		}
	}
	errno = EMSGSIZE;
	return -1;
}

/* Whether the reply holds "ok": true, with or without blanks around the colon. */
static bool says_ok(const char *reply)
{
	const char *at = strstr(reply, "\"ok\"");
	if (!at)
		return false;
	at += strlen("\"ok\"");
	while (isspace((unsigned char)*at) || *at == ':')
		at++;
	return strncmp(at, "true", 4) == 0;
}

int main(int argc, char **argv)
{
	static char reply[REPLY_MAX];
	int seconds = 60, opt;

	while ((opt = getopt(argc, argv, "+t:")) == 't')
		seconds = atoi(optarg);
	if (opt != -1 || argc - optind < 2) {
		fprintf(stderr, "usage: ctl [-t SECONDS] SOCKET WORD...\n");
		return BAD_USAGE;
	}
	int fd = dial(argv[optind]);
	if (fd < 0)
		return fail(argv[optind]);
	if (send_line(fd, argv + optind + 1, argc - optind - 1) < 0)
		return fail("send");
	if (read_line(fd, reply, sizeof(reply), seconds) < 0)
		return fail("reply");
	puts(reply);
	return says_ok(reply) ? SAID_OK : SAID_ELSE;
}
