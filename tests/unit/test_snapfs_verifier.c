/* Verification once for all who wait, and the rung a file is on before and after. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/merkle.h"
#include "snapfs/rung.h"
#include "snapfs/verifier.h"

#define RAM_SIZE (64U << 20) /* so much that it takes longer than a call */

struct world {
	char path[64];
	struct store *store;
	struct verifier *verifier;
	struct snaps snaps;
	struct snap *snap;
	struct view *view;
	int memory;
};

static void write_snapshot(int at, bool good)
{
	Timestamp created = TIMESTAMP__INIT;
	RamRange range = RAM_RANGE__INIT;
	RamRange *ranges[] = { &range };
	SnapshotManifest m = SNAPSHOT_MANIFEST__INIT;
	uint8_t id[UUID_SIZE] = { 1 }, digest[DIGEST_SIZE], none[DIGEST_SIZE] = { 0 };
	uint8_t *page = malloc(RAM_SIZE), *buf;
	size_t len;
	int fd;

	assert_non_null(page);
	for (size_t i = 0; i < RAM_SIZE; i++)
		page[i] = (uint8_t)(i * 7 + i / 4096 + 1);
	assert_int_equal(io_write_file(at, SNAPDIR_MEMORY, page, RAM_SIZE, 0400, NULL), 0);
	free(page);
	fd = openat(at, SNAPDIR_MEMORY, O_RDONLY | O_CLOEXEC);
	assert_int_equal(merkle_digest_fd(fd, RAM_SIZE, -1, NULL, digest), 0);
	close(fd);
	digest[0] = (uint8_t)(digest[0] ^ !good);
	assert_int_equal(io_write_file(at, SNAPDIR_STATE, "", 0, 0400, NULL), 0);
	assert_int_equal(merkle_digest("", 0, none), 0);
	created.seconds = 1785585600;
	range.size = RAM_SIZE;
	m.version = MANIFEST_VERSION;
	m.created_at = &created;
	m.memory_size_bytes = RAM_SIZE;
	m.vp_count = 1;
	m.page_size = MANIFEST_PAGE_SIZE;
	m.architecture = MANIFEST_ARCHITECTURE;
	m.id = (ProtobufCBinaryData){ UUID_SIZE, id };
	m.n_ram = 1;
	m.ram = ranges;
	m.memory_digest = (ProtobufCBinaryData){ DIGEST_SIZE, digest };
	m.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, none };
	assert_int_equal(proto_manifest_encode(&m, &buf, &len, NULL), 0);
	assert_int_equal(io_write_file(at, SNAPDIR_MANIFEST, buf, len, 0400, NULL), 0);
	free(buf);
}

static struct snap *open_snap(struct world *w, const char *name)
{
	struct snap_dir dir;
	struct snap *s;

	assert_int_equal(sfs_snaps_look(&w->snaps, name, &dir), 0);
	s = sfs_snap_new(&w->snaps, &dir, name);
	assert_non_null(s);
	return s;
}

static struct world *make(bool good)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e = { 0 };
	int at;

	assert_non_null(w);
	strcpy(w->path, "/tmp/snapfs-unit.XXXXXX");
	assert_non_null(mkdtemp(w->path));
	assert_int_equal(cat_store_open(&w->store, w->path, CAT_OPEN_CREATE, &e), 0);
	assert_int_equal(mkdirat(cat_store_snapshots_fd(w->store), "base", 0700), 0);
	at = openat(cat_store_snapshots_fd(w->store), "base", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_snapshot(at, good);
	close(at);
	assert_int_equal(sfs_verifier_start(&w->verifier, w->store), 0);
	assert_int_equal(sfs_snaps_init(&w->snaps, w->store), 0);
	w->snap = open_snap(w, "base");
	w->view = sfs_snap_view(w->snap);
	assert_non_null(w->view);
	assert_non_null(w->view->dir.manifest);
	w->memory = proto_snapdir_open_memory(&w->view->dir, "base", &e);
	assert_true(w->memory >= 0);
	return w;
}

static int setup_good(void **state)
{
	*state = make(true);
	return 0;
}

