/* The maps of a layered snapshot: see maps.h. */
#include "maps.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct maps {
	pthread_mutex_t lock; /* held while they are read: who comes meanwhile waits for that */
	/* Guarded by lock. */
	bool known;
	struct flat flat; /* once known, it never changes */
	/* The files, as they were when they were found good. */
	struct identity seen[MANIFEST_LAYERS_MAX];
};

struct maps *sfs_maps_new(void)
{
	struct maps *m = calloc(1, sizeof(*m));

	if (m)
		pthread_mutex_init(&m->lock, NULL);
	return m;
}

void sfs_maps_free(struct maps *m)
{
	if (!m)
		return;
	proto_flat_free(&m->flat);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void sfs_maps_path(size_t i, char path[SNAPDIR_PATH_MAX])
{
	snprintf(path, SNAPDIR_PATH_MAX, SNAPDIR_LAYERS "/%zu.map", i);
}

/* The files as they are now; one that is not there is all zeros, as no file is. */
static void look(const struct view *v, struct identity seen[MANIFEST_LAYERS_MAX])
{
	for (size_t i = 1; i < v->dir.manifest->n_layer; i++) {
		char path[SNAPDIR_PATH_MAX];
		struct stat st;

		sfs_maps_path(i, path);
		seen[i] = (struct identity){ 0 };
		if (sfs_view_look(v, path, &st) == 0)
			seen[i] = sfs_identity_of(&st);
	}
}

static bool is_as_seen(const struct view *v, const struct identity now[MANIFEST_LAYERS_MAX])
{
	for (size_t i = 1; i < v->dir.manifest->n_layer; i++)
		if (!now[i].ino || !sfs_identity_equal(&v->maps->seen[i], &now[i]))
			return false;
	return true;
}

/* Called with the lock held. */
static int read_all(const struct view *v, const char *name, struct err *e)
{
	struct identity now[MANIFEST_LAYERS_MAX];
	struct maps *m = v->maps;
	struct flat flat;
	int rc;

	look(v, now);
	if (m->known && is_as_seen(v, now))
		return 0;
	rc = proto_snapdir_read_flat(&v->dir, name, &flat, e);
	if (rc < 0)
		return rc;
	if (m->known)
		proto_flat_free(&flat); /* it is the same: the digests are */
	else
		m->flat = flat;
	m->known = true;
	memcpy(m->seen, now, sizeof(now));
	return 0;
}

int sfs_maps_get(const struct view *v, const char *name, const struct flat **flat, struct err *e)
{
	int rc;

	pthread_mutex_lock(&v->maps->lock);
	rc = read_all(v, name, e);
	pthread_mutex_unlock(&v->maps->lock);
	if (rc == 0 && flat)
		*flat = &v->maps->flat;
	return rc;
}
