/*
 * SIGBUS survived: see fault.h.
 *
 * The guard is per thread and the handler needs to find it without an
 * argument, so it is this file's own thread-local variable; and so is the
 * address that the handler has to tell.
 */
#define _GNU_SOURCE
#include "fault.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static _Thread_local sigjmp_buf *guard;
static _Thread_local const void *lost;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	struct sigaction fallback = { .sa_handler = SIG_DFL };
	const ucontext_t *interrupted = context;

	if (guard) {
		lost = info->si_addr;
		/* The jump does not restore the mask, whatever was added to it for this handler. */
		pthread_sigmask(SIG_SETMASK, &interrupted->uc_sigmask, NULL);
		siglongjmp(*guard, 1);
	}
	/* Not one of our copies: a bug. Let it end the process, with its core. */
	sigaction(sig, &fallback, NULL);
}

int fault_install(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

/*
 * Guest memory is written by the guest, and by devices, while it is copied: those who copy
 * know that. For ThreadSanitizer it would be a race, so it does not get to see this.
 */
static void copy(void *to, const void *from, size_t n)
{
#ifdef __SANITIZE_THREAD__
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
	memcpy(to, from, n);
#endif
}

int fault_copy(void *to, const void *from, size_t n)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 0)) {
		guard = NULL;
		return -EFAULT;
	}
	guard = &here;
	__asm__ volatile("" ::: "memory");
	copy(to, from, n);
	__asm__ volatile("" ::: "memory");
	guard = NULL;
	return 0;
}

int fault_load16(const uint16_t *from, uint16_t *value)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 0)) {
		guard = NULL;
		return -EFAULT;
	}
	guard = &here;
	__asm__ volatile("" ::: "memory");
	*value = __atomic_load_n(from, __ATOMIC_SEQ_CST);
	__asm__ volatile("" ::: "memory");
	guard = NULL;
	return 0;
}

int fault_store16(uint16_t *to, uint16_t value)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 0)) {
		guard = NULL;
		return -EFAULT;
	}
	guard = &here;
	__asm__ volatile("" ::: "memory");
	/* Looked at first: ThreadSanitizer stores under a lock of its own, which a jump keeps. */
	__atomic_load_n(to, __ATOMIC_RELAXED);
	__atomic_store_n(to, value, __ATOMIC_SEQ_CST);
	__asm__ volatile("" ::: "memory");
	guard = NULL;
	return 0;
}

const void *fault_take_address(void)
{
	const void *address = lost;

	lost = NULL;
	return address;
}
