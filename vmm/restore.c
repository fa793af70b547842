/* Restoring a machine from a snapshot directory: see restore.h. */
#define _GNU_SOURCE
#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/progress.h"
#include "devices.h"
#include "disks.h"
#include "preflight.h"

/*
 * Whether a line of mountinfo is of a snapfs that root or this user mounted.
 * With fusermount3 anybody can mount something under that name: what others
 * mounted is not believed, and hashed as any directory is.
 *
 *	36 35 0:98 / /mnt ro,nosuid,nodev - fuse.snapfs snapfs ro,user_id=0,group_id=0
 */
static bool is_trusted_mount(const char *line)
{
	const char *type = strstr(line, " - fuse.snapfs ");
	const char *user = type ? strstr(type, "user_id=") : NULL;
	unsigned id;

	return user && sscanf(user, "user_id=%u", &id) == 1 && (id == 0 || id == geteuid());
}

/* True where fd lies on a mount of snapfs, which verifies before it serves. */
static bool on_snapfs(int fd)
{
	auto_file FILE *f = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t room = 0;
	struct stat st;

	if (!f || fstat(fd, &st) < 0)
		return false;
	while (getline(&line, &room, f) > 0) {
		unsigned major_number, minor_number;

		if (sscanf(line, "%*d %*d %u:%u", &major_number, &minor_number) == 2 &&
		    major_number == major(st.st_dev) && minor_number == minor(st.st_dev))
			return is_trusted_mount(line);
	}
	return false;
}

static int check_options(const struct restore *r, const struct restore_options *o, struct err *e)
{
	const SnapshotManifest *m = r->dir.manifest;
	int rc = 0;

	if (o->memory && o->memory != m->memory_size_bytes)
		rc = err_also(
			e, EINVAL, "--memory says %llu bytes, the snapshot has %llu: leave it out",
			(unsigned long long)o->memory, (unsigned long long)m->memory_size_bytes);
	if (o->processors && o->processors != m->vp_count)
		rc = err_also(e, EINVAL, "--processors says %u, the snapshot has %u: leave it out",
			      o->processors, m->vp_count);
	return rc;
}

/* A machine of this program has its RAM where ram_layout() says, and nowhere else. */
static int check_layout(const SnapshotManifest *m, struct err *e)
{
	struct ram_region region[RAM_REGIONS];
	const unsigned n = ram_layout(m->memory_size_bytes, region);
	bool same = n == m->n_ram;

	for (unsigned i = 0; same && i < n; i++)
		same = m->ram[i]->guest_address == region[i].guest_address &&
		       m->ram[i]->size == region[i].size;
	if (same)
		return 0;
	return err_also(
		e, EINVAL,
		"the snapshot's RAM lies at other guest addresses than this program has it");
}

/* Adds what a step found to the report. */
static int also(struct err *e, int rc, const struct err *found)
{
	return rc < 0 ? err_also(e, -rc, "%s", found->text) : 0;
}

static int read_state(struct restore *r, struct err *e)
{
	auto_free uint8_t *buf = NULL;
	size_t len;
	int rc = proto_snapdir_read_state(&r->dir, r->label, &buf, &len, e);

	if (rc == 0)
		rc = proto_state_parse(buf, len, &r->state, e);
	return rc;
}

/* What the parsed state says of itself; false: it is of no use for more checks. */
static bool check_state(const struct restore *r, struct err *e, int *rc)
{
	const VmState *s = r->state;
	int found;

	if (!s)
		return false;
	found = proto_state_check(s, e);
	*rc = *rc < 0 ? *rc : found;
	if (found == -E2BIG)
		return false;
	if (s->n_vcpu != r->dir.manifest->vp_count)
		*rc = err_also(e, EINVAL, "state.bin has %zu vCPUs, the manifest says %u",
			       s->n_vcpu, r->dir.manifest->vp_count);
	found = vm_check_state(s, e);
	*rc = *rc < 0 ? *rc : found;
	return true;
}

static int check_clock(const struct restore *r, const struct restore_options *o, struct err *e)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (o->clock == CLOCK_MODE_FREEZE || clock_away(r->dir.manifest, &now) >= 0)
		return 0;
	return err_also(e, EINVAL,
			"--clock advance: the snapshot does not say when it was taken, or the "
			"time is out of range");
}

