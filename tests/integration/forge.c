/*
 * forge MANIFEST FIELD=VALUE...: rewrites fields of a manifest.bin in place, with
 * a digest that is right for it: what a machine of another kind would have saved.
 * Fields that begin with state_ are of the state.bin beside it.
 *
 * Fields: version, architecture, page_size, memory_size, vcpus, state_size,
 * vendor, tsc_khz, clock (seconds), cpuid=FUNCTION.INDEX.REGISTER.BIT (sets a
 * bit: cpuid=7.0.ebx.16); state_version, state_kvm_version, state_vcpu_version,
 * state_device_version (of the last one), state_device_name, state_device_more
 * (one of this name), state_msr=INDEX:VALUE (of the last vCPU); of the device
 * NAME: device=NAME.FIELD=VALUE with kind, name, address, interrupt, path, tap, ro;
 * of the disk that is NAME's: disk=NAME.FIELD=VALUE with device, size, and move
 * (takes the last file from the disk of device VALUE);
 * state_virtio=NAME.FIELD=VALUE with status, id, and of its first queue size,
 * ready, desc, next_avail.
 */
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/merkle.h"
#include "proto/manifest.h"
#include "proto/state.h"

static int die(const char *what)
{
	fprintf(stderr, "forge: %s\n", what);
	exit(1);
}

static bool set_cpuid(SnapshotManifest *m, const char *value)
{
	unsigned function, index, bit;
	char reg[4];

	if (!m->cpu || sscanf(value, "%x.%u.%3[a-z].%u", &function, &index, reg, &bit) != 4)
		return false;
	for (size_t i = 0; i < m->cpu->n_cpuid; i++) {
		CpuidEntry *c = m->cpu->cpuid[i];

		if (c->function != function || c->index != index)
			continue;
		*(reg[1] == 'a'	  ? &c->eax
		  : reg[1] == 'b' ? &c->ebx
		  : reg[1] == 'c' ? &c->ecx
				  : &c->edx) |= 1U << bit;
		return true;
	}
	return false;
}

static bool set_msr(VcpuState *v, const char *value)
{
	Msr *m = malloc(sizeof(*m));

	if (!m)
		return false;
	msr__init(m);
	v->msr = realloc(v->msr, (v->n_msr + 1) * sizeof(*v->msr));
	if (!v->msr || sscanf(value, "%x:%lx", &m->index, &m->data) != 2)
		return false;
	v->msr[v->n_msr++] = m;
	return true;
}

static bool add_device(VmState *s, char *name)
{
	DeviceState *d = malloc(sizeof(*d));

	s->device = realloc(s->device, (s->n_device + 1) * sizeof(*s->device));
	if (!d || !s->device)
		return false;
	device_state__init(d);
	d->name = name;
	d->version = 1;
	s->device[s->n_device++] = d;
	return true;
}

/* "NAME.FIELD=VALUE", cut into its parts. */
static bool cut(char *value, char **field, char **to)
{
	*field = strchr(value, '.');
	*to = *field ? strchr(*field, '=') : NULL;
	if (!*to)
		return false;
	*(*field)++ = '\0';
	*(*to)++ = '\0';
	return true;
}

static Disk *find_disk(const SnapshotManifest *m, const char *device)
{
	for (size_t i = 0; i < m->n_disk; i++)
		if (strcmp(m->disk[i]->device, device) == 0)
			return m->disk[i];
	return NULL;
}

static bool move_file(Disk *from, Disk *to)
{
	if (!from || from->n_layer == 0)
		return false;
	to->layer = realloc(to->layer, (to->n_layer + 1) * sizeof(*to->layer));
	if (!to->layer)
		return false;
	to->layer[to->n_layer++] = from->layer[--from->n_layer];
	return true;
}

static bool set_disk(SnapshotManifest *m, char *value)
{
	char *field, *to;
	Disk *d;

	if (!cut(value, &field, &to))
		return false;
	d = find_disk(m, value);
	if (d && strcmp(field, "device") == 0)
		d->device = to;
	else if (d && strcmp(field, "size") == 0)
		d->size = strtoull(to, NULL, 0);
	else
		return d && strcmp(field, "move") == 0 && move_file(find_disk(m, to), d);
	return true;
}

static bool set_device(SnapshotManifest *m, char *value)
{
	char *field, *to;

	if (!cut(value, &field, &to) || !m->machine)
		return false;
	for (size_t i = 0; i < m->machine->n_device; i++) {
		Device *d = m->machine->device[i];

		if (strcmp(d->name, value) != 0)
			continue;
		if (strcmp(field, "kind") == 0)
			d->kind = to;
		else if (strcmp(field, "name") == 0)
			d->name = to;
		else if (strcmp(field, "path") == 0)
			d->path = to;
		else if (strcmp(field, "ro") == 0)
			d->read_only = atoi(to);
		else if (strcmp(field, "tap") == 0)
			d->tap = to;
		else if (strcmp(field, "address") == 0)
			d->address = strtoull(to, NULL, 0);
		else if (strcmp(field, "interrupt") == 0)
			d->interrupt = (uint32_t)strtoul(to, NULL, 0);
		else
			return false;
		return true;
	}
	return false;
}

static bool set_virtio_field(VirtioState *v, const char *field, uint64_t number)
{
	VirtqState *q = v->n_queue ? v->queue[0] : NULL;

	if (strcmp(field, "status") == 0)
		v->status = (uint32_t)number;
	else if (strcmp(field, "id") == 0)
		v->device_id = (uint32_t)number;
	else if (q && strcmp(field, "size") == 0)
		q->size = (uint32_t)number;
	else if (q && strcmp(field, "ready") == 0)
		q->ready = number != 0;
	else if (q && strcmp(field, "desc") == 0)
		q->desc = number;
	else if (q && strcmp(field, "next_avail") == 0)
		q->next_avail = (uint32_t)number;
	else
		return false;
	return true;
}

