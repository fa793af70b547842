/* A working set: as it is, and with its digest made right, which gets to the runs. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "proto/working_set.h"

#define PAGES (1U << 20)

static void parse(const uint8_t *data, size_t size)
{
	struct working_set s;
	uint64_t next = 0;
	uint8_t *again;
	size_t len;

	if (proto_working_set_parse(data, size, PAGES, &s) < 0) {
		MUST(!s.run && s.n == 0);
		return;
	}
	for (size_t i = 0; i < s.n; i++) {
		MUST(s.run[i].page >= next && s.run[i].count > 0);
		next = s.run[i].page + s.run[i].count;
		MUST(next <= PAGES);
	}
	MUST(proto_working_set_encode(&s, &again, &len) == 0);
	MUST(len == size && memcmp(again, data, size) == 0);
	free(again);
	proto_working_set_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *whole = malloc(size + DIGEST_SIZE);

	MUST(whole);
	memcpy(whole, data, size);
	digest_sha256(whole, size, whole + size);
	parse(data, size);
	parse(whole, size + DIGEST_SIZE);
	free(whole);
	return 0;
}
