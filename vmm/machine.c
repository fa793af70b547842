/* The machine: see machine.h. */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cpuid.h"
#include "demo_guest.h"
#include "dirty.h"
#include "vmgenid.h"

static void set_irq(void *arg, uint32_t irq, bool level)
{
	vm_set_irq(&((struct machine *)arg)->vm, irq, level);
}

static void request_reset(void *arg)
{
	machine_post(arg, EVENT_RESET, HOLD_RESET);
}

static void request_power_off(void *arg)
{
	machine_post(arg, EVENT_POWER_OFF, HOLD_END);
}

static void report_fault(void *arg, uint64_t address, const char *form)
{
	machine_report_fault(arg, address, form);
}

int machine_init(struct machine *m, unsigned ncpus, int output, struct err *e)
{
	int rc;

	memset(m, 0, sizeof(*m));
	m->kvm = KVM_HOST_NONE;
	m->vm.fd = m->ram.fd = m->event_fd = -1;
	m->ncpus = ncpus;
	m->holds = HOLD_USER;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	clock_gettime(CLOCK_MONOTONIC, &m->started);
	chardev_init(&m->console, output);
	m->host = (struct vdev_host){ m, set_irq, request_reset, request_power_off, report_fault };
	machine_init_builtin(m);
	if (getrandom(m->generation, sizeof(m->generation), 0) != sizeof(m->generation))
		return err_sys(e, errno, "cannot make a generation ID");
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0)
		return err_sys(e, errno, "cannot make an eventfd");
	rc = cpu_install_kick();
	if (rc < 0)
		return err_sys(e, -rc, "cannot set up a signal");
	rc = iothread_init(&m->io[0], e);
	if (rc < 0)
		return rc;
	m->nio = 1;
	return 0;
}

int machine_start(struct machine *m, struct err *e)
{
	sigset_t all, before;
	int rc = 0;

	/* The process's signals are the main thread's; a vCPU only knows its kick. */
	sigfillset(&all);
	sigdelset(&all, SIGRTMIN);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; rc == 0 && i < m->nio; i++)
		rc = -iothread_start(&m->io[i], NULL);
	for (unsigned i = 0; rc == 0 && i < m->ncpus; i++) {
		m->cpu[i] = (struct cpu){ .machine = m, .index = i };
		rc = pthread_create(&m->cpu[i].thread, NULL, cpu_main, &m->cpu[i]);
		m->cpu[i].started = rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc ? err_sys(e, rc, "cannot start the machine's threads") : 0;
}

void machine_destroy(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->quit = true;
	m->holds |= HOLD_END;
	pthread_cond_broadcast(&m->changed);
	for (unsigned i = 0; i < m->ncpus; i++)
		cpu_kick(&m->cpu[i]);
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i < m->ncpus; i++)
		if (m->cpu[i].started)
			pthread_join(m->cpu[i].thread, NULL);
	for (unsigned i = 0; i < m->nio; i++)
		iothread_hold(&m->io[i]);
	chardev_flush(&m->console);
	handover_end(m);
	/* The vm first: pmem devices own what its slots show. */
	if (m->vm.fd >= 0)
		vm_destroy(&m->vm);
	for (unsigned i = 0; i < m->nvirtio; i++)
		virtio_close(m->virtio[i]);
	for (unsigned i = 0; i < m->nio; i++)
		iothread_destroy(&m->io[i]);
	if (m->config)
		machine__free_unpacked(m->config, NULL);
	for (size_t i = 0; i < m->norigin; i++)
		disk__free_unpacked(m->origin[i], NULL);
	free(m->origin);
	ram_unmap(&m->ram);
	pageset_free(&m->dirty);
	base_forget(&m->base);
	boot_free(&m->boot);
	if (m->event_fd >= 0)
		close(m->event_fd);
	free(m->cpuid);
	kvm_host_close(&m->kvm);
}

/* ---- holding the vCPUs ---- */

static unsigned started(const struct machine *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->ncpus; i++)
		n += m->cpu[i].started;
	return n;
}

