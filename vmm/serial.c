/* A 16550A UART: see serial.h. */
#include "serial.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/bounded.h"

enum { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

#define IER_RECEIVE  0x01
#define IER_TRANSMIT 0x02
#define IIR_NONE     0x01
#define IIR_TRANSMIT 0x02
#define IIR_RECEIVE  0x04
#define IIR_FIFOS    0xc0
#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define LCR_DLAB     0x80
#define MCR_OUT2     0x08 /* on a PC: lets the interrupt through */
#define MCR_LOOP     0x10
#define LSR_DATA     0x01
#define LSR_EMPTY    0x60 /* THR and transmitter empty */
#define MSR_LINE_UP  0xb0 /* DCD, DSR, CTS */

static struct serial *of(struct vdev *d)
{
	return (struct serial *)d;
}

/* All below with the lock held, but for the operations themselves. */

static uint8_t pending(const struct serial *s)
{
	if ((s->ier & IER_RECEIVE) && s->len)
		return IIR_RECEIVE;
	if ((s->ier & IER_TRANSMIT) && s->thr_empty_pending)
		return IIR_TRANSMIT;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	bool level = pending(s) != IIR_NONE && (s->mcr & MCR_OUT2) && !(s->mcr & MCR_LOOP);

	s->dev.host.set_irq(s->dev.host.arg, s->dev.irq, level);
}

static void enqueue(struct serial *s, uint8_t byte)
{
	if (s->len == SERIAL_QUEUE)
		return;
	s->queue[(s->head + s->len) % SERIAL_QUEUE] = byte;
	s->len++;
}

static uint8_t dequeue(struct serial *s)
{
	uint8_t byte;

	if (!s->len)
		return 0;
	byte = s->queue[s->head];
	s->head = (s->head + 1) % SERIAL_QUEUE;
	s->len--;
	return byte;
}

static void transmit(struct serial *s, uint8_t byte)
{
	if (s->mcr & MCR_LOOP)
		enqueue(s, byte);
	else if (!chardev_put(s->out, byte))
		return; /* the guest did not look at LSR: as on the wire, it is lost */
	else
		__atomic_fetch_add(&s->bytes_out, 1, __ATOMIC_RELAXED);
	s->thr_empty_pending = chardev_has_room(s->out);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = s->len ? LSR_DATA : 0;

	return chardev_has_room(s->out) ? lsr | LSR_EMPTY : lsr;
}

/* In loopback the four outputs come back as the four inputs. Data sheet, 8.6.7. */
static uint8_t read_msr(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_LINE_UP;
	return (uint8_t)((s->mcr & 0x0c) << 4 | (s->mcr & 0x02) << 3 | (s->mcr & 0x01) << 5);
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t iir = pending(s);

	if (iir == IIR_TRANSMIT)
		s->thr_empty_pending = false;
	return s->fcr & FCR_ENABLE ? iir | IIR_FIFOS : iir;
}

static uint8_t read_register(struct serial *s, uint16_t port)
{
	const bool dlab = s->lcr & LCR_DLAB;

	switch (port) {
	case RBR_THR:
		return dlab ? s->dll : dequeue(s);
	case IER:
		return dlab ? s->dlm : s->ier;
	case IIR_FCR:
		return read_iir(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr(s);
	case MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

static void write_ier(struct serial *s, uint8_t value)
{
	/* Switching the transmit interrupt on while the THR is empty raises it. */
	if ((value & IER_TRANSMIT) && !(s->ier & IER_TRANSMIT) && chardev_has_room(s->out))
		s->thr_empty_pending = true;
	s->ier = value & 0x0f;
}

static void write_register(struct serial *s, uint16_t port, uint8_t value)
{
	const bool dlab = s->lcr & LCR_DLAB;

	switch (port) {
	case RBR_THR:
		if (dlab)
			s->dll = value;
		else
			transmit(s, value);
		break;
	case IER:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case IIR_FCR:
		if (value & FCR_CLEAR_RX)
			s->len = 0;
		s->fcr = value & (FCR_ENABLE | 0xc0);
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & 0x1f;
		break;
	case SCR:
		s->scr = value;
		break;
	}
}

static uint8_t serial_in(struct vdev *d, uint16_t port)
{
	struct serial *s = of(d);
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	value = read_register(s, port);
	/* Only these two reads can take a standing interrupt away. */
	if (port == RBR_THR || port == IIR_FCR)
		update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void serial_out(struct vdev *d, uint16_t port, uint8_t value)
{
	struct serial *s = of(d);
	bool quiet;

	pthread_mutex_lock(&s->lock);
	/* A polling guest's THR writes change no interrupt: spare the ioctl for each byte. */
	quiet = port == RBR_THR && !(s->ier & IER_TRANSMIT) && !(s->mcr & MCR_LOOP);
	write_register(s, port, value);
	if (!quiet)
		update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static void power_on(struct serial *s)
{
	s->ier = s->lcr = s->scr = s->dlm = s->fcr = 0;
	s->mcr = MCR_OUT2;
	s->dll = 12; /* 9600 baud */
	s->thr_empty_pending = false;
	s->head = s->len = 0;
}

static void serial_reset(struct vdev *d)
{
	struct serial *s = of(d);

	pthread_mutex_lock(&s->lock);
	power_on(s);
	pthread_mutex_unlock(&s->lock);
}

static int serial_save(struct vdev *d, uint8_t **buf, size_t *len)
{
	struct serial *s = of(d);
	uint8_t received[SERIAL_QUEUE];
	SerialState m = SERIAL_STATE__INIT;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->len; i++)
		received[i] = s->queue[(s->head + i) % SERIAL_QUEUE];
	m.received = (ProtobufCBinaryData){ s->len, received };
	m.ier = s->ier;
	m.lcr = s->lcr;
	m.mcr = s->mcr;
	m.scr = s->scr;
	m.dll = s->dll;
	m.dlm = s->dlm;
	m.fcr = s->fcr;
	m.thr_empty_pending = s->thr_empty_pending;
	pthread_mutex_unlock(&s->lock);

	*len = serial_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	serial_state__pack(&m, *buf);
	return 0;
}

static void take(struct serial *s, const SerialState *m)
{
	s->ier = m->ier & 0x0f;
	s->lcr = (uint8_t)m->lcr;
	s->mcr = m->mcr & 0x1f;
	s->scr = (uint8_t)m->scr;
	s->dll = (uint8_t)m->dll;
	s->dlm = (uint8_t)m->dlm;
	s->fcr = m->fcr & (FCR_ENABLE | 0xc0);
	s->head = 0;
	s->len = m->received.len;
	if (s->len)
		memcpy(s->queue, m->received.data, s->len);
	/*
	 * A guest saved while it waited for room hears of it here: this chardev
	 * is new and empty. One interrupt too many is harmless.
	 */
	s->thr_empty_pending = true;
}

static int serial_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e)
{
	struct serial *s = of(d);
	SerialState *m = (SerialState *)proto_unpack_bounded(&serial_state__descriptor, buf, len,
							     4 * SERIAL_QUEUE);

	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", d->name);
	if (m->received.len > SERIAL_QUEUE) {
		serial_state__free_unpacked(m, NULL);
		return err_refuse(e, EINVAL, "the saved state of %s has too long a queue", d->name);
	}
	pthread_mutex_lock(&s->lock);
	take(s, m);
	/* Low first: an edge-triggered input needs an edge. */
	s->dev.host.set_irq(s->dev.host.arg, s->dev.irq, false);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	serial_state__free_unpacked(m, NULL);
	return 0;
}

const struct vdev_ops serial_ops = {
	.version = 1,
	.in = serial_in,
	.out = serial_out,
	.reset = serial_reset,
	.save = serial_save,
	.load = serial_load,
};

void serial_init(struct serial *s, struct chardev *out)
{
	s->out = out;
	pthread_mutex_init(&s->lock, NULL);
	power_on(s);
}

size_t serial_room(struct serial *s)
{
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = SERIAL_QUEUE - s->len;
	pthread_mutex_unlock(&s->lock);
	return room;
}

size_t serial_receive(struct serial *s, const uint8_t *bytes, size_t n)
{
	size_t taken = 0;

	pthread_mutex_lock(&s->lock);
	for (; taken < n && s->len < SERIAL_QUEUE; taken++)
		enqueue(s, bytes[taken]);
	__atomic_fetch_add(&s->bytes_in, taken, __ATOMIC_RELAXED);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return taken;
}

void serial_output_drained(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->thr_empty_pending = true;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}
