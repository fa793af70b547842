/* The virtio devices of a machine as messages: see devices.h. */
#define _GNU_SOURCE
#include "devices.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "machine.h"
#include "unix_socket.h"

#define MAC_SIZE 6

enum key_type { KEY_RO, KEY_FILE, KEY_TEXT, KEY_MAC, KEY_CID };

/* One part of an option's value: "name=...", or, without a name, what stands alone. */
struct key {
	const char *name; /* NULL: the value without a name */
	enum key_type type;
	size_t offset; /* of the field in Device */
	bool required; /* when a device is made */
	bool seen;     /* by the guest: cannot be another at a restore */
};

#define KEY(field) offsetof(Device, field)
#define KEYS_MAX   4

static const struct device_option {
	const char *flag, *kind, *prefix;
	size_t offset; /* in struct options: an opt_list, or a bool */
	bool is_flag;
	unsigned max;
	struct key key[KEYS_MAX];
} device_options[] = {
	{ "disk",
	  "virtio-blk",
	  "disk",
	  offsetof(struct options, disk),
	  false,
	  16,
	  { { NULL, KEY_FILE, KEY(path), true, false },
	    { "ro", KEY_RO, KEY(read_only), false, true },
	    { "overlay", KEY_FILE, KEY(overlay), false, false } } },
	{ "net",
	  "virtio-net",
	  "net",
	  offsetof(struct options, net),
	  false,
	  8,
	  { { "tap", KEY_TEXT, KEY(tap), true, false },
	    { "mac", KEY_MAC, KEY(mac), false, true } } },
	{ "pmem",
	  "virtio-pmem",
	  "pmem",
	  offsetof(struct options, pmem),
	  false,
	  8,
	  { { NULL, KEY_FILE, KEY(path), true, false },
	    { "ro", KEY_RO, KEY(read_only), false, true } } },
	{ "rng", "virtio-rng", "rng", offsetof(struct options, rng), true, 1, { { 0 } } },
	{ "vsock",
	  "virtio-vsock",
	  "vsock",
	  offsetof(struct options, vsock),
	  false,
	  1,
	  { { "cid", KEY_CID, KEY(guest_cid), true, false },
	    { "path", KEY_FILE, KEY(path), true, false } } },
	{ "console",
	  "virtio-console",
	  "console",
	  offsetof(struct options, console),
	  false,
	  1,
	  { { "path", KEY_FILE, KEY(path), true, false } } },
	{ "balloon",
	  "virtio-balloon",
	  "balloon",
	  offsetof(struct options, balloon),
	  true,
	  1,
	  { { 0 } } },
};

#define NOPTIONS (sizeof(device_options) / sizeof(device_options[0]))

static bool is_key(const struct key *k)
{
	return k->offset != 0;
}

/* ---- values ---- */

static int set_string(char **field, char *value)
{
	if (!value)
		return -ENOMEM;
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = value;
	return 0;
}

/* Absolute, for the manifest; the file need not be there yet. */
static char *absolute(const char *path)
{
	auto_free char *here = NULL;
	char *all;

	if (path[0] == '/')
		return strdup(path);
	here = getcwd(NULL, 0);
	return here && asprintf(&all, "%s/%s", here, path) >= 0 ? all : NULL;
}

static int set_mac(ProtobufCBinaryData *field, const uint8_t mac[MAC_SIZE])
{
	uint8_t *data = malloc(MAC_SIZE);

	if (!data)
		return -ENOMEM;
	memcpy(data, mac, MAC_SIZE);
	free(field->data);
	*field = (ProtobufCBinaryData){ MAC_SIZE, data };
	return 0;
}

/* Six bytes, each as two digits; neither for a group of cards nor for none. */
static int parse_mac(const char *text, uint8_t mac[MAC_SIZE])
{
	uint8_t any = 0;

	if (strlen(text) != 3 * MAC_SIZE - 1)
		return -EINVAL;
	for (size_t i = 0; i < MAC_SIZE; i++) {
		const char *at = text + 3 * i;
		const char digits[3] = { at[0], at[1] };

		if (strspn(digits, "0123456789abcdefABCDEF") != 2 ||
		    at[2] != (i + 1 < MAC_SIZE ? ':' : '\0'))
			return -EINVAL;
		mac[i] = (uint8_t)strtoul(digits, NULL, 16);
		any |= mac[i];
	}
	return any && !(mac[0] & 1) ? 0 : -EINVAL;
}

