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
#include "demo_guest.h"
#include "vmgenid.h"

/* The devices of every machine. A new device is one file and one line here. */
static const struct {
	const struct vdev_ops *ops;
	size_t offset; /* of its struct vdev in struct machine */
	const char *name, *kind;
	uint16_t port, nports;
	uint32_t irq;
} vdev_table[] = {
	{ &serial_ops, offsetof(struct machine, serial), "serial0", "16550", 0x3f8, 8, 4 },
	{ &i8042_ops, offsetof(struct machine, keyboard), "i8042", "i8042", 0x60, 5, 0 },
	{ &rtc_ops, offsetof(struct machine, rtc), "rtc", "mc146818", 0x70, 2, 0 },
	{ &power_ops, offsetof(struct machine, power), "power", "power", POWER_PORT, POWER_PORTS,
	  POWER_IRQ },
};

#define NDEVICES (sizeof(vdev_table) / sizeof(vdev_table[0]))

_Static_assert(NDEVICES <= MACHINE_DEVICES_MAX, "room for every device");

static struct vdev *device(struct machine *m, size_t i)
{
	return (struct vdev *)((uintptr_t)m + vdev_table[i].offset);
}

unsigned machine_devices(struct machine *m, struct vdev **devices, unsigned room)
{
	unsigned n = 0;

	for (; n < NDEVICES && n < room; n++)
		devices[n] = device(m, n);
	return n;
}

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
	m->kvm.fd = m->vm.fd = m->ram.fd = m->event_fd = -1;
	m->ncpus = ncpus;
	m->holds = HOLD_USER;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	clock_gettime(CLOCK_MONOTONIC, &m->started);
	chardev_init(&m->console, output);
	serial_init(&m->serial, &m->console);
	i8042_init(&m->keyboard);
	rtc_init(&m->rtc);
	power_init(&m->power);
	m->host = (struct vdev_host){ m, set_irq, request_reset, request_power_off, report_fault };
	for (size_t i = 0; i < NDEVICES; i++) {
		struct vdev *d = device(m, i);

		*d = (struct vdev){
			.ops = vdev_table[i].ops,
			.name = vdev_table[i].name,
			.kind = vdev_table[i].kind,
			.port = vdev_table[i].port,
			.nports = vdev_table[i].nports,
			.irq = vdev_table[i].irq,
			.host = m->host,
		};
	}
	if (getrandom(m->generation, sizeof(m->generation), 0) != sizeof(m->generation))
		return err_sys(e, errno, "cannot make a generation ID");
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0)
		return err_sys(e, errno, "cannot make an eventfd");
	rc = cpu_install_kick();
	if (rc < 0)
		return err_sys(e, -rc, "cannot set up a signal");
	return kvm_host_open(&m->kvm, e);
}

int machine_start(struct machine *m, struct err *e)
{
	sigset_t all, before;
	int rc = 0;

	/* The process's signals are the main thread's; a vCPU only knows its kick. */
	sigfillset(&all);
	sigdelset(&all, SIGRTMIN);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; rc == 0 && i < m->ncpus; i++) {
		m->cpu[i] = (struct cpu){ .machine = m, .index = i };
		rc = pthread_create(&m->cpu[i].thread, NULL, cpu_main, &m->cpu[i]);
		m->cpu[i].started = rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc ? err_sys(e, rc, "cannot start a vCPU's thread") : 0;
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
	chardev_flush(&m->console);
	if (m->vm.fd >= 0)
		vm_destroy(&m->vm);
	ram_unmap(&m->ram);
	boot_free(&m->boot);
	if (m->event_fd >= 0)
		close(m->event_fd);
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
}

