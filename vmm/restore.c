/* Restoring a machine from a snapshot directory: see restore.h. */
#define _GNU_SOURCE
#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/progress.h"

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
		rc = proto_state_decode(buf, len, &r->state, e);
	return rc;
}

/* Everything that can be said without reading RAM, in one report. */
static int check_all(struct restore *r, const struct restore_options *o, struct err *e)
{
	struct err found = { 0 };
	int rc = proto_manifest_check(r->dir.manifest, e);
	int rc2 = check_options(r, o, e);

	if (rc == 0)
		rc = check_layout(r->dir.manifest, e);
	rc = rc < 0 ? rc : rc2;
	rc2 = also(e, read_state(r, &found), &found);
	rc = rc < 0 ? rc : rc2;
	rc2 = r->memory_fd = proto_snapdir_open_memory(&r->dir, r->label, &found);
	rc2 = also(e, rc2, &found);
	rc = rc < 0 ? rc : rc2;
	if (r->state && r->state->n_vcpu != r->dir.manifest->vp_count) {
		rc2 = err_also(e, EINVAL, "state.bin has %zu vCPUs, the manifest says %u",
			       r->state->n_vcpu, r->dir.manifest->vp_count);
		rc = rc < 0 ? rc : rc2;
	}
	return rc;
}

static int verify_memory(struct restore *r, const struct restore_options *o, struct publisher *p,
			 struct err *e)
{
	struct progress progress;
	struct io_progress io;
	int rc;

	if (on_snapfs(r->memory_fd))
		return 0;
	if (o->trust_memory) {
		log_warn("--trust-memory: %s/memory.bin is not verified; damage in it goes unseen",
			 r->label);
		return 0;
	}
	if (publisher_trusts(p, r->memory_fd, r->dir.manifest->memory_digest.data))
		return 0;
	progress_start(&progress, "verifying memory.bin", false);
	io = progress_io(&progress);
	rc = proto_snapdir_verify_memory(&r->dir, r->memory_fd, r->label, &io, e);
	progress_end(&progress);
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

int restore_preflight(struct restore *r, const struct restore_options *o, struct publisher *p,
		      struct err *e)
{
	int rc;

	*r = (struct restore){ .memory_fd = -1, .dir.dirfd = -1 };
	snprintf(r->label, sizeof(r->label), "%s", o->dir);
	rc = proto_snapdir_open(&r->dir, AT_FDCWD, o->dir, r->label, e);
	if (rc < 0)
		return explain(o->dir, rc, e);
	rc = check_all(r, o, e);
	if (rc == 0)
		rc = verify_memory(r, o, p, e);
	if (rc < 0)
		restore_close(r);
	return explain(o->dir, rc, e);
}

void restore_close(struct restore *r)
{
	proto_state_free(r->state);
	r->state = NULL;
	if (r->memory_fd >= 0)
		close(r->memory_fd);
	r->memory_fd = -1;
	if (r->dir.dirfd >= 0)
		proto_snapdir_close(&r->dir);
}

int restore_machine(struct restore *r, struct machine *m, struct err *e)
{
	const SnapshotManifest *manifest = r->dir.manifest;
	int rc = boot_from_manifest(&m->boot, manifest->boot, e);

	if (rc == 0)
		rc = ram_map(&m->ram, RAM_PRIVATE, take_fd(&r->memory_fd),
			     manifest->memory_size_bytes, e);
	if (rc == 0)
		rc = machine_load_state(m, r->state, e);
	if (rc == 0)
		rc = machine_renew_generation(m, e);
	if (rc < 0)
		return rc;
	memcpy(m->parent, manifest->id.data, UUID_SIZE);
	m->has_parent = true;
	return 0;
}