/* A value of `option`; `value` is NULL where the key stands alone. */
static int set_key(const struct device_option *option, const struct key *k, Device *d,
		   const char *value, struct err *e)
{
	void *field = (char *)d + k->offset;
	uint8_t mac[MAC_SIZE];
	int rc = 0;

	if (k->type != KEY_RO && (!value || !*value))
		return err_usage(e, EINVAL, "--%s: %s has no value", option->flag,
				 k->name ? k->name : "the path");
	switch (k->type) {
	case KEY_RO:
		*(protobuf_c_boolean *)field = true;
		break;
	case KEY_FILE:
		rc = set_string(field, absolute(value));
		break;
	case KEY_TEXT:
		if (strlen(value) >= IF_NAMESIZE)
			return err_usage(e, EINVAL,
					 "--%s %s=%s: an interface's name has at most %d bytes",
					 option->flag, k->name, value, IF_NAMESIZE - 1);
		rc = set_string(field, strdup(value));
		break;
	case KEY_MAC:
		if (parse_mac(value, mac) < 0)
			return err_usage(e, EINVAL,
					 "--%s mac=%s is not the address of one card, such as "
					 "02:00:00:00:00:01",
					 option->flag, value);
		rc = set_mac(field, mac);
		break;
	case KEY_CID:
		if (text_parse_u64(value, field) < 0 || d->guest_cid < 3 ||
		    d->guest_cid >= UINT32_MAX)
			return err_usage(e, EINVAL,
					 "--%s cid=%s: a guest's is a number from 3 to %u",
					 option->flag, value, UINT32_MAX - 1);
		break;
	}
	return rc < 0 ? err_sys(e, -rc, "--%s", option->flag) : 0;
}

static const struct key *find_key(const struct device_option *option, const char *name)
{
	for (unsigned i = 0; i < KEYS_MAX && is_key(&option->key[i]); i++) {
		const struct key *k = &option->key[i];

		if (name ? k->name && strcmp(k->name, name) == 0 : !k->name)
			return k;
	}
	return NULL;
}

/* Of an option with a path the part may well be the rest of one. */
static int refuse_part(const struct device_option *option, const char *part, struct err *e)
{
	bool has_path = false;

	for (unsigned i = 0; i < KEYS_MAX && is_key(&option->key[i]); i++)
		has_path |= option->key[i].type == KEY_FILE;
	return err_usage(e, EINVAL, "--%s does not know '%s'; %s--help says what it takes",
			 option->flag, part,
			 has_path ? "a path with a comma cannot be given, and " : "");
}

/* One part of a value, between commas; it is cut up. `first`: it may be the value without a name.
 */
static int parse_part(const struct device_option *option, Device *d, char *part, bool first,
		      unsigned *given, struct err *e)
{
	const struct key *alone = find_key(option, NULL);
	char *equals = strchr(part, '=');
	const struct key *k;

	/* The path comes first, and may have a '=' of its own. */
	if (first && alone &&
	    !(equals && equals > part &&
	      (*equals = '\0', k = find_key(option, part), *equals = '=', k))) {
		*given |= 1U << (alone - option->key);
		return set_key(option, alone, d, part, e);
	}
	if (equals)
		*equals++ = '\0';
	k = find_key(option, part);
	if (!k)
		return refuse_part(option, part, e);
	if (k->type == KEY_RO && equals)
		return err_usage(e, EINVAL, "--%s: %s takes no value", option->flag, part);
	if (*given & 1U << (k - option->key))
		return err_usage(e, EINVAL, "--%s: %s is given twice", option->flag, part);
	*given |= 1U << (k - option->key);
	return set_key(option, k, d, equals, e);
}

