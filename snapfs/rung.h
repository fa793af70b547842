/*
 * Which rung a file is on that is too large to be read at once (memory.bin, a disk's): how its
 *bytes are known to be the manifest's, and so who may serve them. The one place that decides it.
 *
 *	sealed		the kernel measures fs-verity, and it is the digest
 *	stamped		it was verified, and is unchanged since
 *	unverified	nothing is known yet: verify first
 *	damaged		a digest differed, and the file is unchanged since
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "catalog/store.h"

enum rung { RUNG_SEALED, RUNG_STAMPED, RUNG_UNVERIFIED, RUNG_DAMAGED };

struct snap;

/*
 * The rung of the open file `fd`, number `file` of `s`, for this digest.
 * Constant in the size of the file. A seal that measures another digest is
 * damage, never a reason to go on to the next rung.
 */
enum rung sfs_rung_decide(struct snap *s, size_t file, int fd, const uint8_t digest[DIGEST_SIZE]);
