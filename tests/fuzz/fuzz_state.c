/* state.bin. */
#include "fuzz.h"

#include <string.h>

#include "base/cleanup.h"
#include "known.h"
#include "proto/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free uint8_t *once = NULL, *twice = NULL;
	VmState *s = NULL, *again;
	struct err e = { 0 };
	int rc = proto_state_decode(data, size, &s, &e);
	size_t n, k;

	MUST((rc == 0) == (s != NULL));
	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc != 0)
		return 0;
	MUST(s->kvm && s->n_vcpu > 0);
	for (size_t i = 0; i < s->n_vcpu; i++)
		MUST(s->vcpu[i]->id == i);
	if (only_known(&s->base) && proto_state_encode(s, &once, &n, NULL) == 0) {
		MUST(proto_state_decode(once, n, &again, NULL) == 0);
		MUST(proto_state_encode(again, &twice, &k, NULL) == 0);
		MUST(n == k && memcmp(once, twice, n) == 0);
		proto_state_free(again);
	}
	proto_state_free(s);
	return 0;
}
