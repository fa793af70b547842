/* A snapshot made durable and published: see publish.h for the order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/merkle.h"
#include "catalog/internal.h"
#include "catalog/parts.h"
#include "proto/bounded.h"

#define DRAFT_BUDGET (16U << 20)

/* What cat_save_commit() works with besides what it was given. */
struct work {
	SnapshotManifest *draft; /* owned */
	uint8_t *state;		 /* owned */
	size_t state_size;
	struct parts parts;
};

/* Names what is missing where that is space; any other failure keeps its words. */
static int explain(const struct save *s, const struct work *w, int rc, struct err *e)
{
	char need[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];
	struct statvfs fs = { 0 };

	if (rc != -ENOSPC && rc != -EDQUOT)
		return rc;
	fstatvfs(s->place->holder, &fs);
	return err_env(e, -rc,
		       "there is no space for snapshot %s: it needs up to %s and %s are free; make "
		       "room and save again",
		       s->place->path,
		       text_format_size(w->draft ? w->draft->memory_size_bytes : 0, need),
		       text_format_size((uint64_t)fs.f_bavail * fs.f_frsize, have));
}

/* Reads a passed file whole, of at most `max` bytes. */
static int read_passed(int fd, const char *what, size_t max, uint8_t **buf, size_t *len,
		       struct err *e)
{
	auto_free uint8_t *data = NULL;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_refuse(e, EINVAL, "the %s is not passed as a regular file", what);
	if (st.st_size < 0 || (uint64_t)st.st_size > max)
		return err_refuse(e, EFBIG, "the %s has %lld bytes, more than %zu", what,
				  (long long)st.st_size, max);
	*len = (size_t)st.st_size;
	data = malloc(*len ? *len : 1);
	if (!data)
		return err_sys(e, ENOMEM, "cannot read the %s", what);
	rc = io_pread_full(fd, data, *len, 0);
	if (rc < 0)
		return err_sys(e, -rc, "cannot read the %s", what);
	*buf = take_ptr(&data);
	return 0;
}

static int read_draft(const struct save *s, struct work *w, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = read_passed(s->draft, "manifest", MANIFEST_MAX, &buf, &len, e);

	if (rc < 0)
		return rc;
	w->draft = (SnapshotManifest *)proto_unpack_bounded(&snapshot_manifest__descriptor, buf,
							    len, DRAFT_BUDGET);
	if (!w->draft || !w->draft->created_at || w->draft->created_at->seconds < 0 ||
	    w->draft->created_at->nanos < 0 || w->draft->created_at->nanos > 999999999)
		return err_refuse(e, EBADMSG, "the manifest that was passed is not one");
	return 0;
}

static int read_state(const struct save *s, struct work *w, struct err *e)
{
	VmState *state = NULL;
	int rc = read_passed(s->state, "state", STATE_MAX, &w->state, &w->state_size, e);

	if (rc == 0)
		rc = proto_state_decode(w->state, w->state_size, &state, e);
	if (rc == 0)
		proto_state_free(state);
	return rc;
}

/* --- state.bin and manifest.bin --- */

/* Encodes the manifest with all that the publisher knows, and reads it back to check it. */
static int encode(struct save *s, struct work *w, const uint8_t *state_digest, uint8_t **buf,
		  size_t *len, struct err *e)
{
	SnapshotManifest m = *w->draft; /* shares what the draft owns */
	const struct timespec created = { m.created_at->seconds, m.created_at->nanos };
	SnapshotManifest *back = NULL;
	int rc = uuid_make(&created, s->id);

	if (rc < 0)
		return err_sys(e, -rc, "cannot make an id");
	m.id = (ProtobufCBinaryData){ UUID_SIZE, s->id };
	m.name_at_creation = s->place->name;
	m.state_size = w->state_size;
	m.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)(uintptr_t)state_digest };
	m.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, w->parts.memory_digest };
	rc = proto_manifest_encode(&m, buf, len, e);
	if (rc == 0)
		rc = proto_manifest_decode(*buf, *len, &back, e);
	if (rc < 0)
		return rc;
	if (e)
		*e = (struct err){ 0 };
	rc = proto_manifest_check(back, e);
	proto_manifest_free(back);
	return rc < 0 ? rc : digest_sha256(*buf, *len, s->manifest_digest);
}

