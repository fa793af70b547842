/* What all virtio devices share: see virtio.h. The registers are in mmio.c. */
#include "transport.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <linux/virtio_ring.h>

#include "base/cleanup.h"
#include "base/log.h"

#define WARN_EVERY_NS 1000000000LL
#define PROBE_PAGES   65536 /* looked at for one that cannot be had: 256 MiB */

const uint64_t virtio_common_features = VIRTIO_F(VIRTIO_F_VERSION_1) |
					VIRTIO_F(VIRTIO_RING_F_INDIRECT_DESC) |
					VIRTIO_F(VIRTIO_RING_F_EVENT_IDX);

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void virtio_init(struct virtio *v, const struct virtio_ops *ops, unsigned nqueues,
		 uint16_t queue_size, uint64_t features, uint32_t config_size)
{
	v->dev = (struct vdev){ .ops = &virtio_mmio_ops, .kind = ops->kind };
	v->ops = ops;
	v->ram = NULL;
	v->io = NULL;
	v->nqueues = nqueues;
	v->features = features | virtio_common_features;
	v->config_size = config_size;
	v->irq_fd = -1;
	pthread_mutex_init(&v->lock, NULL);
	v->driver_features = 0;
	v->features_select = v->driver_features_select = v->queue_select = v->status = 0;
	v->config_generation = v->interrupt_status = 0;
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++) {
		v->kick_fd[q] = -1;
		v->kicked[q] = v;
		v->queue[q] = (struct virtq){ .size_max = q < nqueues ? queue_size : 0 };
	}
	v->kicks = v->requests = v->interrupts = v->bytes_out = v->bytes_in = v->errors = 0;
	v->warned_ns = 0;
}

static void unbind(struct virtio *v)
{
	struct virtio_binding b = { take_fd(&v->irq_fd), { 0 } };

	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		b.kick_fd[q] = take_fd(&v->kick_fd[q]);
	if (v->io)
		virtio_binding_unwatch(v, &b);
	virtio_binding_close(&b);
}

void virtio_fini(struct virtio *v)
{
	unbind(v);
	pthread_mutex_destroy(&v->lock);
}

/* ---- interrupts and kicks ---- */

/* It can only fail when the counter is full: then what it is to do is on its way already. */
static void count_up(int fd)
{
	const uint64_t one = 1;

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
}

void virtio_raise(struct virtio *v, uint32_t bits)
{
	__atomic_fetch_or(&v->interrupt_status, bits, __ATOMIC_SEQ_CST);
	add(&v->interrupts, 1);
	count_up(v->irq_fd);
}

void virtio_kick(const struct virtio *v, unsigned q)
{
	count_up(v->kick_fd[q]);
}

/* iothread: a queue's eventfd. `arg` points to the queue's place in kicked[]. */
static void on_kick(void *arg, uint32_t events)
{
	struct virtio **place = arg, *v = *place;
	const unsigned q = (unsigned)(place - v->kicked);
	uint64_t count;

	(void)events;
	if (read(v->kick_fd[q], &count, sizeof(count)) < 0 || !virtio_enter(v))
		return;
	add(&v->kicks, 1);
	if (v->queue[q].ready)
		v->ops->notify(v, q);
	virtio_leave(v);
}

void virtio_kick_all(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	for (unsigned q = 0; q < v->nqueues; q++)
		if (v->queue[q].ready)
			virtio_kick(v, q);
	if (__atomic_load_n(&v->interrupt_status, __ATOMIC_SEQ_CST))
		virtio_raise(v, 0);
	pthread_mutex_unlock(&v->lock);
}

/* ---- for the kinds ---- */

bool virtio_enter(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	if (virtio_is_running(v))
		return true;
	pthread_mutex_unlock(&v->lock);
	return false;
}

void virtio_leave(struct virtio *v)
{
	pthread_mutex_unlock(&v->lock);
}

void virtio_apply_features(struct virtio *v)
{
	for (unsigned q = 0; q < v->nqueues; q++) {
		v->queue[q].event_idx = virtio_has(v, VIRTIO_RING_F_EVENT_IDX);
		v->queue[q].indirect = virtio_has(v, VIRTIO_RING_F_INDIRECT_DESC);
	}
}

static void report_fault(struct virtio *v, uint64_t address, const char *form)
{
	add(&v->errors, 1);
	v->dev.host.report_fault(v->dev.host.arg, address, form);
}

