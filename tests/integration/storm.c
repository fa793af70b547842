/*
 * storm MOUNT WANT SECONDS THREADS SEED: opens, reads, maps and closes files of the mount
 * from many threads at once, while others change the store, and compares all they get.
 *
 * The name of a snapshot says what is right: "c0-stays-7" has what WANT/c0/ has and is there
 * all the time; "c1-bad-3" is damaged, so that EIO is right but another byte is not; any
 * other, "c2-NAME", may go or get another name. Files may stay open while that happens.
 * Prints what it did; what is wrong ends it with 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CLASSES	    6
#define HELD	    8 /* files that a thread has open */
#define NAMES_MAX   1000
#define THREADS_MAX 64
#define PART	    50000 /* bytes of a read, at most */

static const char *const files[] = { "memory.bin", "state.bin" };
#define FILES (sizeof(files) / sizeof(*files))

struct content {
	char *bytes;
	size_t size;
};

struct held {
	char path[NAME_MAX * 2]; /* in the mount */
	int fd;			 /* -1: none */
	bool is_bad;
	const struct content *want;
};

struct thread {
	pthread_t id;
	uint64_t state;
	struct held held[HELD];
	char name[NAMES_MAX][NAME_MAX + 1];
	size_t names;
};

static const char *mount_dir;
static struct content contents[CLASSES][FILES];
static atomic_ulong opens, reads, maps, damage, gone;
static atomic_bool failed;
static time_t end;
static __thread sigjmp_buf on_bus;

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	va_list ap;

	atomic_store(&failed, true);
	va_start(ap, format);
	flockfile(stderr);
	fputs("storm: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	funlockfile(stderr);
	va_end(ap);
}

static void bus_error(int sig)
{
	(void)sig;
	siglongjmp(on_bus, 1);
}

static uint64_t below(struct thread *t, uint64_t n)
{
	/* xorshift64*: the same seed asks for the same. */
	t->state ^= t->state >> 12;
	t->state ^= t->state << 25;
	t->state ^= t->state >> 27;
	return (t->state * 0x2545f4914f6cdd1d >> 16) % n;
}

static void list(struct thread *t)
{
	DIR *d = opendir(mount_dir);
	struct dirent *e;

	t->names = 0;
	if (!d) {
		wrong("the mount cannot be listed: %s", strerror(errno));
		return;
	}
	while ((e = readdir(d)) && t->names < NAMES_MAX)
		if (e->d_name[0] == 'c' && strchr(e->d_name, '-'))
			strcpy(t->name[t->names++], e->d_name);
	closedir(d);
}

/* An error that a call on the file gave. */
static void judge(const struct held *h, const char *call, int error)
{
	if (error == EIO && h->is_bad)
		atomic_fetch_add(&damage, 1);
	else
		wrong("%s of %s: %s", call, h->path, strerror(error));
}

static void open_one(struct thread *t, struct held *h)
{
	const char *name = t->name[below(t, t->names)];
	const size_t file = below(t, FILES), class = (size_t)(name[1] - '0') % CLASSES;
	char path[PATH_MAX];
	struct stat st;

	snprintf(h->path, sizeof(h->path), "%s/%s", name, files[file]);
	snprintf(path, sizeof(path), "%s/%s", mount_dir, h->path);
	h->is_bad = strstr(name, "-bad-");
	h->want = &contents[class][file];
	h->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (h->fd >= 0) {
		atomic_fetch_add(&opens, 1);
		if (fstat(h->fd, &st) < 0 || (size_t)st.st_size != h->want->size)
			wrong("%s has another size", h->path);
	} else if ((errno == ENOENT || errno == ESTALE) && !strstr(name, "-stays-") && !h->is_bad) {
		atomic_fetch_add(&gone, 1);
	} else {
		judge(h, "open", errno);
	}
}

