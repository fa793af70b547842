/*
 * Sizes, times and identifiers as people read and write them.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* A decimal number and nothing else. 0 or -EINVAL. */
int text_parse_u64(const char *text, uint64_t *value);

/* A number of bytes with an optional suffix K, M, G or T (powers of 1024). 0 or -EINVAL. */
int text_parse_size(const char *text, uint64_t *bytes);

#define TEXT_SIZE_MAX 16
/* Bytes as "0 B", "512 KiB", "1.5 GiB" into out; returns out. */
char *text_format_size(uint64_t bytes, char out[TEXT_SIZE_MAX]);

#define TEXT_TIME_MAX 40
/* Seconds of "90s", "30m", "12h" or "7d"; a bare number is seconds. 0, or -EINVAL. */
int text_parse_duration(const char *text, uint64_t *seconds);

/* RFC 3339 in UTC with nanoseconds, "2026-08-01T12:00:00.000000000Z"; returns out. */
char *text_format_time(int64_t seconds, int32_t nanos, char out[TEXT_TIME_MAX]);

/* A UUID (RFC 9562) as 16 bytes in network order. */
#define UUID_SIZE     16
#define UUID_TEXT_MAX 37

/*
 * A new UUIDv7: 48 bits of Unix milliseconds of `now`, the rest random
 * (getrandom). 0 or a negative errno.
 */
int uuid_make(const struct timespec *now, uint8_t out[UUID_SIZE]);

/* The 36 characters of it; returns out. */
char *uuid_format(const uint8_t id[UUID_SIZE], char out[UUID_TEXT_MAX]);

/* The 16 bytes of what uuid_format() writes; nothing else is one. 0 or -EINVAL. */
int uuid_parse(const char *text, uint8_t out[UUID_SIZE]);

/* n bytes as 2n lowercase hexadecimal digits and a NUL; returns out. */
char *text_format_hex(const uint8_t *bytes, size_t n, char *out);

/*
 * `text` as printable UTF-8: what is not well-formed, and control characters,
 * become U+FFFD. For what others wrote, before it reaches a terminal or JSON.
 * The caller's to free, NULL if there is no memory.
 */
char *text_clean(const char *text);
