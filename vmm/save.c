/* Saving a running machine: see save.h. */
#define _GNU_SOURCE
#include "save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "disks.h"
#include "keep.h"

/* What is taken while the vCPUs are held, besides what is kept (keep.h). */
struct taken {
	VmState *state;
	struct timespec when;
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void save_init(struct save *s, struct machine *m, struct publisher *p)
{
	*s = (struct save){ .machine = m, .publisher = p };
}

int save_start(struct save *s, const char *name, save_done_fn done, void *arg, struct err *e)
{
	int rc;

	if (s->phase != SAVE_IDLE)
		return err_refuse(e, EBUSY, "a save is under way already: wait until it is done");
	keep_list(&s->keep, s->machine);
	rc = keep_ask(&s->keep, s->publisher, name, e);
	if (rc < 0)
		return rc;
	s->done = done;
	s->arg = arg;
	s->bytes_done = s->bytes_total = 0;
	s->phase = SAVE_ASKED;
	timing_begin(&s->timing, "save");
	return 0;
}

/* ---- the manifest, as far as vmm knows it ---- */

static Timestamp *make_time(const struct timespec *ts)
{
	Timestamp *t = malloc(sizeof(*t));

	if (!t)
		return NULL;
	timestamp__init(t);
	t->seconds = ts->tv_sec;
	t->nanos = (int32_t)ts->tv_nsec;
	return t;
}

static int set_bytes(ProtobufCBinaryData *b, const uint8_t *from, size_t len)
{
	b->data = malloc(len);
	if (!b->data)
		return -ENOMEM;
	memcpy(b->data, from, len);
	b->len = len;
	return 0;
}

static int describe_ram(const struct ram *ram, SnapshotManifest *m)
{
	m->ram = calloc(ram->nregions, sizeof(*m->ram));
	if (!m->ram)
		return -ENOMEM;
	for (unsigned i = 0; i < ram->nregions; i++) {
		RamRange *r = malloc(sizeof(*r));

		if (!r)
			return -ENOMEM;
		ram_range__init(r);
		r->guest_address = ram->region[i].guest_address;
		r->size = ram->region[i].size;
		r->file_offset = ram->region[i].offset;
		m->ram[m->n_ram++] = r;
	}
	m->memory_size_bytes = ram->size;
	m->page_size = (uint32_t)RAM_PAGE;
	return 0;
}

/* A device as it was configured: a copy of its description. */
static Device *copy_config(const Device *config)
{
	const size_t n = device__get_packed_size(config);
	auto_free uint8_t *buf = malloc(n ? n : 1);

	return buf ? device__unpack(NULL, device__pack(config, buf), buf) : NULL;
}

static int describe_device(struct machine *m, const struct vdev *d, Machine *machine)
{
	Device *out;

	for (size_t i = 0; m->config && i < m->config->n_device; i++)
		if (strcmp(m->config->device[i]->name, d->name) == 0) {
			out = copy_config(m->config->device[i]);
			if (out)
				machine->device[machine->n_device++] = out;
			return out ? 0 : -ENOMEM;
		}
	out = malloc(sizeof(*out));
	if (!out)
		return -ENOMEM;
	device__init(out);
	machine->device[machine->n_device++] = out;
	out->name = strdup(d->name);
	out->kind = strdup(d->kind);
	out->address = d->port;
	out->interrupt = d->irq;
	return out->name && out->kind ? 0 : -ENOMEM;
}

static int describe_machine(struct machine *machine, SnapshotManifest *m)
{
	struct vdev *devices[MACHINE_DEVICES_MAX];
	unsigned n = machine_devices(machine, devices, MACHINE_DEVICES_MAX);
	int rc = 0;

	m->machine = malloc(sizeof(*m->machine));
	if (!m->machine)
		return -ENOMEM;
	machine__init(m->machine);
	m->machine->device = calloc(n, sizeof(*m->machine->device));
	if (!m->machine->device)
		return -ENOMEM;
	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = describe_device(machine, devices[i], m->machine);
	return rc;
}

/* The CPU as vCPU 0 was shown it, and its TSC, out of the state, which is encoded already. */
static int describe_cpu(const struct taken *t, SnapshotManifest *m)
{
	VcpuState *first = t->state->vcpu[0];

	m->cpu = malloc(sizeof(*m->cpu));
	if (!m->cpu)
		return -ENOMEM;
	cpu_profile__init(m->cpu);
	m->tsc_khz = first->tsc_khz;
	/* Taken over, not copied. */
	m->cpu->cpuid = first->cpuid;
	m->cpu->n_cpuid = first->n_cpuid;
	first->cpuid = NULL;
	first->n_cpuid = 0;
	m->cpu->vendor = calloc(1, 13);
	if (!m->cpu->vendor)
		return -ENOMEM;
	for (size_t i = 0; i < m->cpu->n_cpuid; i++) {
		const CpuidEntry *c = m->cpu->cpuid[i];

		if (c->function != 0)
			continue;
		memcpy(m->cpu->vendor, &c->ebx, 4);
		memcpy(m->cpu->vendor + 4, &c->edx, 4);
		memcpy(m->cpu->vendor + 8, &c->ecx, 4);
		break;
	}
	return 0;
}

static int describe(struct save *s, const struct taken *t, SnapshotManifest *m)
{
	struct machine *machine = s->machine;
	int rc;

	m->version = MANIFEST_VERSION;
	m->architecture = strdup(MANIFEST_ARCHITECTURE);
	m->creator = strdup("snapfs vmm " SNAPFS_VERSION);
	m->created_at = make_time(&t->when);
	m->clock = make_time(&t->when);
	m->boot = boot_to_manifest(&machine->boot);
	if (!m->architecture || !m->creator || !m->created_at || !m->clock || !m->boot)
		return -ENOMEM;
	m->vp_count = machine->ncpus;
	rc = describe_ram(&machine->ram, m);
	if (rc == 0)
		rc = describe_machine(machine, m);
	if (rc == 0)
		rc = disks_describe(machine, m);
	if (rc == 0)
		rc = keep_describe(&s->keep, m);
	if (rc == 0)
		rc = keep_describe_layers(&s->keep, m);
	if (rc == 0)
		rc = describe_cpu(t, m);
	if (rc == 0)
		rc = set_bytes(&m->vm_generation, machine->generation, UUID_SIZE);
	if (rc == 0 && machine->base.exists)
		rc = set_bytes(&m->parent_id, machine->base.id, UUID_SIZE);
	return rc;
}

static int memfd_with(const char *name, const uint8_t *buf, size_t len)
{
	auto_fd int fd = memfd_create(name, MFD_CLOEXEC);
	int rc = fd < 0 ? -errno : io_write_full(fd, buf, len);

	return rc < 0 ? rc : take_fd(&fd);
}

static int make_manifest(struct save *s, const struct taken *t, struct err *e)
{
	SnapshotManifest *m = malloc(sizeof(*m));
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc;

	if (!m)
		return err_sys(e, ENOMEM, "cannot describe the machine");
	snapshot_manifest__init(m);
	rc = describe(s, t, m);
	rc = rc < 0 ? err_sys(e, -rc, "cannot describe the machine")
		    : proto_manifest_encode(m, &buf, &len, e);
	proto_manifest_free(m);
	if (rc < 0)
		return rc;
	rc = memfd_with("manifest", buf, len);
	return rc < 0 ? err_sys(e, -rc, "cannot pass the manifest on") : rc;
}

/* ---- taking the state ---- */

/* With the vCPUs held: is there anything that makes the state not whole? */
static int check_quiet(struct machine *m, struct err *e)
{
	unsigned holds = machine_holds(m);

	if (holds & HOLD_FAULT)
		return err_refuse(
			e, EBUSY,
			"the guest stands at a RAM page that cannot be had: mend that and "
			"`resume` first");
	if (holds & HOLD_END)
		return err_refuse(e, ECANCELED, "the machine is ending: it is not saved any more");
	if (holds & HOLD_RESET)
		return err_refuse(e, EAGAIN, "the guest is just being reset: try again");
	return 0;
}

static int take_held(struct save *s, struct taken *t, struct err *e)
{
	struct machine *m = s->machine;
	int rc = check_quiet(m, e);

	if (rc < 0)
		return rc;
	clock_gettime(CLOCK_REALTIME, &t->when);
	machine_tell_paused(m);
	rc = machine_take_state(m, &t->state, e);
	timing_mark(&s->timing, "state");
	return rc < 0 ? rc : keep_freeze(&s->keep, t->state, e);
}

/* With the vCPUs running: what devices have under way comes to its end. */
static int quiesce(struct machine *m, struct err *e)
{
	int rc = 0;

	machine_hold_devices(m);
	for (unsigned i = 0; rc == 0 && i < m->nvirtio; i++)
		if (m->virtio[i]->ops->quiesce)
			rc = m->virtio[i]->ops->quiesce(m->virtio[i], e);
	return rc;
}

/* Until the vCPUs went on, whenever this thread got to know of that; or stand for another reason.
 */
static int64_t pause_since(struct machine *m, int64_t start)
{
	const int64_t resumed = machine_resumed_ns(m);

	return (resumed > start ? resumed : now_ns()) - start;
}

/* Holds devices and vCPUs, takes all, lets them go. */
static int take(struct save *s, struct taken *t, struct err *e)
{
	struct machine *m = s->machine;
	int rc = keep_prepare(&s->keep, s->publisher, e);
	int64_t start;

	timing_mark(&s->timing, "prepare");
	if (rc < 0)
		return rc;
	rc = quiesce(m, e);
	timing_mark(&s->timing, "quiesce");
	start = now_ns();
	machine_hold(m, HOLD_SAVE);
	timing_mark(&s->timing, "hold");
	if (rc == 0)
		rc = take_held(s, t, e);
	timing_mark(&s->timing, "freeze");
	machine_release(m, HOLD_SAVE);
	s->pause_ns = pause_since(m, start);
	timing_mark(&s->timing, "resume");
	return rc < 0 ? rc : keep_settle(&s->keep, e);
}

static int pass_state(const VmState *state, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = proto_state_encode(state, &buf, &len, e);

	if (rc < 0)
		return rc;
	rc = memfd_with("state", buf, len);
	return rc < 0 ? err_sys(e, -rc, "cannot pass the state on") : rc;
}

static int take_and_commit(struct save *s, struct err *e)
{
	struct taken t = { 0 };
	auto_fd int manifest = -1, state = -1;
	int rc = take(s, &t, e);

	if (rc == 0)
		rc = state = pass_state(t.state, e);
	if (rc >= 0)
		rc = manifest = make_manifest(s, &t, e);
	proto_state_free(t.state);
	if (rc >= 0)
		rc = keep_commit(&s->keep, s->publisher, manifest, state, e);
	/* What has changed is the snapshot's, if it comes to be. */
	if (rc >= 0)
		s->rounds = take_ptr(&s->keep.item[0].rounds);
	/* What was passed on is the publisher's; nothing of it stays open here. */
	keep_drop(&s->keep);
	return rc < 0 ? rc : 0;
}

/* ---- can it be saved? ---- */

static int check_idle(struct save *s, struct err *e)
{
	return s->phase == SAVE_IDLE ? 0 : err_refuse(e, EBUSY, "a save is under way already");
}

static int check_publisher(struct save *s, struct err *e)
{
	return publisher_check(s->publisher, e);
}

/* Not during a save: its answers come from the same socket. */
static int check_disks(struct save *s, struct err *e)
{
	struct keep k;

	if (s->phase != SAVE_IDLE || publisher_check(s->publisher, NULL) < 0)
		return 0;
	keep_list(&k, s->machine);
	return keep_check(&k, s->publisher, e);
}

static int check_machine(struct save *s, struct err *e)
{
	return check_quiet(s->machine, e);
}

/* What may stand in a save's way and is known beforehand: one line each. */
static int (*const obstacles[])(struct save *s, struct err *e) = {
	check_idle,
	check_publisher,
	check_machine,
	check_disks,
};

int save_possible(struct save *s, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < sizeof(obstacles) / sizeof(obstacles[0]); i++) {
		struct err found = { 0 };
		int rc2 = obstacles[i](s, &found);

		if (rc2 < 0)
			rc = err_also(e, -rc2, "%s", found.text);
	}
	return rc;
}

