/*
 * What `status` tells: the machine's state, what it has counted, its memory, and
 * whether it could be saved now. See monitor.h.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <string.h>
#include <time.h>

#include "virtio/balloon.h"

static const char *state_word(unsigned holds)
{
	if (holds & HOLD_FAULT)
		return "host-memory-fault";
	if (holds & HOLD_USER)
		return "paused";
	return "running";
}

static void add_count(json_t *j, const char *name, const uint64_t *count)
{
	json_object_set_new(j, name,
			    json_integer((json_int_t)__atomic_load_n(count, __ATOMIC_RELAXED)));
}

/* The exits of vCPUs `from` up to `to`, by kind. */
static json_t *exits_of(const struct machine *m, unsigned from, unsigned to)
{
	static const char *const names[COUNT_KINDS] = { "io", "mmio", "interrupted", "other" };
	json_t *j = json_object();

	for (unsigned k = 0; k < COUNT_KINDS; k++) {
		uint64_t sum = 0;

		for (unsigned i = from; i < to; i++)
			sum += __atomic_load_n(&m->cpu[i].exits[k], __ATOMIC_RELAXED);
		add_count(j, names[k], &sum);
	}
	return j;
}

static json_t *exits_by_vcpu(const struct machine *m)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < m->ncpus; i++)
		json_array_append_new(list, exits_of(m, i, i + 1));
	return list;
}

static void add_virtio(json_t *j, const struct virtio *v)
{
	add_count(j, "kicks", &v->kicks);
	add_count(j, "requests", &v->requests);
	add_count(j, "interrupts", &v->interrupts);
	add_count(j, "bytes_out", &v->bytes_out);
	add_count(j, "bytes_in", &v->bytes_in);
	add_count(j, "errors", &v->errors);
}

static void add_balloon(json_t *j, struct virtio *v)
{
	struct balloon_status s;

	virtio_balloon_get_status(v, &s);
	json_object_set_new(j, "target_bytes", json_integer((json_int_t)s.target));
	json_object_set_new(j, "actual_bytes", json_integer((json_int_t)s.actual));
	json_object_set_new(j, "discarded_bytes", json_integer((json_int_t)s.discarded));
	json_object_set_new(j, "kept_bytes", json_integer((json_int_t)s.kept));
	json_object_set_new(j, "ignored", json_integer((json_int_t)s.ignored));
}

static json_t *describe_device(struct vdev *d)
{
	json_t *j = json_pack("{s:s}", "kind", d->kind);

	if (strncmp(d->kind, "virtio-", 7) == 0) {
		add_virtio(j, virtio_of(d));
		if (virtio_of(d)->ops == &virtio_balloon_ops)
			add_balloon(j, virtio_of(d));
	} else if (d->ops == &serial_ops) {
		const struct serial *s = (const struct serial *)d;

		add_count(j, "bytes_out", &s->bytes_out);
		add_count(j, "bytes_in", &s->bytes_in);
	}
	return j;
}

void monitor_add_devices(json_t *devices, struct machine *m)
{
	struct vdev *list[MACHINE_DEVICES_MAX];
	unsigned n = machine_devices(m, list, MACHINE_DEVICES_MAX);

	for (unsigned i = 0; i < n; i++)
		if (list[i]->ops)
			json_object_set_new(devices, list[i]->name, describe_device(list[i]));
}

static const char *backing_word(const struct ram *ram)
{
	switch (ram->backing) {
	case RAM_SHARED:
		return "file";
	case RAM_PRIVATE:
		return "private mapping";
	case RAM_MEMFD:
		return "anonymous";
	}
	return "?";
}

static void add_fault(struct machine *m, json_t *j)
{
	struct memory_fault fault;

	if (!(machine_holds(m) & HOLD_FAULT))
		return;
	pthread_mutex_lock(&m->lock);
	fault = m->fault;
	pthread_mutex_unlock(&m->lock);
	json_object_set_new(j, "fault", json_string(fault.form));
	if (fault.address != UINT64_MAX)
		json_object_set_new(j, "fault_address", json_integer((json_int_t)fault.address));
}

static void add_memory(json_t *j, const struct ram *ram)
{
	uint64_t resident, own;

	json_object_set_new(j, "memory_bytes", json_integer((json_int_t)ram->size));
	json_object_set_new(j, "memory_backing", json_string(backing_word(ram)));
	if (ram_usage(ram, &resident, &own) < 0)
		return;
	json_object_set_new(j, "memory_resident_bytes", json_integer((json_int_t)resident));
	json_object_set_new(j, "memory_private_bytes", json_integer((json_int_t)own));
}

/* Whether the machine can be saved now, and all that stands in the way. */
static void add_can_save(json_t *j, struct save *s)
{
	struct err e = { 0 };
	char *rest = e.text, *line;
	const bool can = save_possible(s, &e) == 0;
	json_t *reasons = json_array();

	while ((line = strsep(&rest, "\n")))
		if (*line)
			json_array_append_new(reasons, monitor_string(line));
	json_object_set_new(j, "can_save", json_boolean(can));
	if (can)
		json_decref(reasons);
	else
		json_object_set_new(j, "cannot_save_because", reasons);
}

json_t *monitor_status(struct monitor *mon)
{
	struct machine *m = mon->machine;
	char parent[UUID_TEXT_MAX];
	struct timespec now;
	json_t *j = json_pack("{s:b}", "ok", 1), *devices = json_object();
	int64_t pages;

	clock_gettime(CLOCK_MONOTONIC, &now);
	json_object_set_new(j, "state", json_string(state_word(machine_holds(m))));
	add_fault(m, j);
	json_object_set_new(j, "uptime_seconds", json_integer(now.tv_sec - m->started.tv_sec));
	json_object_set_new(j, "resets", json_integer((json_int_t)mon->resets));
	add_memory(j, &m->ram);
	json_object_set_new(j, "vcpus", json_integer(m->ncpus));
	json_object_set_new(j, "exits", exits_of(m, 0, m->ncpus));
	json_object_set_new(j, "exits_by_vcpu", exits_by_vcpu(m));
	json_object_set_new(j, "devices", devices);
	monitor_add_devices(devices, m);
	pages = vm_stat(&m->vm, "pages_4k");
	if (pages >= 0) /* page-table pages that KVM keeps for the guest; not every KVM tells */
		json_object_set_new(j, "pages_4k", json_integer(pages));
	if (m->base.exists)
		json_object_set_new(j, "parent", json_string(uuid_format(m->base.id, parent)));
	json_object_set_new(j, "save",
			    json_string(mon->save.phase == SAVE_IDLE ? "none" : "under way"));
	if (mon->save.phase == SAVE_PUBLISHING) {
		json_object_set_new(j, "save_pause_us",
				    json_integer((json_int_t)(mon->save.pause_ns / 1000)));
		json_object_set_new(j, "save_freeze", json_string(mon->save.keep.way));
	}
	if (mon->save.phase == SAVE_PUBLISHING && mon->save.bytes_total) {
		json_object_set_new(j, "save_bytes_done",
				    json_integer((json_int_t)mon->save.bytes_done));
		json_object_set_new(j, "save_bytes_total",
				    json_integer((json_int_t)mon->save.bytes_total));
	}
	add_can_save(j, &mon->save);
	return j;
}
