/*
 * bench_spawn COMMAND [ARGUMENT..]: prints the seconds from the start of a program to
 * the first byte on its standard output, and kills it.
 */
#define _GNU_SOURCE
#include <signal.h>
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
	int out[2], status;
	double start;
	pid_t pid;
	char byte;

	if (argc < 2)
		return 2;
	if (pipe(out) != 0)
		die("pipe");
	start = now();
	pid = vfork();
	if (pid < 0)
		die("vfork");
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
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