/* Fills in *d as `value` says; *given: a bit for each key that it has. */
static int parse_value(const struct device_option *option, const char *value, Device *d,
		       unsigned *given, struct err *e)
{
	auto_free char *copy = strdup(value);
	char *rest = copy, *part;
	bool first = true;
	int rc = copy ? 0 : -ENOMEM;

	*given = 0;
	while (rc == 0 && (part = strsep(&rest, ","))) {
		rc = parse_part(option, d, part, first, given, e);
		first = false;
	}
	return rc;
}

/* ---- from the command line ---- */

static int check_required(const struct device_option *option, unsigned given, struct err *e)
{
	for (unsigned i = 0; i < KEYS_MAX && is_key(&option->key[i]); i++)
		if (option->key[i].required && !(given & 1U << i))
			return err_usage(e, EINVAL, "--%s needs %s%s", option->flag,
					 option->key[i].name ? option->key[i].name : "a path",
					 option->key[i].name ? "=..." : "");
	return 0;
}

static int add_device(const struct device_option *option, unsigned index, Machine *machine,
		      Device **out)
{
	Device **more = realloc(machine->device, (machine->n_device + 1) * sizeof(*more));
	Device *d = more ? malloc(sizeof(*d)) : NULL;

	if (more)
		machine->device = more;
	if (!d)
		return -ENOMEM;
	device__init(d);
	machine->device[machine->n_device++] = d;
	d->kind = strdup(option->kind);
	if (asprintf(&d->name, "%s%u", option->prefix, index) < 0)
		d->name = NULL;
	*out = d;
	return d->kind && d->name ? 0 : -ENOMEM;
}

/* A card without an address gets one, which it keeps for life: locally administered. */
static int give_mac(Device *d)
{
	uint8_t mac[MAC_SIZE];

	if (strcmp(d->kind, "virtio-net") != 0 || d->mac.len)
		return 0;
	if (getrandom(mac, sizeof(mac), 0) != sizeof(mac))
		return -EIO;
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02);
	return set_mac(&d->mac, mac);
}

static const struct opt_list *list_of(const struct device_option *option, const struct options *o)
{
	return (const struct opt_list *)((const char *)o + option->offset);
}

static int add_devices(const struct device_option *option, const struct options *o,
		       Machine *machine, struct err *e)
{
	const bool flag = option->is_flag && *((const bool *)o + option->offset);
	const unsigned n = option->is_flag ? flag : list_of(option, o)->n;
	int rc = 0;

	if (n > option->max)
		return err_usage(e, EINVAL, "--%s: a machine has at most %u", option->flag,
				 option->max);
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		unsigned given = 0;
		Device *d;

		if (add_device(option, i, machine, &d) < 0)
			return err_sys(e, ENOMEM, "--%s", option->flag);
		if (!option->is_flag)
			rc = parse_value(option, list_of(option, o)->item[i], d, &given, e);
		if (rc == 0)
			rc = check_required(option, given, e);
		if (rc == 0 && give_mac(d) < 0)
			rc = err_sys(e, EIO, "cannot make an address for %s", d->name);
	}
	return rc;
}

int devices_from_options(const struct options *o, Machine **out, struct err *e)
{
	Machine *machine = malloc(sizeof(*machine));
	int rc = 0;

	if (!machine)
		return err_sys(e, ENOMEM, "cannot describe the machine's devices");
	machine__init(machine);
	for (size_t i = 0; rc == 0 && i < NOPTIONS; i++)
		rc = add_devices(&device_options[i], o, machine, e);
	if (rc == 0 && machine->n_device > MACHINE_VIRTIO_MAX)
		rc = err_usage(e, EINVAL, "%zu virtio devices: a machine has at most %d",
			       machine->n_device, MACHINE_VIRTIO_MAX);
	if (rc < 0) {
		machine__free_unpacked(machine, NULL);
		return rc;
	}
	*out = machine;
	return 0;
}

/* ---- over a snapshot's ---- */

/* The n-th device of a kind, or NULL. */
static Device *find_device(const Machine *machine, const char *kind, unsigned n)
{
	for (size_t i = 0; i < machine->n_device; i++)
		if (strcmp(machine->device[i]->kind, kind) == 0 && n-- == 0)
			return machine->device[i];
	return NULL;
}

