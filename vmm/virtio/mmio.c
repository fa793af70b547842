/*
 * The registers of a virtio-mmio device, version 2: see virtio.h.
 * Source: virtio 1.2, 4.2.2 (registers), 2.1 (status), 3.1 (initialization).
 */
#include "transport.h"

#include <string.h>

#define MAGIC	       0x74726976U /* "virt" */
#define VERSION	       2
#define VENDOR	       0x46504e53U /* "SNPF" */
#define NO_SUCH_REGION UINT32_MAX  /* of shared memory: no device has any */
#define FEATURE_WORDS  2

static struct virtq *selected(struct virtio *v)
{
	return v->queue_select < v->nqueues ? &v->queue[v->queue_select] : NULL;
}

/* ---- reading ---- */

static uint32_t read_queue(struct virtio *v, uint64_t offset)
{
	const struct virtq *q = selected(v);

	if (!q)
		return 0;
	return offset == VIRTIO_MMIO_QUEUE_NUM_MAX ? q->size_max : q->ready;
}

static uint32_t read_register(struct virtio *v, uint64_t offset)
{
	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return v->ops->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return v->features_select < FEATURE_WORDS
			       ? (uint32_t)(v->features >> 32 * v->features_select)
			       : 0;
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
	case VIRTIO_MMIO_QUEUE_READY:
		return read_queue(v, offset);
	case VIRTIO_MMIO_STATUS:
		return v->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return NO_SUCH_REGION;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return v->config_generation;
	default:
		return 0;
	}
}

/* What lies beyond the configuration reads as 0. */
static void read_config(struct virtio *v, uint64_t offset, uint8_t *data, unsigned len)
{
	if (!v->ops->read_config || offset >= v->config_size)
		return;
	if (len > v->config_size - offset)
		len = (unsigned)(v->config_size - offset);
	v->ops->read_config(v, (uint32_t)offset, data, len);
}

static void mmio_read(struct vdev *d, uint64_t offset, uint8_t *data, unsigned len)
{
	struct virtio *v = virtio_of(d);
	uint32_t value;

	memset(data, 0, len);
	if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && len == sizeof(value)) {
		value = __atomic_load_n(&v->interrupt_status, __ATOMIC_SEQ_CST);
		memcpy(data, &value, sizeof(value));
		return;
	}
	pthread_mutex_lock(&v->lock);
	if (offset >= VIRTIO_MMIO_CONFIG) {
		read_config(v, offset - VIRTIO_MMIO_CONFIG, data, len);
	} else if (len == sizeof(value)) {
		value = read_register(v, offset);
		memcpy(data, &value, sizeof(value));
	}
	pthread_mutex_unlock(&v->lock);
}

/* ---- reset and status ---- */

/* Under lock, which says that no operation of the device is under way. */
static void reset(struct virtio *v)
{
	if (v->ops->reset)
		v->ops->reset(v);
	v->status = 0;
	v->driver_features = 0;
	v->features_select = v->driver_features_select = v->queue_select = 0;
	__atomic_store_n(&v->interrupt_status, 0, __ATOMIC_SEQ_CST);
	for (unsigned q = 0; q < v->nqueues; q++)
		virtq_reset(&v->queue[q]);
}

static bool are_features_ok(const struct virtio *v)
{
	return !(v->driver_features & ~v->features) && virtio_has(v, VIRTIO_F_VERSION_1);
}

