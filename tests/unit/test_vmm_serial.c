/* The UART: registers, interrupts, both queues, and its state saved and loaded. */
#include "unit.h"

#include <signal.h>
#include <sys/mman.h>

#include "base/io.h"
#include "vmm/serial.h"

enum { DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

#define IRQ	     4
#define DLAB	     0x80
#define IER_RX	     0x01
#define IER_TX	     0x02
#define IIR_NONE     0x01
#define IIR_TX	     0x02
#define IIR_RX	     0x04
#define LSR_DATA     0x01
#define LSR_EMPTY    0x60
#define MCR_OUT2     0x08
#define MCR_LOOP     0x10
#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02

/* A UART whose interrupt line is watched and whose output is a memfd or a pipe. */
struct rig {
	struct serial s;
	struct chardev out;
	int fd, reader; /* reader: of a pipe, -1 */
	bool level;
	unsigned edges; /* from low to high */
};

static void set_irq(void *arg, uint32_t irq, bool level)
{
	struct rig *r = arg;

	assert_int_equal(irq, IRQ);
	r->edges += level && !r->level;
	r->level = level;
}

static void start(struct rig *r, int fd, int reader)
{
	memset(r, 0, sizeof(*r));
	r->fd = fd;
	r->reader = reader;
	chardev_init(&r->out, fd);
	serial_init(&r->s, &r->out);
	r->s.dev = (struct vdev){ .ops = &serial_ops,
				  .name = "serial0",
				  .port = 0x3f8,
				  .nports = 8,
				  .irq = IRQ,
				  .host = { r, set_irq, NULL } };
}

static int make(void **state)
{
	struct rig *r = malloc(sizeof(*r));
	int fd = memfd_create("out", MFD_CLOEXEC);

	if (!r || fd < 0)
		return -1;
	start(r, fd, -1);
	*state = r;
	return 0;
}

static int make_full_pipe(void **state)
{
	struct rig *r = malloc(sizeof(*r));
	int pair[2];

	if (!r || pipe(pair) < 0)
		return -1;
	start(r, pair[1], pair[0]);
	while (chardev_put(&r->out, '.'))
		;
	*state = r;
	return 0;
}

static int drop(void **state)
{
	struct rig *r = *state;

	close(r->fd);
	if (r->reader >= 0)
		close(r->reader);
	free(r);
	return 0;
}

static uint8_t in(struct rig *r, uint16_t port)
{
	return serial_ops.in(&r->s.dev, port);
}

static void out(struct rig *r, uint16_t port, uint8_t value)
{
	serial_ops.out(&r->s.dev, port, value);
}

static void send(struct rig *r, const char *text)
{
	assert_int_equal(serial_receive(&r->s, (const uint8_t *)text, strlen(text)), strlen(text));
}

/* ---- registers ---- */

static void assert_as_after_power_on(struct rig *r)
{
	assert_int_equal(in(r, IER), 0);
	assert_int_equal(in(r, IIR), IIR_NONE);
	assert_int_equal(in(r, LCR), 0);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
	assert_int_equal(in(r, DATA), 0);
	out(r, LCR, DLAB);
	assert_int_equal(in(r, DATA), 12); /* 9600 baud */
	out(r, LCR, 0);
}

static void registers_after_power_on_are_those_of_the_data_sheet(void **state)
{
	assert_as_after_power_on(*state);
	assert_false(((struct rig *)*state)->level);
}

static void registers_keep_what_they_have_bits_for(void **state)
{
	static const struct {
		uint16_t port;
		uint8_t mask;
	} cases[] = { { IER, 0x0f }, { MCR, 0x1f }, { SCR, 0xff }, { LCR, 0x7f } };
	struct rig *r = *state;

	for (size_t i = 0; i < 4; i++) {
		for (unsigned v = 0; v < 128; v++) {
			out(r, cases[i].port, (uint8_t)v);
			assert_int_equal(in(r, cases[i].port), v & cases[i].mask);
		}
		out(r, cases[i].port, 0);
	}
	out(r, IER, 0xff);
	assert_int_equal(in(r, IER), 0x0f);
	out(r, MCR, 0xff);
	assert_int_equal(in(r, MCR), 0x1f);
}

static void divisor_latch_is_apart_from_data_and_ier(void **state)
{
	struct rig *r = *state;
	char got[2];

	out(r, IER, IER_RX);
	out(r, LCR, DLAB | 3);
	assert_int_equal(in(r, DATA), 12); /* 9600 baud */
	out(r, DATA, 0x34);
	out(r, IER, 0x12);
	assert_int_equal(in(r, DATA), 0x34);
	assert_int_equal(in(r, IER), 0x12);
	out(r, LCR, 3);
	assert_int_equal(in(r, IER), IER_RX);
	assert_int_equal(in(r, DATA), 0);
	assert_int_equal(io_pread_full(r->fd, got, 1, 0), -ENODATA); /* nothing was sent */
}

static void iir_shows_fifos_only_when_they_are_on(void **state)
{
	struct rig *r = *state;

	assert_int_equal(in(r, IIR) & 0xc0, 0);
	out(r, FCR, FCR_ENABLE);
	assert_int_equal(in(r, IIR) & 0xc0, 0xc0);
	out(r, FCR, 0);
	assert_int_equal(in(r, IIR) & 0xc0, 0);
}

static void ports_that_cannot_be_written_stay(void **state)
{
	struct rig *r = *state;

	out(r, LSR, 0xff);
	out(r, MSR, 0xff);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
	assert_int_equal(in(r, MSR), 0xb0);
}

/* ---- sending ---- */

static void data_written_goes_out_in_order(void **state)
{
	struct rig *r = *state;
	char got[5];

	for (const char *p = "hello"; *p; p++)
		out(r, DATA, (uint8_t)*p);
	assert_int_equal(io_pread_full(r->fd, got, 5, 0), 0);
	assert_memory_equal(got, "hello", 5);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
}

static void thre_interrupt_comes_on_enabling_and_on_each_byte(void **state)
{
	struct rig *r = *state;

	out(r, IER, IER_TX);
	assert_true(r->level);
	assert_int_equal(in(r, IIR), IIR_TX);
	assert_false(r->level); /* reading it takes it away */
	assert_int_equal(in(r, IIR), IIR_NONE);
	out(r, DATA, 'x');
	assert_true(r->level);
	assert_int_equal(in(r, IIR), IIR_TX);
	out(r, IER, IER_TX); /* it was on: no new interrupt */
	assert_false(r->level);
	out(r, IER, 0);
	out(r, IER, IER_TX); /* how drivers look for broken UARTs */
	assert_int_equal(in(r, IIR), IIR_TX);
}

static void thre_interrupt_off_is_not_raised(void **state)
{
	struct rig *r = *state;

	out(r, DATA, 'x');
	assert_false(r->level);
	assert_int_equal(in(r, IIR), IIR_NONE);
}

static void interrupts_need_out2(void **state)
{
	struct rig *r = *state;

	out(r, MCR, 0);
	out(r, IER, IER_TX | IER_RX);
	send(r, "x");
	assert_false(r->level);
	out(r, MCR, MCR_OUT2);
	assert_true(r->level);
	out(r, MCR, 0);
	assert_false(r->level);
}

/* ---- receiving ---- */

static void received_bytes_are_read_in_order_with_an_interrupt(void **state)
{
	struct rig *r = *state;

	out(r, IER, IER_RX);
	send(r, "ab");
	assert_true(r->level);
	assert_int_equal(in(r, IIR), IIR_RX);
	assert_int_equal(in(r, LSR), LSR_EMPTY | LSR_DATA);
	assert_int_equal(in(r, DATA), 'a');
	assert_true(r->level); /* one more is there */
	assert_int_equal(in(r, DATA), 'b');
	assert_false(r->level);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
	assert_int_equal(in(r, DATA), 0);
}

static void receiving_comes_before_sending_in_iir(void **state)
{
	struct rig *r = *state;

	out(r, IER, IER_RX | IER_TX);
	send(r, "x");
	assert_int_equal(in(r, IIR), IIR_RX);
	in(r, DATA);
	assert_int_equal(in(r, IIR), IIR_TX);
	assert_int_equal(in(r, IIR), IIR_NONE);
}

static void receive_takes_as_much_as_there_is_room_for(void **state)
{
	static uint8_t bytes[SERIAL_QUEUE + 10];
	struct rig *r = *state;

	fill_random(bytes, sizeof(bytes), 1);
	assert_int_equal(serial_room(&r->s), SERIAL_QUEUE);
	assert_int_equal(serial_receive(&r->s, bytes, sizeof(bytes)), SERIAL_QUEUE);
	assert_int_equal(serial_room(&r->s), 0);
	assert_int_equal(serial_receive(&r->s, bytes, 1), 0);
	/* The queue goes round: what was refused comes when there is room. */
	for (int i = 0; i < 10; i++)
		assert_int_equal(in(r, DATA), bytes[i]);
	assert_int_equal(serial_room(&r->s), 10);
	assert_int_equal(serial_receive(&r->s, bytes + SERIAL_QUEUE, 10), 10);
	for (size_t i = 10; i < sizeof(bytes); i++)
		assert_int_equal(in(r, DATA), bytes[i]);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
}

static void fcr_clear_empties_the_receive_queue(void **state)
{
	struct rig *r = *state;

	out(r, IER, IER_RX);
	send(r, "abc");
	out(r, FCR, FCR_ENABLE | FCR_CLEAR_RX);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
	assert_false(r->level);
	assert_int_equal(in(r, IIR) & 0x0f, IIR_NONE);
	assert_int_equal(serial_room(&r->s), SERIAL_QUEUE);
	send(r, "d");
	assert_int_equal(in(r, DATA), 'd');
}

/* ---- loopback ---- */

static void loopback_returns_bytes_and_sends_none(void **state)
{
	struct rig *r = *state;
	char got;

	out(r, MCR, MCR_LOOP | MCR_OUT2);
	out(r, IER, IER_RX);
	out(r, DATA, 'q');
	assert_int_equal(in(r, LSR) & LSR_DATA, LSR_DATA);
	assert_false(r->level); /* the line is cut off */
	assert_int_equal(in(r, DATA), 'q');
	assert_int_equal(io_pread_full(r->fd, &got, 1, 0), -ENODATA);
}

static void loopback_overflow_loses_bytes_and_nothing_else(void **state)
{
	struct rig *r = *state;

	out(r, MCR, MCR_LOOP);
	for (int i = 0; i < SERIAL_QUEUE + 100; i++)
		out(r, DATA, (uint8_t)i);
	for (int i = 0; i < SERIAL_QUEUE; i++)
		assert_int_equal(in(r, DATA), (uint8_t)i);
	assert_int_equal(in(r, LSR) & LSR_DATA, 0);
}

static void loopback_outputs_come_back_as_inputs(void **state)
{
	/* DTR, RTS, OUT1, OUT2 -> DSR, CTS, RI, DCD. Data sheet, 8.6.7. */
	static const uint8_t to[4] = { 0x20, 0x10, 0x40, 0x80 };
	struct rig *r = *state;

	for (unsigned v = 0; v < 16; v++) {
		uint8_t want = 0;

		for (int bit = 0; bit < 4; bit++)
			want |= v >> bit & 1 ? to[bit] : 0;
		out(r, MCR, (uint8_t)(MCR_LOOP | v));
		assert_int_equal(in(r, MSR), want);
	}
}

/* ---- an output that does not take any more ---- */

static void lsr_of_a_full_output_is_not_empty_and_nothing_blocks(void **state)
{
	struct rig *r = *state;

	alarm(10);
	assert_int_equal(in(r, LSR), 0);
	out(r, IER, IER_TX);
	assert_false(r->level); /* there is nothing to say yet */
	out(r, DATA, 'x');	/* a guest that does not look: the byte is lost */
	assert_int_equal(in(r, IIR), IIR_NONE);
	alarm(0);
}

static void output_drained_raises_the_interrupt_that_was_due(void **state)
{
	static uint8_t bytes[1 << 20];
	struct rig *r = *state;

	out(r, IER, IER_TX);
	assert_true(read(r->reader, bytes, sizeof(bytes)) > 0);
	chardev_flush(&r->out);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
	serial_output_drained(&r->s);
	assert_true(r->level);
	assert_int_equal(in(r, IIR), IIR_TX);
}

/* ---- state ---- */

static void save_state(struct rig *r, uint8_t **buf, size_t *len)
{
	assert_int_equal(serial_ops.save(&r->s.dev, buf, len), 0);
}

static int load_state(struct rig *r, const uint8_t *buf, size_t len, struct err *e)
{
	return serial_ops.load(&r->s.dev, buf, len, e);
}

static void load_of_saved_has_every_register_and_the_queue(void **state)
{
	struct rig *r = *state, other;
	auto_free uint8_t *buf = NULL;
	struct err e = { 0 };
	size_t len;

	out(r, LCR, DLAB);
	out(r, DATA, 0x42);
	out(r, IER, 0x24);
	out(r, LCR, 0x1b);
	out(r, IER, IER_RX);
	out(r, FCR, FCR_ENABLE);
	out(r, MCR, MCR_OUT2 | 3);
	out(r, SCR, 0x99);
	send(r, "discarded");
	for (int i = 0; i < 9; i++)
		in(r, DATA); /* so that the queue does not begin at its start */
	send(r, "waiting");
	save_state(r, &buf, &len);
	start(&other, -1, -1);
	assert_int_equal(load_state(&other, buf, len, &e), 0);
	assert_true(other.level); /* what waits is told again */
	assert_int_equal(other.edges, 1);
	assert_int_equal(in(&other, IIR), 0xc0 | IIR_RX);
	assert_int_equal(in(&other, IER), IER_RX);
	assert_int_equal(in(&other, LCR), 0x1b);
	assert_int_equal(in(&other, MCR), MCR_OUT2 | 3);
	assert_int_equal(in(&other, SCR), 0x99);
	for (const char *p = "waiting"; *p; p++)
		assert_int_equal(in(&other, DATA), *p);
	out(&other, LCR, DLAB);
	assert_int_equal(in(&other, DATA), 0x42);
	assert_int_equal(in(&other, IER), 0x24);
}

static void load_over_a_used_uart_leaves_nothing_of_it(void **state)
{
	struct rig *r = *state, fresh;
	auto_free uint8_t *buf = NULL;
	size_t len;

	start(&fresh, -1, -1);
	save_state(&fresh, &buf, &len);
	out(r, SCR, 1);
	out(r, IER, IER_RX);
	out(r, FCR, FCR_ENABLE);
	send(r, "old");
	assert_int_equal(load_state(r, buf, len, NULL), 0);
	assert_false(r->level);
	assert_int_equal(in(r, SCR), 0);
	assert_int_equal(in(r, IER), 0);
	assert_int_equal(in(r, IIR), IIR_NONE);
	assert_int_equal(in(r, LSR), LSR_EMPTY);
}

static void load_of_a_full_queue_has_it_all(void **state)
{
	static uint8_t bytes[SERIAL_QUEUE];
	struct rig *r = *state, other;
	auto_free uint8_t *buf = NULL;
	size_t len;

	fill_random(bytes, sizeof(bytes), 2);
	assert_int_equal(serial_receive(&r->s, bytes, sizeof(bytes)), sizeof(bytes));
	save_state(r, &buf, &len);
	start(&other, -1, -1);
	assert_int_equal(load_state(&other, buf, len, NULL), 0);
	for (size_t i = 0; i < sizeof(bytes); i++)
		assert_int_equal(in(&other, DATA), bytes[i]);
}

/* Saved while it waits for room that this host's output did not have. */
static void load_in_mid_transmission_says_that_there_is_room(void **state)
{
	struct rig *r = *state, other;
	auto_free uint8_t *buf = NULL;
	size_t len;

	out(r, IER, IER_TX);
	assert_false(r->level);
	save_state(r, &buf, &len);
	start(&other, -1, -1);
	assert_int_equal(load_state(&other, buf, len, NULL), 0);
	assert_true(other.level);
	assert_int_equal(in(&other, IIR), IIR_TX);
	assert_int_equal(in(&other, LSR), LSR_EMPTY);
}

static void load_of_hostile_state_is_refused_or_harmless(void **state)
{
	struct rig *r = *state;
	SerialState m = SERIAL_STATE__INIT;
	static uint8_t queue[SERIAL_QUEUE + 1], buf[2 * SERIAL_QUEUE];
	struct err e = { 0 };
	size_t len;

	m.ier = m.lcr = m.mcr = m.scr = m.dll = m.dlm = m.fcr = UINT32_MAX;
	len = serial_state__pack(&m, buf);
	assert_int_equal(load_state(r, buf, len, &e), 0);
	assert_int_equal(in(r, MCR), 0x1f);
	out(r, LCR, 0);
	assert_int_equal(in(r, IER), 0x0f);
	/* A queue of one byte too many. */
	m.received = (ProtobufCBinaryData){ sizeof(queue), queue };
	len = serial_state__pack(&m, buf);
	assert_int_equal(load_state(r, buf, len, &e), -EINVAL);
	assert_says(&e, "serial0 has too long a queue");
	assert_int_equal(load_state(r, (const uint8_t *)"\xff", 1, &e), -EINVAL);
	assert_says(&e, "serial0 cannot be parsed");
	/* No bytes at all are the defaults. */
	assert_int_equal(load_state(r, buf, 0, &e), 0);
	assert_int_equal(serial_room(&r->s), SERIAL_QUEUE);
}

static void reset_is_as_after_power_on(void **state)
{
	struct rig *r = *state;

	out(r, IER, 0x0f);
	out(r, SCR, 5);
	out(r, LCR, DLAB);
	out(r, DATA, 99);
	send(r, "x");
	serial_ops.reset(&r->s.dev);
	assert_as_after_power_on(r);
	assert_int_equal(in(r, SCR), 0);
}

#define WITH(f)	     cmocka_unit_test_setup_teardown(f, make, drop)
#define WITH_FULL(f) cmocka_unit_test_setup_teardown(f, make_full_pipe, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(registers_after_power_on_are_those_of_the_data_sheet),
		WITH(registers_keep_what_they_have_bits_for),
		WITH(divisor_latch_is_apart_from_data_and_ier),
		WITH(iir_shows_fifos_only_when_they_are_on),
		WITH(ports_that_cannot_be_written_stay),
		WITH(data_written_goes_out_in_order),
		WITH(thre_interrupt_comes_on_enabling_and_on_each_byte),
		WITH(thre_interrupt_off_is_not_raised),
		WITH(interrupts_need_out2),
		WITH(received_bytes_are_read_in_order_with_an_interrupt),
		WITH(receiving_comes_before_sending_in_iir),
		WITH(receive_takes_as_much_as_there_is_room_for),
		WITH(fcr_clear_empties_the_receive_queue),
		WITH(loopback_returns_bytes_and_sends_none),
		WITH(loopback_overflow_loses_bytes_and_nothing_else),
		WITH(loopback_outputs_come_back_as_inputs),
		WITH_FULL(lsr_of_a_full_output_is_not_empty_and_nothing_blocks),
		WITH_FULL(output_drained_raises_the_interrupt_that_was_due),
		WITH(load_of_saved_has_every_register_and_the_queue),
		WITH(load_over_a_used_uart_leaves_nothing_of_it),
		WITH(load_of_a_full_queue_has_it_all),
		WITH_FULL(load_in_mid_transmission_says_that_there_is_room),
		WITH(load_of_hostile_state_is_refused_or_harmless),
		WITH(reset_is_as_after_power_on),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
