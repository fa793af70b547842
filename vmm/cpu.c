/*
 * A vCPU's thread: runs the guest, answers its exits, parks when it is held.
 *
 * A thread parks only when KVM_RUN has returned EINTR: KVM completes a port or
 * memory access on the *next* entry, so a vCPU that has just answered an exit
 * goes in once more, with immediate_exit set, and only then is its state whole.
 */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "lost_page.h"

static void on_kick(int sig)
{
	(void)sig;
}

int cpu_install_kick(void)
{
	struct sigaction action = { .sa_handler = on_kick };

	return sigaction(SIGRTMIN, &action, NULL) < 0 ? -errno : 0;
}

/*
 * Under the machine's lock. immediate_exit is set first, so that a kick that
 * falls between the thread's last look and KVM_RUN is not lost.
 */
void cpu_kick(struct cpu *c)
{
	if (!c->started)
		return;
	if (c->machine->vm.fd >= 0)
		__atomic_store_n(&c->machine->vm.vcpu[c->index].run->immediate_exit, 1,
				 __ATOMIC_SEQ_CST);
	pthread_kill(c->thread, SIGRTMIN);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Waits while the machine is held. False: the thread ends. */
static bool park(struct cpu *c)
{
	struct machine *m = c->machine;
	bool go_on;

	pthread_mutex_lock(&m->lock);
	if (m->holds && !m->quit) {
		m->parked++;
		pthread_cond_broadcast(&m->changed);
		while (m->holds && !m->quit)
			pthread_cond_wait(&m->changed, &m->lock);
		m->parked--;
		if (!m->parked)
			m->resumed_ns = now_ns();
		pthread_cond_broadcast(&m->changed);
	}
	go_on = !m->quit;
	/* A reset or a save may have given the machine another vm while this thread slept. */
	if (go_on)
		m->vm.vcpu[c->index].run->immediate_exit = 0;
	pthread_mutex_unlock(&m->lock);
	return go_on;
}

static void report_failure(struct cpu *c, const char *what, uint64_t detail)
{
	struct machine *m = c->machine;

	pthread_mutex_lock(&m->lock);
	snprintf(m->failure, sizeof(m->failure), "vCPU %u: %s (0x%llx)", c->index, what,
		 (unsigned long long)detail);
	pthread_mutex_unlock(&m->lock);
	machine_post(m, EVENT_FAILED, HOLD_END);
}

/* ---- exits ---- */

static void on_io(struct cpu *c, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		machine_port_io(c->machine, run->io.direction == KVM_EXIT_IO_OUT, run->io.port,
				data, run->io.size);
}

/*
 * An access to memory that KVM could not do itself, because the host has no page:
 * do it here, where a fault is survived. It is complete when KVM_RUN is called.
 * What is written to read-only pmem goes nowhere.
 */
static bool access_ram(struct cpu *c, struct kvm_run *run)
{
	struct ram *ram = machine_memory_at(c->machine, run->mmio.phys_addr, run->mmio.len);
	int rc = 0;

	if (!ram || (run->mmio.is_write && ram->read_only))
		;
	else if (run->mmio.is_write)
		rc = ram_write(ram, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		rc = ram_read(ram, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	c->retry_mmio = rc < 0;
	return rc == 0;
}

static void on_mmio(struct cpu *c, struct kvm_run *run)
{
	if (machine_memory_at(c->machine, run->mmio.phys_addr, run->mmio.len)) {
		if (!access_ram(c, run))
			machine_report_fault(c->machine, run->mmio.phys_addr,
					     "MMIO exit inside RAM");
		return;
	}
	machine_mmio(c->machine, run->mmio.is_write, run->mmio.phys_addr, run->mmio.data,
		     run->mmio.len);
}

/* True, and said, where the vCPU failed for want of a RAM page. */
static bool was_lost_page(struct cpu *c, const char *form)
{
	uint64_t address;

	if (!lost_page_find(&c->machine->ram, c->machine->vm.vcpu[c->index].fd, &address))
		return false;
	machine_report_fault(c->machine, address, form);
	return true;
}

static void on_shutdown(struct cpu *c, struct kvm_run *run)
{
	(void)run;
	/* A triple fault: how a PC resets itself when all else has failed. */
	if (was_lost_page(c, "triple fault over a missing page"))
		lost_page_undo(c->machine->vm.vcpu[c->index].fd);
	else
		machine_post(c->machine, EVENT_RESET, HOLD_RESET);
}

static void on_system_event(struct cpu *c, struct kvm_run *run)
{
	if (run->system_event.type == KVM_SYSTEM_EVENT_RESET)
		machine_post(c->machine, EVENT_RESET, HOLD_RESET);
	else
		report_failure(c, "the guest ended itself", run->system_event.type);
}

static void on_fail_entry(struct cpu *c, struct kvm_run *run)
{
	report_failure(c, "the hardware refused to enter the guest",
		       run->fail_entry.hardware_entry_failure_reason);
}

static void on_internal_error(struct cpu *c, struct kvm_run *run)
{
	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION ||
	    !was_lost_page(c, "emulation failed over a missing page"))
		report_failure(c, "KVM could not emulate an instruction", run->internal.suberror);
}

static const struct {
	uint32_t reason;
	enum exit_kind count;
	void (*handle)(struct cpu *c, struct kvm_run *run);
} exits[] = {
	{ KVM_EXIT_IO, COUNT_IO, on_io },
	{ KVM_EXIT_MMIO, COUNT_MMIO, on_mmio },
	{ KVM_EXIT_SHUTDOWN, COUNT_OTHER, on_shutdown },
	{ KVM_EXIT_SYSTEM_EVENT, COUNT_OTHER, on_system_event },
	{ KVM_EXIT_FAIL_ENTRY, COUNT_OTHER, on_fail_entry },
	{ KVM_EXIT_INTERNAL_ERROR, COUNT_OTHER, on_internal_error },
};

static void count(struct cpu *c, enum exit_kind kind)
{
	__atomic_fetch_add(&c->exits[kind], 1, __ATOMIC_RELAXED);
}

static void handle_exit(struct cpu *c, struct kvm_run *run)
{
	for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++) {
		if (exits[i].reason != run->exit_reason)
			continue;
		count(c, exits[i].count);
		exits[i].handle(c, run);
		return;
	}
	count(c, COUNT_OTHER);
	if (run->exit_reason != KVM_EXIT_INTR && run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN)
		report_failure(c, "unknown exit", run->exit_reason);
}

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* Linux 6.8 */
#endif

/* KVM_RUN failed: what cannot be entered for want of a page is a memory fault. */
static void handle_error(struct cpu *c, struct kvm_run *run, int errnum)
{
	/* Linux 6.8 and later name the page: { u64 flags, gpa, size } after the header. */
	if (errnum == EFAULT || errnum == EHWPOISON) {
		uint64_t gpa = UINT64_MAX;

		if (run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
			memcpy(&gpa, (uint8_t *)&run->mmio + 8, sizeof(gpa));
			machine_report_fault(c->machine, gpa, "KVM_EXIT_MEMORY_FAULT");
		} else {
			machine_report_fault(c->machine, gpa, "EFAULT of KVM_RUN");
		}
	} else {
		report_failure(c, strerror(errnum), (uint64_t)errnum);
	}
}

/* Before a vCPU goes in again, what a memory fault left undone. False: still not to be had. */
static bool finish_ram_access(struct cpu *c, struct kvm_run *run)
{
	if (!c->retry_mmio || access_ram(c, run))
		return true;
	machine_report_fault(c->machine, run->mmio.phys_addr, "MMIO exit inside RAM");
	return false;
}

void *cpu_main(void *arg)
{
	struct cpu *c = arg;

	c->tid = gettid();
	while (park(c)) {
		struct vm_vcpu *v = &c->machine->vm.vcpu[c->index];

		for (;;) {
			int rc;

			if (!finish_ram_access(c, v->run))
				break;
			rc = ioctl(v->fd, KVM_RUN, NULL);
			if (rc == 0) {
				handle_exit(c, v->run);
				if (c->retry_mmio)
					break;
				continue;
			}
			count(c, COUNT_INTERRUPTED);
			if (errno == EINTR)
				break;
			if (errno == EAGAIN)
				continue;
			handle_error(c, v->run, errno);
			break;
		}
	}
	return NULL;
}
