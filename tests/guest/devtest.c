/*
 * The life of a test guest that has devices: uses each one it finds, over and
 * over, and knows what must come back.
 *
 *	dev start vda=0 vdb=64 vdc=64,ro pmem=0 rng net vsock hvc
 *				once: what it found, and how many blocks are written
 *	dev N vda ok ... pmem ok io M rng HEX net ok ...
 *				every round, N = 1, 2, 3, ...
 *	again WHAT WHY		an answer was lost, and the question is asked anew:
 *				right after a restore, wrong at any other time
 *	bad WHAT WHY		a device gave something that it should not have
 *
 *	vdX	a disk; pmem: /dev/pmem0. What was written where is known in RAM; a
 *		block that is older or newer than that, or another's, is bad. At the
 *		start, each is empty or as somebody like this wrote it.
 *	io	how often the writers have written: processes that use the rest of
 *		/dev/vda at the same time, without regard to rounds
 *	rng	/dev/hwrng; the line shows some of it
 *	net	eth0: a counter to and from 10.0.0.1 port 7 by UDP, and 64 KiB by TCP
 *	vsock	a connection to port 1234 of the host that is kept, and echoes; the
 *		guest's own port 1234 gives back what the host says there, and after
 *		the line "reboot" the guest boots again at the round's end
 *	hvc	a line to /dev/hvc0, which comes back
 *
 * It runs in place of the counter when the kernel's command line says
 * snapfs.devices. l2-init has loaded the modules and set up eth0.
 *
 *	devtest fill FILE	on the host: writes a disk's blocks as a guest does
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES  16384
#define BLOCK_WORDS  (BLOCK_BYTES / sizeof(uint64_t))
#define BLOCKS	     64 /* 1 MiB of each disk, and of vda as much for each writer */
#define WRITERS	     4
#define WRITER_MS    5
#define CHECK_BLOCKS 8 /* read back each round: all of them within eight */
#define FLUSH_ROUNDS 4
#define PERIOD_MS    100
#define ANSWER_MS    3000 /* an emulated machine may be busy; longer is lost */
#define TRIES	     20
#define HOST_IP	     "10.0.0.1"
#define ECHO_PORT    7
#define VSOCK_PORT   1234
#define TCP_SIZE     65536

struct disk {
	const char *what, *path;
	off_t start; /* of its blocks, in bytes */
	int fd;
	bool read_only;
	uint64_t *buffer;
	uint64_t written[BLOCKS]; /* the round of the last write; 0: none yet */
	unsigned next_check;
};

struct line {
	char text[256];
	size_t len;
};

/* Of all processes. */
static struct {
	_Atomic uint64_t writes;
	atomic_bool reboot;
} * shared;

/* splitmix64's finalizer: every bit of the input reaches every bit of the result. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void line_add(struct line *l, const char *what, const char *how)
{
	int n = snprintf(l->text + l->len, sizeof(l->text) - l->len, " %s %s", what, how);

	if (n > 0 && (size_t)n < sizeof(l->text) - l->len)
		l->len += (size_t)n;
}

static bool bad(const char *what, const char *why)
{
	printf("bad %s %s (%s)\n", what, why, strerror(errno));
	return false;
}

/* ---- disks ---- */

static void block_fill(uint64_t *b, unsigned block, uint64_t round)
{
	uint64_t seed = mix(round + mix(block));

	b[0] = round;
	b[1] = block;
	for (unsigned i = 2; i < BLOCK_WORDS; i++)
		b[i] = mix(seed + i);
}

