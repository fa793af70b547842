/* The keyboard controller and the real-time clock. */
#include "unit.h"

#include <time.h>

#include "vmm/i8042.h"
#include "vmm/rtc.h"

/* ---- the keyboard controller ---- */

#define K_DATA	  0
#define K_COMMAND 4
#define K_FULL	  0x01

struct keyboard {
	struct i8042 k;
	unsigned resets;
};

static void set_irq(void *arg, uint32_t irq, bool level)
{
	(void)arg;
	(void)irq;
	(void)level;
	fail_msg("this device has no interrupt");
}

static void count_reset(void *arg)
{
	((struct keyboard *)arg)->resets++;
}

static void init_keyboard(struct keyboard *k)
{
	memset(k, 0, sizeof(*k));
	i8042_init(&k->k);
	k->k.dev = (struct vdev){ .ops = &i8042_ops,
				  .name = "i8042",
				  .port = 0x60,
				  .nports = 5,
				  .host = { k, set_irq, count_reset } };
}

static int make_keyboard(void **state)
{
	struct keyboard *k = malloc(sizeof(*k));

	if (!k)
		return -1;
	init_keyboard(k);
	*state = k;
	return 0;
}

static int drop(void **state)
{
	free(*state);
	return 0;
}

static uint8_t k_in(struct keyboard *k, uint16_t port)
{
	return i8042_ops.in(&k->k.dev, port);
}

static void k_out(struct keyboard *k, uint16_t port, uint8_t value)
{
	i8042_ops.out(&k->k.dev, port, value);
}

static void keyboard_self_test_passes(void **state)
{
	struct keyboard *k = *state;

	assert_int_equal(k_in(k, K_COMMAND) & K_FULL, 0);
	k_out(k, K_COMMAND, 0xaa);
	assert_int_equal(k_in(k, K_COMMAND) & K_FULL, K_FULL);
	assert_int_equal(k_in(k, K_DATA), 0x55);
	assert_int_equal(k_in(k, K_COMMAND) & K_FULL, 0);
	k_out(k, K_COMMAND, 0xab);
	assert_int_equal(k_in(k, K_DATA), 0x00);
}

static void keyboard_input_is_never_said_to_be_full(void **state)
{
	struct keyboard *k = *state;

	/* Bit 1 set would keep a driver waiting before each write. */
	for (unsigned command = 0; command < 256; command++) {
		k_out(k, K_COMMAND, (uint8_t)command);
		assert_int_equal(k_in(k, K_COMMAND) & 0x02, 0);
		k_out(k, K_DATA, 0xff);
		assert_int_equal(k_in(k, K_COMMAND) & 0x02, 0);
	}
	assert_int_equal(k->resets, 1); /* by 0xfe alone */
}

static void keyboard_command_byte_is_kept(void **state)
{
	struct keyboard *k = *state;

	k_out(k, K_COMMAND, 0x60);
	k_out(k, K_DATA, 0x47);
	k_out(k, K_COMMAND, 0x20);
	assert_int_equal(k_in(k, K_DATA), 0x47);
	k_out(k, K_DATA, 0x99); /* no command waits for it */
	k_out(k, K_COMMAND, 0x20);
	assert_int_equal(k_in(k, K_DATA), 0x47);
}

static void keyboard_reset_pulse_resets(void **state)
{
	struct keyboard *k = *state;

	k_out(k, K_COMMAND, 0xfe);
	assert_int_equal(k->resets, 1);
}

static void keyboard_output_port_resets_when_its_line_is_low(void **state)
{
	struct keyboard *k = *state;

	k_out(k, K_COMMAND, 0xd1);
	k_out(k, K_DATA, 0xdf); /* A20 on, reset line high */
	assert_int_equal(k->resets, 0);
	k_out(k, K_DATA, 0xfe); /* no command waits for it */
	assert_int_equal(k->resets, 0);
	k_out(k, K_COMMAND, 0xd1);
	k_out(k, K_DATA, 0xfe);
	assert_int_equal(k->resets, 1);
}

static void keyboard_command_in_place_of_data_takes_over(void **state)
{
	struct keyboard *k = *state;

	k_out(k, K_COMMAND, 0xd1);
	k_out(k, K_COMMAND, 0x60);
	k_out(k, K_DATA, 0xfe);
	assert_int_equal(k->resets, 0);
}

