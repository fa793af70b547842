/*
 * snapfs: mounts a snapshot store, so that each snapshot is a directory that is
 * validated when it is opened. Options here; the mount's life is session.h's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/opt.h"
#include "daemon.h"
#include "fs.h"
#include "idle.h"
#include "mountopt.h"
#include "mountpoint.h"
#include "session.h"

struct options {
	const char *store;
	const char *mode;
	const char *list; /* -o */
	bool foreground;
	bool verbose;
	bool version;
};

static const struct opt options[] = {
	{ "store", 0, OPT_STRING, offsetof(struct options, store), "DIR", "the snapshot store" },
	{ "foreground", 'f', OPT_FLAG, offsetof(struct options, foreground), NULL,
	  "stay in the foreground, for a service manager" },
	{ "options", 'o', OPT_STRING, offsetof(struct options, list), "OPTS",
	  "mount options, comma separated: allow_other, noexec, ..." },
	{ "mode", 0, OPT_STRING, offsetof(struct options, mode), "OCTAL",
	  "mode of the files, 0400 to 0444 (default 0400)" },
	{ "verbose", 'v', OPT_FLAG, offsetof(struct options, verbose), NULL, "say more" },
	{ "version", 'V', OPT_FLAG, offsetof(struct options, version), NULL, "print the version" },
	{ 0 },
};

/* What is mounted where, resolved. */
struct plan {
	char *store;	  /* owned */
	char *mountpoint; /* owned */
	struct mount_options mount;
	mode_t mode;
	bool foreground;
};

static void print_help(void)
{
	printf("usage: snapfs [options] [STORE] MOUNTPOINT\n"
	       "Mounts a snapshot store, read-only; each snapshot is a directory.\n\n");
	opt_help(stdout, options);
	printf("\nUnmount with `umount MOUNTPOINT` or `fusermount3 -u MOUNTPOINT`.\n");
}

/* Seconds: verification in idle time begins then, and looks again as often. */
#define VERIFY_AFTER 60

/* Takes every "-o LIST" out of argv into *mount: mount(8) may give several. Returns argc. */
static int take_lists(int argc, char **argv, struct mount_options *mount, struct err *e)
{
	int kept = 0;

	for (int i = 0; i < argc; i++) {
		const char *list = NULL;
		int rc;

		if (i > 0 && strcmp(argv[i], "--") == 0) {
			while (i < argc)
				argv[kept++] = argv[i++];
			break;
		}
		if (i > 0 && strcmp(argv[i], "-o") == 0 && i + 1 < argc)
			list = argv[++i];
		else if (i > 0 && strncmp(argv[i], "-o", 2) == 0 && argv[i][2])
			list = argv[i] + 2;
		if (!list) {
			argv[kept++] = argv[i];
			continue;
		}
		rc = sfs_mountopt_parse(mount, list, e);
		if (rc < 0)
			return rc;
	}
	argv[kept] = NULL;
	return kept;
}

/* The operands: [STORE] MOUNTPOINT, as in a line of fstab(5). */
static int take_operands(const struct options *o, int n, char **operand, const char **store,
			 const char **mountpoint, struct err *e)
{
	if (n < 1)
		return err_usage(e, EINVAL, "no mount point is given; --help tells how");
	if (n > 2)
		return err_usage(e, EINVAL, "too many arguments; --help tells how");
	*store = o->store;
	*mountpoint = operand[n - 1];
	/* fstab's first field may say nothing: "none" or the name of the type. */
	if (n == 2 && strcmp(operand[0], "none") != 0 && strcmp(operand[0], "snapfs") != 0) {
		if (o->store && strcmp(o->store, operand[0]) != 0)
			return err_usage(e, EINVAL, "two stores are given, %s and %s", o->store,
					 operand[0]);
		*store = operand[0];
	}
	return 0;
}

/* The store's path, resolved; it must be there. */
static int find_store(const char *given, char **resolved, struct err *e)
{
	auto_free char *path = NULL;
	int rc = cat_store_locate(given, &path, e);

	if (rc < 0)
		return rc;
	*resolved = realpath(path, NULL);
	if (*resolved)
		return 0;
	if (errno == ENOENT || errno == ENOTDIR)
		return err_refuse(e, errno, "there is no store at %s", path);
	return err_sys(e, errno, "cannot find the store %s", path);
}

