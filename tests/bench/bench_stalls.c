/*
 * bench_stalls SECONDS MIB [FILE]: writes one word into each page of a mapping, over and
 * over, as a busy guest does with its RAM: of FILE, shared, or without one of anonymous
 * memory. Prints how many stores took over 10 ms, the longest one in ms, and how many
 * million were done a second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define STALL 10e-3

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

static void *map(const char *path, size_t size)
{
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	void *p;

	if (path && (fd < 0 || posix_fallocate(fd, 0, (off_t)size) != 0))
		die(path);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		 path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

int main(int argc, char **argv)
{
	double seconds, start, last, longest = 0, stores = 0;
	unsigned stalls = 0;
	size_t size;
	volatile uint8_t *p;

	if (argc < 3)
		return 2;
	seconds = atof(argv[1]);
	size = (size_t)atol(argv[2]) << 20;
	p = map(argc > 3 ? argv[3] : NULL, size);
	start = last = now();
	for (uint64_t n = 1; last - start < seconds; n++)
		for (size_t at = 0; at < size && last - start < seconds; at += 4096) {
			double t;

			*(volatile uint64_t *)(p + at) = n;
			t = now();
			if (t - last > STALL)
				stalls++;
			if (t - last > longest)
				longest = t - last;
			last = t;
			stores++;
		}
	printf("%u %.3f %.3f\n", stalls, longest * 1e3, stores / seconds / 1e6);
	return 0;
}