static void keyboard_saved_between_command_and_data_goes_on(void **state)
{
	struct keyboard *k = *state;
	auto_free uint8_t *buf = NULL;
	struct keyboard other;
	size_t len;

	init_keyboard(&other);
	k_out(k, K_COMMAND, 0x60);
	k_out(k, K_DATA, 0x33);
	k_out(k, K_COMMAND, 0xaa);
	k_out(k, K_COMMAND, 0xd1);
	assert_int_equal(i8042_ops.save(&k->k.dev, &buf, &len), 0);
	assert_int_equal(i8042_ops.load(&other.k.dev, buf, len, NULL), 0);
	assert_int_equal(k_in(&other, K_COMMAND) & K_FULL, K_FULL);
	assert_int_equal(k_in(&other, K_DATA), 0x55);
	k_out(&other, K_DATA, 0xfe);
	assert_int_equal(other.resets, 1);
	k_out(&other, K_COMMAND, 0x20);
	assert_int_equal(k_in(&other, K_DATA), 0x33);
	i8042_ops.reset(&other.k.dev);
	assert_int_equal(k_in(&other, K_COMMAND) & K_FULL, 0);
}

static void keyboard_garbage_for_state_is_refused(void **state)
{
	struct keyboard *k = *state;
	struct err e = { 0 };

	assert_int_equal(i8042_ops.load(&k->k.dev, (const uint8_t *)"\xff", 1, &e), -EINVAL);
	assert_says(&e, "i8042 cannot be parsed");
	assert_int_equal(i8042_ops.load(&k->k.dev, NULL, 0, &e), 0);
}

/* ---- the real-time clock ---- */

static void init_rtc(struct rtc *r)
{
	memset(r, 0, sizeof(*r));
	rtc_init(r);
	r->dev = (struct vdev){ .ops = &rtc_ops,
				.name = "rtc",
				.port = 0x70,
				.nports = 2,
				.host = { r, set_irq, NULL } };
}

static int make_rtc(void **state)
{
	struct rtc *r = malloc(sizeof(*r));

	if (!r)
		return -1;
	init_rtc(r);
	*state = r;
	return 0;
}

static uint8_t r_get(struct rtc *r, uint8_t n)
{
	rtc_ops.out(&r->dev, 0, n);
	return rtc_ops.in(&r->dev, 1);
}

static void r_set(struct rtc *r, uint8_t n, uint8_t value)
{
	rtc_ops.out(&r->dev, 0, n);
	rtc_ops.out(&r->dev, 1, value);
}

static int from_bcd(uint8_t v)
{
	return (v >> 4) * 10 + (v & 15);
}

/* What the clock shows as seconds since 1970, read as a driver does: twice the same. */
static time_t shown(struct rtc *r, bool binary, bool hours_24)
{
	for (;;) {
		struct tm tm = { 0 };
		uint8_t v[8], again;
		static const uint8_t regs[8] = { 0, 2, 4, 7, 8, 9, 0x32, 6 };
		int n[8], hour;

		for (int i = 0; i < 8; i++)
			v[i] = r_get(r, regs[i]);
		again = r_get(r, 0);
		if (again != v[0])
			continue;
		hour = v[2];
		for (int i = 0; i < 8; i++)
			n[i] = binary ? v[i] : from_bcd(v[i]);
		if (!hours_24) {
			n[2] = binary ? hour & 0x7f : from_bcd(hour & 0x7f);
			assert_in_range(n[2], 1, 12);
			n[2] = n[2] % 12 + (hour & 0x80 ? 12 : 0);
		}
		tm.tm_sec = n[0];
		tm.tm_min = n[1];
		tm.tm_hour = n[2];
		tm.tm_mday = n[3];
		tm.tm_mon = n[4] - 1;
		tm.tm_year = n[6] * 100 + n[5] - 1900;
		assert_in_range(n[7], 1, 7);
		return timegm(&tm);
	}
}

static void rtc_shows_the_hosts_time_in_every_form(void **state)
{
	struct rtc *r = *state;

	for (unsigned form = 0; form < 4; form++) {
		const bool binary = form & 1, hours_24 = form & 2;
		const time_t before = time(NULL);
		time_t got;

		r_set(r, 11, (uint8_t)((hours_24 ? 0x02 : 0) | (binary ? 0x04 : 0)));
		got = shown(r, binary, hours_24);
		assert_true(got >= before && got <= time(NULL));
	}
}

