/* The large files of a snapshot: see parts.h. */
#define _GNU_SOURCE
#include "catalog/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/merkle.h"
#include "catalog/internal.h"
#include "catalog/sealer.h"

static void make_room(ProtobufCBinaryData *digest)
{
	if (digest->len == DIGEST_SIZE)
		return;
	free(digest->data);
	digest->data = calloc(1, DIGEST_SIZE);
	digest->len = digest->data ? DIGEST_SIZE : 0;
}

/*
 * A layer more than a snapshot may have is taken, too: such a save is made flat. So they are
 * looked at in pairs with the bottom one.
 */
static bool layers_hold(const SnapshotManifest *draft)
{
	SnapshotManifest m = *draft; /* shares what the draft owns */
	bool hold = true;

	for (size_t i = 1; hold && i < draft->n_layer; i++) {
		Layer *pair[] = { draft->layer[0], draft->layer[i] };

		m.layer = pair;
		m.n_layer = 2;
		hold = proto_manifest_layers_hold(&m);
	}
	return hold;
}

/* As fill_disks(), of the layers of the RAM. */
static int fill_layers(const struct parts *w, struct err *e)
{
	const SnapshotManifest *draft = w->draft;

	for (size_t i = 0; i < draft->n_layer; i++) {
		Layer *l = draft->layer[i];
		struct stat st;

		if (fstat(w->ram[i], &st) < 0 || !S_ISREG(st.st_mode))
			return err_refuse(e, EINVAL,
					  "a layer of the RAM is not passed as a regular file");
		if (l->size && l->size != (uint64_t)st.st_size)
			return err_refuse(
				e, EINVAL,
				"layer %zu of the RAM has %lld bytes, the manifest says %llu", i,
				(long long)st.st_size, (unsigned long long)l->size);
		l->size = (uint64_t)st.st_size;
		make_room(&l->digest);
		if (i)
			make_room(&l->map_digest);
	}
	if (!layers_hold(draft))
		return err_refuse(e, EBADMSG, "the manifest that was passed has impossible layers");
	return 0;
}

/* Which of the descriptors is what. */
static int sort_files(struct parts *w, struct err *e)
{
	const struct save *s = w->save;
	const size_t layers = w->draft->n_layer, before = layers ? 1 + layers : 1;

	if (layers == 1 || layers > MANIFEST_LAYERS_MAX + 1)
		return err_refuse(e, EINVAL, "RAM in %zu layers cannot be saved: they are 2 to %d",
				  layers, MANIFEST_LAYERS_MAX + 1);
	if (s->n_files < before)
		return err_refuse(e, EINVAL,
				  "%zu files are passed, and the RAM alone is %zu of them",
				  s->n_files, before);
	w->layered = layers > 0;
	w->maps = w->layered ? s->files[0] : -1;
	w->ram = s->files + w->layered;
	w->n_ram = layers ? layers : 1;
	w->disks = s->files + before;
	w->n_disks = s->n_files - before;
	return 0;
}

/* Sizes as they are, and room for the digests: then the draft can be checked. */
static int fill_disks(const struct parts *w, struct err *e)
{
	const SnapshotManifest *draft = w->draft;
	size_t at = 0;

	for (size_t i = 0; i < draft->n_disk; i++) {
		const Disk *d = draft->disk[i];

		for (size_t k = 0; k < d->n_layer; k++, at++) {
			DiskFile *f = d->layer[k];
			struct stat st;

			if (at == w->n_disks || fstat(w->disks[at], &st) < 0 ||
			    !S_ISREG(st.st_mode))
				return err_refuse(e, EINVAL,
						  "a disk is not passed as a regular file");
			if (f->size && f->size != (uint64_t)st.st_size)
				return err_refuse(
					e, EINVAL,
					"a file of a disk has %lld bytes, the manifest says %llu",
					(long long)st.st_size, (unsigned long long)f->size);
			f->size = (uint64_t)st.st_size;
			make_room(&f->digest);
		}
	}
	if (at != w->n_disks)
		return err_refuse(e, EINVAL, "%zu files of disks are passed, the manifest says %zu",
				  w->n_disks, at);
	/* From here on their names may be used as such. */
	if (!proto_manifest_disks_hold(draft))
		return err_refuse(e, EBADMSG, "the manifest that was passed has impossible disks");
	return 0;
}

