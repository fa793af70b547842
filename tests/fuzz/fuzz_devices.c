/*
 * The devices: saved state that others wrote, then a guest that does what it
 * likes. Input: which device, the length of the state (2 bytes), the state, and
 * pairs {port, value}; a port's bit 7 says 'read', bit 6 'bytes from the host'.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/i8042.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"

#define READ 0x80
#define HOST 0x40

static void set_irq(void *arg, uint32_t irq, bool level)
{
	(void)arg;
	(void)irq;
	(void)level;
}

static void request_reset(void *arg)
{
	(void)arg;
}

struct devices {
	struct chardev out;
	struct serial serial;
	struct i8042 keyboard;
	struct rtc rtc;
};

static struct vdev *make(struct devices *all, unsigned which)
{
	static const struct vdev_ops *const ops[] = { &serial_ops, &i8042_ops, &rtc_ops };
	static const uint16_t nports[] = { 8, 5, 2 };
	struct vdev *const devs[] = { &all->serial.dev, &all->keyboard.dev, &all->rtc.dev };

	chardev_init(&all->out, -1);
	serial_init(&all->serial, &all->out);
	i8042_init(&all->keyboard);
	rtc_init(&all->rtc);
	which %= 3;
	*devs[which] = (struct vdev){ .ops = ops[which],
				      .name = "device",
				      .nports = nports[which],
				      .irq = 4,
				      .host = { NULL, set_irq, request_reset } };
	return devs[which];
}

static void operate(struct devices *all, struct vdev *d, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i + 1 < size; i += 2) {
		const uint16_t port = (uint16_t)((data[i] & 0x3f) % d->nports);
		const bool is_serial = d == &all->serial.dev;

		if (is_serial && (data[i] & HOST))
			MUST(serial_receive(&all->serial, data + i, 2) <= 2);
		else if (data[i] & READ)
			d->ops->in(d, port);
		else
			d->ops->out(d, port, data[i + 1]);
		if (is_serial)
			MUST(serial_room(&all->serial) <= SERIAL_QUEUE);
	}
}

/* Its own state is always taken, and is the same when it is saved again. */
static void save_and_load(struct vdev *d)
{
	static struct devices others;
	auto_free uint8_t *once = NULL, *twice = NULL, *thrice = NULL;
	struct vdev *other = make(&others, d->ops == &serial_ops  ? 0
					   : d->ops == &i8042_ops ? 1
								  : 2);
	size_t n, k, l;

	MUST(d->ops->save(d, &once, &n) == 0);
	MUST(other->ops->load(other, once, n, NULL) == 0);
	MUST(other->ops->save(other, &twice, &k) == 0);
	/* A serial line that is loaded tells the guest to go on: from then on it is fixed. */
	MUST(other->ops->load(other, twice, k, NULL) == 0);
	MUST(other->ops->save(other, &thrice, &l) == 0);
	MUST(k == l && memcmp(twice, thrice, k) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct devices all;
	struct err e = { 0 };
	struct vdev *d;
	size_t len;
	int rc;

	if (size < 3)
		return 0;
	d = make(&all, data[0]);
	len = (size_t)data[1] | (size_t)data[2] << 8;
	data += 3;
	size -= 3;
	if (len > size)
		len = size;
	rc = d->ops->load(d, data, len, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	operate(&all, d, data + len, size - len);
	save_and_load(d);
	d->ops->reset(d);
	return 0;
}