/* What the guest has seen of a device is as it was, or was not given at all. */
static int check_seen(const struct device_option *option, const Device *was, const Device *now,
		      unsigned given, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < KEYS_MAX && is_key(&option->key[i]); i++) {
		const struct key *k = &option->key[i];
		bool same = true;

		if (!k->seen || !(given & 1U << i))
			continue;
		if (k->type == KEY_RO)
			same = was->read_only == now->read_only;
		if (k->type == KEY_MAC)
			same = was->mac.len == now->mac.len &&
			       memcmp(was->mac.data, now->mac.data, now->mac.len) == 0;
		if (!same)
			rc = err_also(e, EINVAL,
				      "--%s: %s of %s cannot be another than in the snapshot",
				      option->flag, k->name, was->name);
	}
	return rc;
}

static void swap_strings(char **a, char **b)
{
	char *c = *a;

	*a = *b;
	*b = c;
}

/* Moves what is given from one description to the other. */
static void take_given(const struct device_option *option, Device *to, Device *from, unsigned given)
{
	for (unsigned i = 0; i < KEYS_MAX && is_key(&option->key[i]); i++) {
		const struct key *k = &option->key[i];

		if (!(given & 1U << i))
			continue;
		if (k->type == KEY_FILE || k->type == KEY_TEXT)
			swap_strings((char **)((char *)to + k->offset),
				     (char **)((char *)from + k->offset));
		if (k->type == KEY_CID)
			to->guest_cid = from->guest_cid;
	}
}

static int override(const struct device_option *option, const char *value, Device *d, struct err *e)
{
	Device *fresh = malloc(sizeof(*fresh));
	struct err found = { 0 };
	unsigned keys = 0;
	int rc;

	if (!fresh)
		return err_sys(e, ENOMEM, "--%s", option->flag);
	device__init(fresh);
	rc = parse_value(option, value, fresh, &keys, &found);
	if (rc < 0)
		rc = err_also(e, EINVAL, "%s", found.text);
	if (rc == 0)
		rc = check_seen(option, d, fresh, keys, e);
	if (rc == 0)
		take_given(option, d, fresh, keys);
	device__free_unpacked(fresh, NULL);
	return rc;
}

static int override_kind(const struct device_option *option, const struct options *o,
			 Machine *machine, struct err *e)
{
	const struct opt_list *list = list_of(option, o);
	int rc = 0;

	if (option->is_flag) {
		const bool flag = *((const bool *)o + option->offset);

		return flag && !find_device(machine, option->kind, 0)
			       ? err_also(e, EINVAL, "--%s: the snapshot's machine has none",
					  option->flag)
			       : 0;
	}
	for (unsigned i = 0; i < list->n; i++) {
		Device *d = find_device(machine, option->kind, i);
		int rc2;

		if (d)
			rc2 = override(option, list->item[i], d, e);
		else
			rc2 = err_also(e, EINVAL,
				       "--%s %s: the snapshot's machine has only %u of them",
				       option->flag, list->item[i], i);
		rc = rc < 0 ? rc : rc2;
	}
	return rc;
}

int devices_override(Machine *machine, const struct options *o, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < NOPTIONS; i++) {
		int rc2 = override_kind(&device_options[i], o, machine, e);

		rc = rc < 0 ? rc : rc2;
	}
	return rc;
}

/* ---- the host's side ---- */

static int check_tap(const Device *d, struct err *e)
{
	if (if_nametoindex(d->tap))
		return 0;
	return err_also(
		e, EINVAL,
		"%s: there is no interface %s: make it (ip tuntap add %s mode tap), or give "
		"another by --net tap=NAME",
		d->name, d->tap, d->tap);
}

