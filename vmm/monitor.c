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
#include "virtio/balloon.h"
#include "working_set.h"

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

json_t *monitor_string(const char *s)
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
	return json_pack("{s:b, s:o}", "ok", 0, "error", monitor_string(why));
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

static json_t *run_working_set(struct monitor *mon)
{
	struct err e = { 0 };
	uint64_t pages;

	if (mon->save.phase != SAVE_IDLE)
		return failed("a save is under way: wait until it is done");
	if (working_set_keep(mon->machine, mon->save.publisher, &pages, &e) < 0)
		return failed(e.text);
	return json_pack("{s:b, s:I}", "ok", 1, "pages", (json_int_t)pages);
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

static json_t *run_balloon(struct monitor *mon, const char *size)
{
	struct virtio *balloon = NULL;
	struct err e = { 0 };
	uint64_t bytes;

	for (unsigned i = 0; i < mon->machine->nvirtio; i++)
		if (mon->machine->virtio[i]->ops == &virtio_balloon_ops)
			balloon = mon->machine->virtio[i];
	if (!balloon)
		return failed("this machine has no balloon: it is booted with --balloon");
	if (text_parse_size(size, &bytes) < 0)
		return failed("balloon takes a size such as 512M or 2G: balloon SIZE");
	return virtio_balloon_set_target(balloon, bytes, &e) < 0 ? failed(e.text) : done();
}

static json_t *run_help(struct monitor *mon);

/* RAM that was copied, and not just frozen: how much that was. */
static void add_copied(json_t *answer, const struct save_result *r)
{
	json_object_set_new(answer, "layer", json_boolean(r->layer));
	json_object_set_new(answer, "pages_changed", json_integer((json_int_t)r->pages_changed));
	json_object_set_new(answer, "rounds", json_integer((json_int_t)r->rounds));
	json_object_set_new(answer, "written_bytes", json_integer((json_int_t)r->bytes_written));
	json_object_set_new(answer, "pages_in_pause", json_integer((json_int_t)r->pages_left));
}

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
		answer = json_pack("{s:b, s:s, s:o, s:o, s:I, s:s}", "ok", 1, "id",
				   uuid_format(result->id, id), "name",
				   monitor_string(mon->save_name), "path",
				   monitor_string(result->path), "pause_us",
				   (json_int_t)(result->pause_ns / 1000), "freeze", result->freeze);
		if (result->copied)
			add_copied(answer, result);
		if (*result->notices)
			json_object_set_new(answer, "notice", monitor_string(result->notices));
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

/* All but save-snapshot, which answers later. A command has one of the two calls. */
static const struct {
	const char *name;
	json_t *(*run)(struct monitor *mon);
	json_t *(*run_with)(struct monitor *mon, const char *argument); /* "": none is given */
	const char *argument;
	const char *help;
} commands[] = {
	{ "pause", run_pause, NULL, NULL, "stop the guest" },
	{ "resume", run_resume, NULL, NULL, "let the guest go on" },
	{ "shutdown", run_shutdown, NULL, NULL, "press the guest's power button" },
	{ "balloon", NULL, run_balloon, "SIZE",
	  "how much memory the balloon is to take from the guest; 0 gives all back" },
	{ "working-set", run_working_set, NULL, NULL,
	  "note beside the snapshot which pages the restored guest has touched" },
	{ "status", monitor_status, NULL, NULL, "what the machine is doing" },
	{ "quit", run_quit, NULL, NULL, "end the machine and vmm" },
	{ "help", run_help, NULL, NULL, "this list" },
};

static json_t *run_help(struct monitor *mon)
{
	json_t *j = done();
	json_t *list = json_object();
	char call[64];

	(void)mon;
	json_object_set_new(list, "save-snapshot NAME",
			    json_string("save the machine under this name, or to a directory if "
					"NAME has a '/'; also: snap NAME"));
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const char *argument = commands[i].argument;

		snprintf(call, sizeof(call), "%s%s%s", commands[i].name, argument ? " " : "",
			 argument ? argument : "");
		json_object_set_new(list, call, json_string(commands[i].help));
	}
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
		if (commands[i].run_with)
			answer(client, commands[i].run_with(mon, argument));
		else if (*argument)
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

/* A guest may reset itself a hundred times a second: that is one line a second. */
static void tell_reset(struct monitor *mon)
{
	struct timespec ts;
	int64_t now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = ts.tv_sec * 1000000000LL + ts.tv_nsec;
	mon->resets++;
	mon->resets_untold++;
	if (mon->reset_told_ns && now - mon->reset_told_ns < 1000000000)
		return;
	if (mon->resets_untold > 1)
		log_info("the guest asked for a reset: it boots again (%llu times since the last "
			 "line of this)",
			 (unsigned long long)mon->resets_untold);
	else
		log_info("the guest asked for a reset: it boots again");
	mon->reset_told_ns = now;
	mon->resets_untold = 0;
}

static void on_reset(struct monitor *mon)
{
	struct machine *m = mon->machine;
	struct err e = { 0 };
	int rc;

	machine_hold(m, HOLD_RESET);
	rc = machine_boot(m, &e);
	if (rc == 0) {
		tell_reset(mon);
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

static bool ends_with(const char *s, const char *end)
{
	const size_t n = strlen(s), m = strlen(end);

	return n >= m && strcmp(s + n - m, end) == 0;
}

/* The members of an object that is itself within one: all on one line. */
static void describe_row(FILE *f, json_t *object)
{
	const char *key, *comma = "";
	json_t *value;

	json_object_foreach(object, key, value)
	{
		auto_free char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		fprintf(f, "%s%s ", comma, key);
		fputs(json_is_string(value) ? json_string_value(value) : text ? text : "?", f);
		comma = ", ";
	}
}

static void describe_value(FILE *f, const char *key, json_t *value)
{
	char size[TEXT_SIZE_MAX];

	if (json_is_object(value)) {
		describe_row(f, value);
	} else if (json_is_integer(value) && ends_with(key, "_bytes")) {
		const json_int_t n = json_integer_value(value);

		fprintf(f, "%lld (%s)", (long long)n, text_format_size((uint64_t)n, size));
	} else if (json_is_string(value)) {
		fputs(json_string_value(value), f);
	} else {
		auto_free char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		fputs(text ? text : "?", f);
	}
}

static void describe_list(FILE *f, json_t *list)
{
	json_t *value;
	size_t i;

	json_array_foreach(list, i, value)
	{
		fprintf(f, "  %zu: ", i);
		describe_value(f, "", value);
		fputc('\n', f);
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
		if (json_is_array(value) || (json_is_object(value) && !*indent)) {
			fputc('\n', f);
			if (json_is_array(value))
				describe_list(f, value);
			else
				describe_members(f, value, "  ");
			continue;
		}
		describe_value(f, key, value);
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
