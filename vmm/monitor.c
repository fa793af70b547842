/* The commands of a running vmm: see monitor.h. */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"

void monitor_init(struct monitor *mon, struct machine *m, struct publisher *p)
{
	*mon = (struct monitor){ .machine = m };
	save_init(&mon->save, m, p);
}

/* ---- answers ---- */

static json_t *done(void)
{
	return json_pack("{s:b}", "ok", 1);
}

/*
 * json_string() refuses what is not UTF-8; a name or path may be anything. Its
 * bytes beyond ASCII are shown as question marks then.
 */
static json_t *any_string(const char *s)
{
	json_t *j = json_string(s);
	auto_free char *ascii = j ? NULL : strdup(s);

	if (!ascii)
		return j;
	for (char *p = ascii; *p; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(ascii);
}

static json_t *failed(const char *why)
{
	return json_pack("{s:b, s:o}", "ok", 0, "error", any_string(why));
}

static const char *state_word(unsigned holds)
{
	if (holds & HOLD_FAULT)
		return "host-memory-fault";
	if (holds & HOLD_USER)
		return "paused";
	return "running";
}

/* ---- commands ---- */

static json_t *run_pause(struct monitor *mon)
{
	machine_hold(mon->machine, HOLD_USER);
	machine_tell_paused(mon->machine);
	return done();
}

static json_t *run_resume(struct monitor *mon)
{
	/* A vCPU that stands at a page that could not be had tries again by this. */
	machine_release(mon->machine, HOLD_USER | HOLD_FAULT);
	return done();
}

static json_t *exits_of(const struct machine *m)
{
	static const char *const names[COUNT_KINDS] = { "io", "mmio", "interrupted", "other" };
	json_t *j = json_object();

	for (unsigned k = 0; k < COUNT_KINDS; k++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < m->ncpus; i++)
			sum += __atomic_load_n(&m->cpu[i].exits[k], __ATOMIC_RELAXED);
		json_object_set_new(j, names[k], json_integer((json_int_t)sum));
	}
	return j;
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

static json_t *run_status(struct monitor *mon)
{
	struct machine *m = mon->machine;
	char parent[UUID_TEXT_MAX];
	struct timespec now;
	json_t *j = done();
	int64_t pages;

	clock_gettime(CLOCK_MONOTONIC, &now);
	json_object_set_new(j, "state", json_string(state_word(machine_holds(m))));
	add_fault(m, j);
	json_object_set_new(j, "uptime_seconds", json_integer(now.tv_sec - m->started.tv_sec));
	json_object_set_new(j, "memory_bytes", json_integer((json_int_t)m->ram.size));
	json_object_set_new(j, "memory_backing", json_string(backing_word(&m->ram)));
	json_object_set_new(j, "vcpus", json_integer(m->ncpus));
	json_object_set_new(j, "exits", exits_of(m));
	pages = vm_stat(&m->vm, "pages_4k");
	if (pages >= 0) /* page-table pages that KVM keeps for the guest; not every KVM tells */
		json_object_set_new(j, "pages_4k", json_integer(pages));
	if (m->has_parent)
		json_object_set_new(j, "parent", json_string(uuid_format(m->parent, parent)));
	json_object_set_new(j, "save",
			    json_string(mon->save.phase == SAVE_IDLE ? "none" : "under way"));
	if (mon->save.phase == SAVE_PUBLISHING && mon->save.bytes_total) {
		json_object_set_new(j, "save_bytes_done",
				    json_integer((json_int_t)mon->save.bytes_done));
		json_object_set_new(j, "save_bytes_total",
				    json_integer((json_int_t)mon->save.bytes_total));
	}
	return j;
}

static json_t *run_shutdown(struct monitor *mon)
{
	if (mon->machine->boot.kind != BOOT_KIND__BOOT_LINUX)
		return failed("this guest knows no power button: end it with quit");
	power_raise(&mon->machine->power, POWER_EVENT_BUTTON);
	return done();
}

static json_t *run_quit(struct monitor *mon)
{
	mon->quit = true;
	return done();
}

static json_t *run_help(struct monitor *mon);

static void on_saved(void *arg, int rc, const struct save_result *result, const struct err *e)
{
	struct monitor *mon = arg;
	void *client = mon->save_client;
	char id[UUID_TEXT_MAX];
	json_t *answer;

	/* Forgotten first: the client may go on with a line that saves again. */
	mon->save_client = NULL;
	if (rc < 0) {
		answer = failed(*e->text ? e->text : strerror(-rc));
		log_error("%s was not saved: %s", mon->save_name, e->text);
	} else {
		answer = json_pack("{s:b, s:s, s:o, s:o, s:I}", "ok", 1, "id",
				   uuid_format(result->id, id), "name", any_string(mon->save_name),
				   "path", any_string(result->path), "pause_us",
				   (json_int_t)(result->pause_ns / 1000));
		if (*result->notices)
			json_object_set_new(answer, "notice", any_string(result->notices));
	}
	if (client)
		mon->save_answer(client, answer);
	else
		json_decref(answer);
}

static void run_save(struct monitor *mon, const char *name, monitor_answer_fn answer, void *client)
{
	struct err e = { 0 };
	int rc;

	if (!*name) {
		answer(client, failed("save-snapshot takes a name: save-snapshot NAME"));
		return;
	}
	if (mon->save.phase == SAVE_IDLE)
		snprintf(mon->save_name, sizeof(mon->save_name), "%s", name);
	rc = save_start(&mon->save, name, on_saved, mon, &e);
	if (rc < 0) {
		answer(client, failed(e.text));
		return;
	}
	mon->save_client = client;
	mon->save_answer = answer;
}

/* All but save-snapshot, which answers later. */
static const struct {
	const char *name;
	json_t *(*run)(struct monitor *mon);
	const char *help;
} commands[] = {
	{ "pause", run_pause, "stop the guest" },
	{ "resume", run_resume, "let the guest go on" },
	{ "shutdown", run_shutdown, "press the guest's power button" },
	{ "status", run_status, "what the machine is doing" },
	{ "quit", run_quit, "end the machine and vmm" },
	{ "help", run_help, "this list" },
};

static json_t *run_help(struct monitor *mon)
{
	json_t *j = done();
	json_t *list = json_object();

	(void)mon;
	json_object_set_new(list, "save-snapshot NAME",
			    json_string("save the machine under this name, or to a directory if "
					"NAME has a '/'; also: snap NAME"));
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		json_object_set_new(list, commands[i].name, json_string(commands[i].help));
	json_object_set_new(j, "commands", list);
	return j;
}

static char *trimmed(const char *line)
{
	size_t n;

	line += strspn(line, " \t\r\n");
	n = strlen(line);
	while (n && strchr(" \t\r\n", line[n - 1]))
		n--;
	return strndup(line, n);
}

bool monitor_run(struct monitor *mon, const char *line, monitor_answer_fn answer, void *client)
{
	auto_free char *text = trimmed(line);
	const char *argument;
	size_t n;

	if (!text || !*text)
		return false;
	n = strcspn(text, " \t");
	argument = text + n + strspn(text + n, " \t");
	if ((n == 13 && memcmp(text, "save-snapshot", n) == 0) ||
	    (n == 4 && memcmp(text, "snap", n) == 0)) {
		run_save(mon, argument, answer, client);
		return true;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strlen(commands[i].name) != n || memcmp(text, commands[i].name, n) != 0)
			continue;
		if (*argument)
			answer(client, failed("this command takes no argument"));
		else
			answer(client, commands[i].run(mon));
		return true;
	}
	answer(client, failed("unknown command; `help` lists them"));
	return true;
}