/* Past the page cache, or what is read would not come from the device. */
static bool disk_open(struct disk *d)
{
	int ro = 0;

	d->fd = open(d->path, O_RDWR | O_DIRECT | O_CLOEXEC);
	/* Linux 6.1 opens a read-only disk for writing, too. */
	if (d->fd >= 0 && ioctl(d->fd, BLKROGET, &ro) < 0 && errno != ENOTTY)
		return bad(d->what, "tells nothing of itself");
	if (d->fd < 0 && (errno == EACCES || errno == EROFS)) {
		d->fd = open(d->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		ro = 1;
	}
	d->read_only = ro;
	return d->fd >= 0 && posix_memalign((void **)&d->buffer, 4096, 2 * BLOCK_BYTES) == 0;
}

static bool disk_read(const struct disk *d, unsigned block)
{
	memset(d->buffer, 0xee, BLOCK_BYTES);
	return pread(d->fd, d->buffer, BLOCK_BYTES, d->start + (off_t)block * BLOCK_BYTES) ==
		       BLOCK_BYTES ||
	       bad(d->what, "cannot be read");
}

static bool disk_write(struct disk *d, unsigned block, uint64_t round)
{
	block_fill(d->buffer, block, round);
	if (pwrite(d->fd, d->buffer, BLOCK_BYTES, d->start + (off_t)block * BLOCK_BYTES) !=
	    BLOCK_BYTES)
		return bad(d->what, "cannot be written");
	d->written[block] = round;
	if (round % FLUSH_ROUNDS == 0 && fsync(d->fd) < 0)
		return bad(d->what, "cannot be flushed");
	return true;
}

/* Whether the buffer has the block as it was last written; in the buffer's other half, what is
 * wanted. */
static bool disk_same(struct disk *d, unsigned block)
{
	uint64_t *want = d->buffer + BLOCK_WORDS;

	block_fill(want, block, d->written[block]);
	if (memcmp(d->buffer, want, BLOCK_BYTES) == 0)
		return true;
	printf("bad %s block %u at %jd is of round %" PRIu64 " not %" PRIu64 "\n", d->what, block,
	       (intmax_t)d->start, d->buffer[0], d->written[block]);
	return false;
}

/* What the blocks are at the start. How many are not empty. */
static unsigned disk_learn(struct disk *d)
{
	unsigned found = 0;

	for (unsigned i = 0; i < BLOCKS && disk_read(d, i); i++) {
		d->written[i] = d->buffer[0];
		if (d->written[i] && disk_same(d, i))
			found++;
	}
	return found;
}

static bool disk_step(struct disk *d, uint64_t round)
{
	bool fine = d->read_only || disk_write(d, (unsigned)(round % BLOCKS), round);

	for (unsigned i = 0; fine && i < CHECK_BLOCKS; i++) {
		unsigned block = d->next_check;

		d->next_check = (block + 1) % BLOCKS;
		if (d->written[block])
			fine = disk_read(d, block) && disk_same(d, block);
	}
	return fine;
}

/* Writers on the same disk, a MiB each behind the first: several requests are always on their way.
 */
static void start_writers(const struct disk *first)
{
	for (unsigned n = 1; n <= WRITERS; n++) {
		struct disk d = { .what = first->what,
				  .path = first->path,
				  .start = (off_t)n * BLOCKS * BLOCK_BYTES };

		if (fork() != 0)
			continue;
		if (!disk_open(&d)) {
			bad(d.what, "cannot be opened by a writer");
			_exit(1);
		}
		for (uint64_t round = 1; disk_step(&d, round); round++) {
			shared->writes++;
			usleep(WRITER_MS * 1000);
		}
		_exit(1);
	}
}

static int fill(const char *path)
{
	struct disk d = { .what = path, .path = path };

	if (!disk_open(&d))
		return 1;
	for (unsigned i = 0; i < BLOCKS; i++)
		if (!disk_write(&d, i, i + 1))
			return 1;
	return 0;
}

/* ---- random numbers ---- */

static bool rng_step(int fd, struct line *l)
{
	static uint64_t last[4];
	uint64_t now[4];
	char hex[17];

	if (read(fd, now, sizeof(now)) != sizeof(now))
		return bad("rng", "cannot be read");
	if (memcmp(now, last, sizeof(now)) == 0)
		return bad("rng", "repeats itself");
	memcpy(last, now, sizeof(now));
	snprintf(hex, sizeof(hex), "%016" PRIx64, now[0]);
	line_add(l, "rng", hex);
	return true;
}

/* ---- what answers ---- */

static bool lost(const char *what, const char *why)
{
	printf("again %s %s (%s)\n", what, why, strerror(errno));
	return false;
}

static void set_patience(int fd)
{
	struct timeval t = { .tv_sec = ANSWER_MS / 1000 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

static struct sockaddr_in host_address(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(ECHO_PORT) };

	inet_pton(AF_INET, HOST_IP, &a.sin_addr);
	return a;
}

/* A new socket every time: an answer that comes too late meets nobody. */
static bool udp_try(uint64_t round)
{
	struct sockaddr_in to = host_address();
	uint64_t out[2] = { round, mix(round) }, in[2] = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool fine = false;

	set_patience(fd);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 ||
	    send(fd, out, sizeof(out), 0) != sizeof(out))
		lost("net", "nothing could be sent by UDP");
	else if (recv(fd, in, sizeof(in), 0) != sizeof(in))
		lost("net", "no answer by UDP");
	else
		fine = memcmp(in, out, sizeof(in)) == 0 || bad("net", "another answer by UDP");
	close(fd);
	return fine;
}

/* Reads `size` bytes into `in` as they come. */
static bool read_all(int fd, void *in, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = read(fd, (char *)in + at, size - at);

		if (n <= 0) {
			errno = n ? errno : ECONNRESET;
			return false;
		}
		at += (size_t)n;
	}
	return true;
}

