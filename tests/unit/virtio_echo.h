/*
 * A device of the tests' own on the transport of virtio: it gives back what it is
 * given. With it, a rig of the device and its driver, for the tests of virtio.
 */
#pragma once

#include "virtio_driver.h"

#include <sys/eventfd.h>

/* ---- a device that gives back what it is given ---- */

#define ECHO_CONFIG  12
#define ECHO_FEATURE 5
#define ECHO_QUEUES  2

struct echo {
	struct virtio v; /* first */
	uint8_t config[ECHO_CONFIG];
	unsigned activated, notified;
	uint8_t private[8]; /* of its state */
	int extra_fd;	    /* in its loop while the driver is there, -1 */
	bool by_kernel;	    /* its I/O is the kernel's */
};

static struct echo *echo_of(struct virtio *v)
{
	return (struct echo *)v;
}

static void on_extra(void *arg, uint32_t events)
{
	(void)arg;
	(void)events;
}

static void echo_unwatch(struct echo *echo)
{
	if (echo->extra_fd < 0)
		return;
	loop_remove(&echo->v.io->loop, echo->extra_fd);
	close(echo->extra_fd);
	echo->extra_fd = -1;
}

static void echo_close(struct virtio *v)
{
	echo_unwatch(echo_of(v));
	virtio_fini(v);
	free(v);
}

static void echo_read_config(struct virtio *v, uint32_t offset, void *buf, uint32_t len)
{
	assert_true(offset < ECHO_CONFIG && len <= ECHO_CONFIG - offset);
	memcpy(buf, echo_of(v)->config + offset, len);
}

static void echo_write_config(struct virtio *v, uint32_t offset, const void *buf, uint32_t len)
{
	assert_true(offset < ECHO_CONFIG && len <= ECHO_CONFIG - offset);
	memcpy(echo_of(v)->config + offset, buf, len);
}

static void echo_activate(struct virtio *v)
{
	struct echo *echo = echo_of(v);

	echo->activated++;
	echo->extra_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(loop_add(&v->io->loop, echo->extra_fd, EPOLLIN, on_extra, echo), 0);
}

static void echo_reset(struct virtio *v)
{
	echo_unwatch(echo_of(v));
}

/* As many bytes as the shorter of the two sides has, at most 64. */
static int echo_copy(struct virtio *v, const struct virtq_chain *c, uint64_t n)
{
	struct iovec iov[4];
	uint8_t bytes[64];
	int rc = virtq_read(c, v->ram, 0, bytes, n);

	if (rc < 0)
		return rc;
	if (!echo_of(v)->by_kernel)
		return virtq_write(c, v->ram, 0, bytes, n);
	rc = virtq_iov(c, v->ram, true, 0, n, iov, 4);
	if (rc > 0) {
		auto_fd int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

		rc = readv(zero, iov, rc) < 0 ? -errno : 0;
	}
	return rc;
}

static void echo_notify(struct virtio *v, unsigned q)
{
	struct virtq_chain c;
	bool any = false;

	__atomic_fetch_add(&echo_of(v)->notified, 1, __ATOMIC_RELAXED);
	while (virtio_pop(v, q, &c)) {
		uint64_t n = c.out_len < c.in_len ? c.out_len : c.in_len;
		int rc = echo_copy(v, &c, n < 64 ? n : 64);

		if (rc < 0) {
			virtio_memory_failed(v, q, rc);
			break;
		}
		if (!virtio_push(v, q, &c, (uint32_t)n))
			break;
		any = true;
	}
	if (any)
		virtio_signal(v, q);
}

static int echo_save(struct virtio *v, uint8_t **buf, size_t *len)
{
	*len = sizeof(echo_of(v)->private);
	*buf = malloc(*len);
	if (!*buf)
		return -ENOMEM;
	memcpy(*buf, echo_of(v)->private, *len);
	return 0;
}

static int echo_load(struct virtio *v, uint32_t version, const uint8_t *buf, size_t len,
		     struct err *e)
{
	assert_in_range(version, 0, 3);
	if (len != sizeof(echo_of(v)->private))
		return err_refuse(e, EINVAL, "the echo has %zu bytes", len);
	memcpy(echo_of(v)->private, buf, len);
	return 0;
}

static int echo_open(const Device *config, struct virtio **out, struct err *e);

static const struct virtio_ops echo_ops = {
	.kind = "virtio-echo",
	.id = 4242,
	.version = 3,
	.max = 1,
	.open = echo_open,
	.close = echo_close,
	.read_config = echo_read_config,
	.write_config = echo_write_config,
	.activate = echo_activate,
	.reset = echo_reset,
	.notify = echo_notify,
	.save = echo_save,
	.load = echo_load,
};

/* The same without anything that may be NULL, and two queues. */
UNUSED static const struct virtio_ops plain_ops = {
	.kind = "virtio-plain",
	.id = 4243,
	.open = echo_open,
	.close = echo_close,
	.notify = echo_notify,
};

/* config->size, not 0: features that are offered beyond the common ones; path: that it fails. */
static int echo_open(const Device *config, struct virtio **out, struct err *e)
{
	const bool plain = config->kind && strcmp(config->kind, plain_ops.kind) == 0;
	struct echo *echo;

	if (config->path && *config->path)
		return err_env(e, ENOENT, "there is no %s", config->path);
	echo = calloc(1, sizeof(*echo));
	if (!echo)
		return -ENOMEM;
	virtio_init(&echo->v, plain ? &plain_ops : &echo_ops, ECHO_QUEUES, 64,
		    config->size ? config->size : VIRTIO_F(ECHO_FEATURE), ECHO_CONFIG);
	echo->extra_fd = -1;
	*out = &echo->v;
	return 0;
}

struct rig {
	struct driver d;
	Device config;
	struct echo *echo;
};

UNUSED static struct rig *open_rig(const struct virtio_ops *ops, uint64_t features)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	device__init(&r->config);
	r->config.size = features;
	driver_open(&r->d, ops, &r->config);
	r->echo = echo_of(r->d.v);
	return r;
}

UNUSED static void close_rig(struct rig *r)
{
	driver_close(&r->d);
	free(r);
}

UNUSED static int make(void **state)
{
	*state = open_rig(&echo_ops, 0);
	return 0;
}

UNUSED static int drop(void **state)
{
	close_rig(*state);
	return 0;
}

UNUSED static void echo(struct driver *d, unsigned q)
{
	static uint32_t seed = 1;
	uint8_t out[50], in[50] = { 0 };

	fill_random(out, sizeof(out), seed++);
	assert_int_equal(driver_request(d, q, out, sizeof(out), in, sizeof(in)), sizeof(in));
	assert_memory_equal(out, in, sizeof(in));
}
