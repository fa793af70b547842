/* The host's KVM, asked while other things are done: see host_ask.h. */
#include "host_ask.h"

#include <cpuid.h>
#include <signal.h>

/* CPUID.1:ECX (Intel SDM), CPUID.8000_0001:ECX (AMD APM). */
#define VMX (1U << 5)
#define SVM (1U << 2)

/*
 * A KVM without the hardware's help cannot trap CPUID: then a probe is as good as
 * certain. (Both leaves are there on each CPU that runs 64-bit code.)
 */
static bool is_software(void)
{
	unsigned a, b, intel, amd, d;

	__cpuid(1, a, b, intel, d);
	__cpuid(0x80000001, a, b, amd, d);
	return !(intel & VMX) && !(amd & SVM);
}

static void *ask(void *arg)
{
	struct host_ask *a = arg;

	a->rc = kvm_host_open(&a->kvm, &a->problem);
	if (a->rc == 0)
		a->rc = preflight_ask(&a->kvm, &a->host, &a->problem);
	if (a->rc == 0 && is_software())
		a->rc = preflight_probe(&a->kvm, &a->host, &a->problem);
	return NULL;
}

void host_ask_begin(struct host_ask *a)
{
	sigset_t all, before;

	*a = (struct host_ask){ .kvm = KVM_HOST_NONE };
	/* No signal is this thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	a->asking = pthread_create(&a->thread, NULL, ask, a) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!a->asking)
		ask(a);
}

static void wait_for_answer(struct host_ask *a)
{
	if (a->asking)
		pthread_join(a->thread, NULL);
	a->asking = false;
}

int host_ask_end(struct host_ask *a, struct kvm_host *kvm, const SnapshotManifest *m,
		 const VmState *s, struct err *e)
{
	int rc;

	wait_for_answer(a);
	rc = a->rc;
	if (rc < 0 && e)
		*e = a->problem;
	if (rc == 0 && preflight_wants_probe(&a->host, m, s))
		rc = preflight_probe(&a->kvm, &a->host, e);
	*kvm = a->kvm;
	a->kvm = KVM_HOST_NONE;
	return rc;
}

void host_ask_close(struct host_ask *a)
{
	wait_for_answer(a);
	preflight_forget(&a->host);
	kvm_host_close(&a->kvm);
}