void monitor_forget(struct monitor *mon, void *client)
{
	if (mon->save_client == client)
		mon->save_client = NULL;
}

/* ---- what the guest does ---- */

static void end(struct monitor *mon, int status)
{
	mon->quit = true;
	mon->status = status;
}

static void on_reset(struct monitor *mon)
{
	struct machine *m = mon->machine;
	struct err e = { 0 };
	int rc;

	machine_hold(m, HOLD_RESET);
	rc = machine_boot(m, &e);
	if (rc == 0) {
		log_info("the guest asked for a reset: it boots again");
		machine_release(m, HOLD_RESET);
		return;
	}
	log_info("the guest asked for a reset, and what it booted from cannot be loaded again: %s",
		 e.text);
	end(mon, STATUS_DONE);
}

static void on_fault(struct monitor *mon)
{
	struct machine *m = mon->machine;
	struct memory_fault fault;
	char page[64] = "KVM does not tell which page";

	machine_hold(m, HOLD_FAULT);
	machine_tell_paused(m);
	pthread_mutex_lock(&m->lock);
	fault = m->fault;
	pthread_mutex_unlock(&m->lock);
	if (fault.address != UINT64_MAX)
		snprintf(page, sizeof(page), "the page at guest address 0x%llx",
			 (unsigned long long)(fault.address & ~(RAM_PAGE - 1)));
	log_error(
		"host-memory-fault: the host cannot give guest RAM (%s; %s). The guest is paused: "
		"mend the file or disk under its RAM, then `resume`",
		page, fault.form);
}

void monitor_on_machine_event(struct monitor *mon)
{
	struct machine *m = mon->machine;
	unsigned events = machine_take_events(m);

	if (events & EVENT_FAILED) {
		pthread_mutex_lock(&m->lock);
		log_error("the guest cannot go on: %s", m->failure);
		pthread_mutex_unlock(&m->lock);
		end(mon, STATUS_ENVIRONMENT);
		return;
	}
	if (events & EVENT_POWER_OFF) {
		log_info("the guest has powered off");
		end(mon, STATUS_DONE);
		return;
	}
	if (events & EVENT_FAULT)
		on_fault(mon);
	if (events & EVENT_RESET)
		on_reset(mon);
}

/* ---- for people ---- */

static void describe_value(FILE *f, const json_t *value)
{
	if (json_is_string(value)) {
		fputs(json_string_value(value), f);
	} else {
		auto_free char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		fputs(text ? text : "?", f);
	}
}

static void describe_members(FILE *f, json_t *object, const char *indent)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (strcmp(key, "ok") == 0)
			continue;
		fprintf(f, "%s%s: ", indent, key);
		if (json_is_object(value)) {
			fputc('\n', f);
			describe_members(f, value, "  ");
			continue;
		}
		describe_value(f, value);
		fputc('\n', f);
	}
}

char *monitor_describe(const json_t *answer)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	if (json_object_size(answer) == 1 && json_is_true(json_object_get(answer, "ok")))
		fputs("done\n", f);
	else
		describe_members(f, (json_t *)(uintptr_t)answer, "");
	fclose(f);
	return text;
}
