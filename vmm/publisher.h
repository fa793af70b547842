/*
 * vmm's side of its publisher: the process that does all work in the store
 * (`snapctl publish`), reached over a socket pair. vmm itself never opens the
 * store.
 *
 * It is forked first thing, before vmm holds anything, and becomes snapctl
 * when it is first spoken to: a restored machine that is never saved pays for
 * no second program.
 *
 * vmm's sandbox lets it start no process. So at the moment it becomes snapctl,
 * it leaves a copy of itself behind, the spare, which waits on a socket of its
 * own for the end of a new socket pair, and becomes the next publisher should
 * this one die; and leaves a spare, too.
 *
 * What vmm sends and waits for is bounded in time, except at its start: a
 * publisher that does not answer is given up, and the next save has another.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/text.h"
#include "proto/publish.h"

struct publisher {
	int sock; /* owned, -1: it has gone */
	bool has_spare;
	int spare;	     /* owned: where the spare waits */
	unsigned wait_s;     /* so long it is waited for, 0: without end */
	unsigned generation; /* counts them: another one has another socket */
};

/*
 * Forks it. `store`: the store's path, or NULL for the default. The program is
 * the `snapctl` beside this one, else that of $PATH. It outlives vmm until what
 * it was told to publish is published. 0 or a negative errno.
 */
int publisher_start(struct publisher *p, const char *store, struct err *e);
void publisher_stop(struct publisher *p);

/*
 * From now on a request that is not taken, or not answered where the answer is
 * waited for, within `seconds` is a failure (-ETIMEDOUT): a machine runs, whose
 * main thread must not stand still for a disk that does.
 */
void publisher_limit_waits(struct publisher *p, unsigned seconds);
#define PUBLISHER_WAIT_S 10

/* 0 where there is one, or another could be had; else words, and a negative errno. */
int publisher_check(struct publisher *p, struct err *e);

/*
 * Asks for a RAM file of `size` bytes: in the store, or at `path` (NULL: none).
 * Waits. A writable, locked descriptor (the caller's) or a negative errno.
 */
int publisher_get_ram(struct publisher *p, uint64_t size, const char *path, bool reserve,
		      struct err *e);

/*
 * Asks for an unnamed file on the store's file system, for a disk that is to be
 * kept with a snapshot. Waits. A writable descriptor (the caller's) or a
 * negative errno.
 */
int publisher_get_file(struct publisher *p, struct err *e);

/* Files of disks beside a request: their descriptors stay the caller's. */
struct publisher_disks {
	char *const *names; /* of a check or save: the device of each */
	const int *fds;
	size_t n;
};

/*
 * Asks whether these files could be kept with a snapshot in the store. Waits. 0, or
 * a negative errno with words.
 */
int publisher_check_disks(struct publisher *p, const struct publisher_disks *disks, struct err *e);

/* Asks whether the store knows fd to have this digest. Waits. */
bool publisher_trusts(struct publisher *p, int fd, const uint8_t digest[DIGEST_SIZE]);

/*
 * Has the working set in the file fd noted beside the snapshot of this id. Waits. 0, or a
 * negative errno with words.
 */
int publisher_keep_working_set(struct publisher *p, const uint8_t id[UUID_SIZE], int fd,
			       struct err *e);

/*
 * Each sends a request whose replies publisher_receive() brings. 0 or a negative
 * errno. publisher_send_save() starts another publisher where there is none.
 * `disks` (NULL: none): of a save the files of the disks that it will keep, as
 * they are now; of a commit the frozen ones, in the order of the manifest. ram_fds: RAM's
 * file; or, where the manifest has layers, one with their maps, and those of the layers.
 */
int publisher_send_save(struct publisher *p, const char *name, const struct publisher_disks *disks,
			struct err *e);
int publisher_send_commit(struct publisher *p, int manifest_fd, int state_fd, const int *ram_fds,
			  size_t nram, const struct publisher_disks *disks, struct err *e);
int publisher_send_abort(struct publisher *p, struct err *e);

/*
 * Receives one reply, when p->sock is readable: 0 and *reply (freed by
 * proto_publish_free_reply()), whose status may say that the request failed; or
 * a negative errno with words when the publisher has gone: p->sock is closed then.
 */
int publisher_receive(struct publisher *p, PublishReply **reply, struct err *e);

/* As publisher_receive(), with the reply's descriptors (*nfds in: room, out: got), the caller's. */
int publisher_receive_files(struct publisher *p, PublishReply **reply, int *fds, size_t *nfds,
			    struct err *e);

/* The failure that a reply tells, into *e; 0 if it tells none. */
int publisher_failure(const PublishReply *reply, struct err *e);
