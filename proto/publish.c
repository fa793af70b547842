/* The messages between vmm and its publisher: see publish.h. */
#include "publish.h"

#include <errno.h>
#include <unistd.h>

#include "base/io.h"
#include "bounded.h"

#define DECODE_BUDGET (64U << 10)

/*
 * A message of defaults alone has no bytes, and an empty packet reads as the end
 * of the connection: then a field that no message has stands there, of value 0.
 */
static const uint8_t nothing[] = { 15 << 3, 0 };

static int send_message(int sock, const ProtobufCMessage *m, const int *fds, size_t nfds)
{
	uint8_t buf[PUBLISH_MAX];
	size_t n = protobuf_c_message_get_packed_size(m);

	if (n > sizeof(buf))
		return -EMSGSIZE;
	if (n == 0)
		return io_send_msg(sock, nothing, sizeof(nothing), fds, nfds);
	return io_send_msg(sock, buf, protobuf_c_message_pack(m, buf), fds, nfds);
}

static void close_all(const int *fds, size_t *nfds)
{
	for (size_t i = 0; nfds && i < *nfds; i++)
		close(fds[i]);
	if (nfds)
		*nfds = 0;
}

static int decode(const ProtobufCMessageDescriptor *type, const uint8_t *buf, size_t len,
		  ProtobufCMessage **m)
{
	*m = len > PUBLISH_MAX ? NULL : proto_unpack_bounded(type, buf, len, DECODE_BUDGET);
	return *m ? 0 : -EBADMSG;
}

static int recv_message(int sock, const ProtobufCMessageDescriptor *type, ProtobufCMessage **m,
			int *fds, size_t *nfds)
{
	uint8_t buf[PUBLISH_MAX];
	ssize_t len = io_recv_msg(sock, buf, sizeof(buf), fds, nfds);

	if (len < 0)
		return (int)len;
	/* No bytes are the end, also where a hostile peer has put descriptors beside them. */
	if (len > 0 && decode(type, buf, (size_t)len, m) == 0)
		return 1;
	close_all(fds, nfds);
	return len ? -EBADMSG : 0;
}

int proto_publish_decode_request(const uint8_t *buf, size_t len, PublishRequest **m)
{
	return decode(&publish_request__descriptor, buf, len, (ProtobufCMessage **)m);
}

int proto_publish_decode_reply(const uint8_t *buf, size_t len, PublishReply **m)
{
	return decode(&publish_reply__descriptor, buf, len, (ProtobufCMessage **)m);
}

int proto_publish_send_request(int sock, const PublishRequest *m, const int *fds, size_t nfds)
{
	return send_message(sock, &m->base, fds, nfds);
}

int proto_publish_send_reply(int sock, const PublishReply *m, const int *fds, size_t nfds)
{
	return send_message(sock, &m->base, fds, nfds);
}

int proto_publish_recv_request(int sock, PublishRequest **m, int *fds, size_t *nfds)
{
	return recv_message(sock, &publish_request__descriptor, (ProtobufCMessage **)m, fds, nfds);
}

int proto_publish_recv_reply(int sock, PublishReply **m, int *fds, size_t *nfds)
{
	return recv_message(sock, &publish_reply__descriptor, (ProtobufCMessage **)m, fds, nfds);
}

void proto_publish_free_request(PublishRequest *m)
{
	if (m)
		publish_request__free_unpacked(m, NULL);
}

void proto_publish_free_reply(PublishReply *m)
{
	if (m)
		publish_reply__free_unpacked(m, NULL);
}