/* The n-th file of all disks. */
static const DiskFile *disk_file(const SnapshotManifest *m, size_t file)
{
	for (size_t i = 0; i < m->n_disk; i++) {
		if (file < m->disk[i]->n_layer)
			return m->disk[i]->layer[file];
		file -= m->disk[i]->n_layer;
	}
	return NULL;
}

/* The device that it is of. */
static const char *device_of(const SnapshotManifest *m, size_t file)
{
	for (size_t i = 0; i < m->n_disk; i++) {
		if (file < m->disk[i]->n_layer)
			return m->disk[i]->device;
		file -= m->disk[i]->n_layer;
	}
	return "";
}

/* Where the manifest has the digest of the i-th file; NULL: of flat RAM, which is none's yet. */
static uint8_t *digest_of(const struct parts *w, size_t i)
{
	if (i >= w->n_ram)
		return disk_file(w->draft, i - w->n_ram)->digest.data;
	return w->layered ? w->draft->layer[i]->digest.data : NULL;
}

/* A digest in the draft that is not only room for one. */
static void take_promise(const struct parts *w, size_t i, struct part *p)
{
	static const uint8_t none[DIGEST_SIZE];
	const uint8_t *digest = digest_of(w, i);

	if (!digest)
		return;
	memcpy(p->promise, digest, DIGEST_SIZE);
	p->promised = memcmp(p->promise, none, DIGEST_SIZE) != 0;
}

static int list_parts(struct parts *w, struct err *e)
{
	const struct save *s = w->save;
	const size_t n = w->n_ram + w->n_disks;

	w->part = calloc(n, sizeof(*w->part));
	if (!w->part)
		return err_sys(e, ENOMEM, "cannot save %s", s->place->path);
	for (w->n = 0; w->n < n; w->n++) {
		const bool is_ram = w->n < w->n_ram;
		struct part *p = &w->part[w->n];
		struct stat st;

		*p = (struct part){ .fd = -1, .lease = { .fd = -1 } };
		p->from = is_ram ? w->ram[w->n] : w->disks[w->n - w->n_ram];
		p->what = is_ram ? "RAM" : device_of(w->draft, w->n - w->n_ram);
		take_promise(w, w->n, p);
		proto_snapdir_file(w->draft, w->layered, w->n, &p->file);
		if (fstat(p->from, &st) < 0 || !S_ISREG(st.st_mode))
			return err_refuse(e, EINVAL, "the %s is not passed as a regular file",
					  p->what);
		if ((uint64_t)st.st_size != p->file.size)
			return err_refuse(
				e, EINVAL, "the %s file has %lld bytes, the manifest says %llu",
				p->what, (long long)st.st_size, (unsigned long long)p->file.size);
		p->was_mode = st.st_mode & 07777;
	}
	return 0;
}

int cat_parts_list(struct parts *w, struct save *s, SnapshotManifest *draft, struct err *e)
{
	int rc;

	*w = (struct parts){ .save = s, .draft = draft };
	rc = sort_files(w, e);
	if (rc == 0)
		rc = fill_layers(w, e);
	if (rc == 0)
		rc = fill_disks(w, e);
	return rc < 0 ? rc : list_parts(w, e);
}

/* Hashes the file, and keeps its tree beside it. */
static int hash_part(const struct save *s, struct part *p, struct io_progress *progress,
		     uint8_t digest[DIGEST_SIZE])
{
	auto_fd int tree = -1;
	struct merkle m;
	int rc;

	merkle_layout(&m, p->file.size);
	if (m.tree_size) {
		tree = openat(s->place->dir, p->file.tree,
			      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, STORE_FILE_MODE);
		if (tree < 0)
			return -errno;
	}
	rc = cat_lease_digest(&p->lease, p->fd, p->file.size, tree, progress, digest);
	if (rc == 0 && tree >= 0 && fsync(tree) < 0)
		rc = -errno;
	return rc;
}

static int cannot_digest(const struct parts *w, const struct part *p, int rc, struct err *e)
{
	return err_sys(e, -rc, "cannot digest %s of %s", p->file.path, w->save->place->path);
}

static int is_damaged(const struct part *p, struct err *e)
{
	return err_refuse(e, EBADMSG,
			  "%s of %s is not what it was when the machine was restored: it is "
			  "damaged",
			  p->file.path, p->what);
}

int cat_parts_make_tree(const struct parts *w, struct part *p, struct err *e)
{
	uint8_t digest[DIGEST_SIZE];
	int rc;

	unlinkat(w->save->place->dir, p->file.tree, 0);
	rc = hash_part(w->save, p, w->save->progress, digest);
	if (rc < 0)
		return cannot_digest(w, p, rc, e);
	return memcmp(digest, p->digest, DIGEST_SIZE) == 0 ? 0 : is_damaged(p, e);
}

