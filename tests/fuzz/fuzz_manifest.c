/*
 * manifest.bin. Each input is decoded as it is and with its digest put right,
 * which no mutation would hit by chance.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "known.h"
#include "proto/manifest.h"

#define TAG_SIZE 3
#define TRAILER	 (TAG_SIZE + DIGEST_SIZE)

static const uint8_t tag[TAG_SIZE] = { 0xfa, 0x7f, DIGEST_SIZE };

/* What decodes must be encodable, and the same again when that is decoded. */
static void try_again(const SnapshotManifest *m)
{
	auto_free uint8_t *once = NULL, *twice = NULL;
	SnapshotManifest *again;
	size_t n, k;

	if (!only_known(&m->base) || proto_manifest_encode(m, &once, &n, NULL) < 0)
		return;
	MUST(proto_manifest_decode(once, n, &again, NULL) == 0);
	MUST(proto_manifest_encode(again, &twice, &k, NULL) == 0);
	MUST(n == k && memcmp(once, twice, n) == 0);
	proto_manifest_free(again);
}

static void decode(const uint8_t *buf, size_t len)
{
	SnapshotManifest *m = NULL;
	struct err e = { 0 };
	int rc = proto_manifest_decode(buf, len, &m, &e);

	MUST((rc == 0) == (m != NULL));
	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc != 0)
		return;
	MUST(m->id.len == 16 && m->memory_digest.len == DIGEST_SIZE);
	rc = proto_manifest_check(m, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc == 0)
		MUST(m->memory_size_bytes > 0 && m->memory_size_bytes <= INT64_MAX);
	try_again(m);
	proto_manifest_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const bool has_trailer =
		size >= TRAILER && memcmp(data + size - TRAILER, tag, TAG_SIZE) == 0;
	const size_t body = has_trailer ? size - TRAILER : size;
	auto_free uint8_t *fixed = malloc(body + TRAILER);

	MUST(fixed);
	decode(data, size);
	if (body)
		memcpy(fixed, data, body);
	memcpy(fixed + body, tag, TAG_SIZE);
	MUST(digest_sha256(fixed, body, fixed + body + TAG_SIZE) == 0);
	decode(fixed, body + TRAILER);
	return 0;
}
