/*
 * The messages between vmm and its publisher: see publish.proto.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "publish.pb-c.h"

#define PUBLISH_MAX 4096 /* bytes of a message */

/* Each packs and sends one message with nfds descriptors, which stay the sender's. */
int proto_publish_send_request(int sock, const PublishRequest *m, const int *fds, size_t nfds);
int proto_publish_send_reply(int sock, const PublishReply *m, const int *fds, size_t nfds);

/*
 * Receive one message. *m is freed by proto_publish_free(); received
 * descriptors are the caller's (*nfds in: room, out: got).
 * 1, 0 if the peer has gone, or a negative errno (-EBADMSG: not a message).
 */
int proto_publish_recv_request(int sock, PublishRequest **m, int *fds, size_t *nfds);
int proto_publish_recv_reply(int sock, PublishReply **m, int *fds, size_t *nfds);

/* The bytes of one message, decoded within a bound. 0 or -EBADMSG. */
int proto_publish_decode_request(const uint8_t *buf, size_t len, PublishRequest **m);
int proto_publish_decode_reply(const uint8_t *buf, size_t len, PublishReply **m);

void proto_publish_free_request(PublishRequest *m);
void proto_publish_free_reply(PublishReply *m);
