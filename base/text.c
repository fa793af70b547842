/* Sizes, times and identifiers as people read and write them: see text.h. */
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int text_parse_u64(const char *text, uint64_t *value)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return -EINVAL;
	}
	*value = v;
	return 0;
}

int text_parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	char digits[24];
	size_t n = strspn(text, "0123456789");
	const char *suffix;
	uint64_t v;
	int shift = 0;

	if (n == 0 || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, n);
	digits[n] = '\0';
	if (text_parse_u64(digits, &v) < 0)
		return -EINVAL;
	if (text[n]) {
		char c = text[n];

		if (c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		suffix = strchr(suffixes, c);
		/* "512M", "512MiB" and "512MB" are all understood, all as 1024. */
		if (!suffix || (text[n + 1] && strcmp(text + n + 1, "iB") != 0 &&
				strcmp(text + n + 1, "B") != 0))
			return -EINVAL;
		shift = 10 * (int)(suffix - suffixes + 1);
	}
	if (v > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = v << shift;
	return 0;
}

char *text_format_size(uint64_t bytes, char out[TEXT_SIZE_MAX])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	unsigned u = 0;

	/* Not "1024 KiB": what rounds up to the next unit is said in that. */
	while (v >= (u ? 1023.5 : 1024) && u < 6) {
		v /= 1024;
		u++;
	}
	if (u == 0 || v >= 99.95 || v == (double)(uint64_t)v)
		snprintf(out, TEXT_SIZE_MAX, "%.0f %s", v, units[u]);
	else
		snprintf(out, TEXT_SIZE_MAX, "%.1f %s", v, units[u]);
	return out;
}

char *text_format_time(int64_t seconds, int32_t nanos, char out[TEXT_TIME_MAX])
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char day[24];

	/* Years beyond four digits have no RFC 3339 form; a file may claim any. */
	if (seconds < 0 || seconds > 253402300799 || nanos < 0 || nanos > 999999999 ||
	    !gmtime_r(&t, &tm)) {
		snprintf(out, TEXT_TIME_MAX, "1970-01-01T00:00:00.000000000Z");
		return out;
	}
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, TEXT_TIME_MAX, "%s.%09dZ", day, nanos);
	return out;
}

int uuid_make(const struct timespec *now, uint8_t out[UUID_SIZE])
{
	uint64_t ms = (uint64_t)now->tv_sec * 1000 + (uint64_t)now->tv_nsec / 1000000;

	if (getrandom(out, UUID_SIZE, 0) != UUID_SIZE)
		return -EIO;
	for (int i = 0; i < 6; i++)
		out[i] = (uint8_t)(ms >> (40 - 8 * i));
	out[6] = (uint8_t)(0x70 | (out[6] & 0x0f)); /* version 7 */
	out[8] = (uint8_t)(0x80 | (out[8] & 0x3f)); /* variant 10 */
	return 0;
}

char *uuid_format(const uint8_t id[UUID_SIZE], char out[UUID_TEXT_MAX])
{
	static const char digits[] = "0123456789abcdef";
	char *p = out;

	for (int i = 0; i < UUID_SIZE; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id[i] >> 4];
		*p++ = digits[id[i] & 15];
	}
	*p = '\0';
	return out;
}

int uuid_parse(const char *text, uint8_t out[UUID_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	char again[UUID_TEXT_MAX];

	memset(out, 0, UUID_SIZE);
	if (strlen(text) != UUID_TEXT_MAX - 1)
		return -EINVAL;
	for (size_t i = 0, n = 0; i < UUID_TEXT_MAX - 1; i++) {
		const char *d = strchr(digits, text[i]);

		if (text[i] == '-')
			continue;
		if (!d || n == 2 * UUID_SIZE)
			return -EINVAL;
		out[n / 2] = (uint8_t)(n % 2 ? out[n / 2] | (d - digits) : (d - digits) << 4);
		n++;
	}
	return strcmp(uuid_format(out, again), text) == 0 ? 0 : -EINVAL;
}

char *text_format_hex(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * n] = '\0';
	return out;
}

#define REPLACEMENT "\xef\xbf\xbd"

/* Bytes of the well-formed, printable character at p; 0: it is none (RFC 3629, table 3-7). */
static size_t character(const uint8_t *p)
{
	size_t n;

	if (p[0] < 0x80)
		return p[0] >= 0x20 && p[0] != 0x7f;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	/* Overlong forms, surrogates, beyond U+10FFFF, and the C1 controls. */
	if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) ||
	    (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
	    (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

char *text_clean(const char *text)
{
	const uint8_t *p = (const uint8_t *)text;
	char *clean = malloc(3 * strlen(text) + 1);
	char *out = clean;

	if (!clean)
		return NULL;
	while (*p) {
		size_t n = character(p);

		if (n) {
			memcpy(out, p, n);
			out += n;
			p += n;
		} else {
			memcpy(out, REPLACEMENT, 3);
			out += 3;
			p++;
		}
	}
	*out = '\0';
	return clean;
}

int text_parse_duration(const char *text, uint64_t *seconds)
{
	static const struct {
		char unit;
		uint64_t seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { '\0', 1 } };
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (uint64_t)(*p - '0');
		/* Longer than anybody means. */
		if (n > UINT32_MAX)
			return -EINVAL;
	}
	for (size_t i = 0; p != text && i < sizeof(units) / sizeof(units[0]); i++) {
		if (*p != units[i].unit || (*p && p[1]))
			continue;
		*seconds = n * units[i].seconds;
		return 0;
	}
	return -EINVAL;
}
