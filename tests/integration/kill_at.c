/*
 * kill_at PID N: kills the process just before its N-th system call from now on,
 * or says how many it made until it ended or this program was told to stop
 * (SIGTERM, which leaves the process running).
 *
 * Prints "ready" once it counts; then "killed before call NUMBER" or "made COUNT".
 * Only the process's first thread is looked at.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* True where it has just stopped before a system call, whose number is then *nr. */
static bool at_entry(pid_t pid, unsigned long long *nr)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) <= 0 ||
	    info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return false;
	*nr = info.entry.nr;
	return true;
}

/* The signal that is to be passed on when it goes on; 0: none. */
static int signal_of(int status)
{
	int sig = WSTOPSIG(status);

	return sig == (SIGTRAP | 0x80) || status >> 16 ? 0 : sig;
}

/*
 * Waits for the process to stop or end. False: this program was told to stop.
 * Both come as blocked signals, so that neither can be missed.
 */
static bool next_stop(pid_t pid, const sigset_t *signals, int *status)
{
	for (;;) {
		if (waitpid(pid, status, __WALL | WNOHANG) > 0)
			return true;
		if (sigwaitinfo(signals, NULL) == SIGTERM)
			return false;
	}
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 3 ? atoi(argv[1]) : 0;
	long n = argc == 3 ? atol(argv[2]) : 0, count = 0;
	unsigned long long nr;
	sigset_t signals;
	int status;

	if (pid <= 0 || n <= 0)
		return 2;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) < 0 ||
	    ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0) {
		perror("kill_at");
		return 3;
	}
	/* Once this program ends, the kernel lets the process go on. */
	for (bool ready = false; next_stop(pid, &signals, &status); ready = true) {
		if (!WIFSTOPPED(status))
			break;
		if (ready && at_entry(pid, &nr) && ++count == n) {
			kill(pid, SIGKILL);
			printf("killed before call %llu\n", nr);
			return 0;
		}
		ptrace(PTRACE_SYSCALL, pid, 0, signal_of(status));
		if (!ready)
			puts("ready");
		fflush(stdout);
	}
	printf("made %ld\n", count);
	return 0;
}