/* What this host has against it. No KVM at all is the environment's failure. */
static int check_host(struct restore *r, const VmState *state, struct err *e)
{
	struct err found = { 0 };
	int rc = host_ask_end(&r->ask, &r->kvm, r->dir.manifest, state, &found);

	if (rc == 0)
		rc = preflight_check(&r->ask.host, r->dir.manifest, state, e);
	else if (e && !*e->text)
		*e = found;
	else
		also(e, rc, &found);
	return rc;
}

/* The virtio devices of the snapshot, as the command line would have them. */
static int configure(struct restore *r, struct err *e)
{
	const Machine *was = r->dir.manifest->machine;
	const size_t n = was ? machine__get_packed_size(was) : 0;
	auto_free uint8_t *buf = malloc(n ? n : 1);
	size_t kept = 0;

	if (buf && was)
		r->config = machine__unpack(NULL, machine__pack(was, buf), buf);
	else if (buf)
		r->config = machine__unpack(NULL, 0, buf);
	if (!r->config)
		return err_also(e, ENOMEM, "there is no memory for the machine's devices");
	for (size_t i = 0; i < r->config->n_device; i++) {
		Device *d = r->config->device[i];

		if (devices_is_virtio(d))
			r->config->device[kept++] = d;
		else
			device__free_unpacked(d, NULL);
	}
	r->config->n_device = kept;
	return disks_forget_paths(r->dir.manifest, r->config) < 0
		       ? err_also(e, ENOMEM, "there is no memory for the machine's devices")
		       : 0;
}

/* The files of disks. NULL: none could be opened. */
static int *disk_fds(const struct restore *r)
{
	return r->fds ? r->fds + r->n_ram_fds : NULL;
}

static int check_devices(struct restore *r, const struct restore_options *o, struct err *e)
{
	int rc = configure(r, e);

	if (rc == 0 && o->devices)
		rc = devices_override(r->config, o->devices, e);
	if (rc < 0)
		return rc;
	rc = devices_check_host(r->config, e);
	return disks_preflight(r->dir.manifest, r->config, disk_fds(r), e) < 0 ? -EINVAL : rc;
}

/* RAM's and the disks' files; what is wrong with each goes into the report. */
static int open_files(struct restore *r, struct err *e)
{
	const size_t n = proto_snapdir_files(r->dir.manifest, r->dir.layered);
	int rc = 0;

	r->n_ram_fds = proto_snapdir_ram_files(r->dir.manifest, r->dir.layered);
	r->fds = calloc(n, sizeof(*r->fds));
	if (!r->fds)
		return err_also(e, ENOMEM, "there is no memory for the snapshot's files");
	for (size_t i = 0; i < n; i++) {
		struct err found = { 0 };
		struct snapdir_file f;
		int fd, rc2;

		proto_snapdir_file(r->dir.manifest, r->dir.layered, i, &f);
		fd = proto_snapdir_open_file(&r->dir, &f, r->label, &found);
		r->fds[r->nfds++] = fd;
		rc2 = also(e, fd, &found);
		rc = rc < 0 ? rc : rc2;
	}
	return rc;
}

/* Where RAM is: the maps of its layers, of each snapshot read and checked whole. */
static int read_maps(struct restore *r, struct err *e)
{
	const SnapshotManifest *m = r->dir.manifest;
	int rc = proto_flat_start(&r->flat, m->memory_size_bytes / MANIFEST_PAGE_SIZE);

	for (size_t i = 1; rc == 0 && r->dir.layered && i < m->n_layer; i++) {
		struct layermap map;

		rc = proto_snapdir_read_map(&r->dir, i, r->label, &map, e);
		if (rc < 0)
			return rc;
		rc = proto_flat_add(&r->flat, (unsigned)i, &map);
		if (rc == 0)
			rc = base_add_map(&r->base, &map);
		proto_layermap_free(&map);
	}
	return rc < 0 ? err_sys(e, -rc, "cannot read the layers of snapshot %s", r->label) : 0;
}

