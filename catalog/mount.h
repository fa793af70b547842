/*
 * What a mount of a store says of itself: extended attributes of its root, for
 * `snapctl status` and anybody who asks with getfattr(1). snapfs answers them.
 */
#pragma once

#define MOUNT_XATTR_STORE "user.snapfs.store" /* the store's path, resolved */
#define MOUNT_XATTR_READS "user.snapfs.reads" /* who serves what is known to be good, and why */
#define MOUNT_XATTR_MAX	  4096
