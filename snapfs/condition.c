/* How a snapshot is, and who is told: see snap.h. */
#define _GNU_SOURCE
#include "snap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "maps.h"
#include "rung.h"

/* True, with the words, where one of its files was seen to be damaged and is unchanged. */
static bool is_any_bad(struct snap *s, const struct view *v, char problem[SNAP_PROBLEM_MAX])
{
	const size_t n = proto_snapdir_files(v->dir.manifest, v->dir.layered);

	for (size_t i = 0; i < n; i++) {
		struct snapdir_file f;
		struct identity id;
		struct stat st;

		proto_snapdir_file(v->dir.manifest, v->dir.layered, i, &f);
		if (fstatat(v->dir.dirfd, f.path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		id = sfs_identity_of(&st);
		if (sfs_snap_is_bad(s, i, &id, problem))
			return true;
	}
	return false;
}

void sfs_snap_condition(struct snap *s, const struct view *v, struct condition *c)
{
	*c = (struct condition){ .status = CAT_UNVERIFIED };
	/* An index that cannot be asked takes nothing away: the directory is the truth. */
	c->indexed = sfs_snap_row(s, v, &c->row) == 0;
	if (!v->dir.manifest) {
		c->status = v->rc == -EBADMSG ? CAT_DAMAGED : CAT_UNVERIFIED;
		memcpy(c->problem, v->problem, sizeof(c->problem));
		return;
	}
	/* A row of what was never readable has no digest to compare with. */
	if (c->indexed &&
	    (c->row.status == CAT_REPLACED ||
	     (c->row.status != CAT_DAMAGED && c->row.status != CAT_MISSING &&
	      memcmp(c->row.manifest_digest, v->dir.manifest_digest, DIGEST_SIZE) != 0))) {
		c->status = CAT_REPLACED;
		snprintf(c->problem, sizeof(c->problem),
			 "manifest.bin is whole but not the one that was indexed; "
			 "`snapctl reindex --accept %s` takes it as it is",
			 c->row.name);
		return;
	}
	if (is_any_bad(s, v, c->problem)) {
		c->status = CAT_DAMAGED;
		return;
	}
	if (c->indexed && c->row.status != CAT_MISSING) {
		c->status = c->row.status;
		if (c->status == CAT_DAMAGED)
			snprintf(c->problem, sizeof(c->problem), "%s", c->row.problem);
	}
}

/* -EBADMSG, with the words of when it was seen, or, of a seal, general ones. */
static int tell_bad(struct snap *s, size_t i, int fd, const char *name,
		    const struct snapdir_file *f, struct err *e)
{
	char problem[SNAP_PROBLEM_MAX];
	struct identity id;
	struct stat st;

	if (fstat(fd, &st) == 0) {
		id = sfs_identity_of(&st);
		if (sfs_snap_is_bad(s, i, &id, problem))
			return err_refuse(e, EBADMSG, "%s", problem);
	}
	return err_refuse(e, EBADMSG,
			  "snapshot %s is damaged: %s does not have the manifest's digest", name,
			  f->path);
}

/* What is wrong with the looks of a large file. *known: it is sealed or stamped. */
static int look_at_file(struct snap *s, const struct view *v, size_t i, const char *name,
			bool *known, struct err *e)
{
	struct snapdir_file f;
	auto_fd int fd = -1;

	proto_snapdir_file(v->dir.manifest, v->dir.layered, i, &f);
	fd = proto_snapdir_open_file(&v->dir, &f, name, e);
	if (fd < 0)
		return fd;
	switch (sfs_rung_decide(s, i, fd, f.digest)) {
	case RUNG_SEALED:
	case RUNG_STAMPED:
		*known = true;
		return 0;
	case RUNG_UNVERIFIED:
		*known = false;
		return 0;
	case RUNG_DAMAGED:
		break;
	}
	return tell_bad(s, i, fd, name, &f, e);
}

/*
 * What is wrong with state.bin, maps, or the looks of memory and disks: 0 or -EBADMSG
 * with words. *known: all of them are sealed or stamped.
 */
static int look_at_files(struct snap *s, const struct view *v, bool *known, struct err *e)
{
	auto_free uint8_t *state = NULL;
	const size_t n = proto_snapdir_files(v->dir.manifest, v->dir.layered);
	char name[CAT_NAME_MAX + 1];
	size_t len;
	int rc;

	sfs_snap_name(s, name);
	rc = proto_snapdir_read_state(&v->dir, name, &state, &len, e);
	if (rc == 0 && v->dir.layered)
		rc = sfs_maps_get(v, name, NULL, e);
	*known = true;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		bool one = false;

		rc = look_at_file(s, v, i, name, &one, e);
		*known = *known && one;
	}
	return rc;
}

void sfs_snap_examine(struct snap *s, const struct view *v, struct condition *c)
{
	struct err e = { 0 };
	bool known;
	int rc;

	sfs_snap_condition(s, v, c);
	if (!v->dir.manifest || c->status == CAT_REPLACED)
		return;
	rc = look_at_files(s, v, &known, &e);
	if (rc == -EBADMSG) {
		c->status = CAT_DAMAGED;
		snprintf(c->problem, sizeof(c->problem), "%.*s", (int)strcspn(e.text, "\n"),
			 e.text);
	} else if (c->status == CAT_VALID && !known) {
		c->status = CAT_UNVERIFIED;
	} else if (c->status == CAT_DAMAGED && rc == 0 && known) {
		/* It was mended: every file is what the manifest says. */
		c->status = CAT_VALID;
		*c->problem = '\0';
	}
}

/* True where this was not yet said in the log. */
static bool is_news(struct snap *s, const char *problem, char name[CAT_NAME_MAX + 1])
{
	bool news;

	pthread_mutex_lock(&s->lock);
	news = !s->said || strcmp(s->said, problem) != 0;
	if (news) {
		free(s->said);
		s->said = strdup(problem);
	}
	memcpy(name, s->name, sizeof(s->name));
	pthread_mutex_unlock(&s->lock);
	return news;
}

void sfs_snap_report(struct snap *s, struct view *v, enum cat_status status, const char *problem)
{
	char name[CAT_NAME_MAX + 1];
	struct cat_row row;
	struct err e = { 0 };

	atomic_store(&v->settled, false);
	if (is_news(s, problem, name))
		log_error("snapshot %s is %s: %s", name, cat_status_word(status), problem);
	if (status != CAT_DAMAGED || sfs_snap_row(s, v, &row) < 0)
		return;
	if (row.status == CAT_DAMAGED && strcmp(row.problem, problem) == 0)
		return;
	/* A manifest that cannot be read has no digest to tell: the row's it is. */
	if (cat_index_set_status(s->of->store, row.name, row.manifest_digest, CAT_DAMAGED, problem,
				 &e) < 0)
		log_warn("%s", e.text);
}

void sfs_snap_settle(struct snap *s, const struct view *v)
{
	struct cat_row row;
	struct err e = { 0 };
	bool known;

	if (sfs_snap_row(s, v, &row) < 0 || row.status == CAT_VALID || row.status == CAT_REPLACED)
		return;
	if (look_at_files(s, v, &known, NULL) < 0 || !known)
		return;
	if (cat_index_set_status(s->of->store, row.name, v->dir.manifest_digest, CAT_VALID, NULL,
				 &e) < 0)
		log_warn("%s", e.text);
}