static int setup_bad(void **state)
{
	*state = make(false);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct world *w = *state;

	close(w->memory);
	sfs_view_put(w->snap, w->view);
	sfs_snap_put(w->snap);
	while (!sfs_verifier_stop(w->verifier))
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	sfs_snaps_destroy(&w->snaps);
	cat_store_close(w->store);
	nftw(w->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

struct waiting {
	struct verify_waiter waiter;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned calls; /* of done(); guarded by lock */
	int rc;
};

static void on_done(struct verify_waiter *w, int rc)
{
	struct waiting *waiting = (struct waiting *)w;

	pthread_mutex_lock(&waiting->lock);
	waiting->calls++;
	waiting->rc = rc;
	pthread_cond_signal(&waiting->changed);
	pthread_mutex_unlock(&waiting->lock);
}

static void start(struct waiting *w)
{
	*w = (struct waiting){ .waiter = { .done = on_done } };
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
}

static int outcome(struct waiting *w)
{
	int rc;

	pthread_mutex_lock(&w->lock);
	while (w->calls == 0)
		pthread_cond_wait(&w->changed, &w->lock);
	rc = w->rc;
	pthread_mutex_unlock(&w->lock);
	return rc;
}

static int wait_for(struct world *w, struct waiting *waiting)
{
	return sfs_verifier_wait(w->verifier, w->snap, w->view, 0, w->memory, &waiting->waiter);
}

static enum rung rung_of(struct world *w)
{
	return sfs_rung_decide(w->snap, 0, w->memory, w->view->dir.manifest->memory_digest.data);
}

static void all_who_wait_get_the_outcome_once(void **state)
{
	struct world *w = *state;
	struct waiting waiting[8];

	assert_int_equal(rung_of(w), RUNG_UNVERIFIED);
	for (size_t i = 0; i < 8; i++) {
		start(&waiting[i]);
		assert_int_equal(wait_for(w, &waiting[i]), 0);
	}
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(outcome(&waiting[i]), 0);
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(waiting[i].calls, 1);
}

static void damage_is_remembered_for_this_very_file(void **state)
{
	struct world *w = *state;
	struct condition c;
	struct waiting waiting;

	start(&waiting);
	assert_int_equal(wait_for(w, &waiting), 0);
	assert_int_equal(outcome(&waiting), -EBADMSG);
	assert_int_equal(rung_of(w), RUNG_DAMAGED);
	sfs_snap_condition(w->snap, w->view, &c);
	assert_int_equal(c.status, CAT_DAMAGED);
	assert_non_null(strstr(c.problem, SNAPDIR_MEMORY));
	/* Touched: it may have been mended. */
	assert_int_equal(futimens(w->memory, NULL), 0);
	assert_int_equal(rung_of(w), RUNG_UNVERIFIED);
}

static void cancelled_waiter_is_not_called(void **state)
{
	struct world *w = *state;
	struct waiting first, second;

	start(&first);
	start(&second);
	assert_int_equal(wait_for(w, &first), 0);
	assert_int_equal(wait_for(w, &second), 0);
	assert_true(sfs_verifier_cancel(w->verifier, &first.waiter));
	assert_int_equal(outcome(&second), 0);
	assert_int_equal(first.calls, 0);
	/* Too late: it was called. */
	assert_false(sfs_verifier_cancel(w->verifier, &second.waiter));
}

static void cancel_before_the_wait_refuses_it(void **state)
{
	struct world *w = *state;
	struct waiting waiting;

	start(&waiting);
	assert_false(sfs_verifier_cancel(w->verifier, &waiting.waiter));
	assert_int_equal(wait_for(w, &waiting), -EINTR);
	assert_int_equal(waiting.calls, 0);
}

static void view_follows_the_manifest_and_survives_its_loss(void **state)
{
	struct world *w = *state;
	struct view *v;

	v = sfs_snap_view(w->snap);
	assert_ptr_equal(v, w->view);
	sfs_view_put(w->snap, v);
	assert_int_equal(unlinkat(w->view->dir.dirfd, SNAPDIR_MANIFEST, 0), 0);
	v = sfs_snap_view(w->snap);
	assert_non_null(v);
	assert_null(v->dir.manifest);
	assert_true(*v->problem);
	sfs_view_put(w->snap, v);
	/* Who holds the old one goes on with it. */
	assert_int_equal(w->view->dir.manifest->memory_size_bytes, RAM_SIZE);
}

/* Descriptors that this process has open. */
static size_t descriptors(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 65536; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void views_between_requests_are_few_however_many_snapshots_are_known(void **state)
{
	enum { N = 100 };
	struct world *w = *state;
	struct snap *snaps[N];
	uint8_t none[UUID_SIZE] = { 0 };
	char name[CAT_NAME_MAX + 1];
	size_t before;

	/* The index opens its files when it is first asked. */
	assert_int_equal(cat_index_name_of(w->store, none, name, NULL), -ENOENT);
	before = descriptors();
	w->snaps.most = 8;
	for (size_t i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "s%zu", i);
		assert_int_equal(mkdirat(cat_store_snapshots_fd(w->store), name, 0700), 0);
		snaps[i] = open_snap(w, name);
		sfs_view_put(snaps[i], sfs_snap_view(snaps[i]));
	}
	assert_true(descriptors() <= before + 8);
	/* One that gave way is viewed again, by the name that it has now. */
	assert_int_equal(renameat(cat_store_snapshots_fd(w->store), "s0",
				  cat_store_snapshots_fd(w->store), "t0"),
			 0);
	for (size_t i = 0; i < N; i++) {
		struct view *v = sfs_snap_view(snaps[i]);

		assert_int_equal(v->rc, i == 0 ? -ESTALE : -EBADMSG);
		sfs_view_put(snaps[i], v);
	}
	sfs_snap_set_name(snaps[0], "t0");
	for (size_t i = 0; i < N; i++) {
		struct view *v = sfs_snap_view(snaps[i]);

		assert_int_equal(v->rc, -EBADMSG); /* no manifest */
		sfs_view_put(snaps[i], v);
		sfs_snap_put(snaps[i]);
	}
	assert_true(descriptors() <= before);
}

static void directory_of_the_same_name_is_another_one(void **state)
{
	struct world *w = *state;
	const int at = cat_store_snapshots_fd(w->store);
	struct snap *s;
	struct view *v;

	assert_int_equal(mkdirat(at, "gone", 0700), 0);
	s = open_snap(w, "gone");
	assert_int_equal(unlinkat(at, "gone", AT_REMOVEDIR), 0);
	assert_int_equal(mkdirat(at, "gone", 0700), 0);
	v = sfs_snap_view(s);
	assert_int_equal(v->rc, -ESTALE);
	assert_null(v->dir.manifest);
	sfs_view_put(s, v);
	sfs_snap_put(s);
}

#define GOOD(test) cmocka_unit_test_setup_teardown(test, setup_good, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		GOOD(all_who_wait_get_the_outcome_once),
		GOOD(cancelled_waiter_is_not_called),
		GOOD(cancel_before_the_wait_refuses_it),
		GOOD(view_follows_the_manifest_and_survives_its_loss),
		GOOD(views_between_requests_are_few_however_many_snapshots_are_known),
		GOOD(directory_of_the_same_name_is_another_one),
		cmocka_unit_test_setup_teardown(damage_is_remembered_for_this_very_file, setup_bad,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
