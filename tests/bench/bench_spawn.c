/*
 * bench_spawn COMMAND [ARGUMENT..]: prints the seconds from the start of a program to
 * the first byte on its standard output, and kills it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
	posix_spawn_file_actions_t actions;
	int out[2], status;
	double start;
	pid_t pid;
	char byte;

	if (argc < 2)
		return 2;
	if (pipe2(out, O_CLOEXEC) != 0 || posix_spawn_file_actions_init(&actions) != 0 ||
	    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO) != 0)
		die("pipe");
	start = now();
	if (posix_spawnp(&pid, argv[1], &actions, NULL, argv + 1, environ) != 0)
		die(argv[1]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1) {
		fprintf(stderr, "bench_spawn: %s printed nothing\n", argv[1]);
		return 1;
	}
	start = now() - start;
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) < 0)
		die("waitpid");
	printf("%.9f\n", start);
	return 0;
}