static void start(struct virtio *v)
{
	if (!(v->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		virtio_broken(v, "DRIVER_OK without FEATURES_OK");
		return;
	}
	v->status |= VIRTIO_CONFIG_S_DRIVER_OK;
	if (!virtio_is_running(v))
		return;
	if (v->ops->activate)
		v->ops->activate(v);
	/* What was offered and kicked before this was not looked at. */
	for (unsigned q = 0; q < v->nqueues; q++)
		if (v->queue[q].ready)
			virtio_kick(v, q);
}

/* A bit once set is cleared by a reset alone, and NEEDS_RESET is the device's. */
static void write_status(struct virtio *v, uint32_t value)
{
	const uint32_t begun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	const uint32_t fresh = value & ~v->status;

	if (value == 0) {
		reset(v);
		return;
	}
	v->status |= value & (begun | VIRTIO_CONFIG_S_FAILED);
	if ((fresh & VIRTIO_CONFIG_S_FEATURES_OK) && (v->status & begun) == begun &&
	    are_features_ok(v)) {
		v->status |= VIRTIO_CONFIG_S_FEATURES_OK;
		virtio_apply_features(v);
	}
	if (fresh & VIRTIO_CONFIG_S_DRIVER_OK)
		start(v);
}

/* ---- writing ---- */

static void write_driver_features(struct virtio *v, uint32_t value)
{
	const unsigned shift = 32 * v->driver_features_select;

	if (v->driver_features_select >= FEATURE_WORDS || (v->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	v->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	v->driver_features |= (uint64_t)value << shift;
}

static void write_ready(struct virtio *v, struct virtq *q, uint32_t value)
{
	const bool ready = value & 1;

	if (ready == q->ready)
		return;
	if (ready && !(v->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		virtio_broken(v, "a queue before FEATURES_OK");
		return;
	}
	if (ready && !virtq_is_sane(q, v->ram)) {
		virtio_broken(v, "a queue of a bad size, or outside RAM");
		return;
	}
	q->ready = ready;
	q->next_avail = q->next_used = q->signalled_used = 0;
	q->signalled_valid = false;
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
	const unsigned shift = high ? 32 : 0;

	*address &= ~((uint64_t)UINT32_MAX << shift);
	*address |= (uint64_t)value << shift;
}

/* The selected queue's: all but QueueReady only while it is not ready. */
static void write_queue(struct virtio *v, uint64_t offset, uint32_t value)
{
	struct virtq *q = selected(v);

	if (q && offset == VIRTIO_MMIO_QUEUE_READY)
		write_ready(v, q, value);
	if (!q || q->ready)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		/* Of a bad size: refused when it is made ready. */
		q->size = value <= q->size_max ? (uint16_t)value : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&q->desc, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&q->avail, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&q->used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static void write_register(struct virtio *v, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		v->features_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_driver_features(v, value);
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		v->driver_features_select = value;
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		v->queue_select = value;
		break;
	default:
		write_queue(v, offset, value);
		break;
	}
}

static void write_config(struct virtio *v, uint64_t offset, const uint8_t *data, unsigned len)
{
	if (v->ops->write_config && offset < v->config_size && len <= v->config_size - offset)
		v->ops->write_config(v, (uint32_t)offset, data, len);
}

/*
 * A status starts or ends the device's work: its iothread stands meanwhile, so
 * that activate() and reset() have its loop for themselves.
 */
static void change_status(struct virtio *v, uint32_t value)
{
	iothread_pause(v->io);
	pthread_mutex_lock(&v->lock);
	write_status(v, value);
	pthread_mutex_unlock(&v->lock);
	iothread_unpause(v->io);
}

/* What is done without the lock, as a guest's interrupt handler shall not wait; or before it. */
static bool write_unlocked(struct virtio *v, uint64_t offset, uint32_t value)
{
	if (offset == VIRTIO_MMIO_INTERRUPT_ACK) {
		__atomic_fetch_and(&v->interrupt_status, ~value, __ATOMIC_SEQ_CST);
		return true;
	}
	/* Where no ioeventfd has caught it. */
	if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
		if (value < v->nqueues)
			virtio_kick(v, value);
		return true;
	}
	if (offset == VIRTIO_MMIO_STATUS) {
		change_status(v, value);
		return true;
	}
	return false;
}

static void mmio_write(struct vdev *d, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct virtio *v = virtio_of(d);
	uint32_t value = 0;

	if (len == sizeof(value))
		memcpy(&value, data, sizeof(value));
	if (len == sizeof(value) && write_unlocked(v, offset, value))
		return;
	pthread_mutex_lock(&v->lock);
	if (offset >= VIRTIO_MMIO_CONFIG)
		write_config(v, offset - VIRTIO_MMIO_CONFIG, data, len);
	else if (len == sizeof(value))
		write_register(v, offset, value);
	pthread_mutex_unlock(&v->lock);
}

static void mmio_reset(struct vdev *d)
{
	change_status(virtio_of(d), 0);
}

const struct vdev_ops virtio_mmio_ops = {
	.version = 1,
	.read = mmio_read,
	.write = mmio_write,
	.reset = mmio_reset,
	.save = virtio_save,
	.load = virtio_load,
};
