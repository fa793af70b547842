/*
 * The publisher: the one process that writes the store for a machine, so that
 * the machine itself never needs to. What it is sent may be hostile: it says
 * no, or publishes a directory that is what its manifest says.
 */
#define _GNU_SOURCE
#include "catalog/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/seal.h"
#include "catalog/internal.h"
#include "catalog/sealer.h"
#include "proto/publish.h"

struct publisher {
	int sock;
	const char *given;   /* --store */
	struct store *store; /* NULL until it is needed */
	bool complete;	     /* index and leftovers have been seen to */
	int ram;	     /* the RAM file that was made, read-only; -1: none */
	struct place place;
	struct sealer *sealer; /* owned; NULL: no memory for it */

	/* Stamps of the last snapshot that have to wait until its files are old enough. */
	struct due_stamp *due; /* owned */
	size_t n_due;
	int64_t stamp_at_ns; /* CLOCK_MONOTONIC */
	uint8_t manifest_digest[DIGEST_SIZE];
	char name[CAT_NAME_MAX + 1];

	int64_t told_ns; /* when progress was last sent */
};

struct received {
	const PublishRequest *m;
	int *fds; /* closed after the request, but those that are -1 */
	size_t n;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Opens the store if it is not; what takes time only once it is written to. */
static int need_store(struct publisher *p, enum cat_open how, struct err *e)
{
	auto_free char *path = NULL;
	int rc;

	if (p->store)
		return 0;
	rc = cat_store_locate(p->given, &path, e);
	return rc < 0 ? rc : cat_store_open_bare(&p->store, path, how, e);
}

/* --- progress and deferred stamps --- */

static int tell_progress(void *arg, uint64_t done, uint64_t total)
{
	struct publisher *p = arg;
	PublishReply reply = PUBLISH_REPLY__INIT;
	struct pollfd out = { .fd = p->sock, .events = POLLOUT };
	int64_t now = now_ns();

	/* Who does not listen is not waited for. */
	if (now - p->told_ns < 100000000 || poll(&out, 1, 0) != 1 || !(out.revents & POLLOUT))
		return 0;
	p->told_ns = now;
	reply.in_progress = 1;
	reply.bytes_done = done;
	reply.bytes_total = total;
	proto_publish_send_reply(p->sock, &reply, NULL, 0);
	return 0;
}

static void drop_due(struct publisher *p)
{
	for (size_t i = 0; i < p->n_due; i++)
		cat_lease_drop(&p->due[i].lease);
	free(p->due);
	p->due = NULL;
	p->n_due = 0;
}

static void keep_due(struct publisher *p, const struct save *s)
{
	drop_due(p);
	p->due = s->due;
	p->n_due = s->n_due;
	p->stamp_at_ns = now_ns() + s->stamp_wait_ns;
	memcpy(p->manifest_digest, s->manifest_digest, DIGEST_SIZE);
	snprintf(p->name, sizeof(p->name), "%s",
		 s->place->in_store && !s->unstamped ? s->place->name : "");
}

/* Milliseconds until the stamps are due, -1 if there are none; grants what is due. */
static int stamp_due(struct publisher *p)
{
	bool all = true;
	int64_t wait_ns;

	if (p->n_due == 0)
		return -1;
	wait_ns = p->stamp_at_ns - now_ns();
	if (wait_ns > 0)
		return (int)(wait_ns / 1000000) + 1;
	for (size_t i = 0; i < p->n_due; i++)
		if (cat_stamp_grant(p->store, &p->due[i].lease, p->due[i].digest, &wait_ns) < 0)
			all = false;
	if (all && p->name[0])
		cat_index_set_status(p->store, p->name, p->manifest_digest, CAT_VALID, "", NULL);
	drop_due(p);
	return -1;
}

/* --- requests --- */

/* Keeps the new RAM file for linking, by a descriptor that cannot write it. */
static int keep_ram(struct publisher *p, int fd, struct err *e)
{
	struct io_fd_path path = io_fd_path(fd);

	if (p->ram >= 0)
		close(p->ram);
	p->ram = open(path.text, O_RDONLY | O_CLOEXEC);
	return p->ram < 0 ? err_sys(e, errno, "cannot open the RAM file again") : 0;
}

static int on_ram(struct publisher *p, const struct received *in, PublishReply *reply,
		  struct err *e)
{
	const RamRequest *r = in->m->ram;
	auto_fd int fd = -1;
	int rc = 0;

	if (!*r->path)
		rc = need_store(p, CAT_OPEN_CREATE, e);
	if (rc < 0)
		return rc;
	fd = *r->path ? cat_ram_open(r->path, r->size, r->reserve, e)
		      : cat_ram_make(p->store, r->size, r->reserve, e);
	rc = fd < 0 ? fd : keep_ram(p, fd, e);
	if (rc < 0)
		return rc;
	rc = proto_publish_send_reply(p->sock, reply, &fd, 1);
	return rc < 0 ? rc : 1;
}

static int on_file(struct publisher *p, const struct received *in, PublishReply *reply,
		   struct err *e)
{
	auto_fd int fd = -1;
	int rc = need_store(p, CAT_OPEN_CREATE, e);

