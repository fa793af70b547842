/*
 * The life of a test guest: shows from the outside that a restored guest is
 * the saved one, that it goes on where it was frozen, and that none of its RAM
 * changed on the way.
 *
 *     boot NONCE          once, when it starts
 *     tick N NONCE        every 200 ms, N = 1, 2, 3, ...
 *     corrupt ...         RAM is not what was written there
 *
 * NONCE is 16 hex digits, new at every boot; it and N are in RAM only. Words on
 * the kernel's command line say what else to do: snapfs.reboot=N and
 * snapfs.poweroff=N end the guest after tick N, snapfs.tick=MS sets the period,
 * snapfs.touch has it write to every page that is free before the first tick.
 *
 * It runs as process 1 of the guest's initramfs, linked statically. It does not
 * mount, load or configure anything: l2-init has done that.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WORDS  512	 /* one 4 KiB page of 64-bit words */
#define PAGES	    1024 /* 4 MiB of pattern */
#define WRITE_PAGES 16	 /* rewritten each tick */
#define CHECK_PAGES 256	 /* checked each tick: all of it within four */

/*
 * The pattern: what a word holds follows from the nonce, its page, its place
 * and how often the page was rewritten. `generation` is kept apart from the
 * pages, so a page that is older or newer than it should be is found as well.
 */
struct pattern {
	uint64_t nonce;
	uint64_t (*page)[PAGE_WORDS];
	uint64_t generation[PAGES];
	unsigned next_write;
	unsigned next_check;
};

struct orders {
	uint64_t reboot_at;
	uint64_t poweroff_at;
	uint64_t period_ms;
	bool touch;
};

/* splitmix64's finalizer: every bit of the input reaches every bit of the result. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint64_t page_seed(const struct pattern *p, unsigned page)
{
	return mix(p->nonce + mix(((uint64_t)page << 40) + p->generation[page]));
}

static void page_write(struct pattern *p, unsigned page)
{
	p->generation[page]++;
	uint64_t seed = page_seed(p, page);
	for (unsigned i = 0; i < PAGE_WORDS; i++)
		p->page[page][i] = mix(seed + i);
}

static void page_check(const struct pattern *p, unsigned page, uint64_t tick)
{
	uint64_t seed = page_seed(p, page);
	for (unsigned i = 0; i < PAGE_WORDS; i++) {
		uint64_t want = mix(seed + i), got = p->page[page][i];
		if (got == want)
			continue;
		printf("corrupt page %u word %u holds %016" PRIx64 " not %016" PRIx64
		       " at tick %" PRIu64 "\n",
		       page, i, got, want, tick);
		return; /* one line a page is enough */
	}
}

static int pattern_init(struct pattern *p, uint64_t nonce)
{
	p->nonce = nonce;
	p->page = mmap(NULL, PAGES * sizeof(*p->page), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->page == MAP_FAILED)
		return -1;
	for (unsigned i = 0; i < PAGES; i++)
		page_write(p, i);
	return 0;
}

static void pattern_step(struct pattern *p, uint64_t tick)
{
	for (unsigned i = 0; i < CHECK_PAGES; i++, p->next_check = (p->next_check + 1) % PAGES)
		page_check(p, p->next_check, tick);
	for (unsigned i = 0; i < WRITE_PAGES; i++, p->next_write = (p->next_write + 1) % PAGES)
		page_write(p, p->next_write);
}

/*
 * Must differ between two boots of the same image. A guest that has just
 * started may have no entropy yet, and waiting for it takes seconds: the time
 * stamp counter makes the difference then.
 */
static uint64_t nonce_make(void)
{
	uint64_t r = 0;
	if (getrandom(&r, sizeof(r), GRND_INSECURE) != sizeof(r))
		r = 0;
	return mix(r ^ __builtin_ia32_rdtsc());
}

/* The number behind `word` (which ends in '=') on the kernel's command line, else `other`. */
static uint64_t cmdline_number(const char *cmdline, const char *word, uint64_t other)
{
	const char *at = strstr(cmdline, word);
	return at ? strtoull(at + strlen(word), NULL, 10) : other;
}

static struct orders orders_read(void)
{
	char cmdline[4096] = "";
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = read(fd, cmdline, sizeof(cmdline) - 1);
		cmdline[n > 0 ? n : 0] = '\0';
		close(fd);
	}
	return (struct orders){
		.reboot_at = cmdline_number(cmdline, "snapfs.reboot=", 0),
		.poweroff_at = cmdline_number(cmdline, "snapfs.poweroff=", 0),
		.period_ms = cmdline_number(cmdline, "snapfs.tick=", 200),
		.touch = strstr(cmdline, "snapfs.touch") != NULL,
	};
}

/* Every page that Linux gives away goes through the guest's hands once, and back. */
static void touch_all(void)
{
	const uint64_t page = 4096, available = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * page;
	/* Linux keeps some for itself: who asks for the last page ends it all. */
	const uint64_t size = available - available / 12;
	uint8_t *p;

	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return;
	for (uint64_t at = 0; at < size; at += page)
		p[at] = 1;
	munmap(p, size);
}

/* Plain '\n' line ends, so that the host compares lines as they are. */
static void console_raw(void)
{
	struct termios t;
	if (tcgetattr(STDOUT_FILENO, &t) == 0) {
		t.c_oflag &= ~(tcflag_t)OPOST;
		tcsetattr(STDOUT_FILENO, TCSANOW, &t);
	}
}

/*
 * Ends the guest once `tick` is the one it was told to end after, unless its power
 * button was pressed: what is done on that may take longer than until then.
 */
static void orders_follow(const struct orders *o, uint64_t tick)
{
	if (access("/run/button", F_OK) == 0)
		return;
	if (tick == o->reboot_at || tick == o->poweroff_at) {
		tcdrain(STDOUT_FILENO);
		reboot(tick == o->reboot_at ? RB_AUTOBOOT : RB_POWER_OFF);
	}
}

int main(void)
{
	static struct pattern pattern;

	console_raw();
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct orders orders = orders_read();
	uint64_t nonce = nonce_make();
	if (pattern_init(&pattern, nonce) < 0) {
		printf("corrupt no memory for the pattern\n");
		return 1;
	}
	printf("boot %016" PRIx64 "\n", nonce);
	if (orders.touch)
		touch_all();

	struct timespec period = {
		.tv_sec = (time_t)(orders.period_ms / 1000),
		.tv_nsec = (long)(orders.period_ms % 1000) * 1000000,
	};
	for (uint64_t tick = 1;; tick++) {
		nanosleep(&period, NULL);
		pattern_step(&pattern, tick);
		printf("tick %" PRIu64 " %016" PRIx64 "\n", tick, nonce);
		orders_follow(&orders, tick);
	}
}
