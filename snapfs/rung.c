/* Which rung a file is on: see rung.h. */
#include "rung.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "catalog/verify.h"
#include "snap.h"

/* 1: sealed with this digest; 0: not sealed; -EBADMSG: sealed with another one. */
static int measure(int fd, const uint8_t digest[DIGEST_SIZE])
{
	union {
		struct fsverity_digest head;
		uint8_t room[sizeof(struct fsverity_digest) + 64];
	} m = { .head = { .digest_size = 64 } };

	/* ENODATA: no seal; ENOTTY, EOPNOTSUPP: a kernel or file system without seals. */
	if (ioctl(fd, FS_IOC_MEASURE_VERITY, &m) < 0)
		return 0;
	if (m.head.digest_algorithm != FS_VERITY_HASH_ALG_SHA256 ||
	    m.head.digest_size != DIGEST_SIZE ||
	    memcmp(m.room + sizeof(m.head), digest, DIGEST_SIZE) != 0)
		return -EBADMSG;
	return 1;
}

enum rung sfs_rung_decide(struct store *store, struct snap *s, size_t file, int fd,
			  const uint8_t digest[DIGEST_SIZE])
{
	char problem[SNAP_PROBLEM_MAX];
	struct identity id;
	struct stat st;
	int sealed = measure(fd, digest);

	if (sealed != 0)
		return sealed > 0 ? RUNG_SEALED : RUNG_DAMAGED;
	if (cat_stamp_holds(store, fd, digest))
		return RUNG_STAMPED;
	if (fstat(fd, &st) < 0)
		return RUNG_UNVERIFIED;
	id = sfs_identity_of(&st);
	return sfs_snap_is_bad(s, file, &id, problem) ? RUNG_DAMAGED : RUNG_UNVERIFIED;
}
