/* The ACPI tables and the power device. */
#define _GNU_SOURCE
#include <string.h>

#include "unit.h"
#include "vmm/acpi.h"
#include "vmm/power.h"
#include "vmm/vmgenid.h"

#define RAM_SIZE (4ULL << 20)

static const uint8_t generation[VMGENID_SIZE] = "0123456789abcdef";

static void read_at(const struct ram *ram, uint64_t address, void *buf, size_t n)
{
	assert_int_equal(ram_read(ram, address, buf, n), 0);
}

/* Reads the table at `address`, checks signature and checksum; returns its length. */
static uint32_t read_table(const struct ram *ram, uint64_t address, const char *signature,
			   uint8_t *table, size_t room)
{
	uint32_t length;
	uint8_t sum = 0;

	read_at(ram, address + 4, &length, sizeof(length));
	assert_in_range(length, 36, room);
	assert_true(address + length <= ACPI_AT + ACPI_ROOM);
	read_at(ram, address, table, length);
	assert_memory_equal(table, signature, 4);
	for (uint32_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + table[i]);
	assert_int_equal(sum, 0);
	return length;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void tables_for_any_number_of_cpus_are_linked_and_sum_up(void **state)
{
	static const unsigned counts[] = { 1, 2, 32 };
	uint8_t t[0x3000];

	(void)state;
	for (size_t c = 0; c < 3; c++) {
		const struct acpi_config config = { .ncpus = counts[c], .generation = generation };
		uint32_t length, lapics = 0;
		uint64_t fadt, madt;
		uint8_t sum = 0;
		struct ram ram;

		assert_int_equal(ram_map_memfd(&ram, RAM_SIZE, NULL), 0);
		assert_int_equal(acpi_write_tables(&ram, &config), 0);
		read_at(&ram, ACPI_AT, t, 36);
		assert_memory_equal(t, "RSD PTR ", 8);
		for (int i = 0; i < 36; i++)
			sum = (uint8_t)(sum + t[i]);
		assert_int_equal(sum, 0);

		assert_int_equal(read_table(&ram, get64(t + 24), "XSDT", t, sizeof(t)), 52);
		fadt = get64(t + 36);
		madt = get64(t + 44);
		assert_int_equal(read_table(&ram, fadt, "FACP", t, sizeof(t)), 276);
		assert_true(t[114] & 0x10); /* hardware-reduced: bit 20 of the flags at 112 */
		read_table(&ram, get64(t + 140), "DSDT", t, sizeof(t));

		length = read_table(&ram, madt, "APIC", t, sizeof(t));
		for (uint32_t i = 44; i < length; i += t[i + 1]) {
			assert_int_not_equal(t[i + 1], 0);
			if (t[i] == 0)
				assert_int_equal(t[i + 3], lapics++);
		}
		assert_int_equal(lapics, counts[c]);
		ram_unmap(&ram);
	}
}

/* Reads a package length and returns it; its own bytes count. */
static size_t package_length(const uint8_t *p)
{
	const unsigned more = p[0] >> 6;
	size_t length = more ? p[0] & 0xf : p[0] & 0x3f;

	for (unsigned i = 0; i < more; i++)
		length |= (size_t)p[1 + i] << (4 + 8 * i);
	return length;
}

static void windows_are_devices_with_memory_and_an_interrupt(void **state)
{
	struct acpi_window windows[ACPI_WINDOWS_MAX + 1];
	struct acpi_config config = { 1, windows, ACPI_WINDOWS_MAX, generation };
	uint8_t t[0x3000], *at = t;
	uint32_t length;
	struct ram ram;

	(void)state;
	for (unsigned i = 0; i <= ACPI_WINDOWS_MAX; i++)
		windows[i] = (struct acpi_window){ 0xd0000000 + i * 0x1000, 0x1000, 5 + i % 16 };
	assert_int_equal(ram_map_memfd(&ram, RAM_SIZE, NULL), 0);
	assert_int_equal(acpi_write_tables(&ram, &config), 0);
	length = read_table(&ram, ACPI_AT + 0x1000, "DSDT", t, sizeof(t));
	for (unsigned i = 0; i < ACPI_WINDOWS_MAX; i++) {
		/* Memory32Fixed and Interrupt, ACPI 6.4, 6.4.3.4 and 6.4.3.6, and the end. */
		uint8_t resources[] = { 0x86, 9,    0, 1, 0, 0, 0, 0, 0, 0, 0,
					0,    0x89, 6, 0, 3, 1, 0, 0, 0, 0, 0x79 };
		size_t size;
		char name[5];

		memcpy(resources + 4, &windows[i].address, 4);
		memcpy(resources + 8, &windows[i].size, 4);
		memcpy(resources + 17, &windows[i].irq, 4);
		snprintf(name, sizeof(name), "VR%02X", i);
		at = memmem(at, (size_t)(t + length - at), name, 4);
		assert_non_null(at);
		size = package_length(at - 3);
		assert_in_range(size, 40, 200);
		assert_non_null(memmem(at, size - 3, "LNRO0005", 9));
		assert_non_null(memmem(at, size - 3, resources, sizeof(resources)));
	}

	config.nwindows++;
	assert_int_equal(acpi_write_tables(&ram, &config), -EINVAL);
	ram_unmap(&ram);
}

static void tables_without_room_in_ram_are_refused(void **state)
{
	const struct acpi_config config = { .ncpus = 1, .generation = generation };
	struct ram ram;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, 0x80000, NULL), 0);
	assert_int_equal(acpi_write_tables(&ram, &config), -EINVAL);
	ram_unmap(&ram);
}

