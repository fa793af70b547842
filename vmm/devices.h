/*
 * The virtio devices of a machine as messages of the manifest: made from the
 * command line, or taken from a snapshot and, where the command line says so,
 * given other resources of the host.
 *
 *	--disk PATH[,ro][,overlay=FILE]		virtio-blk	disk0, disk1, ...
 *	--net tap=NAME[,mac=MAC]		virtio-net	net0, ...
 *	--pmem PATH[,ro]			virtio-pmem	pmem0, ...
 *	--rng					virtio-rng	rng0
 *	--vsock cid=N,path=SOCKET		virtio-vsock	vsock0
 *	--console path=SOCKET			virtio-console	console0
 *	--balloon				virtio-balloon	balloon0
 *
 * At a restore the n-th option of a kind is about the n-th device of it. What it
 * says replaces what the manifest says; what it leaves out stays. It cannot add
 * a device, nor change what the guest has seen of one (ro, mac).
 */
#pragma once

#include "manifest.pb-c.h"
#include "options.h"

/*
 * The devices that the options ask for: *out, a message to be freed by
 * machine__free_unpacked(). 0, -EINVAL with err_usage words, or -ENOMEM.
 */
int devices_from_options(const struct options *o, Machine **out, struct err *e);

/*
 * Changes the virtio devices of a snapshot as the options say. 0, -ENOMEM, or
 * -EINVAL, with all that cannot be in *e.
 */
int devices_override(Machine *machine, const struct options *o, struct err *e);

/*
 * Whether the host has what network cards, sockets and consoles are to be given,
 * and no two devices are given the same.
 * Looks, and touches nothing. 0 or -EINVAL with a sentence for each that is not.
 */
int devices_check_host(const Machine *machine, struct err *e);

/* True where `d` is one of the kinds that the options know: a virtio device. */
bool devices_is_virtio(const Device *d);
