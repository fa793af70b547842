/* The real-time clock of a PC: see rtc.h. */
#include "rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/bounded.h"

#define PORT_SELECT 0
#define PORT_DATA   1

enum {
	SECONDS = 0,
	MINUTES = 2,
	HOURS = 4,
	WEEKDAY = 6,
	DAY = 7,
	MONTH = 8,
	YEAR = 9,
	STATUS_A = 10,
	STATUS_B = 11,
	STATUS_C = 12,
	STATUS_D = 13,
	CENTURY = 0x32, /* where ACPI's FADT and old PCs have it */
};

#define A_DIVIDER   0x26 /* 32768 Hz, no update in progress */
#define B_24_HOURS  0x02
#define B_BINARY    0x04
#define B_PM	    0x80 /* of the hours, in 12-hour form */
#define D_VALID	    0x80
#define NMI_DISABLE 0x80 /* of the select port; not a register's bit */

static struct rtc *of(struct vdev *d)
{
	return (struct rtc *)d;
}

/* All below with the lock held, but for the operations themselves. */

static uint8_t encode(const struct rtc *r, int value)
{
	if (r->reg[STATUS_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static uint8_t encode_hours(const struct rtc *r, int hours)
{
	uint8_t pm = hours >= 12 ? B_PM : 0;

	if (r->reg[STATUS_B] & B_24_HOURS)
		return encode(r, hours);
	return encode(r, hours % 12 ? hours % 12 : 12) | pm;
}

static uint8_t read_register(const struct rtc *r, uint8_t n)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (n) {
	case SECONDS:
		return encode(r, tm.tm_sec);
	case MINUTES:
		return encode(r, tm.tm_min);
	case HOURS:
		return encode_hours(r, tm.tm_hour);
	case WEEKDAY:
		return encode(r, tm.tm_wday + 1);
	case DAY:
		return encode(r, tm.tm_mday);
	case MONTH:
		return encode(r, tm.tm_mon + 1);
	case YEAR:
		return encode(r, tm.tm_year % 100);
	case CENTURY:
		return encode(r, (tm.tm_year + 1900) / 100);
	case STATUS_C: /* no interrupt stands */
		return 0;
	case STATUS_D:
		return D_VALID;
	default:
		return r->reg[n];
	}
}

static uint8_t rtc_in(struct vdev *d, uint16_t port)
{
	struct rtc *r = of(d);
	uint8_t value = 0xff;

	pthread_mutex_lock(&r->lock);
	if (port == PORT_DATA)
		value = read_register(r, r->selected);
	pthread_mutex_unlock(&r->lock);
	return value;
}

static void rtc_out(struct vdev *d, uint16_t port, uint8_t value)
{
	struct rtc *r = of(d);

	pthread_mutex_lock(&r->lock);
	if (port == PORT_SELECT)
		r->selected = value & (uint8_t)~NMI_DISABLE;
	else if (r->selected != STATUS_A)
		r->reg[r->selected] = value;
	pthread_mutex_unlock(&r->lock);
}

static void power_on(struct rtc *r)
{
	r->selected = 0;
	r->reg[STATUS_A] = A_DIVIDER;
	r->reg[STATUS_B] = B_24_HOURS;
}

static void rtc_reset(struct vdev *d)
{
	struct rtc *r = of(d);

	pthread_mutex_lock(&r->lock);
	power_on(r); /* the memory has a battery */
	pthread_mutex_unlock(&r->lock);
}

static int rtc_save(struct vdev *d, uint8_t **buf, size_t *len)
{
	struct rtc *r = of(d);
	RtcState m = RTC_STATE__INIT;
	int rc = 0;

	pthread_mutex_lock(&r->lock);
	m.selected = r->selected;
	m.registers = (ProtobufCBinaryData){ RTC_REGISTERS, r->reg };
	*len = rtc_state__get_packed_size(&m);
	*buf = malloc(*len);
	if (*buf)
		rtc_state__pack(&m, *buf);
	else
		rc = -ENOMEM;
	pthread_mutex_unlock(&r->lock);
	return rc;
}

static int rtc_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e)
{
	struct rtc *r = of(d);
	RtcState *m = (RtcState *)proto_unpack_bounded(&rtc_state__descriptor, buf, len, 4096);
	int rc = 0;

	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", d->name);
	if (m->registers.len != RTC_REGISTERS || m->selected >= RTC_REGISTERS) {
		rc = err_refuse(e, EINVAL, "the saved state of %s has a register out of range",
				d->name);
	} else {
		pthread_mutex_lock(&r->lock);
		memcpy(r->reg, m->registers.data, RTC_REGISTERS);
		r->reg[STATUS_A] = A_DIVIDER;
		r->selected = (uint8_t)m->selected;
		pthread_mutex_unlock(&r->lock);
	}
	rtc_state__free_unpacked(m, NULL);
	return rc;
}

const struct vdev_ops rtc_ops = {
	.version = 1,
	.in = rtc_in,
	.out = rtc_out,
	.reset = rtc_reset,
	.save = rtc_save,
	.load = rtc_load,
};

void rtc_init(struct rtc *r)
{
	pthread_mutex_init(&r->lock, NULL);
	memset(r->reg, 0, sizeof(r->reg));
	power_on(r);
}