static int make_plan(struct plan *p, const struct options *o, int n, char **operand, struct err *e)
{
	const char *store = NULL, *mountpoint = NULL;
	const char *mode = o->mode ? o->mode : p->mount.mode;
	int rc = take_operands(o, n, operand, &store, &mountpoint, e);

	p->mode = 0400;
	p->foreground = o->foreground;
	if (rc == 0 && mode)
		rc = sfs_mode_parse(mode, &p->mode, e);
	if (rc == 0)
		rc = find_store(store, &p->store, e);
	if (rc == 0)
		rc = sfs_mountpoint_check_fuse(p->mount.allow_other, e);
	if (rc == 0)
		rc = sfs_mountpoint_prepare(mountpoint, p->store, &p->mountpoint, e);
	return rc;
}

static int parse(struct plan *p, int argc, char **argv, struct err *e)
{
	struct options o = { 0 };
	int first, rc;

	argc = take_lists(argc, argv, &p->mount, e);
	if (argc < 0)
		return argc;
	rc = opt_parse(options, &o, argc, argv, &first, e);
	if (rc < 0)
		return rc;
	if (o.version) {
		printf("snapfs %s\n", SNAPFS_VERSION);
		return 1;
	}
	log_set_verbose(o.verbose);
	rc = sfs_mountopt_parse(&p->mount, o.list, e);
	return rc < 0 ? rc : make_plan(p, &o, argc - first, argv + first, e);
}

/* Each open file holds a descriptor, and so do the snapshots of late: have room for many. */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void on_ready(void *arg)
{
	sfs_daemon_ready(arg);
}

/* Opens the store (after the fork: SQLite asks for it) and serves it. */
static int run(const struct plan *p, struct daemon *d, struct err *e)
{
	struct idle *idle = NULL;
	struct store *store;
	struct fs fs;
	int rc;

	raise_descriptors();
	rc = cat_store_open(&store, p->store, CAT_OPEN_EXISTING, e);
	if (rc < 0)
		return rc;
	rc = sfs_fs_init(&fs, store, p->mode, !p->mount.nopassthrough);
	if (rc < 0) {
		cat_store_close(store);
		return err_sys(e, -rc, "cannot serve the store %s", p->store);
	}
	fs.ready = on_ready;
	fs.ready_arg = d;
	if (!p->mount.noverify &&
	    sfs_idle_start(&idle, store,
			   p->mount.verify_after ? p->mount.verify_after : VERIFY_AFTER) < 0)
		log_warn("nothing is verified in idle time: no memory for a thread");
	rc = sfs_session_run(&fs, p->mountpoint, p->mount.fuse, e);
	sfs_idle_stop(idle);
	/* A file is being hashed: what it uses must not go before the process does. */
	if (!sfs_fs_destroy(&fs))
		_exit(rc < 0 ? STATUS_ENVIRONMENT : STATUS_DONE);
	cat_store_close(store);
	return rc;
}

static void free_plan(struct plan *p)
{
	free(p->store);
	free(p->mountpoint);
	sfs_mountopt_free(&p->mount);
}

int main(int argc, char **argv)
{
	__attribute__((cleanup(free_plan))) struct plan plan = { 0 };
	struct daemon daemon;
	struct err e = { 0 };
	int rc;

	log_init("snapfs");
	rc = parse(&plan, argc, argv, &e);
	if (rc == -ECANCELED) {
		print_help();
		return STATUS_DONE;
	}
	if (rc != 0)
		return err_exit("snapfs", &e, rc);
	rc = sfs_daemon_start(&daemon, plan.foreground, &e);
	if (rc != 0)
		return err_exit("snapfs", &e, rc);
	sfs_session_hold_signals(plan.foreground);
	if (chdir("/") < 0)
		log_warn("cannot change to /");
	rc = run(&plan, &daemon, &e);
	if (rc < 0 && sfs_daemon_failed(&daemon, rc, &e))
		return STATUS_ENVIRONMENT; /* the parent says why */
	if (rc < 0 && daemon.is_ready && !plan.foreground)
		log_error("%s", e.text);
	return err_exit("snapfs", &e, rc);
}
