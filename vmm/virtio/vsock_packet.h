/*
 * What goes over the queues of a vsock device, and the line by which a program
 * on the host asks for a port of the guest. Nothing but forms and checks.
 *
 *	0  src_cid   8 dst_cid   16 src_port  20 dst_port  24 len
 *	28 type(2)  30 op(2)     32 flags     36 buf_alloc 40 fwd_cnt	44 payload
 *
 * Source: virtio 1.2, 5.10.6.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define VSOCK_HEADER_SIZE  44
#define VSOCK_HOST_CID	   2U
#define VSOCK_CID_MIN	   3U /* of a guest */
#define VSOCK_TYPE_STREAM  1
#define VSOCK_BUFFER_SIZE  (64U << 10) /* bytes of a connection on their way to the host */
#define VSOCK_SHUT_RECEIVE 1U	       /* flags of a SHUTDOWN: will not receive any more */
#define VSOCK_SHUT_SEND	   2U	       /* ... will not send */
#define VSOCK_SHUT_BOTH	   3U

enum vsock_op {
	VSOCK_REQUEST = 1,
	VSOCK_RESPONSE,
	VSOCK_RST,
	VSOCK_SHUTDOWN,
	VSOCK_RW,
	VSOCK_CREDIT_UPDATE,
	VSOCK_CREDIT_REQUEST,
	VSOCK_OPS
};

struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len; /* bytes of payload */
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

void vsock_header_decode(const uint8_t raw[VSOCK_HEADER_SIZE], struct vsock_header *h);
void vsock_header_encode(const struct vsock_header *h, uint8_t raw[VSOCK_HEADER_SIZE]);

enum vsock_verdict {
	VSOCK_TAKE,   /* to be worked on; len is at most `payload` and VSOCK_BUFFER_SIZE */
	VSOCK_DROP,   /* not to be answered */
	VSOCK_REFUSE, /* to be answered with a RST */
};

/* What becomes of a header from the guest that has `payload` bytes behind it. */
enum vsock_verdict vsock_header_check(const struct vsock_header *h, uint64_t guest_cid,
				      uint64_t payload);

/* The RST that answers h. */
struct vsock_header vsock_header_rst(const struct vsock_header *h);

#define VSOCK_LINE_MAX 32 /* bytes of a CONNECT line with its newline */

/*
 * The port of "CONNECT <port>", without its newline; the word in any case, and
 * a carriage return at the end is no harm. 0 or -EINVAL.
 */
int vsock_parse_connect(const char *line, size_t len, uint32_t *port);
