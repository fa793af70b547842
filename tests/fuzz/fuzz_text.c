/* Numbers, sizes, identifiers and foreign text, all from the same input. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

static void parse_numbers(const char *text)
{
	uint64_t value = 0, size = 0;
	char out[TEXT_SIZE_MAX];
	int rc = text_parse_u64(text, &value);

	if (rc == 0)
		MUST(*text && strspn(text, "0123456789") == strlen(text));
	/* Every plain number is a size, of itself. */
	if (rc == 0 && strlen(text) < 20)
		MUST(text_parse_size(text, &size) == 0 && size == value);
	if (text_parse_size(text, &size) == 0) {
		MUST(*text >= '0' && *text <= '9');
		MUST(strlen(text_format_size(size, out)) < TEXT_SIZE_MAX);
	}
}

static void parse_uuid(const char *text)
{
	uint8_t id[UUID_SIZE];
	char out[UUID_TEXT_MAX];

	if (uuid_parse(text, id) == 0)
		MUST(strcmp(uuid_format(id, out), text) == 0);
}

/* Well-formed UTF-8 (RFC 3629) without control characters. */
static void must_be_clean(const uint8_t *p)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };

	while (*p) {
		const int more = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : 3;
		uint32_t c = more ? *p & (0x3fU >> more) : *p;

		MUST(more < 3 || *p >> 3 == 30);
		for (int i = 1; i <= more; i++) {
			MUST(p[i] >> 6 == 2);
			c = c << 6 | (p[i] & 0x3f);
		}
		MUST(c >= least[more] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff));
		MUST(c >= 0x20 && (c < 0x7f || c > 0x9f));
		p += more + 1;
	}
}

static void clean(const char *text)
{
	auto_free char *once = text_clean(text);
	auto_free char *twice = once ? text_clean(once) : NULL;

	MUST(once && twice);
	must_be_clean((const uint8_t *)once);
	MUST(strcmp(once, twice) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	char out[TEXT_TIME_MAX];
	int64_t seconds = 0;
	int32_t nanos = 0;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	parse_numbers(text);
	parse_uuid(text);
	clean(text);
	if (size >= 8)
		memcpy(&seconds, data, 8);
	if (size >= 12)
		memcpy(&nanos, data + 8, 4);
	MUST(strlen(text_format_time(seconds, nanos, out)) == 30);
	return 0;
}
