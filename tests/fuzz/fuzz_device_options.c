/*
 * The options that ask for virtio devices. Input: lines, the first letter of each
 * says which option, the rest is its value; behind an empty line those that are
 * put over the devices of the first ones, as at a restore.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/devices.h"

static void add(struct opt_list *list, const char *value)
{
	if (list->n < OPT_LIST_MAX)
		list->item[list->n++] = value;
}

static void take_line(struct options *o, const char *line)
{
	switch (*line) {
	case 'd':
		add(&o->disk, line + 1);
		break;
	case 'n':
		add(&o->net, line + 1);
		break;
	case 'p':
		add(&o->pmem, line + 1);
		break;
	case 'v':
		add(&o->vsock, line + 1);
		break;
	case 'c':
		add(&o->console, line + 1);
		break;
	case 'r':
		o->rng = true;
		break;
	case 'b':
		o->balloon = true;
		break;
	}
}

/* What is made is whole, and the manifest can have it. */
static void check(const Machine *m)
{
	auto_free uint8_t *buf = malloc(machine__get_packed_size(m) + 1);
	Machine *again;

	MUST(buf);
	for (size_t i = 0; i < m->n_device; i++) {
		const Device *d = m->device[i];

		MUST(devices_is_virtio(d) && *d->name);
		MUST(d->mac.len == 0 || (d->mac.len == 6 && !(d->mac.data[0] & 1)));
		MUST(!*d->path || *d->path == '/');
		MUST(!*d->overlay || *d->overlay == '/');
		MUST(strlen(d->tap) < 16);
		MUST((strcmp(d->kind, "virtio-vsock") == 0) == (d->guest_cid >= 3));
	}
	again = machine__unpack(NULL, machine__pack(m, buf), buf);
	MUST(again && again->n_device == m->n_device);
	machine__free_unpacked(again, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	struct options made = { 0 }, over = { 0 }, *o = &made;
	char *rest = text, *line;
	struct err e = { 0 };
	Machine *m = NULL;
	int rc;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			o = &over;
		take_line(o, line);
	}
	rc = devices_from_options(&made, &m, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	MUST((rc == 0) == (m != NULL));
	if (!m)
		return 0;
	check(m);
	rc = devices_override(m, &over, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	check(m);
	machine__free_unpacked(m, NULL);
	return 0;
}