/* All that is sent fits into the sockets' buffers, so that it may be read afterwards. */
static bool tcp_try(uint64_t round)
{
	static uint64_t out[TCP_SIZE / 8], in[TCP_SIZE / 8];
	struct sockaddr_in to = host_address();
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool fine = false;

	for (unsigned i = 0; i < TCP_SIZE / 8; i++)
		out[i] = mix(round + i);
	set_patience(fd);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		lost("net", "no connection by TCP");
	else if (send(fd, out, sizeof(out), MSG_NOSIGNAL) != sizeof(out))
		lost("net", "TCP took too little");
	else if (!read_all(fd, in, sizeof(in)))
		lost("net", "no answer by TCP");
	else
		fine = memcmp(in, out, sizeof(in)) == 0 || bad("net", "another answer by TCP");
	close(fd);
	return fine;
}

static int vsock_dial(void)
{
	struct sockaddr_vm to = { .svm_family = AF_VSOCK,
				  .svm_cid = VMADDR_CID_HOST,
				  .svm_port = VSOCK_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	set_patience(fd);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* One connection for all rounds: a restore ends it, and nothing else does. */
static bool vsock_try(uint64_t round)
{
	static int fd = -1;
	uint64_t out[2] = { round, mix(round) }, in[2] = { 0 };

	if (fd < 0)
		fd = vsock_dial();
	if (fd < 0)
		return lost("vsock", "no connection");
	if (send(fd, out, sizeof(out), MSG_NOSIGNAL) == sizeof(out) && read_all(fd, in, sizeof(in)))
		return memcmp(in, out, sizeof(in)) == 0 || bad("vsock", "another answer");
	lost("vsock", "the connection ended");
	close(fd);
	fd = -1;
	return false;
}

/* Gives the host back what it says to port 1234, one connection at a time. A process of its own. */
static void vsock_serve(void)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK,
				 .svm_cid = VMADDR_CID_ANY,
				 .svm_port = VSOCK_PORT };
	int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char data[4096];
	ssize_t n;

	if (fork() != 0)
		return;
	if (bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(listener, 4) < 0)
		bad("vsock", "cannot be listened on");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		while (fd >= 0 && (n = read(fd, data, sizeof(data))) > 0) {
			if (n == 7 && memcmp(data, "reboot\n", 7) == 0)
				shared->reboot = true;
			if (send(fd, data, (size_t)n, MSG_NOSIGNAL) != n)
				break;
		}
		if (fd >= 0)
			close(fd);
		else
			usleep(PERIOD_MS * 1000);
	}
}

static int hvc_fd = -1;