static void rtc_status_registers_are_valid_and_quiet(void **state)
{
	struct rtc *r = *state;

	assert_int_equal(r_get(r, 10), 0x26); /* no update in progress */
	r_set(r, 10, 0xff);
	assert_int_equal(r_get(r, 10), 0x26);
	assert_int_equal(r_get(r, 12), 0);
	assert_int_equal(r_get(r, 13), 0x80); /* the battery is good */
}

static void rtc_memory_is_kept_over_a_reset(void **state)
{
	struct rtc *r = *state;

	r_set(r, 0x0f, 0x5a);
	r_set(r, 0x7f, 0xa5);
	rtc_ops.reset(&r->dev);
	assert_int_equal(r_get(r, 0x0f), 0x5a);
	assert_int_equal(r_get(r, 0x7f), 0xa5);
}

static void rtc_select_port_ignores_the_nmi_bit(void **state)
{
	struct rtc *r = *state;

	r_set(r, 0x40, 7);
	assert_int_equal(r_get(r, 0x80 | 0x40), 7);
	for (unsigned n = 0; n < 256; n++) /* all of them stay within the registers */
		r_set(r, (uint8_t)n, (uint8_t)n);
}

static void rtc_saved_state_has_registers_and_selection(void **state)
{
	struct rtc *r = *state;
	auto_free uint8_t *buf = NULL;
	struct rtc other;
	size_t len;

	init_rtc(&other);
	r_set(r, 0x20, 0x77);
	assert_int_equal(rtc_ops.save(&r->dev, &buf, &len), 0);
	assert_int_equal(rtc_ops.load(&other.dev, buf, len, NULL), 0);
	assert_int_equal(rtc_ops.in(&other.dev, 1), 0x77); /* still selected */
}

static void rtc_hostile_state_is_refused(void **state)
{
	struct rtc *r = *state;
	RtcState m = RTC_STATE__INIT;
	uint8_t registers[RTC_REGISTERS + 1] = { 0 }, buf[300];
	struct err e = { 0 };

	m.registers = (ProtobufCBinaryData){ RTC_REGISTERS + 1, registers };
	assert_int_equal(rtc_ops.load(&r->dev, buf, rtc_state__pack(&m, buf), &e), -EINVAL);
	assert_says(&e, "rtc has a register out of range");
	m.registers.len = RTC_REGISTERS - 1;
	assert_int_equal(rtc_ops.load(&r->dev, buf, rtc_state__pack(&m, buf), &e), -EINVAL);
	m.registers.len = RTC_REGISTERS;
	m.selected = RTC_REGISTERS;
	assert_int_equal(rtc_ops.load(&r->dev, buf, rtc_state__pack(&m, buf), &e), -EINVAL);
	m.selected = UINT32_MAX;
	assert_int_equal(rtc_ops.load(&r->dev, buf, rtc_state__pack(&m, buf), &e), -EINVAL);
	m.selected = RTC_REGISTERS - 1;
	assert_int_equal(rtc_ops.load(&r->dev, buf, rtc_state__pack(&m, buf), &e), 0);
	assert_int_equal(rtc_ops.load(&r->dev, (const uint8_t *)"\xff", 1, &e), -EINVAL);
	assert_says(&e, "rtc cannot be parsed");
}

#define ON_KEYBOARD(f) cmocka_unit_test_setup_teardown(f, make_keyboard, drop)
#define ON_RTC(f)      cmocka_unit_test_setup_teardown(f, make_rtc, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_KEYBOARD(keyboard_self_test_passes),
		ON_KEYBOARD(keyboard_input_is_never_said_to_be_full),
		ON_KEYBOARD(keyboard_command_byte_is_kept),
		ON_KEYBOARD(keyboard_reset_pulse_resets),
		ON_KEYBOARD(keyboard_output_port_resets_when_its_line_is_low),
		ON_KEYBOARD(keyboard_command_in_place_of_data_takes_over),
		ON_KEYBOARD(keyboard_saved_between_command_and_data_goes_on),
		ON_KEYBOARD(keyboard_garbage_for_state_is_refused),
		ON_RTC(rtc_shows_the_hosts_time_in_every_form),
		ON_RTC(rtc_status_registers_are_valid_and_quiet),
		ON_RTC(rtc_memory_is_kept_over_a_reset),
		ON_RTC(rtc_select_port_ignores_the_nmi_bit),
		ON_RTC(rtc_saved_state_has_registers_and_selection),
		ON_RTC(rtc_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