/* Everything that can be said without reading RAM, in one report. */
static int check_all(struct restore *r, const struct restore_options *o, struct err *e)
{
	const VmState *state;
	struct err found = { 0 };
	int rc = proto_manifest_check(r->dir.manifest, e);
	int rc2 = check_options(r, o, e);

	if (rc == 0)
		rc = check_layout(r->dir.manifest, e);
	rc = rc < 0 ? rc : rc2;
	rc2 = also(e, read_state(r, &found), &found);
	rc = rc < 0 ? rc : rc2;
	rc2 = open_files(r, e);
	rc = rc < 0 ? rc : rc2;
	found = (struct err){ 0 };
	rc2 = also(e, read_maps(r, &found), &found);
	rc = rc < 0 ? rc : rc2;
	state = check_state(r, e, &rc) ? r->state : NULL;
	rc2 = preflight_devices(r->dir.manifest, state, e);
	rc = rc < 0 ? rc : rc2;
	rc2 = check_devices(r, o, e);
	rc = rc < 0 ? rc : rc2;
	rc2 = check_clock(r, o, e);
	rc = rc < 0 ? rc : rc2;
	rc2 = check_host(r, state, e);
	return rc < 0 ? rc : rc2;
}

/* True where the mount says that the whole file is known to be good, not just each block read. */
static bool is_known_whole(int fd)
{
	char rung[16] = "";

	if (fgetxattr(fd, "user.snapfs.rung", rung, sizeof(rung) - 1) < 0)
		return false;
	return strcmp(rung, "sealed") == 0 || strcmp(rung, "stamped") == 0;
}

static int verify_file(struct restore *r, const struct snapdir_file *f, int fd, bool whole,
		       struct publisher *p, struct err *e)
{
	char what[SNAPDIR_PATH_MAX + 16];
	struct progress progress;
	struct io_progress io;
	int rc;

	if (on_snapfs(fd) ? !whole || is_known_whole(fd) : publisher_trusts(p, fd, f->digest))
		return 0;
	snprintf(what, sizeof(what), "verifying %s", f->path);
	progress_start(&progress, what, false);
	io = progress_io(&progress);
	rc = proto_snapdir_verify_file(&r->dir, f, fd, r->label, &io, e);
	progress_end(&progress);
	return rc;
}

static int verify_files(struct restore *r, const struct restore_options *o, struct publisher *p,
			struct err *e)
{
	int rc = 0;

	if (o->trust_memory && !on_snapfs(r->fds[0])) {
		const char *memory = r->dir.layered ? SNAPDIR_LAYERS : SNAPDIR_MEMORY;

		if (r->nfds > r->n_ram_fds)
			log_warn("--trust-memory: %s/{%s,disks} is not verified; damage in it goes "
				 "unseen",
				 r->label, memory);
		else
			log_warn("--trust-memory: %s/%s is not verified; damage in it goes unseen",
				 r->label, memory);
		return 0;
	}
	for (size_t i = 0; rc == 0 && i < r->nfds; i++) {
		struct snapdir_file f;

		proto_snapdir_file(r->dir.manifest, r->dir.layered, i, &f);
		rc = verify_file(r, &f, r->fds[i], o->wait_verified, p, e);
	}
	return rc;
}

/* The mount answers EIO for what is damaged, and says in a file of its own what that is. */
static int explain(const char *dir, int rc, struct err *e)
{
	auto_fd int fd = rc == -EIO ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	struct err found;

	if (fd < 0 || !e || !on_snapfs(fd))
		return rc;
	found = *e;
	return err_refuse(e, EIO, "%s: see %s/status", found.text, dir);
}

void restore_working_set(const struct restore *r, const struct machine *m, struct working_set *s)
{
	int rc = proto_working_set_read(r->dir.dirfd, m->restored_from, m->ram.size / RAM_PAGE, s);

	if (rc == -EBADMSG)
		log_warn("%s/%s is damaged, or of another snapshot: nothing is read ahead",
			 r->label, WORKING_SET_FILE);
}

int restore_preflight(struct restore *r, const struct restore_options *o, struct publisher *p,
		      struct err *e)
{
	int rc;