/* The queue's rings cannot be used: rc of a virtq function. */
static void ring_failed(struct virtio *v, int rc, const char *why)
{
	if (rc == -EFAULT)
		report_fault(v, ram_take_fault(v->ram), "a virtqueue cannot be had");
	else
		virtio_broken(v, why);
}

bool virtio_pop(struct virtio *v, unsigned q, struct virtq_chain *c)
{
	struct virtq *vq = &v->queue[q];
	const char *why = "";
	int rc;

	if (!virtio_is_running(v) || !vq->ready)
		return false;
	rc = virtq_pop(vq, v->ram, c, &why);
	if (rc == 0) {
		/* Empty: a kick for the next one, unless that came just before. */
		why = "a device area that is not in RAM";
		rc = virtq_want_kicks(vq, v->ram, true);
		if (rc == 0)
			rc = virtq_pop(vq, v->ram, c, &why);
	}
	if (rc < 0)
		ring_failed(v, rc, why);
	return rc == 1;
}

bool virtio_push_many(struct virtio *v, unsigned q, const struct virtq_used *used, unsigned count)
{
	struct virtq *vq = &v->queue[q];
	int rc;

	if (!virtio_is_running(v) || !vq->ready)
		return false;
	rc = virtq_push_many(vq, v->ram, used, count);
	if (rc < 0) {
		for (unsigned i = 0; i < count; i++)
			virtq_unpop(vq);
		ring_failed(v, rc, "a device area that is not in RAM");
		return false;
	}
	add(&v->requests, count);
	for (unsigned i = 0; i < count; i++)
		add(&v->bytes_in, used[i].len);
	return true;
}

bool virtio_push(struct virtio *v, unsigned q, const struct virtq_chain *c, uint32_t len)
{
	const struct virtq_used used = { c->head, len };

	if (!virtio_push_many(v, q, &used, 1))
		return false;
	add(&v->bytes_out, c->out_len);
	return true;
}

void virtio_signal(struct virtio *v, unsigned q)
{
	struct virtq *vq = &v->queue[q];
	int rc;

	if (!virtio_is_running(v) || !vq->ready)
		return;
	rc = virtq_needs_interrupt(vq, v->ram);
	/* Where the driver cannot be asked, it is told: one too many is harmless. */
	if (rc != 0)
		virtio_raise(v, VIRTIO_MMIO_INT_VRING);
	if (rc < 0)
		ring_failed(v, rc, "a driver area that is not in RAM");
}

void virtio_config_changed(struct virtio *v)
{
	v->config_generation++;
	if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_raise(v, VIRTIO_MMIO_INT_CONFIG);
}

/* Whether a page of these buffers cannot be had: for I/O by the kernel, which does not say. */
static bool probe(const struct virtio *v, const struct virtq_chain *c)
{
	unsigned pages = 0;

	for (unsigned i = 0; i < c->nout + c->nin; i++) {
		const uint64_t start = c->buf[i].address, len = c->buf[i].len;
		uint8_t byte;

		for (uint64_t at = 0; at < len; at += RAM_PAGE - (start + at) % RAM_PAGE) {
			if (pages++ == PROBE_PAGES)
				return false;
			if (ram_read(v->ram, start + at, &byte, 1) == -EFAULT)
				return true;
		}
	}
	return false;
}

void virtio_memory_failed(struct virtio *v, unsigned q, int rc)
{
	struct virtq *vq = &v->queue[q];
	uint64_t address = ram_take_fault(v->ram);
	struct virtq_chain c;
	const char *why;

	if (rc != -EFAULT) {
		virtio_broken(v, "a buffer that is not RAM, or too short a request");
		return;
	}
	virtq_unpop(vq);
	if (address == UINT64_MAX && virtq_pop(vq, v->ram, &c, &why) == 1) {
		virtq_unpop(vq);
		if (probe(v, &c))
			address = ram_take_fault(v->ram);
	}
	report_fault(v, address, "a buffer of a device's request cannot be had");
}