/* ---- replies ---- */

static void finish(struct save *s, int rc, const struct save_result *result, const struct err *e)
{
	save_done_fn done = s->done;

	if (rc < 0)
		rounds_fail(take_ptr(&s->rounds));
	rounds_free(take_ptr(&s->rounds));
	s->phase = SAVE_IDLE;
	s->done = NULL;
	if (done)
		done(s->arg, rc, result, e);
}

static void on_asked(struct save *s)
{
	int rc;

	timing_mark(&s->timing, "ask");
	rc = take_and_commit(s, &s->failure);

	timing_mark(&s->timing, "commit");
	if (rc == 0) {
		s->phase = SAVE_PUBLISHING;
		return;
	}
	/* The place is given back before the caller hears of it. */
	s->failure_rc = rc;
	s->phase = SAVE_ABORTING;
	if (publisher_send_abort(s->publisher, NULL) < 0)
		finish(s, rc, NULL, &s->failure);
}

static char *join(char **lines, size_t n)
{
	size_t len = 1;
	char *all;

	for (size_t i = 0; i < n; i++)
		len += strlen(lines[i]) + 1;
	all = calloc(1, len);
	for (size_t i = 0; all && i < n; i++) {
		strcat(all, lines[i]);
		if (i + 1 < n)
			strcat(all, "\n");
	}
	return all;
}

