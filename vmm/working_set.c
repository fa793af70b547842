/* The pages that a restored guest touches first: see working_set.h. */
#define _GNU_SOURCE
#include "working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define ENTRIES 4096ULL			  /* pages looked up at a time */
#define PIECE	(2ULL << 20)		  /* bytes mapped at a time: so soon a stop is heard */
#define TOUCHED (1ULL << 63 | 1ULL << 62) /* pagemap: present, or swapped out */

/* ---- reading ahead ---- */

static void *read_ahead(void *arg)
{
	struct prefetch *p = arg;

	/* All that is not in memory is on its way before the first of it is waited for. */
	for (size_t i = 0; i < p->set.n && !atomic_load(&p->stop); i++)
		madvise(p->base + p->set.run[i].page * RAM_PAGE, p->set.run[i].count * RAM_PAGE,
			MADV_WILLNEED);
	for (size_t i = 0; i < p->set.n; i++) {
		uint8_t *at = p->base + p->set.run[i].page * RAM_PAGE;
		uint64_t left = p->set.run[i].count * RAM_PAGE;

		for (; left && !atomic_load(&p->stop); at += PIECE) {
			const uint64_t n = left < PIECE ? left : PIECE;

			madvise(at, n, MADV_POPULATE_READ);
			left -= n;
		}
	}
	return NULL;
}

void prefetch_start(struct prefetch *p, const struct ram *ram, struct working_set *set)
{
	sigset_t all, before;

	*p = (struct prefetch){ .base = ram->base, .set = *set };
	*set = (struct working_set){ 0 };
	if (p->set.n == 0)
		return;
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	p->started = pthread_create(&p->thread, NULL, read_ahead, p) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void prefetch_stop(struct prefetch *p)
{
	atomic_store(&p->stop, true);
	if (p->started)
		pthread_join(p->thread, NULL);
	p->started = false;
	proto_working_set_free(&p->set);
}

/* ---- noting ---- */

void working_set_watch(const struct ram *ram)
{
	/* Else what the kernel reads ahead would look as if it had been touched. */
	madvise(ram->base, ram->size, MADV_RANDOM);
}

static int collect(const struct ram *ram, struct working_set *s, uint64_t *pages)
{
	auto_fd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	auto_free uint64_t *entry = malloc(ENTRIES * sizeof(*entry));
	const uint64_t all = ram->size / RAM_PAGE;

	*pages = 0;
	if (pagemap < 0 || !entry)
		return pagemap < 0 ? -errno : -ENOMEM;
	for (uint64_t at = 0; at < all; at += ENTRIES) {
		const uint64_t n = all - at < ENTRIES ? all - at : ENTRIES;
		int rc = io_pread_full(pagemap, entry, n * sizeof(*entry),
				       ((uintptr_t)ram->base / RAM_PAGE + at) * sizeof(*entry));

		for (uint64_t i = 0; rc == 0 && i < n; i++)
			if (entry[i] & TOUCHED) {
				rc = proto_working_set_add(s, at + i);
				++*pages;
			}
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int pass_on(const struct working_set *s, struct publisher *p, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	auto_fd int fd = -1;
	size_t len;
	int rc = proto_working_set_encode(s, &buf, &len);

	if (rc == 0) {
		fd = memfd_create("working-set", MFD_CLOEXEC);
		rc = fd < 0 ? -errno : io_write_full(fd, buf, len);
	}
	if (rc < 0)
		return err_sys(e, -rc, "cannot pass the working set on");
	return publisher_keep_working_set(p, s->id, fd, e);
}

int working_set_keep(struct machine *m, struct publisher *p, uint64_t *pages, struct err *e)
{
	struct working_set s = { 0 };
	int rc;

	if (!m->restored)
		return err_refuse(e, EINVAL,
				  "only a machine that was restored has a working set to note");
	memcpy(s.id, m->restored_from, UUID_SIZE);
	rc = collect(&m->ram, &s, pages);
	rc = rc < 0 ? err_sys(e, -rc, "cannot see what the guest has touched") : pass_on(&s, p, e);
	proto_working_set_free(&s);
	return rc;
}