static void hold_locked(struct machine *m, enum hold why)
{
	m->holds |= why;
	for (unsigned i = 0; i < m->ncpus; i++)
		cpu_kick(&m->cpu[i]);
	for (unsigned i = 0; i < m->nio; i++)
		iothread_ask_hold(&m->io[i]);
}

void machine_hold_devices(struct machine *m)
{
	/* All are asked before any is waited for. */
	for (unsigned i = 0; i < m->nio; i++)
		iothread_ask_hold(&m->io[i]);
	for (unsigned i = 0; i < m->nio; i++)
		iothread_hold(&m->io[i]);
}

void machine_hold(struct machine *m, enum hold why)
{
	machine_hold_devices(m);
	pthread_mutex_lock(&m->lock);
	hold_locked(m, why);
	while (m->parked < started(m))
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

/*
 * What a restored guest is told when it goes on, not before: a machine that is
 * saved again before it ran has the state that it was restored from.
 */
static void announce(struct machine *m)
{
	if (m->boot.kind == BOOT_KIND__BOOT_DEMO) {
		vm_set_irq(&m->vm, DEMO_GUEST_IRQ, true);
		vm_set_irq(&m->vm, DEMO_GUEST_IRQ, false);
	}
	/* No other guest has the tables that tell where it is. */
	if (m->boot.kind == BOOT_KIND__BOOT_LINUX &&
	    vmgenid_renew(&m->ram, &m->power, m->generation) < 0)
		log_warn("the guest's generation ID cannot be written: it does not learn that it "
			 "was restored");
}

void machine_release(struct machine *m, unsigned why)
{
	pthread_mutex_lock(&m->lock);
	m->holds &= ~why;
	if (!m->holds && m->announce) {
		m->announce = false;
		announce(m);
	}
	if (!m->holds) {
		for (unsigned i = 0; i < m->nvirtio; i++)
			virtio_kick_all(m->virtio[i]);
		for (unsigned i = 0; i < m->nio; i++)
			iothread_release(&m->io[i]);
		pthread_cond_broadcast(&m->changed);
		while (m->parked && !m->holds)
			pthread_cond_wait(&m->changed, &m->lock);
	}
	pthread_mutex_unlock(&m->lock);
}

unsigned machine_holds(struct machine *m)
{
	unsigned holds;

	pthread_mutex_lock(&m->lock);
	holds = m->holds;
	pthread_mutex_unlock(&m->lock);
	return holds;
}

int64_t machine_resumed_ns(struct machine *m)
{
	int64_t ns;

	pthread_mutex_lock(&m->lock);
	ns = m->resumed_ns;
	pthread_mutex_unlock(&m->lock);
	return ns;
}

void machine_post(struct machine *m, enum machine_event event, enum hold why)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&m->lock);
	m->events |= event;
	hold_locked(m, why);
	pthread_mutex_unlock(&m->lock);
	/* It can only fail when the counter is full: then the main thread is awake already. */
	if (write(m->event_fd, &one, sizeof(one)) < 0)
		return;
}

void machine_report_fault(struct machine *m, uint64_t address, const char *form)
{
	pthread_mutex_lock(&m->lock);
	m->fault = (struct memory_fault){ address, form };
	pthread_mutex_unlock(&m->lock);
	machine_post(m, EVENT_FAULT, HOLD_FAULT);
}

unsigned machine_take_events(struct machine *m)
{
	uint64_t count;
	unsigned events;

	if (read(m->event_fd, &count, sizeof(count)) < 0)
		return 0;
	pthread_mutex_lock(&m->lock);
	events = m->events;
	m->events = 0;
	pthread_mutex_unlock(&m->lock);
	return events;
}

void machine_exchange_vm(struct machine *m, struct vm *vm)
{
	struct vm old;

	/* Threads that post an event kick the vCPUs of the one that they find. */
	pthread_mutex_lock(&m->lock);
	old = m->vm;
	m->vm = *vm;
	pthread_mutex_unlock(&m->lock);
	*vm = old;
}

void machine_tell_paused(struct machine *m)
{
	/* EINVAL: the guest has no kvmclock. */
	for (unsigned i = 0; i < m->vm.nvcpus; i++)
		kvm_ioctl(m->vm.vcpu[i].fd, KVM_KVMCLOCK_CTRL, NULL);
}

