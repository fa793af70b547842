/*
 * The sandbox, from within: each test forks a child that enters it and makes one
 * system call; what is not allowed ends it, with a line that names the call.
 */
#include "unit.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "vmm/sandbox.h"

#define GOES_ON 42

/* The child's exit status, or -1 where a signal ended it; what it said into `said`. */
static int run_confined(int (*probe)(void), char *said, size_t room)
{
	int out[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct err e;

		dup2(out[1], STDERR_FILENO);
		if (sandbox_enter(&e) < 0) {
			dprintf(STDERR_FILENO, "%s", e.text);
			_exit(99);
		}
		probe();
		_exit(GOES_ON);
	}
	close(out[1]);
	while ((n = read(out[0], said + len, room - 1 - len)) > 0)
		len += (size_t)n;
	said[len] = '\0';
	close(out[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void assert_ends(int (*probe)(void), const char *call)
{
	char said[4096];
	int status = run_confined(probe, said, sizeof(said));

	if (status != STATUS_ENVIRONMENT || !strstr(said, "sandbox") || !strstr(said, call))
		fail_msg("%s: it ends with %d and says '%s'", call, status, said);
	assert_int_equal(lines_in(said), 2); /* one, and its newline */
}

static void assert_goes_on(int (*probe)(void))
{
	char said[4096];
	int status = run_confined(probe, said, sizeof(said));

	if (status != GOES_ON || *said)
		fail_msg("it ends with %d and says '%s'", status, said);
}

/* ---- what is not allowed ---- */

static int run_program(void)
{
	return execl("/bin/true", "true", (char *)NULL);
}

static int open_internet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static int open_netlink(void)
{
	return socket(AF_NETLINK, SOCK_RAW, 0);
}

static int make_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static int run_by_x32(void)
{
	return (int)syscall(0x40000000 | SYS_getpid);
}

static void enter_then_forbidden_call_ends_the_process(void **state)
{
	(void)state;
	assert_ends(run_program, "execve");
	assert_ends(open_internet, "socket");
	assert_ends(open_netlink, "socket");
	assert_ends(make_namespace, "unshare");
}

/* There is no use for another architecture's calls: no word either. */
static void enter_then_call_of_another_architecture_kills(void **state)
{
	char said[4096];

	(void)state;
	assert_int_equal(run_confined(run_by_x32, said, sizeof(said)), -1);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static int signal_others(void)
{
	return (int)syscall(SYS_tgkill, 1, 1, 0);
}

static int create_vm_device(void)
{
	struct kvm_create_device d = { .type = KVM_DEV_TYPE_VFIO };

	return ioctl(STDIN_FILENO, KVM_CREATE_DEVICE, &d);
}

static int type_into_terminal(void)
{
	return ioctl(STDIN_FILENO, 0x5412 /* TIOCSTI */, "x");
}

static int trace(void)
{
	return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int make_process(void)
{
	return fork();
}

static int make_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	return p == MAP_FAILED ? -1 : 0;
}

static int make_data_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mprotect(p, 4096, PROT_READ | PROT_EXEC);
}

/* What the sanitizers' own work needs is allowed in their builds. */
static void enter_then_call_with_forbidden_arguments_ends_the_process(void **state)
{
	(void)state;
	assert_ends(trace, "ptrace");
	assert_ends(make_process, "clone");
	assert_ends(make_code, "mmap");
	assert_ends(make_data_code, "mprotect");
	assert_ends(signal_others, "tgkill");
	assert_ends(create_vm_device, "ioctl");
	assert_ends(type_into_terminal, "ioctl");
}
#endif

/* ---- what is ---- */

static void *add_one(void *arg)
{
	(*(int *)arg)++;
	return NULL;
}

static int make_thread(void)
{
	pthread_t t;
	int n = 0;

	if (pthread_create(&t, NULL, add_one, &n) || pthread_join(t, NULL) || n != 1)
		_exit(1);
	return 0;
}

static int use_files(void)
{
	const char path[] = "/proc/self/fd/";
	char name[64];
	int fd = memfd_create("state", MFD_CLOEXEC), again, event = eventfd(0, EFD_CLOEXEC);

	snprintf(name, sizeof(name), "%s%d", path, fd);
	again = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || event < 0 || again < 0 || write(fd, "x", 1) != 1)
		_exit(1);
	if (ftruncate(fd, 4096) < 0 || fallocate(fd, 0, 0, 4096) < 0 || fsync(fd) < 0)
		_exit(2);
	return 0;
}

static int use_sockets(void)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0)
		_exit(1);
	return 0;
}

static int use_memory(void)
{
	for (size_t n = 16; n < 64 << 20; n *= 4) {
		char *p = malloc(n), *more;

		if (!p)
			_exit(1);
		memset(p, 1, n);
		more = realloc(p, n * 2);
		if (!more)
			_exit(1);
		free(more);
	}
	return 0;
}

static int kick_itself(void)
{
	signal(SIGRTMIN, SIG_IGN);
	return pthread_kill(pthread_self(), SIGRTMIN);
}

static void enter_leaves_what_a_machine_needs(void **state)
{
	(void)state;
	assert_goes_on(make_thread);
	assert_goes_on(use_files);
	assert_goes_on(use_sockets);
	assert_goes_on(use_memory);
	assert_goes_on(kick_itself);
}

/* ---- privileges ---- */

/* The child's own status shows nothing left, for its threads too. */
static int look_at_privileges(void)
{
	static const char *const want[] = { "CapInh:\t0000000000000000\n",
					    "CapPrm:\t0000000000000000\n",
					    "CapEff:\t0000000000000000\n",
					    "CapAmb:\t0000000000000000\n",
					    "NoNewPrivs:\t1\n",
					    "Seccomp:\t2\n" };
	char text[8192] = "";
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		_exit(1);
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		if (!strstr(text, want[i]))
			_exit((int)(10 + i));
	if (geteuid() == 0 && !strstr(text, "CapBnd:\t0000000000000000\n"))
		_exit(20);
	return 0;
}

static void enter_leaves_no_privileges(void **state)
{
	(void)state;
	assert_goes_on(look_at_privileges);
}

#ifndef __SANITIZE_THREAD__
static void *wait_to_read(void *arg)
{
	char byte;

	return read(*(int *)arg, &byte, 1) < 0 ? arg : NULL;
}

static void enter_with_other_threads_is_refused(void **state)
{
	struct err e = { 0 };
	int gate[2];
	pthread_t t;

	(void)state;
	assert_int_equal(pipe(gate), 0);
	assert_int_equal(pthread_create(&t, NULL, wait_to_read, &gate[0]), 0);
	assert_int_equal(sandbox_enter(&e), -EBUSY);
	assert_says(&e, "sandbox");
	assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	close(gate[1]);
	pthread_join(t, NULL);
	close(gate[0]);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(enter_then_forbidden_call_ends_the_process),
		cmocka_unit_test(enter_then_call_of_another_architecture_kills),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		cmocka_unit_test(enter_then_call_with_forbidden_arguments_ends_the_process),
#endif
		cmocka_unit_test(enter_leaves_what_a_machine_needs),
		cmocka_unit_test(enter_leaves_no_privileges),
#ifndef __SANITIZE_THREAD__
		cmocka_unit_test(enter_with_other_threads_is_refused),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
