/* The messages between vmm and its publisher: each input as a request and as a reply. */
#include "fuzz.h"

#include <string.h>

#include "proto/publish.h"

static void decode_request(const uint8_t *data, size_t size)
{
	PublishRequest *m = NULL;
	int rc = proto_publish_decode_request(data, size, &m);

	MUST((rc == 0) == (m != NULL));
	if (rc != 0)
		return;
	MUST(size <= PUBLISH_MAX);
	/* What the publisher reads of each kind is there. */
	if (m->what_case == PUBLISH_REQUEST__WHAT_RAM)
		MUST(m->ram && strlen(m->ram->path) <= size);
	if (m->what_case == PUBLISH_REQUEST__WHAT_SAVE)
		MUST(m->save && strlen(m->save->name) <= size);
	if (m->what_case == PUBLISH_REQUEST__WHAT_TRUST)
		MUST(m->trust && m->trust->memory_digest.len <= size);
	if (m->what_case == PUBLISH_REQUEST__WHAT_COMMIT)
		MUST(m->commit);
	proto_publish_free_request(m);
}

static void decode_reply(const uint8_t *data, size_t size)
{
	PublishReply *m = NULL;
	int rc = proto_publish_decode_reply(data, size, &m);

	MUST((rc == 0) == (m != NULL));
	if (rc != 0)
		return;
	MUST(strlen(m->error) <= size && strlen(m->path) <= size && m->id.len <= size);
	for (size_t i = 0; i < m->n_notice; i++)
		MUST(strlen(m->notice[i]) <= size);
	proto_publish_free_reply(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	decode_request(data, size);
	decode_reply(data, size);
	return 0;
}
