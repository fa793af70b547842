/*
 * Guest RAM written to a file: what a save does where RAM is not a file of the
 * machine's own that could be frozen.
 */
#pragma once

#include "base/err.h"
#include "pageset.h"
#include "ram.h"

/*
 * Writes RAM as it is now to the empty file fd, flat; pages of zeros become
 * holes. Quiet vCPUs and devices. Time grows with what RAM holds, hardly with
 * its size: pages that are holes in the file behind RAM, and that nobody has
 * written, are neither read nor made. 0; -EFAULT: a page could not be had, and
 * *e says which; or a negative errno.
 */
int ram_write_out(const struct ram *ram, int fd, struct err *e);

/*
 * Adds the pages that may hold data to the set, without reading them; the guest may run:
 * what it writes meanwhile may or may not be among them. 0 or a negative errno.
 */
int ram_find_data(const struct ram *ram, struct pageset *found, struct err *e);
