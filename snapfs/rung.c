/* Which rung a file is on: see rung.h. */
#include "rung.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/seal.h"
#include "catalog/verify.h"
#include "snap.h"

enum rung sfs_rung_decide(struct snap *s, size_t file, int fd, const uint8_t digest[DIGEST_SIZE])
{
	char problem[SNAP_PROBLEM_MAX];
	struct identity id;
	struct stat st;
	int sealed = seal_measure(fd, digest);

	if (sealed != 0)
		return sealed > 0 ? RUNG_SEALED : RUNG_DAMAGED;
	if (cat_stamp_holds(s->of->store, fd, digest))
		return RUNG_STAMPED;
	if (fstat(fd, &st) < 0)
		return RUNG_UNVERIFIED;
	id = sfs_identity_of(&st);
	return sfs_snap_is_bad(s, file, &id, problem) ? RUNG_DAMAGED : RUNG_UNVERIFIED;
}
