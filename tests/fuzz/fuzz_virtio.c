/*
 * A virtio device on its transport: saved state that others wrote, then a guest
 * that does what it likes with the registers, the rings and the configuration,
 * while its device works. Input: the length of the state (2 bytes), the state,
 * and operations of 6 bytes {what, offset, value}; see enum what.
 */
#include "fuzz.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/virtio/transport.h"

#define RAM_BYTES   (64ULL << 10)
#define CONFIG_SIZE 10

enum what {
	READ,	 /* 1, 2, 4 or 8 bytes by `value` at `offset` */
	WRITE,	 /* 4 bytes */
	CONFIG,	 /* 1, 2 or 8 bytes of the configuration written */
	MEMORY,	 /* 4 bytes into RAM at 4 * offset */
	RUN,	 /* the iothread's turn */
	MACHINE, /* the machine's: kick_all, bind, a change of the configuration, save and load */
	STATUS,	 /* the bits of `value` added to the status */
	LAST
};

/* ---- a device that copies what it reads to what it writes ---- */

struct echo {
	struct virtio v; /* first */
	uint8_t config[CONFIG_SIZE];
	uint8_t private[4];
};

static struct echo *echo_of(struct virtio *v)
{
	return (struct echo *)v;
}

static int echo_open(const Device *config, struct virtio **out, struct err *e);

static void echo_close(struct virtio *v)
{
	virtio_fini(v);
	free(v);
}

static void echo_read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	MUST(offset < CONFIG_SIZE && len <= CONFIG_SIZE - offset);
	memcpy(buf, echo_of(v)->config + offset, len);
}

static void echo_write_config(struct virtio *v, uint32_t offset, const void *buf, uint32_t len)
{
	MUST(offset < CONFIG_SIZE && len <= CONFIG_SIZE - offset);
	memcpy(echo_of(v)->config + offset, buf, len);
}

static void echo_notify(struct virtio *v, unsigned q)
{
	static struct virtq_chain c;
	uint8_t bytes[256];

	MUST(virtio_is_running(v) && q < v->nqueues);
	while (virtio_pop(v, q, &c)) {
		uint64_t n = c.out_len < c.in_len ? c.out_len : c.in_len;
		int rc;

		n = n < sizeof(bytes) ? n : sizeof(bytes);
		rc = virtq_read(&c, v->ram, 0, bytes, n);
		if (rc == 0)
			rc = virtq_write(&c, v->ram, 0, bytes, n);
		if (rc < 0)
			virtio_memory_failed(v, q, rc);
		if (rc < 0 || !virtio_push(v, q, &c, (uint32_t)n))
			return;
		virtio_signal(v, q);
	}
}

static int echo_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	*len = sizeof(echo_of(v)->private);
	*buf = malloc(*len);
	MUST(*buf);
	memcpy(*buf, echo_of(v)->private, *len);
	return 0;
}

static int echo_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		     struct err *e)
{
	MUST(version <= 1);
	if (len != sizeof(echo_of(v)->private))
		return err_refuse(e, EINVAL, "the echo has %zu bytes", len);
	memcpy(echo_of(v)->private, buf, len);
	return 0;
}

static const struct virtio_ops echo_ops = {
	.kind = "virtio-echo",
	.id = 42,
	.version = 1,
	.open = echo_open,
	.close = echo_close,
	.read_config = echo_read_config,
	.write_config = echo_write_config,
	.notify = echo_notify,
	.save = echo_save,
	.load = echo_load,
};

static int echo_open(const Device *config, struct virtio **out, struct err *e)
{
	struct echo *echo = calloc(1, sizeof(*echo));

	(void)config;
	(void)e;
	MUST(echo);
	virtio_init(&echo->v, &echo_ops, 2, 16, VIRTIO_F(5), CONFIG_SIZE);
	*out = &echo->v;
	return 0;
}

/* ---- its guest and its machine ---- */

struct rig {
	struct ram ram;
	struct iothread io;
	struct virtio *v;
};

/* The RAM does not get lost here. */
static void report_fault(void *arg, uint64_t address, const char *form)
{
	(void)arg;
	(void)address;
	(void)form;
	MUST(0);
}

