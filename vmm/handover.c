/* Handing the guest over to a second VM: see handover.h. */
#define _GNU_SOURCE
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cpuid.h"
#include "machine.h"
#include "msr.h"
#include "vm_time.h"

#define STEAL_ENABLED 1ULL
#define STEAL_ALIGN   64ULL

/* ---- prepare ---- */

static int make_bindings(struct handover *h, const struct machine *m, struct err *e)
{
	int rc = 0;

	h->binding = calloc(m->nvirtio ? m->nvirtio : 1, sizeof(*h->binding));
	if (!h->binding)
		return err_sys(e, ENOMEM, "cannot connect the devices with a second VM");
	while (rc == 0 && h->nbindings < m->nvirtio) {
		rc = virtio_binding_make(m->virtio[h->nbindings], &h->vm, &h->binding[h->nbindings],
					 e);
		h->nbindings += rc == 0;
	}
	return rc;
}

int handover_prepare(struct machine *m, struct ram *const memory[], unsigned n, struct err *e)
{
	struct handover *h = &m->handover;
	int rc;

	handover_end(m);
	rc = vm_create(&h->vm, &m->kvm, (const struct ram *const *)memory, n, m->ncpus, e);
	if (rc < 0)
		return rc;
	h->made = true;
	rc = cpuid_set(&h->vm, m->cpuid, e);
	/* For the guest's wall clock, which KVM computes from it when a vCPU is loaded. */
	if (rc == 0)
		rc = vm_time_take_over_clock(&h->vm, &m->vm, e);
	if (rc == 0)
		rc = make_bindings(h, m, e);
	h->prepared = rc == 0;
	h->ram = memory[0];
	if (rc < 0)
		handover_finish(m);
	return rc;
}

/* ---- commit ---- */

static int watch_bindings(struct handover *h, struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < h->nbindings; i++) {
		int rc = virtio_binding_watch(m->virtio[i], &h->binding[i], e);

		if (rc == 0)
			continue;
		while (i-- > 0)
			virtio_binding_unwatch(m->virtio[i], &h->binding[i]);
		return rc;
	}
	return 0;
}

uint64_t handover_steal(uint64_t steal, uint64_t waited)
{
	return steal - waited;
}

/* How long a thread has waited for a CPU, ns. False: the kernel does not tell. */
static bool read_waited(pid_t tid, uint64_t *waited)
{
	char path[64], text[96];
	auto_fd int fd = -1;
	unsigned long long ns;
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (len <= 0)
		return false;
	text[len] = '\0';
	if (sscanf(text, "%*u %llu", &ns) != 1)
		return false;
	*waited = ns;
	return true;
}

/*
 * KVM adds to a guest's steal time what its thread has waited since the last time,
 * and in a new VM there was none: the guest would see all the waits of its life once
 * more, and its scheduler stand still until they are worked off.
 */
static void keep_steal_time(struct machine *m, const VcpuState *s)
{
	uint64_t address = 0, steal, waited;

	for (size_t i = 0; i < s->n_msr; i++)
		if (s->msr[i]->index == MSR_KVM_STEAL_TIME)
			address = s->msr[i]->data;
	if (!(address & STEAL_ENABLED))
		return;
	address &= ~(STEAL_ALIGN - 1);
	if (!read_waited(m->cpu[s->id].tid, &waited) ||
	    ram_read(m->handover.ram, address, &steal, sizeof(steal)) < 0)
		return;
	steal = handover_steal(steal, waited);
	/* What cannot be written is not there for KVM, either. */
	(void)ram_write(m->handover.ram, address, &steal, sizeof(steal));
}

int handover_commit(struct machine *m, const VmState *state, struct err *e)
{
	struct handover *h = &m->handover;
	int rc;

	if (!h->prepared)
		return -ENOENT;
	h->prepared = false;
	rc = vm_take_over(&h->vm, &m->vm, state, e);
	if (rc == 0)
		rc = watch_bindings(h, m, e);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < h->nbindings; i++)
		virtio_binding_exchange(m->virtio[i], &h->binding[i]);
	for (size_t i = 0; i < state->n_vcpu; i++)
		keep_steal_time(m, state->vcpu[i]);
	machine_exchange_vm(m, &h->vm);
	machine_tell_paused(m);
	return 0;
}

/* ---- finish ---- */

static void close_all(struct handover *h)
{
	vm_destroy(&h->vm);
	for (unsigned i = 0; i < h->nbindings; i++)
		virtio_binding_close(&h->binding[i]);
	free(h->binding);
	h->binding = NULL;
	h->nbindings = 0;
}

static void *closer_main(void *arg)
{
	close_all(arg);
	return NULL;
}

void handover_finish(struct machine *m)
{
	struct handover *h = &m->handover;
	sigset_t all, before;

	if (!h->made)
		return;
	h->made = h->prepared = false;
	/* The process's signals are the main thread's. */
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	h->closing = pthread_create(&h->closer, NULL, closer_main, h) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!h->closing)
		close_all(h);
}

void handover_end(struct machine *m)
{
	struct handover *h = &m->handover;

	handover_finish(m);
	if (h->closing)
		pthread_join(h->closer, NULL);
	h->closing = false;
}