static bool set_virtio(VmState *s, char *value)
{
	char *field, *to;

	if (!cut(value, &field, &to))
		return false;
	for (size_t i = 0; i < s->n_device; i++) {
		DeviceState *d = s->device[i];
		VirtioState *v;

		if (strcmp(d->name, value) != 0)
			continue;
		v = virtio_state__unpack(NULL, d->state.len, d->state.data);
		if (!v || !set_virtio_field(v, field, strtoull(to, NULL, 0)))
			return false;
		d->state.data = malloc(virtio_state__get_packed_size(v) + 1);
		d->state.len = d->state.data ? virtio_state__pack(v, d->state.data) : 0;
		return d->state.data;
	}
	return false;
}

static bool set_state(VmState *s, const char *field, char *value)
{
	const uint32_t number = (uint32_t)strtoul(value, NULL, 0);

	if (strcmp(field, "state_version") == 0)
		s->version = number;
	else if (strcmp(field, "state_kvm_version") == 0)
		s->kvm->version = number;
	else if (strcmp(field, "state_vcpu_version") == 0)
		s->vcpu[s->n_vcpu - 1]->version = number;
	else if (strcmp(field, "state_device_version") == 0)
		s->device[s->n_device - 1]->version = number;
	else if (strcmp(field, "state_device_name") == 0)
		s->device[s->n_device - 1]->name = value;
	else if (strcmp(field, "state_device_more") == 0)
		return add_device(s, value);
	else if (strcmp(field, "state_virtio") == 0)
		return set_virtio(s, value);
	else if (strcmp(field, "state_msr") == 0)
		return set_msr(s->vcpu[s->n_vcpu - 1], value);
	else
		return false;
	return true;
}

static bool set(SnapshotManifest *m, const char *field, char *value)
{
	unsigned long long number = strtoull(value, NULL, 0);

	if (strcmp(field, "version") == 0)
		m->version = (uint32_t)number;
	else if (strcmp(field, "page_size") == 0)
		m->page_size = (uint32_t)number;
	else if (strcmp(field, "memory_size") == 0)
		m->memory_size_bytes = number;
	else if (strcmp(field, "vcpus") == 0)
		m->vp_count = (uint32_t)number;
	else if (strcmp(field, "state_size") == 0)
		m->state_size = number;
	else if (strcmp(field, "tsc_khz") == 0)
		m->tsc_khz = (uint32_t)number;
	else if (strcmp(field, "clock") == 0)
		m->clock->seconds = strtoll(value, NULL, 0);
	else if (strcmp(field, "vendor") == 0)
		m->cpu->vendor = value;
	else if (strcmp(field, "disk") == 0)
		return set_disk(m, value);
	else if (strcmp(field, "device") == 0)
		return set_device(m, value);
	else if (strcmp(field, "cpuid") == 0)
		return set_cpuid(m, value);
	else if (strcmp(field, "architecture") == 0)
		m->architecture = value;
	else
		return false;
	return true;
}

static size_t read_all(const char *path, uint8_t *buf, size_t size)
{
	FILE *f = fopen(path, "rb");
	size_t len;

	if (!f)
		die("cannot open it; usage: forge MANIFEST FIELD=VALUE...");
	len = fread(buf, 1, size, f);
	fclose(f);
	return len;
}

static void write_all(const char *path, const uint8_t *buf, size_t len)
{
	FILE *f;

	remove(path);
	f = fopen(path, "wb");
	if (!f || fwrite(buf, len, 1, f) != 1 || fclose(f) != 0)
		die("cannot write it");
}

static VmState *read_state(const char *path)
{
	uint8_t *in = malloc(STATE_MAX);
	VmState *s = in ? vm_state__unpack(NULL, read_all(path, in, STATE_MAX), in) : NULL;

	if (!s)
		die("that is no state");
	return s;
}

static void write_state(const char *path, const VmState *s, SnapshotManifest *m)
{
	static uint8_t digest[DIGEST_SIZE];
	uint8_t *out;
	size_t len;

	if (proto_state_encode(s, &out, &len, NULL) < 0 || merkle_digest(out, len, digest) < 0)
		die("cannot encode the state");
	write_all(path, out, len);
	m->state_size = len;
	m->state_digest = (ProtobufCBinaryData){ sizeof(digest), digest };
}

int main(int argc, char **argv)
{
	static uint8_t in[MANIFEST_MAX];
	char state_path[4096], folder[4000];
	SnapshotManifest *m;
	VmState *state = NULL;
	uint8_t *out;
	size_t len;

	if (argc < 3)
		die("usage: forge MANIFEST FIELD=VALUE...");
	snprintf(folder, sizeof(folder), "%s", argv[1]);
	snprintf(state_path, sizeof(state_path), "%s/state.bin", dirname(folder));
	m = snapshot_manifest__unpack(NULL, read_all(argv[1], in, sizeof(in)), in);
	if (!m)
		die("that is no manifest");
	for (int i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		const bool of_state = strncmp(argv[i], "state_", 6) == 0 &&
				      strncmp(argv[i], "state_size=", 11) != 0;

		if (value)
			*value++ = '\0';
		if (of_state && !state)
			state = read_state(state_path);
		if (!value ||
		    !(of_state ? set_state(state, argv[i], value) : set(m, argv[i], value)))
			die("no such field");
	}
	if (state)
		write_state(state_path, state, m);
	if (proto_manifest_encode(m, &out, &len, NULL) < 0)
		die("cannot encode it");
	write_all(argv[1], out, len);
	/* The process ends: what the messages share with argv makes it impossible to free. */
	free(out);
	return 0;
}