/* What became of RAM, as far as it was copied. */
static void count(const struct rounds *r, struct save_result *result)
{
	if (!r)
		return;
	result->copied = true;
	result->layer = r->layer;
	result->pages_changed = r->changed;
	result->pages_left = r->left;
	result->rounds = r->n;
	result->bytes_written = r->out.written;
}

static void print_timing(const struct save *s, const struct save_result *r)
{
	const struct timing_count counts[] = {
		{ "pause_us", s->pause_ns / 1000 },
		{ "pages_changed", (int64_t)r->pages_changed },
		{ "rounds", r->rounds },
		{ "bytes_written", (int64_t)r->bytes_written },
		{ "pages_left", (int64_t)r->pages_left },
	};

	timing_print(&s->timing, counts, r->copied ? 5 : 1);
}

static void on_published(struct save *s, const PublishReply *reply, int *fds, size_t nfds)
{
	struct machine *m = s->machine;
	struct save_result result = { .pause_ns = s->pause_ns,
				      .path = reply->path,
				      .freeze = s->keep.way };
	const struct base_map *added = s->rounds && s->rounds->layer ? &s->rounds->map : NULL;
	auto_free char *notices = join(reply->notice, reply->n_notice);

	if (reply->id.len == UUID_SIZE) {
		memcpy(result.id, reply->id.data, UUID_SIZE);
		base_set(&m->base, result.id, fds, nfds, m->ram.size, added);
	}
	result.notices = notices;
	timing_mark(&s->timing, "publish");
	count(s->rounds, &result);
	timing_note(&s->timing, "freeze", s->keep.way);
	print_timing(s, &result);
	finish(s, 0, &result, NULL);
}

void save_on_reply(struct save *s)
{
	PublishReply *reply;
	struct err e = { 0 };
	int fds[MANIFEST_LAYERS_MAX + 2];
	size_t nfds = sizeof(fds) / sizeof(fds[0]);
	int rc = publisher_receive_files(s->publisher, &reply, fds, &nfds, &e);

	if (rc < 0) {
		if (s->phase != SAVE_IDLE)
			finish(s, rc, NULL, &e);
		return;
	}
	if (reply->in_progress) {
		s->bytes_done = reply->bytes_done;
		s->bytes_total = reply->bytes_total;
	} else if (s->phase == SAVE_ABORTING) {
		finish(s, s->failure_rc, NULL, &s->failure);
	} else {
		rc = publisher_failure(reply, &e);
		if (rc < 0)
			finish(s, rc, NULL, &e);
		else if (s->phase == SAVE_ASKED)
			on_asked(s);
		else
			on_published(s, reply, fds, nfds);
	}
	/* Those that nobody has taken. */
	for (size_t i = 0; i < nfds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	proto_publish_free_reply(reply);
}
