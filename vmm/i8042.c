/* The keyboard controller: see i8042.h. */
#include "i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "proto/bounded.h"

#define PORT_DATA    0
#define PORT_COMMAND 4

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM	   0x04 /* the self-test has passed */
#define STATUS_UNLOCKED	   0x10

#define COMMAND_READ_CONTROL  0x20
#define COMMAND_WRITE_CONTROL 0x60
#define COMMAND_SELF_TEST     0xaa
#define COMMAND_TEST_KEYBOARD 0xab
#define COMMAND_WRITE_OUTPORT 0xd1
#define COMMAND_AUX_TEST      0xa9
#define COMMAND_AUX_LOOP      0xd3
#define COMMAND_PULSE_RESET   0xfe
#define OUTPORT_NOT_RESET     0x01

static struct i8042 *of(struct vdev *d)
{
	return (struct i8042 *)d;
}

static void answer(struct i8042 *k, uint8_t value)
{
	k->output = value;
	k->output_full = true;
}

/* True: the reset line is pulled. */
static bool take_command(struct i8042 *k, uint8_t command)
{
	k->command = 0;
	switch (command) {
	case COMMAND_READ_CONTROL:
		answer(k, k->control);
		break;
	case COMMAND_SELF_TEST:
		answer(k, 0x55);
		break;
	case COMMAND_TEST_KEYBOARD:
		answer(k, 0x00);
		break;
	case COMMAND_AUX_TEST:
		answer(k, 0x01); /* clock line stuck: there is no mouse */
		break;
	case COMMAND_WRITE_CONTROL:
	case COMMAND_WRITE_OUTPORT:
	case COMMAND_AUX_LOOP:
		k->command = command;
		break;
	case COMMAND_PULSE_RESET:
		return true;
	}
	return false;
}

static bool take_data(struct i8042 *k, uint8_t value)
{
	const uint8_t command = k->command;

	k->command = 0;
	if (command == COMMAND_WRITE_CONTROL)
		k->control = value;
	/* Answered as from the keyboard's side: a driver sees at once that there is no mouse. */
	if (command == COMMAND_AUX_LOOP)
		answer(k, value);
	return command == COMMAND_WRITE_OUTPORT && !(value & OUTPORT_NOT_RESET);
}

static uint8_t i8042_in(struct vdev *d, uint16_t port)
{
	struct i8042 *k = of(d);
	uint8_t value = 0xff;

	pthread_mutex_lock(&k->lock);
	if (port == PORT_COMMAND) {
		value = (uint8_t)(STATUS_SYSTEM | STATUS_UNLOCKED |
				  (k->output_full ? STATUS_OUTPUT_FULL : 0));
	} else if (port == PORT_DATA) {
		value = k->output;
		k->output_full = false;
	}
	pthread_mutex_unlock(&k->lock);
	return value;
}

static void i8042_out(struct vdev *d, uint16_t port, uint8_t value)
{
	struct i8042 *k = of(d);
	bool reset = false;

	pthread_mutex_lock(&k->lock);
	if (port == PORT_COMMAND)
		reset = take_command(k, value);
	else if (port == PORT_DATA)
		reset = take_data(k, value);
	pthread_mutex_unlock(&k->lock);
	if (reset)
		d->host.request_reset(d->host.arg);
}

static void power_on(struct i8042 *k)
{
	k->command = 0;
	k->control = 0;
	k->output = 0;
	k->output_full = false;
}

static void i8042_reset(struct vdev *d)
{
	struct i8042 *k = of(d);

	pthread_mutex_lock(&k->lock);
	power_on(k);
	pthread_mutex_unlock(&k->lock);
}

static int i8042_save(struct vdev *d, uint8_t **buf, size_t *len)
{
	struct i8042 *k = of(d);
	I8042State m = I8042_STATE__INIT;

	pthread_mutex_lock(&k->lock);
	m.command = k->command;
	m.control = k->control;
	m.output = k->output;
	m.output_full = k->output_full;
	pthread_mutex_unlock(&k->lock);
	*len = i8042_state__get_packed_size(&m);
	*buf = malloc(*len ? *len : 1);
	if (!*buf)
		return -ENOMEM;
	i8042_state__pack(&m, *buf);
	return 0;
}

static int i8042_load(struct vdev *d, const uint8_t *buf, size_t len, struct err *e)
{
	struct i8042 *k = of(d);
	I8042State *m =
		(I8042State *)proto_unpack_bounded(&i8042_state__descriptor, buf, len, 4096);

	if (!m)
		return err_refuse(e, EINVAL, "the saved state of %s cannot be parsed", d->name);
	pthread_mutex_lock(&k->lock);
	k->command = (uint8_t)m->command;
	k->control = (uint8_t)m->control;
	k->output = (uint8_t)m->output;
	k->output_full = m->output_full;
	pthread_mutex_unlock(&k->lock);
	i8042_state__free_unpacked(m, NULL);
	return 0;
}

const struct vdev_ops i8042_ops = {
	.version = 1,
	.in = i8042_in,
	.out = i8042_out,
	.reset = i8042_reset,
	.save = i8042_save,
	.load = i8042_load,
};

void i8042_init(struct i8042 *k)
{
	pthread_mutex_init(&k->lock, NULL);
	power_on(k);
}