	(void)in;
	if (rc == 0)
		rc = fd = cat_file_make(p->store, e);
	if (rc >= 0)
		rc = proto_publish_send_reply(p->sock, reply, &fd, 1);
	return rc < 0 ? rc : 1;
}

static int on_trust(struct publisher *p, const struct received *in, PublishReply *reply,
		    struct err *e)
{
	const ProtobufCBinaryData *digest = &in->m->trust->memory_digest;

	if (in->n != 1 || digest->len != DIGEST_SIZE)
		return err_usage(e, EINVAL, "a trust request is one descriptor and one digest");
	/* Without a store nothing was ever verified: no failure, and none is made for this. */
	if (need_store(p, CAT_OPEN_EXISTING, NULL) == 0)
		reply->trusted = seal_measure(in->fds[0], digest->data) > 0 ||
				 cat_stamp_holds(p->store, in->fds[0], digest->data);
	return 0;
}

static int on_working_set(struct publisher *p, const struct received *in, PublishReply *reply,
			  struct err *e)
{
	const ProtobufCBinaryData *id = &in->m->working_set->snapshot_id;
	int rc;

	(void)reply;
	if (in->n != 1 || id->len != UUID_SIZE)
		return err_usage(e, EINVAL, "a working set is one descriptor and one id");
	rc = need_store(p, CAT_OPEN_EXISTING, e);
	return rc < 0 ? rc : cat_working_set_keep(p->store, id->data, in->fds[0], e);
}

static int complete_store(struct publisher *p, struct err *e)
{
	int rc = need_store(p, CAT_OPEN_CREATE, e);

	if (rc == 0 && !p->complete) {
		cat_store_sweep(p->store);
		p->complete = true;
	}
	return rc;
}

static int disks_miscounted(const struct received *in, size_t named, struct err *e)
{
	if (in->n == named)
		return 0;
	return err_usage(e, EINVAL, "%zu disks are named and %zu passed", named, in->n);
}

static int on_check(struct publisher *p, const struct received *in, PublishReply *reply,
		    struct err *e)
{
	const CheckRequest *r = in->m->check;
	int rc = disks_miscounted(in, r->n_disk, e);

	(void)reply;
	if (rc == 0)
		rc = need_store(p, CAT_OPEN_CREATE, e);
	return rc < 0 ? rc
		      : cat_check_disks(p->store->staging, "the store", r->disk, in->fds, in->n, e);
}

static int on_save(struct publisher *p, const struct received *in, PublishReply *reply,
		   struct err *e)
{
	const SaveRequest *r = in->m->save;
	const char *name = r->name;
	int rc = disks_miscounted(in, r->n_disk, e);