void virtio_broken(struct virtio *v, const char *why)
{
	struct timespec ts;
	int64_t now;

	if (v->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	add(&v->errors, 1);
	v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_raise(v, VIRTIO_MMIO_INT_CONFIG);
	/* A guest may break its devices as often as it likes. */
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = ts.tv_sec * 1000000000LL + ts.tv_nsec;
	if (v->warned_ns && now - v->warned_ns < WARN_EVERY_NS)
		return;
	v->warned_ns = now;
	log_warn("%s needs a reset by its driver, which broke the rules: %s", v->dev.name, why);
}

/* ---- for the machine ---- */

int virtio_open_kind(const struct virtio_ops *ops, const Device *config, uint64_t address,
		     uint32_t irq, struct ram *ram, struct iothread *io,
		     const struct vdev_host *host, struct virtio **out, struct err *e)
{
	struct virtio *v = NULL;
	int rc = ops->open(config, &v, e);

	if (rc < 0)
		return rc;
	v->dev.name = config->name;
	v->dev.address = address;
	v->dev.size = VIRTIO_MMIO_SIZE;
	v->dev.irq = irq;
	v->dev.host = *host;
	v->ram = ram;
	v->io = io;
	rc = ops->attach ? ops->attach(v, e) : 0;
	if (rc < 0) {
		virtio_close(v);
		return rc;
	}
	*out = v;
	return 0;
}

int virtio_open(const Device *config, uint64_t address, uint32_t irq, struct ram *ram,
		struct iothread *io, const struct vdev_host *host, struct virtio **out,
		struct err *e)
{
	const struct virtio_ops *ops = virtio_find_kind(config->kind);

	if (!ops)
		return err_refuse(e, EINVAL, "device %.64s is of kind %.64s, which is unknown",
				  config->name, config->kind);
	return virtio_open_kind(ops, config, address, irq, ram, io, host, out, e);
}

void virtio_close(struct virtio *v)
{
	v->ops->close(v);
}

/* ---- connecting it with a VM ---- */

static int make_eventfd(int *fd)
{
	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return *fd < 0 ? -errno : 0;
}

static int bind_queue(const struct virtio *v, const struct vm *vm, unsigned q, int *fd)
{
	int rc = make_eventfd(fd);

	if (rc < 0 || !vm)
		return rc;
	return vm_add_ioeventfd(vm, v->dev.address + VIRTIO_MMIO_QUEUE_NOTIFY, q, *fd);
}

int virtio_binding_make(const struct virtio *v, const struct vm *vm, struct virtio_binding *b,
			struct err *e)
{
	int rc = make_eventfd(&b->irq_fd);

	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		b->kick_fd[q] = -1;
	if (rc == 0 && vm)
		rc = vm_add_irqfd(vm, v->dev.irq, b->irq_fd);
	for (unsigned q = 0; rc == 0 && q < v->nqueues; q++)
		rc = bind_queue(v, vm, q, &b->kick_fd[q]);
	if (rc == 0)
		return 0;
	virtio_binding_close(b);
	return err_sys(e, -rc, "cannot connect %s with the virtual machine", v->dev.name);
}

void virtio_binding_close(struct virtio_binding *b)
{
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		if (b->kick_fd[q] >= 0)
			close(take_fd(&b->kick_fd[q]));
	if (b->irq_fd >= 0)
		close(take_fd(&b->irq_fd));
}

int virtio_binding_watch(struct virtio *v, const struct virtio_binding *b, struct err *e)
{
	int rc = 0;

	for (unsigned q = 0; rc == 0 && q < v->nqueues; q++)
		rc = loop_add(&v->io->loop, b->kick_fd[q], EPOLLIN, on_kick, &v->kicked[q]);
	if (rc == 0)
		return 0;
	virtio_binding_unwatch(v, b);
	return err_sys(e, -rc, "cannot connect %s with its thread", v->dev.name);
}

void virtio_binding_unwatch(struct virtio *v, const struct virtio_binding *b)
{
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		loop_remove(&v->io->loop, b->kick_fd[q]);
}

void virtio_binding_exchange(struct virtio *v, struct virtio_binding *b)
{
	struct virtio_binding old = { .irq_fd = v->irq_fd };

	memcpy(old.kick_fd, v->kick_fd, sizeof(old.kick_fd));
	virtio_binding_unwatch(v, &old);
	v->irq_fd = b->irq_fd;
	memcpy(v->kick_fd, b->kick_fd, sizeof(v->kick_fd));
	*b = old;
}

int virtio_bind(struct virtio *v, const struct vm *vm, struct err *e)
{
	struct virtio_binding b;
	int rc = virtio_binding_make(v, vm, &b, e);

	if (rc < 0)
		return rc;
	rc = virtio_binding_watch(v, &b, e);
	if (rc == 0)
		virtio_binding_exchange(v, &b);
	virtio_binding_close(&b);
	return rc;
}

void virtio_restored(struct virtio *v)
{
	if (!v->ops->restored)
		return;
	pthread_mutex_lock(&v->lock);
	v->ops->restored(v);
	pthread_mutex_unlock(&v->lock);
}