static void make(struct rig *r)
{
	static Device config = DEVICE__INIT;
	const struct vdev_host host = { .report_fault = report_fault };

	config.name = config.kind = (char *)(uintptr_t) "virtio-echo";
	MUST(ram_map_memfd(&r->ram, RAM_BYTES, NULL) == 0);
	MUST(iothread_init(&r->io, NULL) == 0);
	MUST(virtio_open_kind(&echo_ops, &config, 0xc0000000, 5, &r->ram, &r->io, &host, &r->v,
			      NULL) == 0);
	MUST(virtio_bind(r->v, NULL, NULL) == 0);
}

static void run_loop(struct rig *r)
{
	struct pollfd p = { .fd = r->io.loop.fd, .events = POLLIN };

	for (int i = 0; poll(&p, 1, 0) == 1; i++) {
		MUST(i < 100);
		MUST(loop_step(&r->io.loop, 0) == 0);
	}
}

/* What a device saves, it takes; and it is the same when saved again. */
static void save_and_load(struct rig *r)
{
	auto_free uint8_t *once = NULL, *twice = NULL;
	struct vdev *d = &r->v->dev;
	size_t n, k;

	MUST(d->ops->save(d, &once, &n) == 0);
	MUST(d->ops->load(d, once, n, NULL) == 0);
	MUST(d->ops->save(d, &twice, &k) == 0);
	MUST(n == k && memcmp(once, twice, n) == 0);
}

static void on_machine(struct rig *r, uint8_t which)
{
	switch (which % 4) {
	case 0:
		virtio_kick_all(r->v);
		break;
	case 1:
		MUST(virtio_bind(r->v, NULL, NULL) == 0);
		break;
	case 2:
		pthread_mutex_lock(&r->v->lock);
		virtio_config_changed(r->v);
		pthread_mutex_unlock(&r->v->lock);
		break;
	default:
		save_and_load(r);
		break;
	}
}

static void operate(struct rig *r, uint8_t what, uint8_t offset, uint32_t value)
{
	static const unsigned widths[] = { 1, 2, 4, 8 };
	struct vdev *d = &r->v->dev;
	uint8_t bytes[8] = { 0 };

	memcpy(bytes, &value, sizeof(value));
	if (what == READ)
		d->ops->read(d, offset, bytes, widths[value % 4]);
	else if (what == WRITE)
		d->ops->write(d, offset, bytes, 4);
	else if (what == CONFIG)
		d->ops->write(d, VIRTIO_MMIO_CONFIG + offset, bytes, widths[value % 4]);
	else if (what == MEMORY)
		MUST(ram_write(&r->ram, 4ULL * offset, bytes, 4) == 0);
	else if (what == RUN)
		run_loop(r);
	else if (what == MACHINE)
		on_machine(r, offset);
	else if (what == STATUS) {
		value = (value & 0x8f) | r->v->status;
		memcpy(bytes, &value, sizeof(value));
		d->ops->write(d, VIRTIO_MMIO_STATUS, bytes, 4);
	}
}

static void check(const struct rig *r)
{
	const struct virtio *v = r->v;

	MUST(!(v->status & VIRTIO_CONFIG_S_DRIVER_OK) || (v->status & VIRTIO_CONFIG_S_FEATURES_OK));
	MUST(!(v->status & VIRTIO_CONFIG_S_FEATURES_OK) || !(v->driver_features & ~v->features));
	for (unsigned q = 0; q < v->nqueues; q++)
		MUST(!v->queue[q].ready || virtq_is_sane(&v->queue[q], &r->ram));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = { 0 };
	struct err e = { 0 };
	uint32_t value;
	size_t len;
	int rc;

	if (size < 2)
		return 0;
	len = (size_t)data[0] | (size_t)data[1] << 8;
	data += 2;
	size -= 2;
	if (len > size)
		len = size;
	make(&r);
	/* Its status is said on a terminal once a second: not here. */
	r.v->warned_ns = INT64_MAX / 2;
	rc = r.v->dev.ops->load(&r.v->dev, data, len, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	check(&r);
	for (data += len, size -= len; size >= 6; data += 6, size -= 6) {
		memcpy(&value, data + 2, sizeof(value));
		operate(&r, data[0] % LAST, data[1], value);
		check(&r);
	}
	run_loop(&r);
	save_and_load(&r);
	r.v->dev.ops->reset(&r.v->dev);
	MUST(r.v->status == 0 && r.v->interrupt_status == 0);
	virtio_close(r.v);
	iothread_destroy(&r.io);
	ram_unmap(&r.ram);
	return 0;
}