/* What the device asks of its machine, counted. */
struct asked {
	int edges, resets, power_offs;
};

static void count_irq(void *arg, uint32_t irq, bool level)
{
	assert_int_equal(irq, POWER_IRQ);
	((struct asked *)arg)->edges += level;
}

static void count_reset(void *arg)
{
	((struct asked *)arg)->resets++;
}

static void count_power_off(void *arg)
{
	((struct asked *)arg)->power_offs++;
}

static void make_power(struct power *p, struct asked *asked)
{
	memset(asked, 0, sizeof(*asked));
	power_init(p);
	p->dev = (struct vdev){
		.ops = &power_ops,
		.name = "power",
		.irq = POWER_IRQ,
		.host = { asked, count_irq, count_reset, count_power_off },
	};
}

static void power_registers_do_what_acpi_says(void **state)
{
	struct asked asked;
	struct power p;

	(void)state;
	make_power(&p, &asked);
	power_ops.out(&p.dev, POWER_SLEEP, 5 << 2);	   /* without SLP_EN */
	power_ops.out(&p.dev, POWER_SLEEP, 0x20 | 3 << 2); /* another sleep */
	assert_int_equal(asked.power_offs, 0);
	power_ops.out(&p.dev, POWER_SLEEP, 0x20 | 5 << 2);
	assert_int_equal(asked.power_offs, 1);
	power_ops.out(&p.dev, POWER_RESET, 0);
	assert_int_equal(asked.resets, 0);
	power_ops.out(&p.dev, POWER_RESET, POWER_RESET_VALUE);
	assert_int_equal(asked.resets, 1);
	assert_int_equal(power_ops.in(&p.dev, POWER_STATUS), 0);
}

static void power_button_is_seen_once(void **state)
{
	struct asked asked;
	struct power p;

	(void)state;
	make_power(&p, &asked);
	power_raise(&p, POWER_EVENT_BUTTON);
	assert_int_equal(asked.edges, 1);
	assert_int_equal(power_ops.in(&p.dev, POWER_EVENTS), POWER_EVENT_BUTTON);
	assert_int_equal(power_ops.in(&p.dev, POWER_EVENTS), 0);
}

static void generation_is_where_the_tables_say(void **state)
{
	const struct acpi_config config = { .ncpus = 1, .generation = generation };
	uint8_t t[0x3000], id[VMGENID_SIZE], *at;
	uint32_t length, low, high;
	struct ram ram;

	(void)state;
	assert_int_equal(ram_map_memfd(&ram, RAM_SIZE, NULL), 0);
	assert_int_equal(acpi_write_tables(&ram, &config), 0);
	length = read_table(&ram, ACPI_AT + 0x1000, "DSDT", t, sizeof(t));
	assert_non_null(memmem(t, length, "VMGENCTR", 9));
	at = memmem(t, length, "ADDR\x12", 5);
	assert_non_null(at);
	at += 5 + 3; /* the package's length: three bytes */
	assert_memory_equal(at, "\x02\x0c", 2);
	memcpy(&low, at + 2, 4);
	memcpy(&high, at + 7, 4);
	assert_int_equal((uint64_t)high << 32 | low, VMGENID_AT);
	read_at(&ram, VMGENID_AT, id, sizeof(id));
	assert_memory_equal(id, generation, sizeof(id));
	ram_unmap(&ram);
}

static void generation_renewed_is_written_and_told(void **state)
{
	const uint8_t other[VMGENID_SIZE] = "another one here";
	uint8_t id[VMGENID_SIZE];
	struct asked asked;
	struct power p;
	struct ram ram;

	(void)state;
	make_power(&p, &asked);
	assert_int_equal(ram_map_memfd(&ram, RAM_SIZE, NULL), 0);
	power_raise(&p, POWER_EVENT_BUTTON);
	assert_int_equal(vmgenid_renew(&ram, &p, other), 0);
	read_at(&ram, VMGENID_AT, id, sizeof(id));
	assert_memory_equal(id, other, sizeof(id));
	assert_int_equal(asked.edges, 2);
	assert_int_equal(power_ops.in(&p.dev, POWER_EVENTS),
			 POWER_EVENT_BUTTON | POWER_EVENT_GENERATION);
	ram_unmap(&ram);
}

static void power_button_pressed_before_a_save_is_seen_after_it(void **state)
{
	struct asked asked;
	struct power p, q;
	uint8_t *buf;
	size_t len;

	(void)state;
	make_power(&p, &asked);
	power_raise(&p, POWER_EVENT_BUTTON);
	assert_int_equal(power_ops.save(&p.dev, &buf, &len), 0);
	make_power(&q, &asked);
	assert_int_equal(power_ops.load(&q.dev, buf, len, NULL), 0);
	assert_int_equal(asked.edges, 1);
	assert_int_equal(power_ops.in(&q.dev, POWER_EVENTS), POWER_EVENT_BUTTON);
	free(buf);
	assert_int_equal(power_ops.load(&q.dev, (const uint8_t *)"\xff", 1, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_for_any_number_of_cpus_are_linked_and_sum_up),
		cmocka_unit_test(windows_are_devices_with_memory_and_an_interrupt),
		cmocka_unit_test(tables_without_room_in_ram_are_refused),
		cmocka_unit_test(power_registers_do_what_acpi_says),
		cmocka_unit_test(power_button_is_seen_once),
		cmocka_unit_test(generation_is_where_the_tables_say),
		cmocka_unit_test(generation_renewed_is_written_and_told),
		cmocka_unit_test(power_button_pressed_before_a_save_is_seen_after_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
