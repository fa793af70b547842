/*
 * bench_time WHAT FILE [TREE]: prints the seconds that one action on a file takes.
 * WHAT: open (the mean of many), read, mmap (each page, in order), random (each 16th page,
 * scattered), digest (merkle_digest_fd, its tree into the new file TREE if that is given), or drop
 * (the file's pages are given up; prints nothing).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/merkle.h"

#define OPENS 200

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The stride is odd, so that it meets each page of a power of two just once. */
static void touch(int fd, size_t size, int scattered)
{
	size_t pages = size / 4096, count = scattered ? pages / 16 : pages;
	volatile const unsigned char *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	if (scattered)
		madvise((void *)p, size, MADV_RANDOM);
	for (size_t i = 0; i < count; i++)
		(void)p[(scattered ? i * 40503 % pages : i) * 4096];
}

static void read_all(int fd)
{
	static char buf[1 << 20];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		;
	if (n < 0)
		die("read");
}

static void digest(int fd, size_t size, const char *tree)
{
	uint8_t out[DIGEST_SIZE];
	int tree_fd = tree ? open(tree, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;

	if (tree && tree_fd < 0)
		die(tree);
	if (merkle_digest_fd(fd, size, tree_fd, NULL, out) != 0)
		die("merkle_digest_fd");
}

static void open_often(const char *path)
{
	for (int i = 0; i < OPENS; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			die(path);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	double start;
	struct stat st;
	int fd;

	if (argc < 3)
		return 2;
	fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0)
		die(argv[2]);
	if (strcmp(argv[1], "drop") == 0)
		return posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0;
	start = now();
	if (strcmp(argv[1], "open") == 0) {
		open_often(argv[2]);
		printf("%.9f\n", (now() - start) / OPENS);
		return 0;
	}
	if (strcmp(argv[1], "read") == 0)
		read_all(fd);
	else if (strcmp(argv[1], "digest") == 0)
		digest(fd, (size_t)st.st_size, argc > 3 ? argv[3] : NULL);
	else
		touch(fd, (size_t)st.st_size, strcmp(argv[1], "random") == 0);
	printf("%.9f\n", now() - start);
	return 0;
}