/* ---- memory ---- */

unsigned machine_memories(struct machine *m, struct ram *memory[VM_MEMORIES_MAX])
{
	memory[0] = &m->ram;
	for (unsigned i = 0; i < m->npmem; i++)
		memory[1 + i] = m->pmem[i];
	return 1 + m->npmem;
}

struct ram *machine_memory_at(struct machine *m, uint64_t address, uint64_t len)
{
	struct ram *memory[VM_MEMORIES_MAX];
	const unsigned n = machine_memories(m, memory);

	for (unsigned i = 0; i < n; i++)
		if (ram_contains(memory[i], address, len))
			return memory[i];
	return NULL;
}

static int create_vm(struct machine *m, struct vm *vm, struct err *e)
{
	struct ram *memory[VM_MEMORIES_MAX];
	const unsigned n = machine_memories(m, memory);

	return vm_create(vm, &m->kvm, (const struct ram *const *)memory, n, m->ncpus, e);
}

/* ---- booting ---- */

static unsigned list_windows(const struct machine *m, struct acpi_window *windows)
{
	for (unsigned i = 0; i < m->nvirtio; i++) {
		const struct vdev *d = &m->virtio[i]->dev;

		windows[i] = (struct acpi_window){ (uint32_t)d->address, d->size, d->irq };
	}
	return m->nvirtio;
}

/* A profile that KVM does not keep to is no promise for a fleet: that is said. */
static void check_profile(const struct machine *m, const struct vm *vm)
{
	struct cpu_features more;
	char names[256];

	if (!m->cpu_profile || !cpu_profile_find(m->cpu_profile) ||
	    cpuid_forced(vm->vcpu[0].fd, m->cpuid, &more) < 0 || !cpu_features_any(&more))
		return;
	log_warn("--cpu %s: this host's KVM shows the guest more than that: %s", m->cpu_profile,
		 cpu_feature_names(&more, names, sizeof(names)));
}

int machine_boot(struct machine *m, struct err *e)
{
	struct acpi_window windows[MACHINE_VIRTIO_MAX];
	const struct acpi_config acpi = { m->ncpus, windows, list_windows(m, windows),
					  m->generation };
	struct vdev *devices[MACHINE_DEVICES_MAX];
	unsigned n;
	struct vm fresh;
	/* What the old one has logged is known to nobody else. */
	int rc = m->vm.fd >= 0 ? dirty_collect(m, e) : 0;

	if (rc == 0)
		rc = create_vm(m, &fresh, e);
	if (rc < 0)
		return rc;
	timing_mark(m->timing, "vm");
	if (!m->cpuid)
		rc = cpuid_make(&m->kvm, m->cpu_profile, m->ncpus, &m->cpuid, e);
	if (rc == 0)
		rc = cpuid_set(&fresh, m->cpuid, e);
	timing_mark(m->timing, "state");
	if (rc == 0)
		check_profile(m, &fresh);
	if (rc == 0)
		rc = boot_load(&m->boot, &m->ram, &fresh, &acpi, e);
	if (rc == 0)
		rc = machine_bind_virtio(m, &fresh, e);
	if (rc < 0) {
		vm_destroy(&fresh);
		return rc;
	}
	timing_mark(m->timing, "load");
	if (m->vm.fd >= 0)
		vm_destroy(&m->vm);
	m->vm = fresh;
	for (unsigned i = 0; i < m->ncpus; i++)
		m->cpu[i].retry_mmio = false;
	n = machine_devices(m, devices, MACHINE_DEVICES_MAX);
	for (unsigned i = 0; i < n; i++)
		devices[i]->ops->reset(devices[i]);
	timing_mark(m->timing, "devices");
	return 0;
}

int machine_renew_generation(struct machine *m, struct err *e)
{
	if (getrandom(m->generation, sizeof(m->generation), 0) != sizeof(m->generation))
		return err_sys(e, errno, "cannot make a generation ID");
	return 0;
}

/* ---- state ---- */

