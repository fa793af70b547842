/* snapctl list, show: what is there. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/cli.h"
#include "proto/snapdir.h"

/* --- JSON --- */

static bool is_known(const uint8_t id[UUID_SIZE])
{
	static const uint8_t none[UUID_SIZE];

	return memcmp(id, none, UUID_SIZE) != 0;
}

json_t *cli_number(uint64_t v)
{
	return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

/* A value of its own kind, as text; false: no memory. Drops the reference. */
static bool print_value(FILE *out, json_t *value)
{
	const bool printed = value && json_dumpf(value, out, JSON_ENCODE_ANY) == 0;

	json_decref(value);
	return printed;
}

static bool print_bytes(FILE *out, const char *key, uint64_t v)
{
	fprintf(out, "    \"%s\": ", key);
	/* As cli_number() has it: jansson is left out where there are many. */
	if (v > INT64_MAX ? !print_value(out, cli_number(v)) : fprintf(out, "%" PRIu64, v) < 0)
		return false;
	return fputs(",\n", out) >= 0;
}

/* Of text that needs no escapes; NULL: null. */
static void print_plain(FILE *out, const char *key, const char *text)
{
	const char *quote = text ? "\"" : "";

	fprintf(out, "    \"%s\": %s%s%s,\n", key, quote, text ? text : "null", quote);
}

/*
 * The members of a row's object, from "name" on. It is written as it goes, for there may be
 * 100,000 of them; nothing but `problem` can hold what JSON has to escape (names and the
 * architecture are plain). False: no memory, or it cannot be written.
 */
static bool print_row(FILE *out, const struct cat_row *row)
{
	char id[UUID_TEXT_MAX], parent[UUID_TEXT_MAX], created[TEXT_TIME_MAX],
		verified[TEXT_TIME_MAX];
	bool known = is_known(row->id), printed;

	print_plain(out, "name", row->name);
	print_plain(out, "id", known ? uuid_format(row->id, id) : NULL);
	text_format_time(row->created_seconds, row->created_nanos, created);
	print_plain(out, "created_at", known ? created : NULL);
	print_plain(out, "architecture", row->architecture);
	printed = print_bytes(out, "memory_bytes", row->memory_bytes);
	fprintf(out, "    \"vcpus\": %" PRIu32 ",\n", row->vcpus);
	print_plain(out, "parent", row->has_parent ? uuid_format(row->parent, parent) : NULL);
	print_plain(out, "parent_name", *row->parent_name ? row->parent_name : NULL);
	fprintf(out, "    \"layers\": %" PRIu32 ",\n", row->layers);
	printed = printed && print_bytes(out, "stored_bytes", row->stored_bytes) &&
		  print_bytes(out, "unique_bytes", row->unique_bytes);
	fputs("    \"tags\": [],\n", out);
	print_plain(out, "status", cat_status_word(row->status));
	fputs("    \"problem\": ", out);
	printed =
		printed && print_value(out, *row->problem ? cli_string(row->problem) : json_null());
	fputs(",\n    \"verified_at\": ", out);
	text_format_time(row->verified_at, 0, verified);
	fprintf(out, row->verified_at ? "\"%s\"" : "null", verified);
	return printed && !ferror(out);
}

json_t *cli_row_json(const struct cat_row *row)
{
	auto_free char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	bool printed;

	if (!out)
		return NULL;
	fputs("{\n", out);
	printed = print_row(out, row);
	fputs("\n}", out);
	/* The text is there once it is closed. */
	return fclose(out) == 0 && printed ? json_loadb(text, len, 0, NULL) : NULL;
}

json_t *cli_string(const char *text)
{
	auto_free char *clean = text_clean(text);

	return clean ? json_string(clean) : NULL;
}

int cli_print_json(json_t *value, struct err *e)
{
	int rc = value ? json_dumpf(value, stdout, JSON_INDENT(2)) : -1;

	json_decref(value);
	if (rc < 0)
		return err_sys(e, value ? EIO : ENOMEM, "cannot print JSON");
	putchar('\n');
	return 0;
}

/* --- list --- */

static int list_json(void *arg, const struct cat_row *row)
{
	size_t *n = arg;

	fputs((*n)++ ? "\n  },\n  {\n" : "[\n  {\n", stdout);
	return print_row(stdout, row) ? 0 : -ENOMEM;
}

/* Printed as they come; names get the room that most need. */
static int list_line(void *arg, const struct cat_row *row)
{
	char created[TEXT_TIME_MAX] = "-", memory[TEXT_SIZE_MAX], stored[TEXT_SIZE_MAX];
	size_t *n = arg;

	if ((*n)++ == 0)
		printf("%-24s %-20s %10s %5s %10s  %-10s %s\n", "NAME", "CREATED", "MEMORY",
		       "VCPUS", "STORED", "STATUS", "PARENT");
	if (is_known(row->id)) {
		text_format_time(row->created_seconds, 0, created);
		/* Seconds are enough to read: "...T12:00:00Z". */
		memcpy(created + 19, "Z", 2);
	}
	printf("%-24s %-20s %10s %5" PRIu32 " %10s  %-10s %s\n", row->name, created,
	       text_format_size(row->memory_bytes, memory), row->vcpus,
	       text_format_size(row->stored_bytes, stored), cat_status_word(row->status),
	       *row->parent_name ? row->parent_name : "-");
	return 0;
}

/* Printed as they come: a failure leaves text that is no JSON, and the exit status. */
int cli_list(struct cli *cli, struct err *e)
{
	const bool json = cli->args.json;
	size_t n = 0;
	int rc = cat_index_list(cli->store, json ? list_json : list_line, &n, e);

	if (rc == -ENOMEM && !*e->text)
		return err_sys(e, ferror(stdout) ? EIO : ENOMEM, "cannot print JSON");
	if (json && rc == 0)
		puts(n ? "\n  }\n]" : "[]");
	return rc;
}

/* --- show --- */

/* The devices, and the files in disks/ that the snapshot keeps of them. */
static void add_devices(json_t *object, const SnapshotManifest *m)
{
	json_t *devices = json_array(), *files = json_array();

	for (size_t i = 0; m->machine && i < m->machine->n_device; i++)
		json_array_append_new(devices, cli_string(m->machine->device[i]->name));
	for (size_t i = 0; i < m->n_disk; i++)
		for (size_t k = 0; k < m->disk[i]->n_layer; k++)
			json_array_append_new(files, cli_string(m->disk[i]->layer[k]->file));
	json_object_set_new(object, "devices", devices);
	json_object_set_new(object, "disks", files);
}

/* What the row does not have; nothing where the manifest cannot be read. */
static void add_manifest(struct cli *cli, const struct cat_row *row, json_t *object)
{
	int fd = openat(cat_store_snapshots_fd(cli->store), row->name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	const SnapshotManifest *m;
	struct snapdir d;
	char hex[2 * DIGEST_SIZE + 1];

	if (fd < 0 || proto_snapdir_open_fd(&d, fd, row->name, NULL) < 0)
		return;
	m = d.manifest;
	json_object_set_new(object, "format_version", json_integer(m->version));
	json_object_set_new(object, "name_at_creation", cli_string(m->name_at_creation));
	json_object_set_new(object, "creator", cli_string(m->creator));
	json_object_set_new(object, "state_bytes", cli_number(m->state_size));
	json_object_set_new(object, "memory_digest",
			    json_string(text_format_hex(m->memory_digest.data, DIGEST_SIZE, hex)));
	json_object_set_new(object, "state_digest",
			    json_string(text_format_hex(m->state_digest.data, DIGEST_SIZE, hex)));
	if (m->cpu)
		json_object_set_new(object, "cpu_vendor", cli_string(m->cpu->vendor));
	json_object_set_new(object, "tsc_khz", json_integer(m->tsc_khz));
	if (m->boot && m->boot->kernel)
		json_object_set_new(object, "kernel", cli_string(m->boot->kernel->path));
	if (m->boot && m->boot->initrd)
		json_object_set_new(object, "initrd", cli_string(m->boot->initrd->path));
	if (m->boot)
		json_object_set_new(object, "cmdline", cli_string(m->boot->cmdline));
	add_devices(object, m);
	proto_snapdir_close(&d);
}

static void print_member(const char *key, const json_t *value)
{
	char size[TEXT_SIZE_MAX];
	size_t n = strlen(key);

	printf("%-18s", key);
	if (json_is_integer(value) && n > 6 && strcmp(key + n - 6, "_bytes") == 0)
		printf("%" JSON_INTEGER_FORMAT " (%s)", json_integer_value(value),
		       text_format_size((uint64_t)json_integer_value(value), size));
	else if (json_is_integer(value))
		printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		printf("%.0f", json_real_value(value));
	else if (json_is_string(value))
		printf("%s", json_string_value(value));
	else if (json_array_size(value) == 0)
		printf("-");
	for (size_t i = 0; i < json_array_size(value); i++)
		printf("%s%s", i ? " " : "", json_string_value(json_array_get(value, i)));
	putchar('\n');
}

int cli_show(struct cli *cli, struct err *e)
{
	struct cat_row row;
	json_t *object, *value;
	const char *key;
	char path[512];
	int rc = cat_index_find(cli->store, cli->names[0], &row, e);

	if (rc < 0)
		return rc;
	object = cli_row_json(&row);
	if (!object)
		return err_sys(e, ENOMEM, "cannot show %s", row.name);
	snprintf(path, sizeof(path), "%s/snapshots/%s", cat_store_path(cli->store), row.name);
	json_object_set_new(object, "path", cli_string(path));
	add_manifest(cli, &row, object);
	if (cli->args.json)
		return cli_print_json(object, e);
	json_object_foreach(object, key, value) print_member(key, value);
	json_decref(object);
	return 0;
}