static int sync_folder(const struct save *s, const char *name, struct err *e)
{
	auto_fd int fd =
		openat(s->place->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0
		       ? err_sys(e, errno, "cannot sync %s of %s", name, s->place->path)
		       : 0;
}

static int write_files(struct save *s, struct work *w, struct err *e)
{
	const Timestamp *at = w->draft->created_at;
	struct timespec times[2] = { { at->seconds, at->nanos }, { at->seconds, at->nanos } };
	uint8_t state_digest[DIGEST_SIZE];
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = merkle_digest(w->state, w->state_size, state_digest);

	if (rc < 0)
		return err_sys(e, -rc, "cannot digest the state");
	rc = io_write_file(s->place->dir, SNAPDIR_STATE, w->state, w->state_size, STORE_FILE_MODE,
			   e);
	if (rc == 0)
		rc = encode(s, w, state_digest, &buf, &len, e);
	if (rc == 0)
		rc = io_write_file(s->place->dir, SNAPDIR_MANIFEST, buf, len, STORE_FILE_MODE, e);
	if (rc < 0)
		return rc;
	if (w->parts.layered)
		rc = sync_folder(s, SNAPDIR_LAYERS, e);
	if (rc == 0 && w->parts.n > w->parts.n_ram)
		rc = sync_folder(s, SNAPDIR_DISKS, e);
	if (rc < 0)
		return rc;
	/* The directory's time is the snapshot's, whoever looks at it. */
	futimens(s->place->dir, times);
	if (fsync(s->place->dir) < 0)
		return err_sys(e, errno, "cannot sync %s", s->place->path);
	return 0;
}

/* What the reply has for the next save: bound to the files, whatever becomes of the name. */
static int keep_manifest(struct save *s, struct err *e)
{
	s->out[0] = openat(s->place->dir, SNAPDIR_MANIFEST, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (s->out[0] < 0)
		return err_sys(e, errno, "cannot open %s", SNAPDIR_MANIFEST);
	s->n_out = 1;
	return 0;
}

/* Without all of them the reply has none, and the next save is one of all its RAM. */
static void keep_ram(struct save *s, const struct parts *w)
{
	for (size_t i = 0; i < w->n_ram; i++) {
		s->out[s->n_out] = fcntl(w->part[i].fd, F_DUPFD_CLOEXEC, 0);
		if (s->out[s->n_out] < 0)
			break;
		s->n_out++;
	}
	if (s->n_out == 1 + w->n_ram)
		return;
	while (s->n_out)
		close(s->out[--s->n_out]);
}

static int commit(struct save *s, struct work *w, struct err *e)
{
	bool in_store = s->place->in_store;
	int rc = read_draft(s, w, e);

	if (rc == 0)
		rc = read_state(s, w, e);
	if (rc == 0)
		rc = cat_parts_list(&w->parts, s, w->draft, e);
	if (rc == 0)
		rc = cat_parts_put(&w->parts, e);
	if (rc == 0)
		rc = cat_parts_digest(&w->parts, e);
	if (rc == 0)
		rc = cat_layers_settle(&w->parts, e);
	if (rc == 0)
		rc = write_files(s, w, e);
	if (rc == 0)
		rc = keep_manifest(s, e);
	/* The name is free: a missing one of it must not make this a replaced one. */
	if (rc == 0 && in_store)
		cat_index_drop(s->store, s->place->name, NULL);
	if (rc == 0)
		rc = cat_place_publish(s->place, s->store, e);
	if (rc < 0)
		return rc;
	keep_ram(s, &w->parts);
	cat_parts_stamp(&w->parts);
	/* It is published. An index that cannot be written now will find it later. */
	if (in_store) {
		cat_parts_seal(&w->parts);
		cat_index_add(s->store, s->place->name, NULL);
	}
	return 0;
}

int cat_save_commit(struct save *s, struct err *e)
{
	struct work w = { 0 };
	int rc = commit(s, &w, e);

	rc = explain(s, &w, rc, e);
	if (rc < 0 && s->place->dir >= 0)
		cat_parts_undo(&w.parts);
	while (rc < 0 && s->n_out)
		close(s->out[--s->n_out]);
	cat_parts_forget(&w.parts);
	proto_manifest_free(w.draft);
	free(w.state);
	return rc;
}
