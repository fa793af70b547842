/* The transport of virtio devices: registers, status, interrupts, state. */
#include "virtio_driver.h"

#include "vmm/fault.h"

/* ---- a device that gives back, in capitals or not, what it is given ---- */

#define ECHO_CONFIG 12

struct echo {
	struct virtio v; /* first */
	uint8_t config[ECHO_CONFIG];
	unsigned activated, reset, notified;
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

static void echo_notify(struct virtio *v, unsigned q)
{
	struct virtq_chain c;
	uint8_t bytes[64];
	bool any = false;

	echo_of(v)->notified++;
	while (virtio_pop(v, q, &c)) {
		uint64_t n = c.out_len < c.in_len ? c.out_len : c.in_len;
		int rc;

		if (n > sizeof(bytes))
			n = sizeof(bytes);
		rc = virtq_read(&c, v->ram, 0, bytes, n);
		if (rc == 0)
			rc = virtq_write(&c, v->ram, 0, bytes, n);
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

static const struct virtio_ops echo_ops = {
	.kind = "virtio-echo",
	.id = 4242,
	.version = 3,
	.max = 1,
	.open = echo_open,
	.close = echo_close,
	.notify = echo_notify,
};

static int echo_open(const Device *config, struct virtio **out, struct err *e)
{
	struct echo *echo = calloc(1, sizeof(*echo));

	(void)config;
	(void)e;
	if (!echo)
		return -ENOMEM;
	virtio_init(&echo->v, &echo_ops, 2, 64, VIRTIO_F(5), ECHO_CONFIG);
	*out = &echo->v;
	return 0;
}

static void echo_request_comes_back_with_an_interrupt(void **state)
{
	Device config = DEVICE__INIT;
	struct driver d;
	char in[6] = "";

	(void)state;
	driver_open(&d, &echo_ops, &config);
	driver_start(&d, ALL_FEATURES);
	for (int i = 0; i < 1000; i++) {
		memset(in, 0, sizeof(in));
		assert_int_equal(driver_request(&d, 1, "hello", 6, in, 6), 6);
		assert_string_equal(in, "hello");
		assert_int_equal(driver_interrupts(&d), 1);
	}
	assert_int_equal(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	driver_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(echo_request_comes_back_with_an_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
