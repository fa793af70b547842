/*
 * Standard input and the terminal.
 *
 * On a terminal, with --serial stdio, the guest's serial line is the terminal
 * (raw). Ctrl-a c switches to the "vmm>" prompt and back, Ctrl-a x quits,
 * Ctrl-a Ctrl-a is Ctrl-a. Standard input that is no terminal goes to the
 * guest as it is. Where the serial line is elsewhere, standard input is the
 * prompt, on a terminal or a pipe. The terminal of another job (vmm started with
 * '&') is left alone. Main thread only.
 */
#pragma once

#include <termios.h>

#include "loop.h"
#include "monitor.h"

#define CONSOLE_LINE 1024

struct console {
	struct loop *loop;
	struct monitor *monitor;
	struct serial *serial; /* where input goes, NULL: the prompt only */
	bool terminal;	       /* standard input is one, and raw */
	bool prompt;	       /* input is for the prompt now */
	bool escape;	       /* Ctrl-a was typed */
	bool watched;	       /* standard input is in the loop */
	bool waiting;	       /* for the answer of a save */
	bool running, ended;   /* a line is being run; standard input has ended */
	struct termios before; /* the terminal, as it was found */
	size_t len, npending;
	char line[CONSOLE_LINE];
	uint8_t pending[CONSOLE_LINE]; /* read, and not yet taken by the guest or the prompt */
};

/* Takes standard input over. `serial`: NULL where the serial line is not stdio. */
int console_open(struct console *c, struct loop *loop, struct monitor *monitor,
		 struct serial *serial, struct err *e);

/* Gives the terminal back as it was. Safe to call twice. */
void console_close(struct console *c);

/*
 * Goes on with input that did not fit or cannot be waited for (a regular file).
 * To be called soon again while console_waits().
 */
void console_poll(struct console *c);
bool console_waits(const struct console *c);