static bool hvc_open(void)
{
	struct termios t;

	hvc_fd = open("/dev/hvc0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (hvc_fd < 0 || tcgetattr(hvc_fd, &t) < 0)
		return false;
	cfmakeraw(&t);
	return tcsetattr(hvc_fd, TCSANOW, &t) == 0;
}

/* An answer to an earlier question, which was asked again, is passed over. */
static bool hvc_try(uint64_t round)
{
	char out[32], in[32] = "";
	size_t at = 0;
	struct pollfd p = { .fd = hvc_fd, .events = POLLIN };
	int n = snprintf(out, sizeof(out), "hvc %" PRIu64 "\n", round);

	if (write(hvc_fd, out, (size_t)n) != n)
		return bad("hvc", "cannot be written");
	while (poll(&p, 1, ANSWER_MS) == 1) {
		if (read(hvc_fd, in + at, 1) != 1)
			return bad("hvc", "cannot be read");
		if (at < sizeof(in) - 2 && in[at] != '\n') {
			at++;
			continue;
		}
		in[at + 1] = '\0';
		if (strcmp(in, out) == 0)
			return true;
		if (sscanf(in, "hvc %" SCNu64, &(uint64_t){ 0 }) != 1)
			lost("hvc", "half an answer");
		at = 0;
	}
	return lost("hvc", "no answer");
}

static bool ask(const char *what, bool (*try)(uint64_t round), uint64_t round)
{
	for (unsigned i = 0; i < TRIES; i++) {
		if (try(round))
			return true;
		usleep(PERIOD_MS * 1000);
	}
	return bad(what, "never answers");
}

/* ---- all of them ---- */

/* Plain '\n' line ends, so that the host compares lines as they are. */
static void console_raw(void)
{
	struct termios t;

	if (tcgetattr(STDOUT_FILENO, &t) == 0) {
		t.c_oflag &= ~(tcflag_t)OPOST;
		tcsetattr(STDOUT_FILENO, TCSANOW, &t);
	}
}

static struct disk disk[] = { { .what = "vda", .path = "/dev/vda" },
			      { .what = "vdb", .path = "/dev/vdb" },
			      { .what = "vdc", .path = "/dev/vdc" },
			      { .what = "pmem", .path = "/dev/pmem0" } };

static struct {
	const char *what, *path;
	bool (*try[2])(uint64_t round);
	bool there;
} other[] = { { "net", "/sys/class/net/eth0", { udp_try, tcp_try }, false },
	      { "vsock", "/dev/vsock", { vsock_try, NULL }, false },
	      { "hvc", "/dev/hvc0", { hvc_try, NULL }, false } };

#define DISKS  (sizeof(disk) / sizeof(disk[0]))
#define OTHERS (sizeof(other) / sizeof(other[0]))

/* Opens what is there, and says so. Returns the random numbers' descriptor or -1. */
static int start(void)
{
	int rng = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
	struct line l = { 0 };

	for (unsigned i = 0; i < DISKS; i++)
		if (disk_open(&disk[i])) {
			int n = snprintf(l.text + l.len, sizeof(l.text) - l.len, " %s=%u%s",
					 disk[i].what, disk_learn(&disk[i]),
					 disk[i].read_only ? ",ro" : "");

			l.len += (size_t)n;
		}
	printf("dev start%s%s", l.text, rng >= 0 ? " rng" : "");
	for (unsigned i = 0; i < OTHERS; i++) {
		other[i].there = access(other[i].path, F_OK) == 0 &&
				 (strcmp(other[i].what, "hvc") != 0 || hvc_open());
		if (other[i].there)
			printf(" %s", other[i].what);
	}
	printf("\n");
	return rng;
}

static void do_round(uint64_t round, int rng)
{
	struct line l = { 0 };
	char writes[24];

	for (unsigned i = 0; i < DISKS; i++)
		if (disk[i].fd >= 0)
			line_add(&l, disk[i].what, disk_step(&disk[i], round) ? "ok" : "bad");
	snprintf(writes, sizeof(writes), "%" PRIu64, shared->writes);
	line_add(&l, "io", writes);
	if (rng >= 0 && !rng_step(rng, &l))
		line_add(&l, "rng", "bad");
	for (unsigned i = 0; i < OTHERS; i++) {
		bool fine = true;

		if (!other[i].there)
			continue;
		for (unsigned k = 0; k < 2 && other[i].try[k]; k++)
			fine = ask(other[i].what, other[i].try[k], round) && fine;
		line_add(&l, other[i].what, fine ? "ok" : "bad");
	}
	printf("dev %" PRIu64 "%s\n", round, l.text);
}

int main(int argc, char **argv)
{
	int rng;

	if (argc == 3 && strcmp(argv[1], "fill") == 0)
		return fill(argv[2]);
	console_raw();
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		return 1;
	rng = start();
	if (disk[0].fd >= 0)
		start_writers(&disk[0]);
	if (access("/dev/vsock", F_OK) == 0)
		vsock_serve();
	for (uint64_t round = 1; !shared->reboot; round++) {
		do_round(round, rng);
		usleep(PERIOD_MS * 1000);
	}
	/* The writers go on to the very end. */
	tcdrain(STDOUT_FILENO);
	reboot(RB_AUTOBOOT);
	return 1;
}
