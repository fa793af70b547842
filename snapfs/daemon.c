/* Into the background: see daemon.h. */
#define _GNU_SOURCE
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/notify.h"

/* What the child says to its parent, once. */
struct report {
	int rc;
	struct err err;
};

/* In the parent: waits for the child's word. */
static int await(int fd, pid_t child, struct err *e)
{
	struct report r = { 0 };
	int status = 0;

	if (io_read_full(fd, &r, sizeof(r)) == 0) {
		if (r.rc < 0 && e)
			*e = r.err;
		return r.rc < 0 ? r.rc : 1;
	}
	/* Its end of the pipe is gone without a word: it died. */
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		return err_env(e, EIO, "the daemon was ended by signal %d before it served",
			       WTERMSIG(status));
	return err_env(e, EIO, "the daemon ended before it served");
}

int sfs_daemon_start(struct daemon *d, bool foreground, struct err *e)
{
	auto_fd int in = -1;
	int fds[2];
	pid_t child;

	*d = (struct daemon){ .foreground = foreground, .report = -1 };
	if (foreground)
		return 0;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(e, errno, "cannot make a pipe");
	in = fds[0];
	child = fork();
	if (child < 0) {
		close(fds[1]);
		return err_sys(e, errno, "cannot fork");
	}
	if (child > 0) {
		close(fds[1]);
		return await(in, child, e);
	}
	d->report = fds[1];
	/* What the caller had open (a lock, a pipe) is not for a daemon to hold. */
	take_fd(&in);
	if (fds[1] > 3)
		close_range(3, (unsigned)fds[1] - 1, 0);
	close_range((unsigned)fds[1] + 1, ~0U, 0);
	setsid();
	return 0;
}

static void let_go_of_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	log_to_syslog();
}

void sfs_daemon_ready(struct daemon *d)
{
	const struct report r = { 0 };

	d->is_ready = true;
	if (d->foreground) {
		notify_send("READY=1");
		return;
	}
	/* Before the parent returns: it may be waited for by the end of our output. */
	let_go_of_terminal();
	if (io_write_full(d->report, &r, sizeof(r)) < 0)
		log_warn("nobody waits for this mount any more");
	close(d->report);
	d->report = -1;
}

bool sfs_daemon_failed(struct daemon *d, int rc, const struct err *e)
{
	const struct report r = { .rc = rc, .err = *e };

	if (d->foreground || d->report < 0)
		return false;
	return io_write_full(d->report, &r, sizeof(r)) == 0;
}
