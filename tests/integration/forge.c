/*
 * forge MANIFEST FIELD=VALUE...: rewrites fields of a manifest.bin in place, with
 * a digest that is right for it: what a machine of another kind would have saved.
 *
 * Fields: version, architecture, page_size, memory_size, vcpus, state_size.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/manifest.h"

static int die(const char *what)
{
	fprintf(stderr, "forge: %s\n", what);
	exit(1);
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
	else if (strcmp(field, "architecture") == 0)
		m->architecture = value;
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	static uint8_t in[MANIFEST_MAX];
	SnapshotManifest *m;
	uint8_t *out;
	size_t len;
	FILE *f = argc > 2 ? fopen(argv[1], "rb") : NULL;

	if (!f)
		die("usage: forge MANIFEST FIELD=VALUE...");
	len = fread(in, 1, sizeof(in), f);
	fclose(f);
	m = snapshot_manifest__unpack(NULL, len, in);
	if (!m)
		die("that is no manifest");
	for (int i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (value)
			*value++ = '\0';
		if (!value || !set(m, argv[i], value))
			die("no such field");
	}
	if (proto_manifest_encode(m, &out, &len, NULL) < 0)
		die("cannot encode it");
	remove(argv[1]);
	f = fopen(argv[1], "wb");
	if (!f || fwrite(out, len, 1, f) != 1 || fclose(f) != 0)
		die("cannot write it");
	/* The process ends: what the message shares with argv makes it impossible to free. */
	free(out);
	return 0;
}