static void read_part(struct thread *t, const struct held *h)
{
	const size_t at = below(t, h->want->size), left = h->want->size - at;
	const size_t len = 1 + below(t, PART), there = len < left ? len : left;
	char buf[PART];
	const ssize_t n = pread(h->fd, buf, len, (off_t)at);

	atomic_fetch_add(&reads, 1);
	if (n < 0)
		judge(h, "read", errno);
	/* It may end before the damage. */
	else if ((size_t)n != there && !(h->is_bad && n > 0 && (size_t)n < there))
		wrong("%zu bytes at %zu of %s: got %zd", len, at, h->path, n);
	else if (memcmp(buf, h->want->bytes + at, (size_t)n) != 0)
		wrong("%zu bytes at %zu of %s are others", len, at, h->path);
}

static void map_all(const struct held *h)
{
	char *m = mmap(NULL, h->want->size, PROT_READ, MAP_SHARED, h->fd, 0);

	if (m == MAP_FAILED) {
		judge(h, "mmap", errno);
		return;
	}
	atomic_fetch_add(&maps, 1);
	if (sigsetjmp(on_bus, 1))
		judge(h, "a mapping", EIO);
	else if (memcmp(m, h->want->bytes, h->want->size) != 0)
		wrong("%s has other bytes, mapped", h->path);
	munmap(m, h->want->size);
}

static void *run(void *arg)
{
	struct thread *t = arg;

	for (size_t i = 0; i < HELD; i++)
		t->held[i].fd = -1;
	for (size_t round = 0; time(NULL) < end && !atomic_load(&failed); round++) {
		struct held *h = &t->held[below(t, HELD)];

		if (round % 100 == 0)
			list(t);
		if (t->names == 0)
			continue;
		if (h->fd < 0)
			open_one(t, h);
		if (h->fd < 0)
			continue;
		for (uint64_t n = below(t, 4); n > 0; n--)
			read_part(t, h);
		if (below(t, 3) == 0)
			map_all(h);
		if (below(t, 2) == 0) {
			close(h->fd);
			h->fd = -1;
		}
	}
	for (size_t i = 0; i < HELD; i++)
		if (t->held[i].fd >= 0)
			close(t->held[i].fd);
	return NULL;
}

static bool load(const char *dir)
{
	for (size_t c = 0; c < CLASSES; c++) {
		for (size_t i = 0; i < FILES; i++) {
			struct content *k = &contents[c][i];
			char path[PATH_MAX];
			struct stat st;
			int fd;

			snprintf(path, sizeof(path), "%s/c%zu/%s", dir, c, files[i]);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0 || fstat(fd, &st) < 0)
				return false;
			k->size = (size_t)st.st_size;
			k->bytes =
				mmap(NULL, k->size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
			close(fd);
			if (k->bytes == MAP_FAILED)
				return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	const struct sigaction bus = { .sa_handler = bus_error };
	struct thread *threads;
	size_t n;

	if (argc != 6 || !load(argv[2])) {
		fprintf(stderr, "usage: storm MOUNT WANT SECONDS THREADS SEED\n");
		return 2;
	}
	mount_dir = argv[1];
	end = time(NULL) + strtol(argv[3], NULL, 10);
	n = strtoul(argv[4], NULL, 10) % THREADS_MAX;
	sigaction(SIGBUS, &bus, NULL);
	threads = calloc(n, sizeof(*threads));
	for (size_t i = 0; threads && i < n; i++) {
		threads[i].state = strtoull(argv[5], NULL, 10) * THREADS_MAX + i + 1;
		if (pthread_create(&threads[i].id, NULL, run, &threads[i]) != 0)
			return 2;
	}
	for (size_t i = 0; threads && i < n; i++)
		pthread_join(threads[i].id, NULL);
	free(threads);
	printf("%lu opens, %lu reads, %lu maps, %lu times damage, %lu times gone\n",
	       atomic_load(&opens), atomic_load(&reads), atomic_load(&maps), atomic_load(&damage),
	       atomic_load(&gone));
	return atomic_load(&failed) || !atomic_load(&opens) || !atomic_load(&damage);
}
