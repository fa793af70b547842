/* Many machines from one snapshot: see clones.h. */
#define _GNU_SOURCE
#include "clones.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/notify.h"

#define NUMBER	   "{n}"
#define CLONES_MAX 4096
#define NUMBER_MAX 16 /* bytes of a number as text */

enum clone_state { CLONE_STARTS, CLONE_RUNS, CLONE_ENDED };

struct clone {
	pid_t pid;
	enum clone_state state;
};

struct clones {
	unsigned n, running, ended, failed;
	bool json;
	struct clone *clone;	     /* owned, n of them */
	char **argv;		     /* owned: the template, without --clones; NULL ends it */
	char notify[NUMBER_MAX * 8]; /* NOTIFY_SOCKET=@... */
	int ready_fd, signal_fd;     /* owned */
	unsigned stops;		     /* signals to end that have come */
	struct timespec began;
};

/* ---- options ---- */

static int check_each(const struct opt_list *list, const char *option, const char *key,
		      struct err *e)
{
	for (unsigned i = 0; i < list->n; i++) {
		const char *at = strstr(list->item[i], key);

		if (at && !strstr(at, NUMBER))
			return err_usage(e, EINVAL,
					 "--%s %s: no two clones can have the same: put " NUMBER
					 " into it, their number",
					 option, list->item[i]);
	}
	return 0;
}

static int check_one(const char *value, const char *option, struct err *e)
{
	if (!value || strstr(value, NUMBER))
		return 0;
	return err_usage(e, EINVAL,
			 "--%s %s: no two clones can have the same: put " NUMBER
			 " into it, their number",
			 option, value);
}

int clones_check(const struct options *o, struct err *e)
{
	const bool file = o->serial && strncmp(o->serial, "file=", 5) == 0;
	int rc = 0;

	if (!o->clones)
		return 0;
	if (!o->restore)
		return err_usage(e, EINVAL, "--clones goes with --restore-snapshot DIR");
	if (o->check)
		return err_usage(e, EINVAL, "--clones and --check exclude each other");
	if (o->clones > CLONES_MAX)
		return err_usage(e, EINVAL, "--clones %u: the most is %d", o->clones, CLONES_MAX);
	if (o->clones == 1)
		return 0;
	rc = check_one(o->control, "control", e);
	if (rc == 0 && file)
		rc = check_one(o->serial, "serial", e);
	if (rc == 0)
		rc = check_each(&o->disk, "disk", "overlay=", e);
	if (rc == 0)
		rc = check_each(&o->net, "net", "tap=", e);
	if (rc == 0)
		rc = check_each(&o->vsock, "vsock", "path=", e);
	return rc < 0 ? rc : check_each(&o->console, "console", "path=", e);
}

/* The value of an option that stands alone: "--clones" "N". */
static bool is_apart(const char *arg)
{
	return strcmp(arg, "--clones") == 0;
}

/* The command line without --clones; its own serial line, if it says none, is none. */
static int make_template(struct clones *c, const struct options *o, int argc, char **argv)
{
	int n = 0;

	c->argv = calloc((size_t)argc + 3, sizeof(*c->argv));
	if (!c->argv)
		return -ENOMEM;
	for (int i = 0; i < argc; i++) {
		if (is_apart(argv[i]))
			i++;
		else if (strncmp(argv[i], "--clones=", 9) != 0)
			c->argv[n++] = argv[i];
	}
	/* One terminal is no serial line of several guests. The last one given counts. */
	if (strcmp(o->serial, "stdio") == 0) {
		c->argv[n++] = (char *)(uintptr_t) "--serial";
		c->argv[n++] = (char *)(uintptr_t) "none";
	}
	return 0;
}

/* A copy of `text` with each {n} replaced. The caller's; NULL: no memory. */
static char *with_number(const char *text, const char *number)
{
	const size_t step = strlen(number), skip = strlen(NUMBER);
	char *out = malloc(strlen(text) / skip * NUMBER_MAX + strlen(text) + 1), *to = out;

	while (out && *text) {
		if (strncmp(text, NUMBER, skip) == 0) {
			memcpy(to, number, step);
			to += step;
			text += skip;
		} else {
			*to++ = *text++;
		}
	}
	if (out)
		*to = '\0';
	return out;
}

