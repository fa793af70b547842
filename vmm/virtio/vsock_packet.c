/* Forms and checks of vsock: see vsock_packet.h. */
#include "vsock_packet.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put16(uint8_t *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

void vsock_header_decode(const uint8_t raw[VSOCK_HEADER_SIZE], struct vsock_header *h)
{
	*h = (struct vsock_header){
		.src_cid = get64(raw),
		.dst_cid = get64(raw + 8),
		.src_port = get32(raw + 16),
		.dst_port = get32(raw + 20),
		.len = get32(raw + 24),
		.type = get16(raw + 28),
		.op = get16(raw + 30),
		.flags = get32(raw + 32),
		.buf_alloc = get32(raw + 36),
		.fwd_cnt = get32(raw + 40),
	};
}

void vsock_header_encode(const struct vsock_header *h, uint8_t raw[VSOCK_HEADER_SIZE])
{
	put64(raw, h->src_cid);
	put64(raw + 8, h->dst_cid);
	put32(raw + 16, h->src_port);
	put32(raw + 20, h->dst_port);
	put32(raw + 24, h->len);
	put16(raw + 28, h->type);
	put16(raw + 30, h->op);
	put32(raw + 32, h->flags);
	put32(raw + 36, h->buf_alloc);
	put32(raw + 40, h->fwd_cnt);
}

enum vsock_verdict vsock_header_check(const struct vsock_header *h, uint64_t guest_cid,
				      uint64_t payload)
{
	/* A guest that has not yet read its new CID after a restore is no cause for an answer. */
	if (h->src_cid != guest_cid)
		return VSOCK_DROP;
	if (h->op == VSOCK_RST) /* is never answered: two would play ping-pong */
		return h->dst_cid == VSOCK_HOST_CID && h->type == VSOCK_TYPE_STREAM ? VSOCK_TAKE
										    : VSOCK_DROP;
	if (h->dst_cid != VSOCK_HOST_CID || h->type != VSOCK_TYPE_STREAM)
		return VSOCK_REFUSE;
	if (h->op == 0 || h->op >= VSOCK_OPS)
		return VSOCK_REFUSE;
	if (h->len > payload || h->len > VSOCK_BUFFER_SIZE)
		return VSOCK_REFUSE;
	return VSOCK_TAKE;
}

struct vsock_header vsock_header_rst(const struct vsock_header *h)
{
	return (struct vsock_header){
		.src_cid = h->dst_cid,
		.dst_cid = h->src_cid,
		.src_port = h->dst_port,
		.dst_port = h->src_port,
		.type = h->type,
		.op = VSOCK_RST,
	};
}

int vsock_parse_connect(const char *line, size_t len, uint32_t *port)
{
	static const char word[] = "connect ";
	const size_t n = sizeof(word) - 1;
	uint64_t value = 0;

	if (len > 0 && line[len - 1] == '\r')
		len--;
	/* At least one digit, and no more than the greatest port has. */
	if (len <= n || len > n + 10 || strncasecmp(line, word, n) != 0)
		return -EINVAL;
	for (size_t i = n; i < len; i++) {
		if (line[i] < '0' || line[i] > '9')
			return -EINVAL;
		value = value * 10 + (uint64_t)(line[i] - '0');
	}
	/* UINT32_MAX is VMADDR_PORT_ANY: nobody can listen there. */
	if (value >= UINT32_MAX)
		return -EINVAL;
	*port = (uint32_t)value;
	return 0;
}
