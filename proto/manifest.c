/* manifest.bin's codec and checks: see manifest.h. */
#include "manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/text.h"
#include "bounded.h"
#include "layermap.h"
#include "state.h"

/* Field 2047, wire type 2 (length-delimited), then the length 32. */
static const uint8_t digest_tag[] = { 0xfa, 0x7f, DIGEST_SIZE };

#define TRAILER	      (sizeof(digest_tag) + DIGEST_SIZE)
#define DECODE_BUDGET (16U << 20)
#define RANGES_MAX    16
#define DEVICES_MAX   256
#define CPUID_MAX     256
#define STRING_MAX    4096
#define DISK_LAYERS   128 /* of one disk */

static int damaged(struct err *e, const char *why)
{
	return err_refuse(e, EBADMSG, "manifest.bin is damaged: %s", why);
}

static int digest_holds(const uint8_t *buf, size_t len)
{
	uint8_t digest[DIGEST_SIZE];

	if (len < TRAILER || memcmp(buf + len - TRAILER, digest_tag, sizeof(digest_tag)) != 0)
		return 0;
	return digest_sha256(buf, len - TRAILER, digest) == 0 &&
	       memcmp(digest, buf + len - DIGEST_SIZE, DIGEST_SIZE) == 0;
}

/* Ascending, page-aligned, not overlapping, dense in the file, of the given sum. */
static int ranges_hold(const SnapshotManifest *m)
{
	uint64_t next_address = 0, next_offset = 0;

	if (m->n_ram == 0 || m->n_ram > RANGES_MAX)
		return 0;
	for (size_t i = 0; i < m->n_ram; i++) {
		const RamRange *r = m->ram[i];

		if (r->size == 0 || (r->guest_address | r->size) % MANIFEST_PAGE_SIZE)
			return 0;
		if (r->guest_address < next_address || r->file_offset != next_offset)
			return 0;
		if (__builtin_add_overflow(r->guest_address, r->size, &next_address) ||
		    __builtin_add_overflow(r->file_offset, r->size, &next_offset))
			return 0;
	}
	return next_offset == m->memory_size_bytes && next_offset <= INT64_MAX;
}

static int strings_hold(const SnapshotManifest *m)
{
	if (strlen(m->name_at_creation) > MANIFEST_NAME_MAX || strlen(m->architecture) > 64 ||
	    strlen(m->creator) > 256)
		return 0;
	if (m->boot && strlen(m->boot->cmdline) > MANIFEST_CMDLINE_MAX)
		return 0;
	if (m->boot && m->boot->kernel && strlen(m->boot->kernel->path) > STRING_MAX)
		return 0;
	return !m->boot || !m->boot->initrd || strlen(m->boot->initrd->path) <= STRING_MAX;
}

static int digests_hold(const SnapshotManifest *m)
{
	if (m->boot && m->boot->kernel && m->boot->kernel->sha256.len != DIGEST_SIZE)
		return 0;
	if (m->boot && m->boot->initrd && m->boot->initrd->sha256.len != DIGEST_SIZE)
		return 0;
	return m->memory_digest.len == DIGEST_SIZE && m->state_digest.len == DIGEST_SIZE;
}

static int devices_hold(const SnapshotManifest *m)
{
	if (!m->machine)
		return 1;
	if (m->machine->n_device > DEVICES_MAX)
		return 0;
	for (size_t i = 0; i < m->machine->n_device; i++) {
		const Device *d = m->machine->device[i];

		if (strlen(d->name) > 64 || strlen(d->kind) > 64 || strlen(d->tap) > 64 ||
		    strlen(d->path) > STRING_MAX || strlen(d->overlay) > STRING_MAX)
			return 0;
		for (size_t j = 0; j < i; j++)
			if (strcmp(d->name, m->machine->device[j]->name) == 0)
				return 0;
	}
	return 1;
}

static bool ends_with(const char *text, const char *end)
{
	const size_t n = strlen(text), m = strlen(end);

	return n >= m && strcmp(text + n - m, end) == 0;
}

/*
 * A file in disks/: no path, no hidden name, nothing a shell or a table minds; and
 * no name of another one's tree.
 */
static bool is_file_name(const char *name)
{
	const size_t n = strlen(name);

	return n > 0 && !ends_with(name, ".tree") && n <= MANIFEST_FILE_MAX && name[0] >= 'a' &&
	       name[0] <= 'z' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.") == n;
}

bool proto_manifest_disks_hold(const SnapshotManifest *m)
{
	const char *seen[MANIFEST_DISK_FILES_MAX];
	size_t n = 0;

	if (m->n_disk > DEVICES_MAX)
		return false;
	for (size_t i = 0; i < m->n_disk; i++) {
		const Disk *d = m->disk[i];

		if (strlen(d->device) > 64 || d->n_layer > DISK_LAYERS)
			return false;
		for (size_t j = 0; j < i; j++)
			if (strcmp(d->device, m->disk[j]->device) == 0)
				return false;
		for (size_t k = 0; k < d->n_layer; k++) {
			if (n == MANIFEST_DISK_FILES_MAX || d->layer[k]->size > INT64_MAX ||
			    d->layer[k]->digest.len != DIGEST_SIZE ||
			    !is_file_name(d->layer[k]->file))
				return false;
			for (size_t j = 0; j < n; j++)
				if (strcmp(seen[j], d->layer[k]->file) == 0)
					return false;
			seen[n++] = d->layer[k]->file;
		}
	}
	return true;
}