	*r = (struct restore){ .dir.dirfd = -1, .clock = o->clock };
	r->kvm = KVM_HOST_NONE;
	snprintf(r->label, sizeof(r->label), "%s", o->dir);
	host_ask_begin(&r->ask);
	rc = proto_snapdir_open(&r->dir, AT_FDCWD, o->dir, r->label, e);
	if (rc < 0) {
		host_ask_close(&r->ask);
		return explain(o->dir, rc, e);
	}
	rc = check_all(r, o, e);
	if (rc == 0)
		rc = verify_files(r, o, p, e);
	if (rc < 0)
		restore_close(r);
	return explain(o->dir, rc, e);
}

void restore_close(struct restore *r)
{
	proto_state_free(r->state);
	r->state = NULL;
	for (size_t i = 0; i < r->nfds; i++)
		if (r->fds[i] >= 0)
			close(r->fds[i]);
	free(r->fds);
	r->fds = NULL;
	r->nfds = r->n_ram_fds = 0;
	base_forget(&r->base);
	proto_flat_free(&r->flat);
	if (r->config)
		machine__free_unpacked(r->config, NULL);
	r->config = NULL;
	host_ask_close(&r->ask);
	kvm_host_close(&r->kvm);
	if (r->dir.dirfd >= 0)
		proto_snapdir_close(&r->dir);
}

/* As late as can be: verifying gigabytes takes its time, too. */
static void advance_clock(struct restore *r)
{
	struct timespec now;
	int64_t away;

	clock_gettime(CLOCK_REALTIME, &now);
	away = clock_away(r->dir.manifest, &now);
	if (away > 0)
		clock_advance(r->state, (uint64_t)away);
	else
		log_warn("--clock advance: this host's clock is behind the snapshot's: the guest's "
			 "clocks go on from where they stood");
}

/* The snapshot's RAM files, as what a next save goes on from. */
static int take_base(struct restore *r, struct err *e)
{
	int rc = 0;

	r->base.exists = true;
	memcpy(r->base.id, r->dir.manifest->id.data, UUID_SIZE);
	for (size_t i = 0; rc >= 0 && i < r->n_ram_fds; i++) {
		rc = fcntl(r->fds[i], F_DUPFD_CLOEXEC, 0);
		if (rc >= 0)
			r->base.file[r->base.nfiles++] = rc;
	}
	return rc < 0 ? err_sys(e, errno, "cannot keep the snapshot's files open") : 0;
}

static int map_ram(struct restore *r, struct machine *m, struct err *e)
{
	const uint64_t size = r->dir.manifest->memory_size_bytes;

	if (r->n_ram_fds > 1)
		return ram_map_layers(&m->ram, r->fds, (unsigned)r->n_ram_fds, &r->flat, size, e);
	return ram_map(&m->ram, RAM_PRIVATE, take_fd(&r->fds[0]), size, e);
}

int restore_machine(struct restore *r, struct machine *m, struct publisher *p, struct err *e)
{
	const SnapshotManifest *manifest = r->dir.manifest;
	int rc = boot_from_manifest(&m->boot, manifest->boot, e);

	m->kvm = r->kvm;
	r->kvm = KVM_HOST_NONE;
	if (r->clock == CLOCK_MODE_ADVANCE)
		advance_clock(r);
	if (rc == 0)
		rc = take_base(r, e);
	if (rc == 0)
		rc = map_ram(r, m, e);
	timing_mark(m->timing, "ram");
	if (rc == 0)
		rc = machine_add_virtio(m, take_ptr(&r->config), e);
	if (rc == 0)
		rc = disks_attach(m, manifest, disk_fds(r), p, e);
	if (rc == 0)
		rc = machine_place_memories(m, e);
	if (rc == 0)
		rc = machine_load_state(m, r->state, e);
	if (rc == 0)
		rc = machine_renew_generation(m, e);
	if (rc < 0)
		return rc;
	m->restored = true;
	memcpy(m->restored_from, manifest->id.data, UUID_SIZE);
	m->origin = take_ptr(&r->dir.manifest->disk);
	m->norigin = r->dir.manifest->n_disk;
	r->dir.manifest->n_disk = 0;
	m->base = r->base;
	r->base = (struct base){ 0 };
	m->base.manifest = take_ptr(&r->dir.manifest);
	return 0;
}
