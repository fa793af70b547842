/* The messages between vmm and its publisher: see publish.h. */
#include "publish.h"

#include <errno.h>
#include <unistd.h>

#include "base/io.h"
#include "bounded.h"

#define DECODE_BUDGET (64U << 10)

static int send_message(int sock, const ProtobufCMessage *m, const int *fds, size_t nfds)
{
	uint8_t buf[PUBLISH_MAX];

	if (protobuf_c_message_get_packed_size(m) > sizeof(buf))
		return -EMSGSIZE;
	return io_send_msg(sock, buf, protobuf_c_message_pack(m, buf), fds, nfds);
}

static int recv_message(int sock, const ProtobufCMessageDescriptor *type, ProtobufCMessage **m,
			int *fds, size_t *nfds)
{
	uint8_t buf[PUBLISH_MAX];
	ssize_t len = io_recv_msg(sock, buf, sizeof(buf), fds, nfds);

	if (len <= 0)
		return (int)len;
	*m = proto_unpack_bounded(type, buf, (size_t)len, DECODE_BUDGET);
	if (*m)
		return 1;
	for (size_t i = 0; nfds && i < *nfds; i++)
		close(fds[i]);
	if (nfds)
		*nfds = 0;
	return -EBADMSG;
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
