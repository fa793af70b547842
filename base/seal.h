/*
 * Seals: fs-verity, by which the kernel itself refuses each write to a file for ever,
 * and checks each block that it reads. The file system has to have it (ext4 and f2fs
 * with the feature "verity", btrfs). SHA-256, blocks of 4096 bytes, no salt: what
 * merkle.h computes.
 *
 * Source: Documentation/filesystems/fsverity.rst.
 */
#ifndef BASE_SEAL_H
#define BASE_SEAL_H

#include "base/digest.h"

/*
 * Asks the kernel; constant in the size of the file. 1: sealed, and this is its
 * digest; 0: not sealed; -EBADMSG: sealed with another digest. Any thread.
 */
int seal_measure(int fd, const uint8_t digest[DIGEST_SIZE]);

/*
 * Seals the file for good. The kernel reads all of it, holes too, before this returns.
 * fd: read-only, of a file that nobody has open for writing. 0: it is sealed now, or
 * was; -EOPNOTSUPP: not on this file system; -EACCES: its mode must let the caller
 * write it; -ETXTBSY: somebody has it open for writing; or another negative errno.
 * Any thread.
 */
int seal_enable(int fd);

#endif