/* A socket can be made at the path: its folder is there, and nobody listens. */
static int check_socket(const Device *d, struct err *e)
{
	auto_free char *folder = strdup(d->path);
	char *slash = folder ? strrchr(folder, '/') : NULL;
	const char *option = d->kind + strlen("virtio-");
	auto_fd int fd = -1;
	struct stat st;

	if (strlen(d->path) > UNIX_PATH_MAX)
		return err_also(e, EINVAL, "%s: the path %s is longer than %zu bytes", d->name,
				d->path, UNIX_PATH_MAX);
	if (slash)
		slash[slash == folder] = '\0';
	if (slash && access(folder, W_OK | X_OK) < 0)
		return err_also(e, EINVAL,
				"%s: no socket can be made in %s: %s; give another by --%s path=",
				d->name, folder, strerror(errno), option);
	/* As unix_listen() has it: what a server that has gone left there is replaced. */
	fd = unix_connect(d->path);
	if (fd >= 0 || fd == -EAGAIN)
		return err_also(
			e, EINVAL,
			"%s: another program listens at %s; give another path by --%s path=",
			d->name, d->path, option);
	if (lstat(d->path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return err_also(e, EINVAL,
				"%s: %s exists and is no socket; give another path by --%s path=",
				d->name, d->path, option);
	return 0;
}

static bool is_kind(const Device *d, const char *kind)
{
	return strcmp(d->kind, kind) == 0;
}

static bool has_tap(const Device *d)
{
	return is_kind(d, "virtio-net");
}

static bool has_socket(const Device *d)
{
	return is_kind(d, "virtio-vsock") || is_kind(d, "virtio-console");
}

static bool has_file(const Device *d)
{
	return is_kind(d, "virtio-blk") || is_kind(d, "virtio-pmem");
}

/* What it writes to is its own; many can read one file, also below overlays. */
static bool writes_file(const Device *d)
{
	return has_file(d) && !d->read_only && !*d->overlay;
}

static bool writes_overlay(const Device *d)
{
	return has_file(d) && !d->read_only && *d->overlay;
}

/* What two devices cannot share: where one of them is of the first sort, and the other of the
 * second. */
static const struct {
	const char *what;
	size_t offset; /* of its name in Device */
	bool (*owns)(const Device *d), (*uses)(const Device *d);
} alone[] = {
	{ "interface", KEY(tap), has_tap, has_tap },
	{ "path", KEY(path), has_socket, has_socket },
	{ "file", KEY(path), writes_file, has_file },
	{ "overlay", KEY(overlay), writes_overlay, has_file },
};

static bool clash(size_t k, const Device *a, const Device *b)
{
	const char *of_a = *(char *const *)((const char *)a + alone[k].offset);
	const char *of_b = *(char *const *)((const char *)b + alone[k].offset);

	/* An empty one: a snapshot's files. */
	if (!*of_a)
		return false;
	return ((alone[k].owns(a) && alone[k].uses(b)) || (alone[k].owns(b) && alone[k].uses(a))) &&
	       strcmp(of_a, of_b) == 0;
}

/* That device `i` has nothing of the host that one before it has. */
static int check_alone(const Machine *machine, size_t i, struct err *e)
{
	const Device *d = machine->device[i];

	for (size_t k = 0; k < sizeof(alone) / sizeof(alone[0]); k++)
		for (size_t j = 0; j < i; j++)
			if (clash(k, d, machine->device[j]))
				return err_also(e, EINVAL, "%s has the %s %s, which %s has, too",
						d->name, alone[k].what,
						*(char *const *)((const char *)d + alone[k].offset),
						machine->device[j]->name);
	return 0;
}

static const struct {
	const char *kind;
	int (*check)(const Device *d, struct err *e);
} host_checks[] = {
	{ "virtio-net", check_tap },
	{ "virtio-vsock", check_socket },
	{ "virtio-console", check_socket },
};

int devices_check_host(const Machine *machine, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < machine->n_device; i++) {
		for (size_t k = 0; k < sizeof(host_checks) / sizeof(host_checks[0]); k++)
			if (strcmp(machine->device[i]->kind, host_checks[k].kind) == 0 &&
			    host_checks[k].check(machine->device[i], e) < 0)
				rc = -EINVAL;
		if (check_alone(machine, i, e) < 0)
			rc = -EINVAL;
	}
	return rc;
}

bool devices_is_virtio(const Device *d)
{
	for (size_t i = 0; i < NOPTIONS; i++)
		if (strcmp(device_options[i].kind, d->kind) == 0)
			return true;
	return false;
}