	(void)reply;
	cat_place_drop(&p->place);
	if (rc == 0 && !strchr(name, '/')) {
		rc = cat_name_check(name, e);
		if (rc == 0)
			rc = complete_store(p, e);
	}
	if (rc == 0)
		rc = cat_place_make(&p->place, p->store, name, e);
	if (rc == 0)
		rc = cat_check_disks(p->place.dir, p->place.in_store ? "the store" : p->place.path,
				     r->disk, in->fds, in->n, e);
	if (rc < 0)
		cat_place_drop(&p->place);
	return rc;
}

/* True where both are the same file: what is linked must be what was made here. */
static bool is_same(int a, int b)
{
	struct stat x, y;

	return a >= 0 && fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static int send_published(struct publisher *p, struct save *s, PublishReply *reply)
{
	char *notices[SAVE_NOTICES];
	int rc;

	for (size_t i = 0; i < s->n_notice; i++)
		notices[i] = s->notice[i];
	reply->notice = notices;
	reply->n_notice = s->n_notice;
	reply->id = (ProtobufCBinaryData){ UUID_SIZE, s->id };
	reply->path = s->place->path;
	rc = proto_publish_send_reply(p->sock, reply, s->out, s->n_out);
	/* A path may be longer than a message: then it goes without saying. */
	if (rc == -EMSGSIZE) {
		reply->path = (char *)(uintptr_t)protobuf_c_empty_string;
		rc = proto_publish_send_reply(p->sock, reply, s->out, s->n_out);
	}
	return rc < 0 ? rc : 1;
}

static void end_commit(struct publisher *p, struct save *s)
{
	if (s->n_due)
		keep_due(p, s);
	else
		free(s->due);
	while (s->n_out)
		close(s->out[--s->n_out]);
	cat_place_drop(&p->place);
}

static int on_commit(struct publisher *p, const struct received *in, PublishReply *reply,
		     struct err *e)
{
	struct io_progress progress = { .fn = tell_progress, .arg = p };
	struct save s = {
		.store = p->store, .place = &p->place, .progress = &progress, .sealer = p->sealer
	};
	int files[IO_MAX_FDS];
	int rc;

	if (p->place.dir < 0)
		return err_usage(e, EINVAL, "nothing is being saved");
	if (in->n < 3) {
		cat_place_drop(&p->place);
		return err_usage(e, EINVAL, "a commit is at least three descriptors, not %zu",
				 in->n);
	}
	p->told_ns = now_ns();
	s.draft = in->fds[0];
	s.state = in->fds[1];
	s.link_ram = in->m->commit->ram_is_own && is_same(p->ram, in->fds[2]);
	/* The publisher's own descriptor serves; the other might even be a writable one. */
	if (s.link_ram) {
		close(in->fds[2]);
		in->fds[2] = -1;
	}
	memcpy(files, in->fds + 2, (in->n - 2) * sizeof(*files));
	if (s.link_ram)
		files[0] = p->ram;
	s.files = files;
	s.n_files = in->n - 2;
	rc = cat_save_commit(&s, e);
	if (rc == 0)
		rc = send_published(p, &s, reply);
	end_commit(p, &s);
	return rc;
}

static int on_abort(struct publisher *p, const struct received *in, PublishReply *reply,
		    struct err *e)
{
	(void)in;
	(void)reply;
	(void)e;
	cat_place_drop(&p->place);
	return 0;
}

/* Each returns 0: reply to be sent; 1: it has been sent; or a negative errno. */
typedef int (*handler)(struct publisher *p, const struct received *in, PublishReply *reply,
		       struct err *e);

static const handler handlers[] = {
	[PUBLISH_REQUEST__WHAT_RAM] = on_ram,
	[PUBLISH_REQUEST__WHAT_TRUST] = on_trust,
	[PUBLISH_REQUEST__WHAT_SAVE] = on_save,
	[PUBLISH_REQUEST__WHAT_COMMIT] = on_commit,
	[PUBLISH_REQUEST__WHAT_ABORT] = on_abort,
	[PUBLISH_REQUEST__WHAT_FILE] = on_file,
	[PUBLISH_REQUEST__WHAT_CHECK] = on_check,
	[PUBLISH_REQUEST__WHAT_WORKING_SET] = on_working_set,
};

static int answer(struct publisher *p, const struct received *in)
{
	PublishReply reply = PUBLISH_REPLY__INIT;
	struct err e = { 0 };
	unsigned what = in->m ? (unsigned)in->m->what_case : 0;
	int rc;

	if (what < sizeof(handlers) / sizeof(handlers[0]) && handlers[what])
		rc = handlers[what](p, in, &reply, &e);
	else
		rc = err_usage(&e, EINVAL, "the publisher does not know this request");
	if (rc > 0)
		return 0;
	if (rc < 0) {
		if (!e.text[0])
			err_sys(&e, -rc, "the publisher failed");
		reply.status = e.status ? (uint32_t)e.status : STATUS_ENVIRONMENT;
		reply.error = e.text;
	}
	return proto_publish_send_reply(p->sock, &reply, NULL, 0);
}

/* One request and its answer: 1, 0 at the end, or a negative errno. */
static int serve_one(struct publisher *p)
{
	PublishRequest *m = NULL;
	int fds[IO_MAX_FDS];
	struct received in = { .fds = fds, .n = IO_MAX_FDS };
	int rc = proto_publish_recv_request(p->sock, &m, fds, &in.n);

	if (rc == 0 || (rc < 0 && rc != -EBADMSG && rc != -EMSGSIZE))
		return rc;
	if (rc < 0)
		in.n = 0;
	in.m = m;
	rc = answer(p, &in);
	for (size_t i = 0; i < in.n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	proto_publish_free_request(m);
	return rc < 0 ? rc : 1;
}

static int serve(struct publisher *p)
{
	for (;;) {
		struct pollfd in = { .fd = p->sock, .events = POLLIN };
		int ready = poll(&in, 1, stamp_due(p));
		int rc;

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready <= 0)
			continue;
		rc = serve_one(p);
		if (rc <= 0)
			return rc;
	}
}

int cat_publisher_serve(int sock, const char *given, struct err *e)
{
	struct publisher p = {
		.sock = sock,
		.given = given,
		.ram = -1,
		.place = PLACE_NONE,
		.sealer = cat_sealer_new(),
	};
	int rc = serve(&p);
	int wait_ms;

	cat_place_drop(&p.place);
	while ((wait_ms = stamp_due(&p)) > 0)
		poll(NULL, 0, wait_ms);
	if (p.ram >= 0)
		close(p.ram);
	cat_sealer_finish(p.sealer);
	cat_store_close(p.store);
	/* A machine that ends without a word is no failure of this program. */
	if (rc == -EPIPE || rc == -ECONNRESET)
		rc = 0;
	return rc < 0 ? err_sys(e, -rc, "the publisher lost its machine") : 0;
}