int cat_parts_digest_one(const struct parts *w, struct part *p, struct io_progress *progress,
			 struct err *e)
{
	int rc = 0;

	if (p->stamped || p->sealed)
		cat_parts_link_tree(w, p);
	else
		rc = hash_part(w->save, p, progress, p->digest);
	if (rc < 0)
		return cannot_digest(w, p, rc, e);
	if (p->promised && memcmp(p->digest, p->promise, DIGEST_SIZE) != 0)
		return is_damaged(p, e);
	if (fsync(p->fd) < 0)
		return err_sys(e, errno, "cannot sync %s", p->file.path);
	return 0;
}

static int digest_parts(const struct parts *w, struct err *e)
{
	const struct save *s = w->save;
	struct progress_sum sum = { .whole = s->progress };
	struct io_progress progress = cat_progress_part(&sum);

	for (size_t i = 0; i < w->n; i++)
		sum.total += w->part[i].file.size;
	for (size_t i = 0; i < w->n; i++) {
		int rc = cat_parts_digest_one(w, &w->part[i], &progress, e);

		if (rc < 0)
			return rc;
		sum.before += w->part[i].file.size;
	}
	return 0;
}

/* What was computed goes to where the manifest has it. */
static void fill_digests(const struct parts *w)
{
	for (size_t i = 0; i < w->n; i++) {
		uint8_t *digest = digest_of(w, i);

		if (digest)
			memcpy(digest, w->part[i].digest, DIGEST_SIZE);
	}
}

int cat_parts_digest(struct parts *w, struct err *e)
{
	int rc = digest_parts(w, e);

	if (rc < 0)
		return rc;
	fill_digests(w);
	if (!w->layered)
		memcpy(w->memory_digest, w->part[0].digest, DIGEST_SIZE);
	return 0;
}

/* Its own name: more, and it is another snapshot's as well. */
static bool is_only_here(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_nlink <= 1;
}

void cat_parts_drop(const struct parts *w, struct part *p)
{
	const struct save *s = w->save;

	if (!p->linked || s->place->dir < 0)
		return;
	p->linked = false;
	unlinkat(s->place->dir, p->file.path, 0);
	if (p->was_mode != STORE_FILE_MODE && is_only_here(p->from))
		fchmod(p->from, p->was_mode);
	/* The unlink was our own, and under the lease nobody has changed what is stamped. */
	if (p->stamped && p->fd >= 0)
		cat_stamp_follow(s->store, p->fd, p->digest, true);
}

void cat_parts_undo(struct parts *w)
{
	for (size_t i = 0; i < w->n; i++)
		cat_parts_drop(w, &w->part[i]);
}

void cat_parts_forget(struct parts *w)
{
	for (size_t i = 0; i < w->n; i++) {
		cat_lease_drop(&w->part[i].lease);
		if (w->part[i].fd >= 0)
			close(w->part[i].fd);
	}
	free(w->part);
}

void cat_parts_seal(struct parts *w)
{
	const struct save *s = w->save;
	struct stat st;

	for (size_t i = 0; s->sealer && i < w->n; i++)
		if (fstat(w->part[i].fd, &st) == 0 && st.st_nlink == 1)
			cat_sealer_add(s->sealer, w->part[i].fd);
}

/* The stamps at once, or (before Linux 6.13) by who keeps the leases long enough. */
void cat_parts_stamp(struct parts *w)
{
	struct save *s = w->save;

	if (!s->store || w->n == 0)
		return;
	s->due = calloc(w->n, sizeof(*s->due));
	for (size_t i = 0; i < w->n; i++) {
		struct part *p = &w->part[i];
		int64_t wait_ns = 0;
		int rc;

		/* It has one, which is as old as when it was hashed. */
		if (p->stamped)
			continue;
		/* What the kernel vouches for needs no reading for one. */
		rc = cat_stamp_grant(s->store, &p->lease, p->digest, &wait_ns);

		if (rc != -EAGAIN || !s->due) {
			s->unstamped |= rc < 0;
			continue;
		}
		if (wait_ns > s->stamp_wait_ns)
			s->stamp_wait_ns = wait_ns;
		memcpy(s->due[s->n_due].digest, p->digest, DIGEST_SIZE);
		s->due[s->n_due++].lease = p->lease;
		p->lease.fd = -1;
	}
}
