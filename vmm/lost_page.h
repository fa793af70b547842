/*
 * A RAM page that the host cannot give, as a KVM that emulates shows it: to the
 * emulator such a page is memory that is not there. The guest gets a fault for
 * it, whose handler may not be to be had either, up to a triple fault; or the
 * instruction "cannot be emulated". Neither is the guest's doing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ram.h"

/*
 * True where a page that the vCPU needs in order to go on cannot be had: of its
 * page tables, code, stack or descriptor tables; *address is in it. What its
 * instruction works on is not looked at: KVM tells that by an MMIO exit.
 * On the vCPU's own thread.
 */
bool lost_page_find(const struct ram *ram, int vcpu_fd, uint64_t *address);

/*
 * After a triple fault over such a page: an interrupt that was taken from the
 * APIC, and whose handler was never entered, is injected again, so that the
 * guest goes on as if nothing had been tried. On the vCPU's own thread.
 */
void lost_page_undo(int vcpu_fd);
