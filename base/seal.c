/* fs-verity: see seal.h. */
#include "base/seal.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <string.h>
#include <sys/ioctl.h>

int seal_measure(int fd, const uint8_t digest[DIGEST_SIZE])
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

int seal_enable(int fd)
{
	const struct fsverity_enable_arg how = {
		.version = 1,
		.hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
		.block_size = 4096,
	};

	if (ioctl(fd, FS_IOC_ENABLE_VERITY, &how) == 0 || errno == EEXIST)
		return 0;
	return errno == ENOTTY ? -EOPNOTSUPP : -errno;
}
