/*
 * The sandbox: see sandbox.h.
 *
 * A forbidden call is trapped, not killed: of a process that the kernel kills an
 * operator at night finds a number in the kernel's log, if that is kept; here
 * vmm's own log names the call, beside what else vmm said, and the exit status
 * tells that vmm failed, not its guest. The call itself is not made either way.
 * A guest that has broken in could change the handler or block the signal: it
 * loses the message that way, and gains nothing. The kernel's log is not asked
 * for more (SECCOMP_FILTER_FLAG_LOG): it would have a line for each thread that
 * is made, of clone3 refused. Calls of another architecture kill at once.
 *
 * What this does not do: it cannot tell paths apart. openat() stays allowed,
 * with the rights of vmm's user and no capability: as root, what others own and
 * root's privilege alone opens is closed to it.
 */
#define _GNU_SOURCE
#include "sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "sandbox_filter.h"
#include "sandbox_rules.h"

#define NCALLS (sizeof(call_names) / sizeof(call_names[0]))
#define LENGTH (sizeof(filter) / sizeof(filter[0]))

/* ---- a call that is not allowed ---- */

struct line {
	char text[384];
	size_t len;
};

static void add(struct line *l, const char *words)
{
	while (*words && l->len < sizeof(l->text))
		l->text[l->len++] = *words++;
}

static void add_number(struct line *l, uint64_t number, unsigned base)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = '\0';
	do
		digits[--at] = "0123456789abcdef"[number % base];
	while (number /= base);
	add(l, digits + at);
}

/* In a signal handler: nothing but write(2), no locks, no printf(3). */
static void on_violation(int sig, siginfo_t *info, void *context)
{
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	const unsigned nr = (unsigned)info->si_syscall;
	struct line l = { .len = 0 };

	(void)sig;
	add(&l, "vmm: error: the sandbox does not allow the system call ");
	add_number(&l, nr, 10);
	add(&l, ", ");
	add(&l, nr < NCALLS && call_names[nr] ? call_names[nr] : "unknown");
	add(&l, "(0x");
	add_number(&l, (uint64_t)regs[REG_RDI], 16);
	add(&l, ", 0x");
	add_number(&l, (uint64_t)regs[REG_RSI], 16);
	add(&l, ", 0x");
	add_number(&l, (uint64_t)regs[REG_RDX], 16);
	add(&l, "): vmm ends. Its guest has broken into it, or vmm has a bug: do not run this "
		"guest again without the sandbox\n");
	if (write(STDERR_FILENO, l.text, l.len) < 0)
		_exit(STATUS_ENVIRONMENT);
	_exit(STATUS_ENVIRONMENT);
}

static int install_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_violation, .sa_flags = SA_SIGINFO };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	if (sigaction(SIGSYS, &action, NULL) < 0 || sigprocmask(SIG_UNBLOCK, &set, NULL) < 0)
		return -errno;
	return 0;
}

/* ---- privileges ---- */

/* The links of the directory: itself, its parent, and one for each thread. */
static bool is_alone(void)
{
#ifdef __SANITIZE_THREAD__
	return true; /* it has a thread of its own, which runs no guest */
#else
	struct stat st;

	return stat("/proc/self/task", &st) < 0 || st.st_nlink <= 3;
#endif
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	/* EPERM: not root's, and without a new program the bounding set gives nothing. */
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return -errno;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* ---- the filter ---- */

static int install_filter(void)
{
	struct sock_filter own[LENGTH];
	struct sock_fprog program = { .len = LENGTH, .filter = own };
	long rc;

	memcpy(own, filter, sizeof(own));
	for (size_t i = 0; i < LENGTH; i++)
		if (BPF_CLASS(own[i].code) == BPF_JMP && own[i].k == SANDBOX_OWN_PID)
			own[i].k = (uint32_t)getpid();
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
	return rc < 0 ? -errno : rc > 0 ? -EBUSY : 0;
}

int sandbox_enter(struct err *e)
{
	int rc = is_alone() ? install_handler() : -EBUSY;

	if (rc == 0)
		rc = drop_capabilities();
	if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	if (rc == 0)
		rc = install_filter();
	if (rc < 0)
		return err_sys(e, -rc, "cannot enter the sandbox");
	return 0;
}
