/* The saved state of a virtio device: see virtio.h. The message is in state.proto. */
#include "transport.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "proto/bounded.h"

/* What a decoded message may take beyond its bytes: the queues, and itself. */
#define DECODE_ROOM 65536

int virtio_save(struct vdev *d, uint8_t **buf, size_t *len)
{
	struct virtio *v = virtio_of(d);
	VirtqState queue[VIRTIO_QUEUES_MAX], *queues[VIRTIO_QUEUES_MAX];
	auto_free uint8_t *private = NULL;
	VirtioState m = VIRTIO_STATE__INIT;
	size_t private_len = 0;
	int rc = 0;

	pthread_mutex_lock(&v->lock);
	for (unsigned q = 0; q < v->nqueues; q++) {
		virtq_save(&v->queue[q], &queue[q]);
		queues[q] = &queue[q];
	}
	m.n_queue = v->nqueues;
	m.queue = queues;
	m.device_id = v->ops->id;
	m.device_version = v->ops->version;
	m.features = v->features;
	m.driver_features = v->driver_features;
	m.features_select = v->features_select;
	m.driver_features_select = v->driver_features_select;
	m.queue_select = v->queue_select;
	m.status = v->status;
	m.config_generation = v->config_generation;
	m.interrupt_status = __atomic_load_n(&v->interrupt_status, __ATOMIC_SEQ_CST);
	if (v->ops->save)
		rc = v->ops->save(v, &private, &private_len);
	pthread_mutex_unlock(&v->lock);
	if (rc < 0)
		return rc;
	m.device = (ProtobufCBinaryData){ private_len, private };
	*len = virtio_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	virtio_state__pack(&m, *buf);
	return 0;
}

#define REFUSE(e, name, fmt, ...)                                                                  \
	err_refuse(e, EINVAL, "the saved state of %.64s " fmt, name, __VA_ARGS__)

/* Feature words that this device and its driver can have. */
static int check_features(const struct virtio *v, const VirtioState *m, struct err *e)
{
	const uint64_t missing = m->features & ~v->features;

	if (missing)
		return REFUSE(e, v->dev.name, "needs features 0x%llx, which it cannot have here",
			      (unsigned long long)missing);
	if (!(m->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return 0;
	if (m->driver_features & ~m->features)
		return REFUSE(e, v->dev.name,
			      "has features 0x%llx accepted, which were not offered",
			      (unsigned long long)(m->driver_features & ~m->features));
	if (!(m->driver_features >> VIRTIO_F_VERSION_1 & 1))
		return REFUSE(e, v->dev.name, "has %s not accepted", "VERSION_1");
	return 0;
}

static int check_status(const char *name, const VirtioState *m, struct err *e)
{
	const uint32_t s = m->status, begun = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	bool ready = false;

	for (size_t q = 0; q < m->n_queue; q++)
		ready |= m->queue[q]->ready;
	if ((s & ~(uint32_t)STATUS_KNOWN) ||
	    ((s & VIRTIO_CONFIG_S_FEATURES_OK) && (s & begun) != begun) ||
	    ((s & VIRTIO_CONFIG_S_DRIVER_OK) && !(s & VIRTIO_CONFIG_S_FEATURES_OK)) ||
	    (ready && !(s & VIRTIO_CONFIG_S_FEATURES_OK)))
		return REFUSE(e, name, "has a status 0x%x, which cannot be", s);
	if (m->interrupt_status & ~(uint32_t)INTERRUPTS_KNOWN)
		return REFUSE(e, name, "has interrupts 0x%x, which it does not have",
			      m->interrupt_status);
	return 0;
}

/* What is wrong with any device of that kind. */
static int check_kind(const struct virtio_ops *ops, const char *name, const VirtioState *m,
		      struct err *e)
{
	if (m->device_id != ops->id)
		return REFUSE(e, name, "is of a virtio device of type %u, not %u", m->device_id,
			      ops->id);
	if (m->device_version > ops->version)
		return REFUSE(e, name, "is of version %u, this program reads up to %u",
			      m->device_version, ops->version);
	if (m->device.len && !ops->load)
		return REFUSE(e, name, "has %zu bytes of its own, which are unknown",
			      m->device.len);
	return check_status(name, m, e);
}

static int check(const struct virtio *v, const VirtioState *m, struct err *e)
{
	int rc = check_kind(v->ops, v->dev.name, m, e);

	if (rc < 0)
		return rc;
	if (m->n_queue != v->nqueues)
		return REFUSE(e, v->dev.name, "has %zu queues, not %u", m->n_queue, v->nqueues);
	return check_features(v, m, e);
}

/* Under lock; where it fails the device is to be reset. */
static int take(struct virtio *v, const VirtioState *m, struct err *e)
{
	for (unsigned q = 0; q < v->nqueues; q++) {
		int rc = virtq_load(&v->queue[q], m->queue[q], v->ram, v->dev.name, e);

		if (rc < 0)
			return rc;
	}
	/* What the driver was offered is what it is offered when it asks again. */
	v->features = m->features;
	v->driver_features = m->driver_features;
	v->features_select = m->features_select;
	v->driver_features_select = m->driver_features_select;
	v->queue_select = m->queue_select;
	v->status = m->status;
	v->config_generation = m->config_generation;
	__atomic_store_n(&v->interrupt_status, m->interrupt_status, __ATOMIC_SEQ_CST);
	virtio_apply_features(v);
	return v->ops->load ? v->ops->load(v, m->device_version, m->device.data, m->device.len, e)
			    : 0;
}

static int load_message(struct virtio *v, const VirtioState *m, struct err *e)
{
	const uint64_t features = v->features;
	int rc = check(v, m, e);

	if (rc < 0)
		return rc;
	v->dev.ops->reset(&v->dev);
	pthread_mutex_lock(&v->lock);
	rc = take(v, m, e);
	pthread_mutex_unlock(&v->lock);
	if (rc < 0) {
		v->features = features;
		v->dev.ops->reset(&v->dev);
	}
	return rc;
}

static VirtioState *decode(const char *name, const uint8_t *buf, size_t len, struct err *e)
{
	VirtioState *m = (VirtioState *)proto_unpack_bounded(&virtio_state__descriptor, buf, len,
							     len + DECODE_ROOM);

	if (!m)
		REFUSE(e, name, "%s", "cannot be parsed");
	return m;
}

int virtio_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e)
{
	VirtioState *m = decode(d->name, buf, len, e);
	int rc = m ? load_message(virtio_of(d), m, e) : -EINVAL;

	if (m)
		virtio_state__free_unpacked(m, NULL);
	return rc;
}

int virtio_check_state(const struct virtio_ops *ops, const char *name, const struct ram *ram,
		       const uint8_t *buf, size_t len, struct err *e)
{
	VirtioState *m = decode(name, buf, len, e);
	int rc = m ? check_kind(ops, name, m, e) : -EINVAL;

	if (rc == 0 && m->n_queue > VIRTIO_QUEUES_MAX)
		rc = REFUSE(e, name, "has %zu queues", m->n_queue);
	for (size_t q = 0; rc == 0 && q < m->n_queue; q++) {
		struct virtq any = { .size_max = VIRTQ_SIZE_MAX };

		rc = virtq_load(&any, m->queue[q], ram, name, e);
	}
	if (m)
		virtio_state__free_unpacked(m, NULL);
	return rc;
}
