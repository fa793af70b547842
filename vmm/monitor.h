/*
 * The commands of a running vmm: what its console and its control socket offer.
 * Main thread only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "loop.h"
#include "save.h"

struct monitor {
	struct machine *machine;
	struct save save;
	bool quit;	   /* the main loop ends */
	int status;	   /* exit status then */
	void *save_client; /* whom the running save answers, NULL: nobody any more */
	void (*save_answer)(void *client, json_t *answer);
	char save_name[256];
	uint64_t resets;	/* since vmm was started */
	uint64_t resets_untold; /* of these, since the last line about it */
	int64_t reset_told_ns;
};

/* Takes one answer, an object with "ok": true or "error": "...", and owns it. */
typedef void (*monitor_answer_fn)(void *client, json_t *answer);

void monitor_init(struct monitor *mon, struct machine *m, struct publisher *p);

/*
 * Runs one line. `answer` is called once, now or (of a save) later; never when
 * the line is empty (then it returns false).
 */
bool monitor_run(struct monitor *mon, const char *line, monitor_answer_fn answer, void *client);

/* The client has gone: what it asked for goes on, nobody is answered. */
void monitor_forget(struct monitor *mon, void *client);

/* Handles what the vCPU threads posted. */
void monitor_on_machine_event(struct monitor *mon);

/* The answer to `status`. */
json_t *monitor_status(struct monitor *mon);

/*
 * A string of any bytes: json_string() refuses what is not UTF-8, while a name or
 * path may be anything. Its bytes beyond ASCII become question marks then.
 */
json_t *monitor_string(const char *s);

/*
 * Adds what `status` tells of the devices: an object for each by its name, with
 * its kind and what it has counted.
 */
void monitor_add_devices(json_t *devices, struct machine *m);

/* An answer as lines for people, the caller's to free. */
char *monitor_describe(const json_t *answer);
