/* status and manifest.json: see describe.h. */
#define _GNU_SOURCE
#include "describe.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "proto/snapdir.h"

static void line(FILE *f, const char *key, const char *value)
{
	auto_free char *clean = text_clean(value);

	fprintf(f, "%-10s %s\n", key, clean ? clean : "");
}

static void print_manifest(FILE *f, const struct description *d)
{
	const SnapshotManifest *m = d->manifest;
	char time[TEXT_TIME_MAX], size[TEXT_SIZE_MAX], id[UUID_TEXT_MAX];

	line(f, "created:", text_format_time(m->created_at->seconds, m->created_at->nanos, time));
	line(f, "by:", m->creator);
	line(f, "RAM:", text_format_size(m->memory_size_bytes, size));
	fprintf(f, "%-10s %u\n", "vCPUs:", m->vp_count);
	if (m->parent_id.len == UUID_SIZE)
		line(f, "parent:", *d->parent ? d->parent : uuid_format(m->parent_id.data, id));
}

/* "disk:  disk0.0, 1 GiB: stamped: ..."; and so each layer, where there are some. */
static void print_files(FILE *f, const struct description *d)
{
	const size_t n = proto_snapdir_files(d->manifest, d->layered);
	const size_t ram = proto_snapdir_ram_files(d->manifest, d->layered);

	for (size_t i = d->layered ? 0 : ram; i < n; i++) {
		char size[TEXT_SIZE_MAX], text[SNAPDIR_PATH_MAX + 256];
		struct snapdir_file file;

		proto_snapdir_file(d->manifest, d->layered, i, &file);
		snprintf(text, sizeof(text), "%s, %s: %s", file.path,
			 text_format_size(file.size, size), d->files[i]);
		line(f, i < ram ? "layer:" : "disk:", text);
	}
}

int sfs_describe_status(const struct description *d, char **text, size_t *len)
{
	char time[TEXT_TIME_MAX];
	FILE *f = open_memstream(text, len);

	if (!f)
		return -ENOMEM;
	line(f, "name:", d->name);
	line(f, "id:", d->id ? d->id : "unknown");
	line(f, "state:", cat_status_word(d->status));
	if (*d->problem)
		line(f, "problem:", d->problem);
	line(f, "memory:", d->memory);
	if (d->manifest)
		print_files(f, d);
	line(f,
	     "verified:", d->verified_at > 0 ? text_format_time(d->verified_at, 0, time) : "never");
	if (d->manifest)
		print_manifest(f, d);
	if (fclose(f) != 0) {
		free(*text);
		return -ENOMEM;
	}
	return 0;
}

static json_t *string(const char *s)
{
	auto_free char *clean = text_clean(s);

	return clean ? json_string(clean) : NULL;
}

/* JSON's integers are signed here; what a hostile file claims beyond that is a real. */
static json_t *number(uint64_t v)
{
	return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

static json_t *hex(const ProtobufCBinaryData *b)
{
	char digits[2 * DIGEST_SIZE + 1];

	if (b->len == 0 || b->len > DIGEST_SIZE)
		return json_null();
	return json_string(text_format_hex(b->data, b->len, digits));
}

static json_t *uuid(const ProtobufCBinaryData *b)
{
	char text[UUID_TEXT_MAX];

	return b->len == UUID_SIZE ? json_string(uuid_format(b->data, text)) : json_null();
}

static json_t *time_of(const Timestamp *t)
{
	char text[TEXT_TIME_MAX];

	return t ? json_string(text_format_time(t->seconds, t->nanos, text)) : json_null();
}

static json_t *boot_file(const BootFile *b)
{
	if (!b)
		return json_null();
	return json_pack("{s:o, s:o, s:o}", "path", string(b->path), "size", number(b->size),
			 "sha256", hex(&b->sha256));
}

static json_t *boot(const Boot *b)
{
	static const char *const kinds[] = {
		[BOOT_KIND__BOOT_NONE] = "none",
		[BOOT_KIND__BOOT_LINUX] = "linux",
		[BOOT_KIND__BOOT_DEMO] = "demo",
	};
	size_t kind;

	if (!b)
		return json_null();
	kind = (size_t)b->kind;
	return json_pack("{s:o, s:o, s:o, s:o}", "kind",
			 string(kind < sizeof(kinds) / sizeof(*kinds) ? kinds[kind] : "unknown"),
			 "kernel", boot_file(b->kernel), "initrd", boot_file(b->initrd), "cmdline",
			 string(b->cmdline));
}

static json_t *ram(const SnapshotManifest *m)
{
	json_t *list = json_array();

	for (size_t i = 0; i < m->n_ram; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "guest_address",
						      number(m->ram[i]->guest_address), "size",
						      number(m->ram[i]->size), "file_offset",
						      number(m->ram[i]->file_offset)));
	return list;
}