void machine_hold(struct machine *m, enum hold why)
{
	pthread_mutex_lock(&m->lock);
	hold_locked(m, why);
	while (m->parked < started(m))
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

void machine_release(struct machine *m, unsigned why)
{
	pthread_mutex_lock(&m->lock);
	m->holds &= ~why;
	if (!m->holds) {
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

void machine_tell_paused(struct machine *m)
{
	/* EINVAL: the guest has no kvmclock. */
	for (unsigned i = 0; i < m->vm.nvcpus; i++)
		kvm_ioctl(m->vm.vcpu[i].fd, KVM_KVMCLOCK_CTRL, NULL);
}

/* ---- booting ---- */

int machine_boot(struct machine *m, struct err *e)
{
	const struct acpi_config acpi = { .ncpus = m->ncpus, .generation = m->generation };
	struct vm fresh;
	int rc = vm_create(&fresh, &m->kvm, &m->ram, m->ncpus, e);

	if (rc < 0)
		return rc;
	rc = vm_set_host_cpuid(&fresh, e);
	if (rc == 0)
		rc = boot_load(&m->boot, &m->ram, &fresh, &acpi, e);
	if (rc < 0) {
		vm_destroy(&fresh);
		return rc;
	}
	if (m->vm.fd >= 0)
		vm_destroy(&m->vm);
	m->vm = fresh;
	for (unsigned i = 0; i < m->ncpus; i++)
		m->cpu[i].retry_mmio = false;
	for (size_t i = 0; i < NDEVICES; i++)
		device(m, i)->ops->reset(device(m, i));
	return 0;
}

int machine_renew_generation(struct machine *m, struct err *e)
{
	int rc;

	if (getrandom(m->generation, sizeof(m->generation), 0) != sizeof(m->generation))
		return err_sys(e, errno, "cannot make a generation ID");
	/* No other guest has the tables that tell where it is. */
	if (m->boot.kind != BOOT_KIND__BOOT_LINUX)
		return 0;
	rc = vmgenid_renew(&m->ram, &m->power, m->generation);
	return rc < 0 ? err_sys(e, -rc, "cannot write the generation ID") : 0;
}

void machine_port_io(struct machine *m, bool out, uint16_t port, uint8_t *data, unsigned size)
{
	/* A wider access is one of bytes to neighbouring ports, as on the ISA bus. */
	for (unsigned b = 0; b < size; b++) {
		const uint16_t p = (uint16_t)(port + b);
		struct vdev *found = NULL;

		for (size_t i = 0; i < NDEVICES && !found; i++)
			if (p >= vdev_table[i].port &&
			    p - vdev_table[i].port < vdev_table[i].nports)
				found = device(m, i);
		if (found && out)
			found->ops->out(found, (uint16_t)(p - found->port), data[b]);
		else if (found)
			data[b] = found->ops->in(found, (uint16_t)(p - found->port));
		else if (!out)
			data[b] = 0xff;
	}
}

/* ---- state ---- */

static int save_devices(struct machine *m, VmState *s)
{
	s->device = calloc(NDEVICES, sizeof(*s->device));
	if (!s->device)
		return -ENOMEM;
	for (size_t i = 0; i < NDEVICES; i++) {
		struct vdev *d = device(m, i);
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

int machine_save_state(struct machine *m, uint8_t **buf, size_t *len, struct err *e)
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
	for (size_t i = 0; i < s->n_device; i++) {
		bool known = false;

		for (size_t j = 0; j < NDEVICES; j++)
			known |= strcmp(device(m, j)->name, s->device[i]->name) == 0;
		if (!known)
			return err_refuse(e, EINVAL,
					  "state.bin has a device %.64s, which is unknown",
					  s->device[i]->name);
	}
	return 0;
}

int machine_load_state(struct machine *m, const VmState *state, struct err *e)
{
	int rc = check_known(m, state, e);

	if (rc == 0)
		rc = vm_create(&m->vm, &m->kvm, &m->ram, m->ncpus, e);
	if (rc == 0)
		rc = vm_load(&m->vm, state, e);
	for (size_t i = 0; rc == 0 && i < NDEVICES; i++)
		rc = load_device(device(m, i), state, e);
	if (rc < 0)
		return rc;
	machine_tell_paused(m);
	if (m->boot.kind == BOOT_KIND__BOOT_DEMO) {
		vm_set_irq(&m->vm, DEMO_GUEST_IRQ, true);
		vm_set_irq(&m->vm, DEMO_GUEST_IRQ, false);
	}
	return 0;
}
