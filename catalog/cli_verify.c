/* snapctl verify: every byte of snapshots, for as long as it takes. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/progress.h"
#include "base/text.h"
#include "catalog/check.h"
#include "catalog/cli.h"
#include "catalog/verify.h"

/* What is to be verified, as the index has it when that begins. */
struct item {
	char name[CAT_NAME_MAX + 1];
	int64_t verified_at;
};

struct run {
	struct cli *cli;
	struct item *item; /* owned */
	size_t n, room;
	int signals; /* signalfd of those that stop it */
	int stopped; /* by this one, 0: by none */
	int64_t started_ns;

	/* The snapshot that is read. */
	struct progress progress;
	struct io_progress shown;
	int64_t begun_ns;
	double stored; /* part of its bytes that the disk has: holes are not read */
	uint64_t bytes;

	/* What came of all. */
	uint64_t all_bytes;
	unsigned valid, bad, unread, gone;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double seconds_since(int64_t ns)
{
	return (double)(now_ns() - ns) / 1e9;
}

/* Waits so long, or until a signal has come. */
static void wait_for_stop(struct run *r, int64_t ns)
{
	const struct timespec t = { ns / 1000000000LL, ns % 1000000000LL };
	struct pollfd in = { .fd = r->signals, .events = POLLIN };
	struct signalfd_siginfo info;

	if (ppoll(&in, 1, &t, NULL) == 1 && read(r->signals, &info, sizeof(info)) == sizeof(info))
		r->stopped = (int)info.ssi_signo;
}

/* Keeps to --limit, on the average of a snapshot, and stops where that was asked for. */
static int on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct run *r = arg;
	const uint64_t limit = r->cli->args.limit;
	int64_t ahead = 0;

	r->bytes = done;
	if (limit)
		ahead = (int64_t)((double)done * r->stored / (double)limit * 1e9) -
			(now_ns() - r->begun_ns);
	wait_for_stop(r, ahead > 0 ? ahead : 0);
	if (r->stopped)
		return -ECANCELED;
	return r->shown.fn(r->shown.arg, done, total);
}

static const char *outcome(int rc)
{
	switch (rc) {
	case 0:
		return "valid";
	case -EBADMSG:
		return "damaged";
	case -ESTALE:
		return "replaced";
	case -ENOENT:
		return "missing";
	default:
		return "unreadable";
	}
}

static int print_line(json_t *line, struct err *e)
{
	int rc = line ? json_dumpf(line, stdout, 0) : -1;

	json_decref(line);
	if (rc < 0)
		return err_sys(e, EIO, "cannot print JSON");
	putchar('\n');
	fflush(stdout);
	return 0;
}

static int tell(struct run *r, const struct cat_row *row, int rc, const char *problem,
		struct err *e)
{
	const double seconds = seconds_since(r->begun_ns);
	char id[UUID_TEXT_MAX], at[TEXT_TIME_MAX];
	struct cat_row now;

	if (!r->cli->args.json) {
		if (rc == 0)
			printf("%s: valid\n", row->name);
		fflush(stdout);
		return 0;
	}
	now = *row;
	cat_index_find(r->cli->store, row->name, &now, NULL);
	text_format_time(now.verified_at, 0, at);
	return print_line(json_pack("{s:o, s:s, s:s, s:o?, s:o, s:f, s:s?}", "name",
				    cli_string(row->name), "id", uuid_format(row->id, id), "status",
				    outcome(rc), "problem", rc < 0 ? cli_string(problem) : NULL,
				    "bytes", cli_number(r->bytes), "seconds", seconds,
				    "verified_at", now.verified_at ? at : NULL),
			  e);
}

/* Bytes of its files: what a verification reads, with the holes. */
static double stored_part(const struct cat_row *row)
{
	const double all = (double)row->memory_bytes;

	return all > (double)row->stored_bytes ? (double)row->stored_bytes / all : 1;
}

static int verify_one(struct run *r, const char *name, struct err *e)
{
	struct io_progress io = { .fn = on_progress, .arg = r };
	struct cat_row row;
	char what[CAT_NAME_MAX + 32];
	struct err own = { 0 };
	int rc = cat_index_find(r->cli->store, name, &row, e);

	if (rc < 0)
		return rc;
	snprintf(what, sizeof(what), "verifying %s", row.name);
	progress_start(&r->progress, what, r->cli->args.json);
	r->shown = progress_io(&r->progress);
	r->begun_ns = now_ns();
	r->stored = stored_part(&row);
	r->bytes = 0;
	rc = cat_verify_snapshot(r->cli->store, row.name, true, &io, e);
	progress_end(&r->progress);
	if (r->stopped)
		return -ECANCELED;
	r->all_bytes += r->bytes;
	r->valid += rc == 0;
	r->bad += rc == -EBADMSG || rc == -ESTALE || rc == -ENOENT;
	r->unread += rc < 0 && rc != -EBADMSG && rc != -ESTALE && rc != -ENOENT;
	return tell(r, &row, rc, e->text, &own) < 0 ? (*e = own, -EIO) : rc;
}