static json_t *layers(const SnapshotManifest *m)
{
	json_t *list = json_array();

	for (size_t i = 0; i < m->n_layer; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o}", "size",
						      number(m->layer[i]->size), "digest",
						      hex(&m->layer[i]->digest), "map_size",
						      number(m->layer[i]->map_size), "map_digest",
						      hex(&m->layer[i]->map_digest)));
	return list;
}

static json_t *machine(const Machine *machine)
{
	json_t *devices = json_array();

	for (size_t i = 0; machine && i < machine->n_device; i++) {
		const Device *d = machine->device[i];

		json_array_append_new(devices, json_pack("{s:o, s:o, s:o, s:o}", "name",
							 string(d->name), "kind", string(d->kind),
							 "address", number(d->address), "interrupt",
							 number(d->interrupt)));
	}
	return json_pack("{s:o}", "devices", devices);
}

static json_t *disk_files(const Disk *d)
{
	json_t *list = json_array();

	for (size_t i = 0; i < d->n_layer; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "file",
						      string(d->layer[i]->file), "size",
						      number(d->layer[i]->size), "digest",
						      hex(&d->layer[i]->digest)));
	return list;
}

static json_t *disks(const SnapshotManifest *m)
{
	json_t *list = json_array();

	for (size_t i = 0; i < m->n_disk; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "device",
						      string(m->disk[i]->device), "size",
						      number(m->disk[i]->size), "files",
						      disk_files(m->disk[i])));
	return list;
}

static json_t *cpu(const CpuProfile *c, uint32_t tsc_khz)
{
	return json_pack("{s:o, s:o, s:o}", "vendor", string(c ? c->vendor : ""), "cpuid_entries",
			 number(c ? c->n_cpuid : 0), "tsc_khz", number(tsc_khz));
}

/* Takes over `value`; NULL (no memory) makes the whole fail. */
static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value);
}

static int fill(json_t *o, const SnapshotManifest *m)
{
	return put(o, "version", number(m->version)) | put(o, "id", uuid(&m->id)) |
	       put(o, "name_at_creation", string(m->name_at_creation)) |
	       put(o, "created_at", time_of(m->created_at)) |
	       put(o, "parent", uuid(&m->parent_id)) | put(o, "creator", string(m->creator)) |
	       put(o, "architecture", string(m->architecture)) |
	       put(o, "memory_bytes", number(m->memory_size_bytes)) |
	       put(o, "page_size", number(m->page_size)) | put(o, "vcpus", number(m->vp_count)) |
	       put(o, "ram", ram(m)) | put(o, "memory_digest", hex(&m->memory_digest)) |
	       put(o, "layers", layers(m)) | put(o, "state_bytes", number(m->state_size)) |
	       put(o, "state_digest", hex(&m->state_digest)) | put(o, "boot", boot(m->boot)) |
	       put(o, "machine", machine(m->machine)) | put(o, "disks", disks(m)) |
	       put(o, "cpu", cpu(m->cpu, m->tsc_khz)) | put(o, "clock", time_of(m->clock)) |
	       put(o, "vm_generation", uuid(&m->vm_generation)) |
	       put(o, "manifest_digest", hex(&m->manifest_digest));
}

int sfs_describe_json(const SnapshotManifest *m, char **text, size_t *len)
{
	json_t *o = json_object();
	auto_free char *dump = NULL;
	size_t n;

	if (o && fill(o, m) == 0)
		dump = json_dumps(o, JSON_INDENT(2));
	json_decref(o);
	n = dump ? strlen(dump) : 0;
	*text = dump ? malloc(n + 2) : NULL;
	if (!*text)
		return -ENOMEM;
	memcpy(*text, dump, n);
	memcpy(*text + n, "\n", 2);
	*len = n + 1;
	return 0;
}
