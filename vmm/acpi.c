/*
 * The ACPI tables of the machine: see acpi.h.
 *
 * Reduced hardware has no legacy PICs for a kernel, so what sits on ports is
 * listed with its interrupt: without that a serial line is polled.
 */
#include "acpi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "aml.h"
#include "power.h"
#include "vmgenid.h"

#define LAPIC_ADDRESS  0xfee00000U
#define IOAPIC_ADDRESS 0xfec00000U

#define XSDT_OFFSET 0x40
#define FADT_OFFSET 0x100
#define MADT_OFFSET 0x300
#define DSDT_OFFSET 0x1000
#define DSDT_END    0x3000

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct gas {
	uint8_t space, width, offset, access;
	uint64_t address;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct fadt {
	struct header header;
	uint8_t unused1[109 - sizeof(struct header)];
	uint16_t boot_architecture;
	uint8_t unused2;
	uint32_t flags;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_boot;
	uint8_t minor_version;
	uint64_t facs, dsdt;
	uint8_t unused3[244 - 148];
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));

struct madt_lapic {
	uint8_t type, length, processor, apic;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, first_gsi;
} __attribute__((packed));

_Static_assert(sizeof(struct fadt) == 276, "FADT of ACPI 6");
_Static_assert(ACPI_AT + DSDT_END <= VMGENID_AT, "the generation ID's place");
_Static_assert(sizeof(struct header) + AML_ROOM <= DSDT_END - DSDT_OFFSET, "the DSDT's room");

#define FADT_8042	       0x0002
#define FADT_NO_VGA	       0x0004
#define FADT_WBINVD	       (1U << 0)
#define FADT_SLEEP_BUTTON_NONE (1U << 5)
#define FADT_RESET	       (1U << 10)
#define FADT_HW_REDUCED	       (1U << 20)

static uint8_t checksum(const void *data, size_t n)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static struct header header(const char *signature, uint8_t revision, size_t length)
{
	struct header h = {
		.length = (uint32_t)length,
		.revision = revision,
		.oem_id = { 'S', 'N', 'A', 'P', 'F', 'S' },
		.oem_table_id = { 'V', 'M', 'M', ' ', ' ', ' ', ' ', ' ' },
		.oem_revision = 1,
		.creator_id = { 'S', 'N', 'A', 'P' },
		.creator_revision = 1,
	};

	memcpy(h.signature, signature, sizeof(h.signature));
	return h;
}

/* Sums the table up and writes it. */
static int write_table(struct ram *ram, uint64_t offset, void *table, size_t n)
{
	struct header *h = table;

	h->checksum = 0;
	h->checksum = checksum(table, n);
	return ram_write(ram, ACPI_AT + offset, table, n);
}

static struct gas power_register(uint16_t port)
{
	return (struct gas){ .space = 1, .width = 8, .access = 1, .address = POWER_PORT + port };
}

static int write_fadt(struct ram *ram)
{
	struct fadt f = {
		.header = header("FACP", 6, sizeof(f)),
		.boot_architecture = FADT_8042 | FADT_NO_VGA,
		.flags = FADT_WBINVD | FADT_SLEEP_BUTTON_NONE | FADT_RESET | FADT_HW_REDUCED,
		.reset = power_register(POWER_RESET),
		.reset_value = POWER_RESET_VALUE,
		.minor_version = 4,
		.dsdt = ACPI_AT + DSDT_OFFSET,
		.sleep_control = power_register(POWER_SLEEP),
		.sleep_status = power_register(POWER_STATUS),
	};

	return write_table(ram, FADT_OFFSET, &f, sizeof(f));
}

static int write_madt(struct ram *ram, unsigned ncpus)
{
	const struct madt_ioapic ioapic = { .type = 1, .length = 12, .address = IOAPIC_ADDRESS };
	uint8_t table[DSDT_OFFSET - MADT_OFFSET] = { 0 };
	size_t n = sizeof(struct header);
	const uint32_t fixed[] = { LAPIC_ADDRESS, 0 }; /* no flags: there are no PICs */
	struct header h;

	memcpy(table + n, fixed, sizeof(fixed));
	n += sizeof(fixed);
	for (unsigned i = 0; i < ncpus; i++, n += sizeof(struct madt_lapic)) {
		const struct madt_lapic lapic = {
			.length = 8, .processor = (uint8_t)i, .apic = (uint8_t)i, .flags = 1
		};

		if (n + sizeof(lapic) + sizeof(ioapic) > sizeof(table))
			return -EINVAL;
		memcpy(table + n, &lapic, sizeof(lapic));
	}
	memcpy(table + n, &ioapic, sizeof(ioapic));
	n += sizeof(ioapic);
	h = header("APIC", 5, n);
	memcpy(table, &h, sizeof(h));
	return write_table(ram, MADT_OFFSET, table, n);
}

/* ---- DSDT ---- */

/* What sits on ports, as a kernel's drivers know it. */
static const struct {
	const char *name, *id;
	struct aml_ports ports[2];
	size_t nports;
	uint32_t irq;
} port_devices[] = {
	{ "COM1", "PNP0501", { { 0x3f8, 8 } }, 1, 4 },
	{ "RTC_", "PNP0B00", { { 0x70, 2 } }, 1, 8 },
	{ "PS2K", "PNP0303", { { 0x60, 1 }, { 0x64, 1 } }, 2, 1 },
};

