/* The life of the mount: see session.h. */
#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/notify.h"
#include "daemon.h"
#include "mountpoint.h"
#include "ops.h"

#define THREADS_MAX 32 /* requests answered at once; each reads at most 1 MiB */

/*
 * subtype: /proc/mounts says fuse.snapfs. default_permissions: the kernel
 * checks the modes, so allow_other opens nothing that --mode does not.
 */
#define OPTIONS "subtype=snapfs,fsname=snapfs,ro,nosuid,nodev,default_permissions"

/* Those that end the mount. One that is ignored (a hangup, in the background) stays so. */
static void ending_signals(sigset_t *set)
{
	struct sigaction hangup;

	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
		sigaddset(set, SIGHUP);
}

void sfs_session_hold_signals(bool foreground)
{
	sigset_t set;

	if (!foreground)
		signal(SIGHUP, SIG_IGN);
	ending_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* The peer of a pipe and the holder of a lease ask for nothing by signal here. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGIO, SIG_IGN);
	/* fusermount3 is waited for. */
	signal(SIGCHLD, SIG_DFL);
}

static void unmount(const char *mountpoint)
{
	bool busy = false;
	int rc;

	notify_send("STOPPING=1");
	rc = sfs_mountpoint_unmount(mountpoint, &busy);
	if (rc < 0)
		log_error("cannot unmount %s: %s; a second signal ends the process", mountpoint,
			  strerror(-rc));
	else if (busy)
		log_warn("%s is in use: it is detached, and served until it is closed; a second "
			 "signal ends that",
			 mountpoint);
}

/* The thread that takes the signals. Once the mount is gone the session ends by itself. */
static void *wait_for_signal(void *arg)
{
	sigset_t set;
	int sig, state;

	ending_signals(&set);
	while (sigwait(&set, &sig) != 0)
		;
	/* The second one has its default effect. */
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	unmount(arg);
	pthread_setcancelstate(state, NULL);
	for (;;)
		pause();
	return NULL;
}

static void log_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	if (level <= FUSE_LOG_ERR)
		log_error("%s", line);
	else if (level <= FUSE_LOG_WARNING)
		log_warn("%s", line);
	else
		log_info("%s", line);
}

static struct fuse_session *new_session(struct fs *fs, const char *options)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *se = NULL;

	if (fuse_opt_add_arg(&args, "snapfs") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
	    fuse_opt_add_arg(&args, OPTIONS) == 0 &&
	    (!options ||
	     (fuse_opt_add_arg(&args, "-o") == 0 && fuse_opt_add_arg(&args, options) == 0)))
		se = fuse_session_new(&args, &sfs_ops, sizeof(sfs_ops), fs);
	fuse_opt_free_args(&args);
	return se;
}

/* Answers requests until the mount is gone. */
static int serve(struct fuse_session *se, const char *mountpoint, struct err *e)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	pthread_t signals;
	int rc;

	if (!config)
		return err_sys(e, ENOMEM, "cannot serve %s", mountpoint);
	fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
	rc = pthread_create(&signals, NULL, wait_for_signal, (void *)(uintptr_t)mountpoint);
	if (rc == 0) {
		rc = fuse_session_loop_mt(se, config);
		pthread_cancel(signals);
		pthread_join(signals, NULL);
	}
	fuse_loop_cfg_destroy(config);
	/* libfuse says errors negative, pthread positive. */
	return rc ? err_sys(e, abs(rc), "cannot serve %s", mountpoint) : 0;
}

int sfs_session_run(struct fs *fs, const char *mountpoint, const char *options, struct err *e)
{
	struct fuse_session *se;
	int rc;

	fuse_set_log_func(log_libfuse);
	se = new_session(fs, options);
	if (!se)
		return err_env(e, EINVAL, "libfuse refuses the mount options");
	if (fuse_session_mount(se, mountpoint) < 0) {
		rc = err_env(e, EIO, "cannot mount at %s", mountpoint);
		fuse_session_destroy(se);
		return rc;
	}
	rc = sfs_passthrough_attach(&fs->passthrough, se);
	if (rc < 0)
		err_sys(e, -rc, "cannot serve %s", mountpoint);
	else
		rc = serve(se, mountpoint, e);
	if (!sfs_fs_quiesce(fs)) {
		/* Its thread will answer by this session: left to the end of the process. */
		if (rc < 0)
			unmount(mountpoint);
		return rc;
	}
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	return rc;
}
