/* The machine's power device: see power.h. */
#include "power.h"

#include <errno.h>
#include <stdlib.h>

#include "proto/bounded.h"

#define SLP_EN	      0x20
#define SLP_TYP_SHIFT 2
#define SLP_TYP_MASK  0x7

static struct power *of(struct vdev *d)
{
	return (struct power *)d;
}

/* An edge for each event: the handler reads and clears all that have come. */
static void interrupt(struct power *p)
{
	p->dev.host.set_irq(p->dev.host.arg, p->dev.irq, true);
	p->dev.host.set_irq(p->dev.host.arg, p->dev.irq, false);
}

static uint8_t power_in(struct vdev *d, uint16_t port)
{
	struct power *p = of(d);
	uint8_t value = 0;

	pthread_mutex_lock(&p->lock);
	if (port == POWER_EVENTS) {
		value = p->events;
		p->events = 0;
	}
	pthread_mutex_unlock(&p->lock);
	return value;
}

static void power_out(struct vdev *d, uint16_t port, uint8_t value)
{
	if (port == POWER_SLEEP && (value & SLP_EN) &&
	    (value >> SLP_TYP_SHIFT & SLP_TYP_MASK) == POWER_SLP_TYP_OFF)
		d->host.request_power_off(d->host.arg);
	else if (port == POWER_RESET && value == POWER_RESET_VALUE)
		d->host.request_reset(d->host.arg);
}

static void power_reset(struct vdev *d)
{
	struct power *p = of(d);

	pthread_mutex_lock(&p->lock);
	p->events = 0;
	pthread_mutex_unlock(&p->lock);
}

static int power_save(struct vdev *d, uint8_t **buf, size_t *len)
{
	struct power *p = of(d);
	PowerState m = POWER_STATE__INIT;

	pthread_mutex_lock(&p->lock);
	m.events = p->events;
	pthread_mutex_unlock(&p->lock);
	*len = power_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	power_state__pack(&m, *buf);
	return 0;
}

static int power_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e)
{
	struct power *p = of(d);
	PowerState *m =
		(PowerState *)proto_unpack_bounded(&power_state__descriptor, buf, len, 4096);

	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", d->name);
	pthread_mutex_lock(&p->lock);
	p->events = m->events & (POWER_EVENT_BUTTON | POWER_EVENT_GENERATION);
	if (p->events)
		interrupt(p);
	pthread_mutex_unlock(&p->lock);
	power_state__free_unpacked(m, NULL);
	return 0;
}

const struct vdev_ops power_ops = {
	.version = 1,
	.in = power_in,
	.out = power_out,
	.reset = power_reset,
	.save = power_save,
	.load = power_load,
};

void power_init(struct power *p)
{
	pthread_mutex_init(&p->lock, NULL);
	p->events = 0;
}

void power_raise(struct power *p, uint8_t event)
{
	pthread_mutex_lock(&p->lock);
	p->events |= event;
	interrupt(p);
	pthread_mutex_unlock(&p->lock);
}
