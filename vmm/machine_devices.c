/*
 * The devices of a machine: which there are, where they lie, and the way of a
 * guest's access to one. See machine.h.
 */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <string.h>

#include "virtio/pmem.h"

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

_Static_assert(NDEVICES + MACHINE_VIRTIO_MAX <= MACHINE_DEVICES_MAX, "room for every device");

/* Where virtio devices lie: in the hole below 4 GiB, clear of the APICs. */
#define VIRTIO_AT 0xd0000000ULL

/* Interrupt lines that nothing else has, those of no ISA device first. */
static const uint32_t virtio_irqs[MACHINE_VIRTIO_MAX] = { 16, 17, 18, 19, 20, 21, 22, 23,
							  5,  6,  7,  9,  11, 12, 14, 15 };

static struct vdev *device(struct machine *m, size_t i)
{
	return (struct vdev *)((uintptr_t)m + vdev_table[i].offset);
}

unsigned machine_devices(struct machine *m, struct vdev **devices, unsigned room)
{
	unsigned n = 0;

	for (; n < NDEVICES && n < room; n++)
		devices[n] = device(m, n);
	for (unsigned i = 0; i < m->nvirtio && n < room; i++)
		devices[n++] = &m->virtio[i]->dev;
	return n;
}

/* True where a manifest's device is one that every machine has. */
static bool is_fixed(const Device *d)
{
	for (size_t i = 0; i < NDEVICES; i++)
		if (strcmp(vdev_table[i].name, d->name) == 0)
			return true;
	return false;
}

bool machine_builtin(unsigned i, struct machine_builtin *out)
{
	if (i >= NDEVICES)
		return false;
	*out = (struct machine_builtin){
		.name = vdev_table[i].name,
		.kind = vdev_table[i].kind,
		.port = vdev_table[i].port,
		.irq = vdev_table[i].irq,
		.version = vdev_table[i].ops->version,
	};
	return true;
}

bool machine_kind_version(const char *kind, uint32_t *version)
{
	for (size_t i = 0; i < NDEVICES; i++)
		if (strcmp(vdev_table[i].kind, kind) == 0) {
			*version = vdev_table[i].ops->version;
			return true;
		}
	*version = virtio_mmio_ops.version;
	return virtio_find_kind(kind) != NULL;
}

void machine_init_builtin(struct machine *m)
{
	serial_init(&m->serial, &m->console);
	i8042_init(&m->keyboard);
	rtc_init(&m->rtc);
	power_init(&m->power);
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
}

/* ---- virtio devices ---- */

/* The shared iothread, or, for a device that blocks, one of its own. */
static int iothread_for(struct machine *m, const struct virtio_ops *ops, struct iothread **io,
			struct err *e)
{
	int rc = 0;

	*io = &m->io[0];
	if (ops->blocks) {
		*io = &m->io[m->nio];
		rc = iothread_init(*io, e);
		m->nio += rc == 0;
	}
	return rc;
}

void machine_virtio_place(unsigned i, uint64_t *address, uint32_t *irq)
{
	*address = VIRTIO_AT + (uint64_t)i * VIRTIO_MMIO_SIZE;
	*irq = virtio_irqs[i];
}

/* The window and the interrupt of the next device, into its description. */
static int assign(const struct machine *m, Device *d, struct err *e)
{
	uint64_t address;
	uint32_t irq;

	machine_virtio_place(m->nvirtio, &address, &irq);
	if (d->address == 0) {
		d->address = address;
		d->interrupt = irq;
	}
	return d->address == address && d->interrupt == irq
		       ? 0
		       : err_refuse(e, EINVAL,
				    "the snapshot has device %s at another place than this program",
				    d->name);
}

static int add_one(struct machine *m, Device *d, struct err *e)
{
	const struct virtio_ops *ops = virtio_find_kind(d->kind);
	struct iothread *io;
	unsigned same = 0;
	int rc;

	if (!ops)
		return err_refuse(e, EINVAL,
				  "device %s is a %.64s, which this program does not know", d->name,
				  d->kind);
	for (unsigned i = 0; i < m->nvirtio; i++)
		same += m->virtio[i]->ops == ops;
	if (same == ops->max || m->nvirtio == MACHINE_VIRTIO_MAX)
		return err_refuse(e, E2BIG,
				  "the machine has too many devices for %s: at most %u of its "
				  "kind, %d in all",
				  d->name, ops->max, MACHINE_VIRTIO_MAX);
	rc = assign(m, d, e);
	if (rc == 0)
		rc = iothread_for(m, ops, &io, e);
	if (rc == 0)
		rc = virtio_open(d, d->address, d->interrupt, &m->ram, io, &m->host,
				 &m->virtio[m->nvirtio], e);
	m->nvirtio += rc == 0;
	return rc;
}

int machine_add_virtio(struct machine *m, Machine *config, struct err *e)
{
	int rc = 0;

	m->config = config;
	for (size_t i = 0; rc == 0 && i < config->n_device; i++)
		if (!is_fixed(config->device[i]))
			rc = add_one(m, config->device[i], e);
	return rc;
}

int machine_place_memories(struct machine *m, struct err *e)
{
	uint64_t end = ram_end(&m->ram);
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < m->nvirtio; i++) {
		if (m->virtio[i]->ops != &virtio_pmem_ops)
			continue;
		rc = virtio_pmem_place(m->virtio[i], &end, e);
		if (rc == 0)
			m->pmem[m->npmem++] = virtio_pmem_memory(m->virtio[i]);
	}
	return rc;
}

struct virtio *machine_find_virtio(struct machine *m, const char *name)
{
	for (unsigned i = 0; i < m->nvirtio; i++)
		if (strcmp(m->virtio[i]->dev.name, name) == 0)
			return m->virtio[i];
	return NULL;
}

int machine_bind_virtio(struct machine *m, const struct vm *vm, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < m->nvirtio; i++)
		rc = virtio_bind(m->virtio[i], vm, e);
	return rc;
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

void machine_mmio(struct machine *m, bool write, uint64_t address, uint8_t *data, unsigned size)
{
	for (unsigned i = 0; i < m->nvirtio; i++) {
		struct vdev *d = &m->virtio[i]->dev;

		if (address < d->address || address - d->address > d->size - size)
			continue;
		if (write)
			d->ops->write(d, address - d->address, data, size);
		else
			d->ops->read(d, address - d->address, data, size);
		return;
	}
	/* Nothing is there: reads see an open bus, writes go nowhere. */
	if (!write)
		memset(data, 0xff, size);
}
