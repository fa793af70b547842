/*
 * vmm: boots or restores a machine, then serves its console, control socket and
 * saves until it ends. main() is the only place that exits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/notify.h"
#include "check_host.h"
#include "clones.h"
#include "console.h"
#include "control.h"
#include "devices.h"
#include "fault.h"
#include "options.h"
#include "restore.h"
#include "sandbox.h"
#include "timing.h"
#include "working_set.h"

struct program {
	struct options options;
	struct publisher publisher;
	struct machine machine;
	struct monitor monitor;
	struct loop loop;
	struct console console;
	struct control control;
	struct timing timing;		/* of the start */
	struct working_set working_set; /* of the snapshot that is restored */
	struct prefetch prefetch;
	int record_fd; /* timerfd: the time to note the working set; -1: none */
	int signal_fd, serial_fd;
	unsigned publisher_watched; /* the generation of it that is in the loop, */
	int publisher_fd;	    /* by this descriptor */
	bool has_machine;
};

/* ---- the machine ---- */

/*
 * A terminal is opened anew: it takes no more than it has room for, whatever
 * poll(2) said, and O_NONBLOCK on standard output would be the shell's, too.
 */
static int open_stdout(struct program *p)
{
	if (isatty(STDOUT_FILENO))
		p->serial_fd = open(io_fd_path(STDOUT_FILENO).text,
				    O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return p->serial_fd >= 0 ? p->serial_fd : STDOUT_FILENO;
}

/* Where the serial line ends: a descriptor, or -1 for nowhere. */
static int open_serial(struct program *p, struct err *e)
{
	const char *where = p->options.serial;

	p->serial_fd = -1;
	if (strcmp(where, "stdio") == 0)
		return open_stdout(p);
	if (strcmp(where, "none") == 0)
		return -1;
	/* O_NONBLOCK: a FIFO that nobody reads would be waited for, without end. */
	p->serial_fd = open(where + 5,
			    O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
	if (p->serial_fd < 0 && errno == ENXIO)
		return err_refuse(e, ENXIO,
				  "--serial %s: nobody reads there: start its reader first", where);
	if (p->serial_fd < 0)
		return err_sys(e, errno, "--serial %s", where);
	return p->serial_fd;
}

static int init_machine(struct program *p, unsigned ncpus, struct err *e)
{
	struct err found = { 0 };
	int output = open_serial(p, &found);

	if (found.status) {
		if (e)
			*e = found;
		return output;
	}
	p->has_machine = true;
	output = machine_init(&p->machine, ncpus, output, e);
	p->machine.timing = &p->timing;
	p->machine.disk_policy = (enum disk_policy)p->options.disk_policy;
	p->machine.freeze = (enum freeze_way)p->options.freeze;
	timing_mark(&p->timing, "machine");
	return output;
}

static int make_ram(struct program *p, struct err *e)
{
	const struct options *o = &p->options;
	auto_free char *path = NULL;
	int fd;

	if (o->private_memory)
		return ram_map_memfd(&p->machine.ram, o->memory, e);
	if (o->memory_backing_file && o->memory_backing_file[0] != '/') {
		auto_free char *here = getcwd(NULL, 0);

		if (!here || asprintf(&path, "%s/%s", here, o->memory_backing_file) < 0)
			return err_sys(e, ENOMEM, "--memory-backing-file %s",
				       o->memory_backing_file);
	}
	fd = publisher_get_ram(&p->publisher, o->memory, path ? path : o->memory_backing_file,
			       !o->no_reserve, e);
	return fd < 0 ? fd : ram_map(&p->machine.ram, RAM_SHARED, fd, o->memory, e);
}

static int boot(struct program *p, struct err *e)
{
	const struct options *o = &p->options;
	Machine *config = NULL;
	struct boot boot;
	int rc = devices_from_options(o, &config, e);

	if (rc == 0)
		rc = devices_check_host(config, e);
	if (rc == 0)
		rc = boot_from_options(&boot, o->demo_guest, o->kernel, o->initrd, o->cmdline, e);
	if (rc < 0) {
		if (config)
			machine__free_unpacked(config, NULL);
		return rc;
	}
	rc = init_machine(p, o->processors ? o->processors : 1, e);
	if (!p->has_machine) {
		machine__free_unpacked(config, NULL);
		boot_free(&boot);
		return rc;
	}
	p->machine.boot = boot;
	p->machine.cpu_profile = p->options.cpu;
	if (rc == 0)
		rc = kvm_host_open(&p->machine.kvm, e);
	timing_mark(&p->timing, "kvm");
	if (rc == 0)
		rc = make_ram(p, e);
	timing_mark(&p->timing, "ram");
	if (rc == 0) {
		p->machine.ram.may_punch = o->no_reserve;
		rc = machine_add_virtio(&p->machine, take_ptr(&config), e);
	}
	if (config)
		machine__free_unpacked(config, NULL);
	if (rc == 0)
		rc = machine_place_memories(&p->machine, e);
	return rc < 0 ? rc : machine_boot(&p->machine, e);
}

static int restore(struct program *p, struct err *e)
{
	const struct restore_options o = {
		.dir = p->options.restore,
		.memory = p->options.memory,
		.processors = p->options.processors,
		.trust_memory = p->options.trust_memory,
		.wait_verified = p->options.wait_verified,
		.clock = (enum clock_mode)p->options.clock,
		.devices = &p->options,
	};
	struct restore r;
	int rc = restore_preflight(&r, &o, &p->publisher, e);

	timing_mark(&p->timing, "verify");
	if (rc < 0)
		return rc;
	if (p->options.check) {
		printf("%s can be restored here\n", r.label);
		rc = -ECANCELED;
	} else {
		rc = init_machine(p, r.dir.manifest->vp_count, e);
	}
	if (rc == 0)
		rc = restore_machine(&r, &p->machine, &p->publisher, e);
	if (rc == 0 && p->options.record_s)
		working_set_watch(&p->machine.ram);
	else if (rc == 0 && !p->options.no_prefetch)
		restore_working_set(&r, &p->machine, &p->working_set);
	restore_close(&r);
	return rc;
}

/* ---- the main loop ---- */

static void on_signal(void *arg, uint32_t events)
{
	struct program *p = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(p->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	/* The second one does not wait for a publish any more. */
	if (p->monitor.quit)
		p->monitor.save.phase = SAVE_IDLE;
	p->monitor.quit = true;
}

static void on_machine(void *arg, uint32_t events)
{
	(void)events;
	monitor_on_machine_event(arg);
}

static int set_timer(int fd, unsigned seconds)
{
	const struct itimerspec t = { .it_value = { .tv_sec = seconds } };

	return timerfd_settime(fd, 0, &t, NULL) < 0 ? -errno : 0;
}

static void on_publisher(void *arg, uint32_t events)
{
	struct program *p = arg;

	(void)events;
	save_on_reply(&p->monitor.save);
}

/* --record-working-set: its time is over. */
static void on_record(void *arg, uint32_t events)
{
	struct program *p = arg;
	uint64_t count, pages;
	struct err e = { 0 };

	(void)events;
	if (read(p->record_fd, &count, sizeof(count)) < 0)
		return;
	/* A save has the publisher: a little later, then. */
	if (p->monitor.save.phase != SAVE_IDLE) {
		set_timer(p->record_fd, 1);
		return;
	}
	if (working_set_keep(&p->machine, &p->publisher, &pages, &e) < 0)
		log_warn("%s", e.text);
	else
		log_info("the working set is noted: %llu pages", (unsigned long long)pages);
}

static int open_record(struct program *p)
{
	int rc;

	if (!p->options.record_s)
		return 0;
	p->record_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->record_fd < 0)
		return -errno;
	rc = set_timer(p->record_fd, p->options.record_s);
	return rc < 0 ? rc : loop_add(&p->loop, p->record_fd, EPOLLIN, on_record, p);
}

/*
 * Has the publisher that there is now in the loop, and no other. A new one's
 * socket may have the number of the old one's: generations tell them apart.
 */
static int watch_publisher(struct program *p)
{
	const struct publisher *now = &p->publisher;
	int rc = 0;

	if (now->generation == p->publisher_watched && now->sock == p->publisher_fd)
		return 0;
	loop_remove(&p->loop, p->publisher_fd);
	if (now->sock >= 0)
		rc = loop_add(&p->loop, now->sock, EPOLLIN, on_publisher, p);
	p->publisher_watched = now->generation;
	p->publisher_fd = now->sock;
	return rc;
}

/*
 * From here on a signal ends vmm in order; before, while it waits for the disk
 * or verifies gigabytes, it ends vmm at once, and there is nothing to put right.
 */
static int open_signals(struct program *p)
{
	struct sigaction hangup = { .sa_handler = SIG_DFL };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGQUIT);
	/* nohup(1) ignores it; once blocked it would come all the same. */
	sigaction(SIGHUP, NULL, &hangup);
	if (hangup.sa_handler != SIG_IGN)
		sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signal_fd < 0 ? -errno : 0;
}

static int open_loop(struct program *p, struct err *e)
{
	const bool stdio = strcmp(p->options.serial, "stdio") == 0;
	int rc = loop_init(&p->loop);

	if (rc == 0)
		rc = loop_add(&p->loop, p->signal_fd, EPOLLIN, on_signal, p);
	if (rc == 0)
		rc = loop_add(&p->loop, p->machine.event_fd, EPOLLIN, on_machine, &p->monitor);
	if (rc == 0)
		rc = watch_publisher(p);
	if (rc == 0)
		rc = open_record(p);
	if (rc < 0)
		return err_sys(e, -rc, "cannot set the main loop up");
	if (p->options.control) {
		rc = control_open(&p->control, p->options.control, &p->loop, &p->monitor, e);
		if (rc < 0)
			return rc;
	}
	return console_open(&p->console, &p->loop, &p->monitor, stdio ? &p->machine.serial : NULL,
			    e);
}

/* Output that the host did not take, input that the guest did not: try again soon. */
static int pending_ms(struct program *p)
{
	if (chardev_flush(&p->machine.console))
		return 10;
	console_poll(&p->console);
	return console_waits(&p->console) ? 10 : 500;
}

static int serve(struct program *p, struct err *e)
{
	bool waited = false;

	while (!p->monitor.quit || p->monitor.save.phase != SAVE_IDLE) {
		int rc = watch_publisher(p);

		if (rc == 0)
			rc = loop_step(&p->loop, pending_ms(p));
		if (rc < 0)
			return err_sys(e, -rc, "the main loop failed");
		if (chardev_take_drained(&p->machine.console))
			serial_output_drained(&p->machine.serial);
		/* What is published is taken already: the guest need not live on for it. */
		if (p->monitor.quit && p->monitor.save.phase == SAVE_PUBLISHING && !waited) {
			waited = true;
			machine_hold(&p->machine, HOLD_END);
			log_info("quitting when the save of %s is done", p->monitor.save_name);
		}
	}
	return 0;
}

/* Before there is any thread but this one, which all others get it from. */
static int confine(struct program *p, struct err *e)
{
	publisher_limit_waits(&p->publisher, PUBLISHER_WAIT_S);
	if (!p->options.no_sandbox)
		return sandbox_enter(e);
	log_warn("--no-sandbox: a guest that breaks out of vmm has all the rights of its user");
	return 0;
}

static int run(struct program *p, struct err *e)
{
	int rc = p->options.restore ? restore(p, e) : boot(p, e);

	if (rc < 0)
		return rc;
	monitor_init(&p->monitor, &p->machine, &p->publisher);
	p->monitor.save.timing.on = p->options.timing;
	rc = open_signals(p);
	if (rc < 0)
		return err_sys(e, -rc, "cannot set up signals");
	rc = open_loop(p, e);
	timing_mark(&p->timing, "loop");
	if (rc == 0)
		rc = confine(p, e);
	timing_mark(&p->timing, "sandbox");
	if (rc == 0)
		rc = machine_start(&p->machine, e);
	if (rc < 0)
		return rc;
	if (!p->options.paused)
		machine_release(&p->machine, HOLD_USER);
	timing_mark(&p->timing, "start");
	prefetch_start(&p->prefetch, &p->machine.ram, &p->working_set);
	notify_send("READY=1");
	kvm_host_tidy(&p->machine.kvm);
	timing_print(&p->timing, NULL, 0);
	p->machine.timing = NULL; /* a reset is no start */
	return serve(p, e);
}

static void clean_up(struct program *p)
{
	prefetch_stop(&p->prefetch);
	proto_working_set_free(&p->working_set);
	if (p->record_fd >= 0)
		close(p->record_fd);
	console_close(&p->console);
	if (p->control.loop)
		control_close(&p->control);
	if (p->has_machine)
		machine_destroy(&p->machine);
	publisher_stop(&p->publisher);
	loop_destroy(&p->loop);
	if (p->signal_fd >= 0)
		close(p->signal_fd);
	if (p->serial_fd >= 0)
		close(p->serial_fd);
}

/*
 * Standard input, output and error are there, if need be as /dev/null: else the
 * next thing opened, guest RAM for one, gets their numbers and what is printed.
 */
static int open_standard(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/*
 * Connections by vsock and files of disks can be more than the 1024 descriptors
 * of the usual soft limit, which is so low for the sake of select(2) alone: there
 * is none here. The sandbox has no call that could raise it later. The publisher,
 * which is there already, keeps what it was given.
 */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int start(struct program *p, int argc, char **argv, struct err *e)
{
	int rc = open_standard();

	if (rc < 0)
		return err_sys(e, -rc, "cannot open /dev/null");
	rc = options_parse(&p->options, argc, argv, e);
	if (rc < 0)
		return rc;
	p->timing.on = p->options.timing;
	p->timing.what = p->options.restore ? "restore" : "boot";
	if (p->options.version) {
		puts("vmm (snapfs) " SNAPFS_VERSION);
		return 0;
	}
	if (p->options.check_host)
		return check_host(p->options.json, e);
	if (p->options.clones)
		return clones_run(&p->options, argc, argv, e);
	timing_mark(&p->timing, "options");
	/* First, while there is nothing yet that it could inherit. */
	rc = publisher_start(&p->publisher, p->options.store, e);
	timing_mark(&p->timing, "publisher");
	if (rc < 0)
		return rc;
	raise_descriptors();
	signal(SIGPIPE, SIG_IGN);
	rc = fault_install();
	if (rc < 0)
		return err_sys(e, -rc, "cannot set up signals");
	return run(p, e);
}

int main(int argc, char **argv)
{
	static struct program p = {
		.publisher.sock = -1,
		.publisher_fd = -1,
		.loop.fd = -1,
		.signal_fd = -1,
		.serial_fd = -1,
		.record_fd = -1,
	};
	struct err e = { 0 };
	int rc;

	log_init("vmm");
	/* What the options will say is not known yet. */
	p.timing.on = true;
	timing_begin(&p.timing, "start");
	rc = start(&p, argc, argv, &e);
	clean_up(&p);
	if (rc == -ECANCELED) /* --help, --check: said and done */
		return STATUS_DONE;
	rc = err_exit("vmm", &e, rc);
	return rc ? rc : p.monitor.status;
}