/* ---- starting ---- */

/* Where clones say that they run: an abstract address that the kernel chooses. */
static int open_ready(struct clones *c)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	socklen_t len = offsetof(struct sockaddr_un, sun_path);
	const int on = 1;
	int n;

	c->ready_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->ready_fd < 0 || bind(c->ready_fd, (struct sockaddr *)&at, len) < 0 ||
	    setsockopt(c->ready_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return -errno;
	len = sizeof(at);
	if (getsockname(c->ready_fd, (struct sockaddr *)&at, &len) < 0)
		return -errno;
	n = (int)(len - offsetof(struct sockaddr_un, sun_path)) - 1;
	snprintf(c->notify, sizeof(c->notify), "@%.*s", n, at.sun_path + 1);
	return 0;
}

static int open_signals(struct clones *c)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return c->signal_fd < 0 ? -errno : 0;
}

/* In the child: becomes the clone. */
__attribute__((noreturn)) static void become(const struct clones *c, char **argv, pid_t parent)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Ctrl-C on the terminal comes to the parent, which passes it on; its end is ours. */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(STATUS_ENVIRONMENT);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	setenv("NOTIFY_SOCKET", c->notify, 1);
	execv("/proc/self/exe", argv);
	fprintf(stderr, "vmm: cannot start a clone: %s\n", strerror(errno));
	_exit(STATUS_ENVIRONMENT);
}

