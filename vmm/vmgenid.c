/* The VM generation ID: see vmgenid.h. */
#include "vmgenid.h"

_Static_assert(VMGENID_AT % 8 == 0, "aligned as the specification wants it");
_Static_assert(VMGENID_AT + VMGENID_SIZE <= ACPI_AT + ACPI_ROOM, "reserved memory");

int vmgenid_write(struct ram *ram, const uint8_t id[VMGENID_SIZE])
{
	return ram_write(ram, VMGENID_AT, id, VMGENID_SIZE);
}

int vmgenid_renew(struct ram *ram, struct power *p, const uint8_t id[VMGENID_SIZE])
{
	int rc = vmgenid_write(ram, id);

	if (rc == 0)
		power_raise(p, POWER_EVENT_GENERATION);
	return rc;
}