static bool layer_holds(const SnapshotManifest *m, size_t i)
{
	const Layer *l = m->layer[i];

	if (l->size > m->memory_size_bytes || l->size % MANIFEST_PAGE_SIZE ||
	    l->digest.len != DIGEST_SIZE)
		return false;
	if (i == 0)
		return l->size == m->memory_size_bytes && l->map_size == 0 &&
		       l->map_digest.len == 0;
	return l->map_size <= LAYERMAP_MAX && l->map_digest.len == DIGEST_SIZE;
}

bool proto_manifest_layers_hold(const SnapshotManifest *m)
{
	if (m->n_layer == 1 || m->n_layer > MANIFEST_LAYERS_MAX)
		return false;
	for (size_t i = 0; i < m->n_layer; i++)
		if (!layer_holds(m, i))
			return false;
	return true;
}

static int check_whole(const SnapshotManifest *m, struct err *e)
{
	if (m->id.len != UUID_SIZE)
		return err_refuse(e, EBADMSG,
				  "manifest.bin has no id: it is not a snapshot of this program%s",
				  *m->openvmm_version ? " but one of OpenVMM's" : "");
	if (m->parent_id.len != 0 && m->parent_id.len != UUID_SIZE)
		return damaged(e, "the parent's id has a wrong length");
	if (!digests_hold(m))
		return damaged(e, "a digest has a wrong length");
	if (m->vm_generation.len != 0 && m->vm_generation.len != UUID_SIZE)
		return damaged(e, "the generation ID has a wrong length");
	if (m->state_size > STATE_MAX)
		return damaged(e, "the size of state.bin is out of range");
	if (!m->created_at || m->created_at->nanos < 0 || m->created_at->nanos > 999999999)
		return damaged(e, "the time of creation is missing or out of range");
	if (!strings_hold(m))
		return damaged(e, "a string is too long");
	if (!devices_hold(m))
		return damaged(e, "a device is listed twice, or too many are, or a string of one "
				  "is too long");
	if (!proto_manifest_disks_hold(m))
		return damaged(e,
			       "the files of its disks are out of bounds, or one is listed twice");
	if (!proto_manifest_layers_hold(m))
		return damaged(e, "the layers of its RAM are out of bounds");
	if (m->cpu && m->cpu->n_cpuid > CPUID_MAX)
		return damaged(e, "too many CPUID entries");
	return 0;
}

int proto_manifest_decode(const uint8_t *buf, size_t len, SnapshotManifest **out, struct err *e)
{
	SnapshotManifest *m;
	int rc;

	if (len > MANIFEST_MAX)
		return damaged(e, "it is larger than 1 MiB");
	m = (SnapshotManifest *)proto_unpack_bounded(&snapshot_manifest__descriptor, buf, len,
						     DECODE_BUDGET);
	if (!m)
		return damaged(e, "it cannot be parsed");
	/* A newer format may digest itself otherwise: its version is what to say. */
	if (m->version > MANIFEST_VERSION && !digest_holds(buf, len))
		rc = err_refuse(e, EBADMSG,
				"manifest.bin is of format version %u, this program reads %u",
				m->version, MANIFEST_VERSION);
	else if (m->id.len == UUID_SIZE && !digest_holds(buf, len))
		rc = damaged(e, "its digest does not match its content");
	else
		rc = check_whole(m, e);
	if (rc < 0) {
		proto_manifest_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

int proto_manifest_encode(const SnapshotManifest *m, uint8_t **buf, size_t *len, struct err *e)
{
	SnapshotManifest body = *m;
	auto_free uint8_t *data = NULL;
	size_t n;

	body.manifest_digest.len = 0;
	n = snapshot_manifest__get_packed_size(&body);
	if (n + TRAILER > MANIFEST_MAX)
		return err_refuse(e, EFBIG, "the manifest would be larger than 1 MiB");
	data = malloc(n + TRAILER);
	if (!data)
		return err_sys(e, ENOMEM, "cannot encode the manifest");
	snapshot_manifest__pack(&body, data);
	memcpy(data + n, digest_tag, sizeof(digest_tag));
	if (digest_sha256(data, n, data + n + sizeof(digest_tag)) < 0)
		return err_sys(e, ENOMEM, "cannot encode the manifest");
	*len = n + TRAILER;
	*buf = take_ptr(&data);
	return 0;
}

void proto_manifest_free(SnapshotManifest *m)
{
	if (m)
		snapshot_manifest__free_unpacked(m, NULL);
}

int proto_manifest_check(const SnapshotManifest *m, struct err *e)
{
	int rc = 0;

	if (m->version != MANIFEST_VERSION)
		rc = err_also(e, EINVAL,
			      "the snapshot is of format version %u, this program reads %u",
			      m->version, MANIFEST_VERSION);
	if (strcmp(m->architecture, MANIFEST_ARCHITECTURE) != 0)
		rc = err_also(e, EINVAL, "the snapshot is of a '%s' machine, this host runs %s",
			      m->architecture, MANIFEST_ARCHITECTURE);
	if (m->page_size != MANIFEST_PAGE_SIZE)
		rc = err_also(e, EINVAL, "the snapshot has pages of %u bytes, this host of %u",
			      m->page_size, MANIFEST_PAGE_SIZE);
	if (!ranges_hold(m))
		rc = err_also(e, EINVAL,
			      "the snapshot's RAM size of %llu bytes does not match its RAM ranges",
			      (unsigned long long)m->memory_size_bytes);
	if (m->vp_count == 0 || m->vp_count > MANIFEST_VCPUS_MAX)
		rc = err_also(e, EINVAL, "the snapshot has %u vCPUs, this program runs 1 to %u",
			      m->vp_count, MANIFEST_VCPUS_MAX);
	return rc;
}