/* All of them; status: the worst exit status of those that failed. */
static void verify_items(struct run *r, int *status)
{
	for (size_t i = 0; i < r->n && !r->stopped; i++) {
		struct err own = { 0 };
		struct cat_row row;
		int rc, s;

		/* Somebody has removed it since it was listed. */
		if (r->cli->args.all &&
		    cat_index_find(r->cli->store, r->item[i].name, &row, NULL) == -ENOENT) {
			r->gone++;
			continue;
		}
		rc = verify_one(r, r->item[i].name, &own);
		if (rc == 0 || r->stopped)
			continue;
		s = err_exit("snapctl", &own, rc);
		if (r->n > 1 && s == STATUS_USAGE)
			s = STATUS_REFUSED;
		if (s > *status)
			*status = s;
	}
}

static int add_item(struct run *r, const char *name, int64_t verified_at)
{
	if (r->n == r->room) {
		size_t room = r->room ? 2 * r->room : 64;
		void *v = reallocarray(r->item, room, sizeof(*r->item));

		if (!v)
			return -ENOMEM;
		r->item = v;
		r->room = room;
	}
	snprintf(r->item[r->n].name, sizeof(r->item->name), "%s", name);
	r->item[r->n++].verified_at = verified_at;
	return 0;
}

struct listing {
	struct run *run;
	int64_t before; /* those verified later are not asked for, Unix seconds */
};

static int add_row(void *arg, const struct cat_row *row)
{
	struct listing *l = arg;

	if (row->verified_at > l->before)
		return 0;
	return add_item(l->run, row->name, row->verified_at);
}

/* Whose turn it is. The order of the index, of creation, where that is the same. */
static int by_age(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return x->verified_at < y->verified_at ? -1 : x->verified_at > y->verified_at;
}

static int list_all(struct run *r, struct err *e)
{
	struct listing l = { r, INT64_MAX };
	uint64_t age;
	int rc;

	if (r->cli->args.older_than) {
		if (text_parse_duration(r->cli->args.older_than, &age) < 0)
			return err_usage(
				e, EINVAL,
				"--older-than takes an age like 90s, 30m, 12h or 7d, not '%s'",
				r->cli->args.older_than);
		l.before = (int64_t)time(NULL) - (int64_t)age;
	}
	rc = cat_index_list(r->cli->store, add_row, &l, e);
	if (rc == 0 && r->n)
		qsort(r->item, r->n, sizeof(*r->item), by_age);
	return rc;
}

static int list_named(struct run *r, struct err *e)
{
	for (int i = 0; i < r->cli->n; i++) {
		/* What is longer than any name is no snapshot's: to be found missing as it is. */
		if (strlen(r->cli->names[i]) > CAT_NAME_MAX)
			return cat_name_check(r->cli->names[i], e);
		if (add_item(r, r->cli->names[i], 0) < 0)
			return err_sys(e, ENOMEM, "cannot list the snapshots");
	}
	return 0;
}

/* False where the index is in memory, for the store cannot be written or the disk is full. */
static bool is_kept(const struct run *r)
{
	const char *health = cat_index_health(r->cli->store);

	if (strncmp(health, "in memory", 9) != 0)
		return true;
	if (!r->cli->args.json)
		fprintf(stderr, "snapctl: what was found is not kept: the index is %s\n", health);
	return false;
}

static int tell_sum(struct run *r, struct err *e)
{
	const bool kept = is_kept(r);
	const unsigned done = r->valid + r->bad + r->unread;
	const size_t left = r->n - done - r->gone;

	if (r->cli->args.json)
		return print_line(json_pack("{s:s, s:i, s:i, s:i, s:o, s:o, s:f, s:b}", "summary",
					    r->stopped ? "interrupted" : "finished", "valid",
					    (int)r->valid, "bad", (int)r->bad, "unreadable",
					    (int)r->unread, "left", cli_number(left), "bytes",
					    cli_number(r->all_bytes), "seconds",
					    seconds_since(r->started_ns), "kept", (int)kept),
				  e);
	if (r->stopped)
		fprintf(stderr,
			"snapctl: interrupted; %u of %zu verified, and kept: `snapctl verify "
			"--all` "
			"begins with the others\n",
			done, r->n);
	return 0;
}

/* Ends as the signal would have ended it, so that whoever waits can tell. */
static void end_by(int number)
{
	sigset_t set;

	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	raise(number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int verify(struct run *r, struct err *e)
{
	int status = 0;
	int rc = r->cli->args.all ? list_all(r, e) : list_named(r, e);

	if (rc < 0)
		return rc;
	verify_items(r, &status);
	rc = tell_sum(r, e);
	if (r->stopped)
		end_by(r->stopped);
	if (rc < 0 || !status)
		return rc;
	*e = (struct err){ .status = status };
	return -ECANCELED;
}

int cli_verify(struct cli *cli, struct err *e)
{
	struct run r = { .cli = cli, .started_ns = now_ns() };
	sigset_t stops, was;
	int rc;

	if (cli->args.all && cli->n)
		return err_usage(e, EINVAL, "verify takes names or --all, not both");
	if (!cli->args.all && !cli->n)
		return err_usage(e, EINVAL, "verify needs names, or --all");
	if (cli->args.older_than && !cli->args.all)
		return err_usage(e, EINVAL, "--older-than goes with --all");
	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	/* Before there is any thread: those that hash leave the signals to the descriptor. */
	sigprocmask(SIG_BLOCK, &stops, &was);
	r.signals = signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r.signals < 0)
		return err_sys(e, errno, "cannot wait for signals");
	rc = verify(&r, e);
	close(r.signals);
	sigprocmask(SIG_SETMASK, &was, NULL);
	free(r.item);
	return rc;
}
