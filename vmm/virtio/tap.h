/*
 * Taps of the host: network interfaces whose packets a program reads and writes.
 * None is made here.
 * Source: the kernel's Documentation/networking/tuntap.rst.
 */
#pragma once

#include "base/err.h"

/*
 * Opens the tap `name`, which exists, for packets that begin with a header of
 * `header` bytes (struct virtio_net_hdr_v1). A descriptor that does not block,
 * the caller's; or a negative errno, with words: there is none of that name, it
 * is in use, another user's, or something else than a tap of one queue.
 */
int tap_open(const char *name, int header, struct err *e);

/* Bytes of its MTU; Ethernet's where it cannot be asked. */
unsigned tap_mtu(const char *name);
