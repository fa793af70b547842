/*
 * FUSE passthrough: see passthrough.h. libfuse has it from 3.17. Older ones are
 * completed here: they are given our own read() and write() of /dev/fuse (their
 * custom I/O), which see the INIT request and complete the answer to it, and the
 * answer to an open is written by hand.
 */
#define _GNU_SOURCE
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "ops.h"

#define NOT_OFFERED                                                                                \
	"the kernel does not offer it: Linux 6.9 and later do, with CONFIG_FUSE_PASSTHROUGH"

void sfs_passthrough_init(struct passthrough *p, int probe, bool wanted)
{
	*p = (struct passthrough){ .device = -1, .probe = probe };
	pthread_mutex_init(&p->lock, NULL);
	if (!wanted) {
		p->tried = true;
		snprintf(p->why, sizeof(p->why), "nopassthrough was given");
	}
}

void sfs_passthrough_destroy(struct passthrough *p)
{
	if (p->probe >= 0)
		close(p->probe);
	pthread_mutex_destroy(&p->lock);
}

/* --- the ids of files that the kernel reads; their ABI, that older headers lack --- */

struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};

#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

/* An id of the open file `fd`, > 0, or a negative errno. */
static int open_backing(const struct passthrough *p, int fd)
{
	struct backing_map map = { .fd = fd };
	int id = ioctl(p->device, BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static void close_backing(const struct passthrough *p, int id)
{
	uint32_t which = (uint32_t)id;

	ioctl(p->device, BACKING_CLOSE, &which);
}

/* Called with the lock held. There is none, for this reason. */
static void give_up(struct passthrough *p, const char *why)
{
	snprintf(p->why, sizeof(p->why), "%s", why);
	log_info("no FUSE passthrough, files are served by this process: %s", why);
}

static void give_up_for(struct passthrough *p, int error)
{
	char why[PASSTHROUGH_WHY_MAX];

	switch (error) {
	case EPERM:
		give_up(p, "it takes CAP_SYS_ADMIN");
		return;
	case ELOOP:
		give_up(p, "the store lies on a stacked file system");
		return;
	case ENOTTY:
	case ENOSYS:
	case EOPNOTSUPP:
		give_up(p, NOT_OFFERED);
		return;
	default:
		snprintf(why, sizeof(why), "%s", strerror(error));
		give_up(p, why);
	}
}

/* Called with the lock held, once INIT was answered: what it came to shows here. */
static void try(struct passthrough *p)
{
	int id;

	if (p->tried)
		return;
	p->tried = true;
	id = open_backing(p, p->probe);
	if (id < 0) {
		give_up_for(p, -id);
		return;
	}
	close_backing(p, id);
	log_info("FUSE passthrough: the kernel reads what is known to be good by itself");
}

bool sfs_passthrough_works(struct passthrough *p, char why[PASSTHROUGH_WHY_MAX])
{
	pthread_mutex_lock(&p->lock);
	try(p);
	memcpy(why, p->why, PASSTHROUGH_WHY_MAX);
	pthread_mutex_unlock(&p->lock);
	return !*why;
}

/* Called with the lock held: the node's first open. */
static enum opening begin_first(struct passthrough *p, struct node *n, int fd, bool good)
{
	int id;

	n->opened.backing = 0;
	try(p);
	if (!good || *p->why)
		return OPEN_SERVED;
	id = open_backing(p, fd);
	if (id < 0) {
		give_up_for(p, -id);
		return OPEN_SERVED;
	}
	n->opened.backing = id;
	return OPEN_PASSED;
}

enum opening sfs_passthrough_begin(struct passthrough *p, struct node *n, int fd, bool good,
				   bool *retire, int *backing)
{
	enum opening how;

	pthread_mutex_lock(&p->lock);
	if (n->opened.count == 0)
		how = begin_first(p, n, fd, good);
	else if (n->opened.backing)
		how = good ? OPEN_PASSED : OPEN_STALE;
	else
		how = OPEN_SERVED;
	/* What is good by now need not be served for as long as the first opener lives. */
	*retire = how == OPEN_STALE || (how == OPEN_SERVED && good && !*p->why);
	*backing = n->opened.backing;
	if (how != OPEN_STALE)
		n->opened.count++;
	pthread_mutex_unlock(&p->lock);
	return how;
}

void sfs_passthrough_end(struct passthrough *p, struct node *n)
{
	pthread_mutex_lock(&p->lock);
	/* The kernel has let go of its last open before it tells us. */
	if (--n->opened.count == 0 && n->opened.backing) {
		close_backing(p, n->opened.backing);
		n->opened.backing = 0;
	}
	pthread_mutex_unlock(&p->lock);
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)

int sfs_passthrough_attach(struct passthrough *p, struct fuse_session *se)
{
	p->device = fuse_session_fd(se);
	return 0;
}

void sfs_passthrough_ask(struct passthrough *p, struct fuse_conn_info *conn)
{
	if (p->tried)
		return;
	if (!fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH)) {
		pthread_mutex_lock(&p->lock);
		p->tried = true;
		give_up(p, NOT_OFFERED);
		pthread_mutex_unlock(&p->lock);
		return;
	}
	conn->max_backing_stack_depth = 1;
}

int sfs_passthrough_reply(fuse_req_t req, const struct fuse_file_info *fi, int backing)
{
	struct fuse_file_info out = *fi;

	out.backing_id = backing;
	out.keep_cache = 0;
	return fuse_reply_open(req, &out);
}

#else

/* struct fuse_init_out as Linux 6.9 has it, in the 64 bytes that it had before. */
struct init_out {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint16_t request_timeout, unused[11];
};
_Static_assert(sizeof(struct init_out) == 64, "the length that the kernel knows it by");

#define INIT_PARALLEL_DIROPS (1U << 18)
#define INIT_EXT	     (1U << 30)
#define INIT2_PASSTHROUGH    (1U << 5)

/* The one INIT request comes first and alone; its answer is the next that is written. */
static void see_request(struct passthrough *p, const void *buf, size_t len)
{
	struct {
		struct fuse_in_header head;
		uint32_t major, minor, max_readahead, flags, flags2;
	} in;

	if (len < sizeof(in.head))
		return;
	memset(&in, 0, sizeof(in));
	memcpy(&in, buf, len < sizeof(in) ? len : sizeof(in));
	if (in.head.opcode != FUSE_INIT)
		return;
	if ((in.flags & INIT_EXT) && (in.flags2 & INIT2_PASSTHROUGH)) {
		atomic_store(&p->init, in.head.unique);
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->tried = true;
	give_up(p, NOT_OFFERED);
	pthread_mutex_unlock(&p->lock);
}

static ssize_t receive(int fd, void *buf, size_t len, void *userdata)
{
	struct passthrough *p = &((struct fs *)userdata)->passthrough;
	ssize_t n = read(fd, buf, len);

	if (n > 0)
		see_request(p, buf, (size_t)n);
	return n;
}

/* True where it is the answer to INIT that the kernel will take passthrough from. */
static bool is_init_answer(const struct iovec *iov, int count, uint64_t unique)
{
	struct fuse_out_header head;

	if (count != 2 || iov[0].iov_len != sizeof(head) ||
	    iov[1].iov_len != sizeof(struct init_out))
		return false;
	memcpy(&head, iov[0].iov_base, sizeof(head));
	return head.unique == unique && head.error == 0;
}

static ssize_t answer(int fd, struct iovec *iov, int count, void *userdata)
{
	struct passthrough *p = &((struct fs *)userdata)->passthrough;
	uint64_t unique = atomic_load_explicit(&p->init, memory_order_relaxed);
	struct iovec completed[2];
	struct init_out out;

	if (!unique || !is_init_answer(iov, count, unique))
		return writev(fd, iov, count);
	atomic_store(&p->init, 0);
	memcpy(&out, iov[1].iov_base, sizeof(out));
	out.flags |= INIT_EXT | INIT_PARALLEL_DIROPS;
	out.flags2 |= INIT2_PASSTHROUGH;
	out.max_stack_depth = 1;
	completed[0] = iov[0];
	completed[1] = (struct iovec){ &out, sizeof(out) };
	return writev(fd, completed, 2);
}

static ssize_t receive_spliced(int in, off_t *in_at, int out, off_t *out_at, size_t len,
			       unsigned flags, void *userdata)
{
	(void)userdata;
	return splice(in, in_at, out, out_at, len, flags);
}

static ssize_t answer_spliced(int in, off_t *in_at, int out, off_t *out_at, size_t len,
			      unsigned flags, void *userdata)
{
	(void)userdata;
	return splice(in, in_at, out, out_at, len, flags);
}

int sfs_passthrough_attach(struct passthrough *p, struct fuse_session *se)
{
	const struct fuse_custom_io io = {
		.read = receive,
		.writev = answer,
		.splice_receive = receive_spliced,
		.splice_send = answer_spliced,
	};

	p->device = fuse_session_fd(se);
	/* Without it libfuse reads and writes by itself. */
	return p->tried ? 0 : fuse_session_custom_io(se, &io, p->device);
}

void sfs_passthrough_ask(struct passthrough *p, struct fuse_conn_info *conn)
{
	(void)p, (void)conn;
}

int sfs_passthrough_reply(fuse_req_t req, const struct fuse_file_info *fi, int backing)
{
	/* struct fuse_open_out, whose padding became the id, and its flags. */
	const struct {
		uint64_t fh;
		uint32_t flags;
		int32_t backing;
	} out = { fi->fh, 1U << 5 /* FOPEN_NOFLUSH */ | 1U << 7 /* FOPEN_PASSTHROUGH */, backing };

	return fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

#endif