static void add_port_devices(struct aml *a)
{
	for (size_t i = 0; i < sizeof(port_devices) / sizeof(port_devices[0]); i++) {
		const struct aml_resources taken = {
			.ports = port_devices[i].ports,
			.nports = port_devices[i].nports,
			.interrupt = port_devices[i].irq,
		};
		const size_t device = aml_begin_device(a, port_devices[i].name);

		aml_name_eisa(a, "_HID", port_devices[i].id);
		aml_name_integer(a, "_UID", 0);
		aml_resources(a, &taken);
		aml_end(a, device);
	}
}

/* Virtio devices: LNRO0005 is what Linux knows virtio-mmio by. */
static void add_windows(struct aml *a, const struct acpi_window *windows, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct aml_resources taken = {
			.address = windows[i].address,
			.size = windows[i].size,
			.interrupt = windows[i].irq,
		};
		size_t device;
		char name[5];

		snprintf(name, sizeof(name), "VR%02X", i & 0xff);
		device = aml_begin_device(a, name);
		aml_name_string(a, "_HID", "LNRO0005");
		aml_name_integer(a, "_UID", (uint8_t)i);
		aml_name_integer(a, "_CCA", 1); /* it sees what the caches hold */
		aml_resources(a, &taken);
		aml_end(a, device);
	}
}

static void add_event(struct aml *a, uint8_t event, const char *whom)
{
	const size_t condition = aml_begin_if_local0(a, event);

	aml_notify(a, whom, 0x80);
	aml_end(a, condition);
}

/* The generic event device: its interrupt reads what has happened, and tells whom. */
static void add_events(struct aml *a)
{
	const struct aml_resources taken = { .interrupt = POWER_IRQ };
	size_t device, method;

	device = aml_begin_device(a, "PWRB");
	aml_name_eisa(a, "_HID", "PNP0C0C");
	aml_end(a, device);

	device = aml_begin_device(a, "VGEN");
	aml_name_string(a, "_HID", "VMGENCTR");
	aml_name_string(a, "_CID", "VM_Gen_Counter");
	aml_name_string(a, "_DDN", "VM_Gen_Counter");
	aml_name_address(a, "ADDR", VMGENID_AT);
	aml_end(a, device);

	device = aml_begin_device(a, "GED_");
	aml_name_string(a, "_HID", "ACPI0013");
	aml_resources(a, &taken);
	aml_port_register(a, "GEDR", "EVTS", POWER_PORT + POWER_EVENTS);
	method = aml_begin_method(a, "_EVT", 0x09); /* one argument, serialized */
	aml_load_local0(a, "EVTS");
	add_event(a, POWER_EVENT_BUTTON, "PWRB");
	add_event(a, POWER_EVENT_GENERATION, "VGEN");
	aml_end(a, method);
	aml_end(a, device);
}

static int write_dsdt(struct ram *ram, const struct acpi_config *c)
{
	const uint8_t s5[] = { POWER_SLP_TYP_OFF, 0 };
	uint8_t table[sizeof(struct header) + AML_ROOM];
	struct header h;
	struct aml a = { .len = 0 };
	size_t scope, n;

	scope = aml_begin_scope(&a, "\\_SB_");
	add_port_devices(&a);
	add_windows(&a, c->windows, c->nwindows);
	add_events(&a);
	aml_end(&a, scope);
	aml_name_package(&a, "_S5_", s5, sizeof(s5));
	if (a.overflow)
		return -EOVERFLOW;

	n = sizeof(h) + a.len;
	h = header("DSDT", 2, n);
	memcpy(table, &h, sizeof(h));
	memcpy(table + sizeof(h), a.bytes, a.len);
	return write_table(ram, DSDT_OFFSET, table, n);
}

static int write_roots(struct ram *ram)
{
	struct {
		struct header header;
		uint64_t entry[2];
	} __attribute__((packed)) xsdt = {
		.header = header("XSDT", 1, sizeof(xsdt)),
		.entry = { ACPI_AT + FADT_OFFSET, ACPI_AT + MADT_OFFSET },
	};
	struct rsdp rsdp = {
		.signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
		.oem_id = { 'S', 'N', 'A', 'P', 'F', 'S' },
		.revision = 2,
		.length = sizeof(rsdp),
		.xsdt = ACPI_AT + XSDT_OFFSET,
	};
	int rc = write_table(ram, XSDT_OFFSET, &xsdt, sizeof(xsdt));

	/* The first checksum is of ACPI 1.0's 20 bytes, the second of all. */
	rsdp.checksum = checksum(&rsdp, 20);
	rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
	return rc < 0 ? rc : ram_write(ram, ACPI_AT, &rsdp, sizeof(rsdp));
}

int acpi_write_tables(struct ram *ram, const struct acpi_config *c)
{
	int rc = c->nwindows > ACPI_WINDOWS_MAX ? -EINVAL : write_fadt(ram);

	if (rc == 0)
		rc = write_madt(ram, c->ncpus);
	if (rc == 0)
		rc = write_dsdt(ram, c);
	if (rc == 0)
		rc = vmgenid_write(ram, c->generation);
	return rc < 0 ? rc : write_roots(ram);
}