static int start_one(struct clones *c, unsigned i)
{
	const pid_t parent = getpid();
	char number[NUMBER_MAX];
	char **argv;
	int rc = 0;
	size_t n = 0;

	while (c->argv[n])
		n++;
	argv = calloc(n + 1, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	snprintf(number, sizeof(number), "%u", i + 1);
	for (size_t k = 0; rc == 0 && k < n; k++) {
		argv[k] = with_number(c->argv[k], number);
		rc = argv[k] ? 0 : -ENOMEM;
	}
	if (rc == 0) {
		c->clone[i].pid = fork();
		if (c->clone[i].pid == 0)
			become(c, argv, parent);
		rc = c->clone[i].pid < 0 ? -errno : 0;
	}
	for (size_t k = 0; k < n; k++)
		free(argv[k]);
	free(argv);
	return rc;
}

static int start_all(struct clones *c, struct err *e)
{
	clock_gettime(CLOCK_MONOTONIC, &c->began);
	for (unsigned i = 0; i < c->n; i++) {
		int rc = start_one(c, i);

		if (rc < 0) {
			c->clone[i].pid = -1;
			c->n = i;
			return err_sys(e, -rc, "cannot start clone %u", i + 1);
		}
	}
	return 0;
}

/* ---- telling ---- */

static double seconds_since(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

static void tell(const struct clones *c, unsigned i, const char *state, int status)
{
	const int pid = (int)c->clone[i].pid;

	if (c->json && status < 0)
		printf("{\"clone\": %u, \"pid\": %d, \"state\": \"%s\"}\n", i + 1, pid, state);
	else if (c->json)
		printf("{\"clone\": %u, \"pid\": %d, \"state\": \"%s\", \"status\": %d}\n", i + 1,
		       pid, state, status);
	else if (status < 0)
		printf("clone %u %s, process %d\n", i + 1, state, pid);
	else
		printf("clone %u %s, status %d\n", i + 1, state, status);
}

/* When the last one has come to run, or to its end without. */
static void tell_started(const struct clones *c)
{
	const double s = seconds_since(&c->began);

	if (c->json)
		printf("{\"started\": %u, \"seconds\": %.3f}\n", c->running, s);
	else
		printf("%u clones run, %.3f s after the start\n", c->running, s);
	notify_send("READY=1");
}

static struct clone *find(struct clones *c, pid_t pid)
{
	for (unsigned i = 0; i < c->n; i++)
		if (c->clone[i].pid == pid)
			return &c->clone[i];
	return NULL;
}

static void settle(struct clones *c, struct clone *it, enum clone_state state, int status)
{
	const unsigned i = (unsigned)(it - c->clone);
	const bool started = it->state != CLONE_STARTS;

	it->state = state;
	if (state == CLONE_RUNS) {
		c->running++;
		tell(c, i, "runs", -1);
	} else {
		c->ended++;
		c->failed += status != 0;
		tell(c, i, "has ended", status);
	}
	if (!started) {
		unsigned waiting = 0;

		for (unsigned k = 0; k < c->n; k++)
			waiting += c->clone[k].state == CLONE_STARTS;
		if (waiting == 0)
			tell_started(c);
	}
	fflush(stdout);
}

/* ---- waiting ---- */

static void take_ready(struct clones *c)
{
	char text[64] = "", room[CMSG_SPACE(sizeof(struct ucred))];

	for (;;) {
		struct iovec iov = { text, sizeof(text) };
		struct msghdr m = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = room,
			.msg_controllen = sizeof(room),
		};
		ssize_t n = recvmsg(c->ready_fd, &m, MSG_CMSG_CLOEXEC);
		const struct cmsghdr *h = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
		struct ucred who;
		struct clone *it;

		if (n < 0)
			return;
		if (!h || h->cmsg_type != SCM_CREDENTIALS || n != 7 ||
		    memcmp(text, "READY=1", 7) != 0)
			continue;
		memcpy(&who, CMSG_DATA(h), sizeof(who));
		it = find(c, who.pid);
		if (it && it->state == CLONE_STARTS)
			settle(c, it, CLONE_RUNS, -1);
	}
}

static void take_ends(struct clones *c)
{
	int status;
	pid_t pid;

	/* Who has said that it runs, and ended, has run. */
	take_ready(c);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct clone *it = find(c, pid);

		if (it && it->state != CLONE_ENDED)
			settle(c, it, CLONE_ENDED,
			       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
}

static void stop_all(struct clones *c)
{
	const int signal = c->stops++ ? SIGKILL : SIGTERM;

	for (unsigned i = 0; i < c->n; i++)
		if (c->clone[i].state != CLONE_ENDED)
			kill(c->clone[i].pid, signal);
}

static void take_signals(struct clones *c)
{
	struct signalfd_siginfo info;

	while (read(c->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			stop_all(c);
	take_ends(c);
}

static int wait_for_all(struct clones *c, struct err *e)
{
	while (c->ended < c->n) {
		struct pollfd fd[] = { { .fd = c->signal_fd, .events = POLLIN },
				       { .fd = c->ready_fd, .events = POLLIN } };

		if (poll(fd, 2, -1) < 0 && errno != EINTR)
			return err_sys(e, errno, "cannot wait for the clones");
		take_signals(c);
		take_ready(c);
	}
	if (c->failed == 0)
		return 0;
	return err_refuse(e, ECHILD, "%u of %u clones have failed (see above)", c->failed, c->n);
}

static int run(struct clones *c, struct err *e)
{
	int rc = open_ready(c), rc2;

	if (rc == 0)
		rc = open_signals(c);
	if (rc < 0)
		return err_sys(e, -rc, "cannot start clones");
	rc = start_all(c, e);
	if (rc < 0)
		stop_all(c);
	rc2 = wait_for_all(c, rc < 0 ? NULL : e);
	return rc < 0 ? rc : rc2;
}

int clones_run(const struct options *o, int argc, char **argv, struct err *e)
{
	struct clones c = { .n = o->clones, .json = o->json, .ready_fd = -1, .signal_fd = -1 };
	int rc = make_template(&c, o, argc, argv);

	c.clone = calloc(c.n, sizeof(*c.clone));
	if (rc < 0 || !c.clone)
		rc = err_sys(e, ENOMEM, "cannot start clones");
	else
		rc = run(&c, e);
	if (c.ready_fd >= 0)
		close(c.ready_fd);
	if (c.signal_fd >= 0)
		close(c.signal_fd);
	free(c.clone);
	free(c.argv);
	return rc;
}
