/*
 * manifest.bin: its codec and its checks. The layout is in manifest.proto; the
 * last 35 bytes are the tag, the length and the value of manifest_digest.
 *
 * The decoded form is protobuf-c's generated struct, allocated within a bound
 * that a hostile file cannot exceed. Free it with proto_manifest_free().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "manifest.pb-c.h"

#define MANIFEST_VERSION	1
#define MANIFEST_MAX		(1U << 20) /* bytes of the file */
#define MANIFEST_PAGE_SIZE	4096
#define MANIFEST_ARCHITECTURE	"x86_64"
#define MANIFEST_VCPUS_MAX	32
#define MANIFEST_CMDLINE_MAX	4096
#define MANIFEST_NAME_MAX	128
#define MANIFEST_FILE_MAX	64  /* bytes of a file's name in disks/ */
#define MANIFEST_LAYERS_MAX	17  /* of the RAM, the bottom one among them */
#define MANIFEST_DISK_FILES_MAX 240 /* all disks together: they are passed in one message */

/*
 * Decodes and checks that it is whole: parsable, its own digest right, its
 * fields within their bounds. Whether it makes sense and this program or host
 * can use it is proto_manifest_check()'s to say.
 * 0, -EBADMSG (damaged) or -ENOMEM.
 */
int proto_manifest_decode(const uint8_t *buf, size_t len, SnapshotManifest **out, struct err *e);

/*
 * Encodes it with its digest computed (any digest in it is ignored).
 * *buf is the caller's to free. 0, -EFBIG or -ENOMEM.
 */
int proto_manifest_encode(const SnapshotManifest *m, uint8_t **buf, size_t *len, struct err *e);

void proto_manifest_free(SnapshotManifest *m);

/*
 * Whether its disks' files are within their bounds: names that are safe as such
 * and not given twice, digests of their length. For who uses a draft's.
 */
bool proto_manifest_disks_hold(const SnapshotManifest *m);

/*
 * Whether the layers of its RAM are within their bounds: none or at least two, sizes
 * of whole pages, digests of their length. For who uses a draft's.
 */
bool proto_manifest_layers_hold(const SnapshotManifest *m);

/*
 * Adds (err_also) a sentence for each thing that keeps this program from
 * restoring it: version, architecture, page size, RAM size and ranges, number of
 * vCPUs.
 * 0 or -EINVAL if anything was added.
 */
int proto_manifest_check(const SnapshotManifest *m, struct err *e);