static int save_devices(struct machine *m, VmState *s)
{
	struct vdev *devices[MACHINE_DEVICES_MAX];
	const unsigned n = machine_devices(m, devices, MACHINE_DEVICES_MAX);

	s->device = calloc(n, sizeof(*s->device));
	if (!s->device)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct vdev *d = devices[i];
		DeviceState *out = malloc(sizeof(*out));
		uint8_t *buf;
		size_t len;

		if (!out)
			return -ENOMEM;
		device_state__init(out);
		s->device[s->n_device++] = out;
		out->version = d->ops->version;
		out->name = strdup(d->name);
		if (!out->name || d->ops->save(d, &buf, &len) < 0)
			return -ENOMEM;
		out->state.data = buf;
		out->state.len = len;
	}
	return 0;
}

int machine_take_state(struct machine *m, VmState **state, struct err *e)
{
	VmState *s = malloc(sizeof(*s));
	int rc;

	if (!s)
		return err_sys(e, ENOMEM, "cannot take the machine's state");
	vm_state__init(s);
	/* Devices first: putting them in order may raise interrupts. */
	rc = save_devices(m, s);
	rc = rc < 0 ? err_sys(e, -rc, "cannot take the devices' state") : vm_save(&m->vm, s, e);
	if (rc == 0)
		*state = s;
	else
		proto_state_free(s);
	return rc;
}

int machine_save_state(struct machine *m, uint8_t **buf, size_t *len, struct err *e)
{
	VmState *s = NULL;
	int rc = machine_take_state(m, &s, e);

	if (rc == 0)
		rc = proto_state_encode(s, buf, len, e);
	proto_state_free(s);
	return rc;
}

static const DeviceState *find_state(const VmState *s, const char *name)
{
	for (size_t i = 0; i < s->n_device; i++)
		if (strcmp(s->device[i]->name, name) == 0)
			return s->device[i];
	return NULL;
}

static int load_device(struct vdev *d, const VmState *s, struct err *e)
{
	const DeviceState *in = find_state(s, d->name);

	if (!in)
		return err_refuse(e, EINVAL, "state.bin has nothing of device %s", d->name);
	if (in->version > d->ops->version)
		return err_refuse(
			e, EINVAL,
			"state.bin has device %s of version %u, this program reads up to %u",
			d->name, in->version, d->ops->version);
	return d->ops->load(d, in->state.data, in->state.len, e);
}

static int check_known(struct machine *m, const VmState *s, struct err *e)
{
	struct vdev *devices[MACHINE_DEVICES_MAX];
	const unsigned n = machine_devices(m, devices, MACHINE_DEVICES_MAX);

	for (size_t i = 0; i < s->n_device; i++) {
		bool known = false;

		for (unsigned j = 0; j < n; j++)
			known |= strcmp(devices[j]->name, s->device[i]->name) == 0;
		if (!known)
			return err_refuse(e, EINVAL,
					  "state.bin has a device %.64s, which is unknown",
					  s->device[i]->name);
	}
	return 0;
}

int machine_load_state(struct machine *m, const VmState *state, struct err *e)
{
	struct vdev *devices[MACHINE_DEVICES_MAX];
	const unsigned n = machine_devices(m, devices, MACHINE_DEVICES_MAX);
	int rc = check_known(m, state, e);

	if (rc == 0)
		rc = create_vm(m, &m->vm, e);
	timing_mark(m->timing, "vm");
	if (rc == 0)
		rc = vm_load(&m->vm, state, e);
	timing_mark(m->timing, "state");
	if (rc == 0)
		rc = machine_bind_virtio(m, &m->vm, e);
	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = load_device(devices[i], state, e);
	timing_mark(m->timing, "devices");
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < m->nvirtio; i++)
		virtio_restored(m->virtio[i]);
	/* A reset boots the CPU that the guest knows, not this host's. */
	m->cpuid = cpuid_from_entries(state->vcpu[0]->cpuid, state->vcpu[0]->n_cpuid);
	if (!m->cpuid)
		return err_sys(e, ENOMEM, "cannot keep the machine's CPUID");
	machine_tell_paused(m);
	m->announce = true;
	return 0;
}
