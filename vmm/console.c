/* Standard input and the terminal: see console.h. */
#define _GNU_SOURCE
#include "console.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"

#define CTRL_KEY(c) ((c)&0x1f)
#define BACKSPACE   0x7f
#define PROMPT	    "vmm> "

static void say(const char *text)
{
	fputs(text, stdout);
	fflush(stdout);
}

static void new_prompt(struct console *c)
{
	c->len = 0;
	if (c->terminal && c->prompt)
		say(PROMPT);
}

static void consume(struct console *c);

static void answer(void *client, json_t *j)
{
	struct console *c = client;
	auto_free char *text = monitor_describe(j);

	json_decref(j);
	c->waiting = false;
	if (text)
		say(text);
	new_prompt(c);
	if (!c->running)
		consume(c);
}

static void run_line(struct console *c)
{
	c->line[c->len] = '\0';
	c->waiting = true;
	c->running = true;
	if (!monitor_run(c->monitor, c->line, answer, c)) {
		c->waiting = false;
		new_prompt(c);
	}
	c->running = false;
}

static void switch_prompt(struct console *c)
{
	if (!c->serial)
		return;
	c->prompt = !c->prompt;
	say(c->prompt ? "\n" : "\n(guest)\n");
	new_prompt(c);
}

/* One byte for the prompt. A terminal is raw: echo and erasing are done here. */
static void edit(struct console *c, char ch)
{
	if (ch == '\r' || ch == '\n') {
		if (c->terminal)
			say("\n");
		if (c->len < CONSOLE_LINE - 1) {
			run_line(c);
		} else {
			say("error: the line is too long\n");
			new_prompt(c);
		}
	} else if (c->terminal && (ch == BACKSPACE || ch == '\b')) {
		if (c->len) {
			c->len--;
			say("\b \b");
		}
	} else if (c->terminal && (ch == CTRL_KEY('u') || ch == CTRL_KEY('c'))) {
		say("\n");
		new_prompt(c);
	} else if (c->terminal && ch == CTRL_KEY('d') && c->len == 0) {
		switch_prompt(c);
	} else if (c->len < CONSOLE_LINE - 1 && (unsigned char)ch >= ' ') {
		c->line[c->len++] = ch;
		if (c->terminal)
			say((char[]){ ch, '\0' });
	}
}

static void escape(struct console *c, char ch)
{
	const uint8_t ctrl_a = CTRL_KEY('a');

	c->escape = false;
	if (ch == 'c')
		switch_prompt(c);
	else if (ch == 'x')
		c->monitor->quit = true;
	else if (ch == CTRL_KEY('a') && !c->prompt)
		serial_receive(c->serial, &ctrl_a, 1);
}

/* One byte of input. False: it cannot be taken now. */
static bool take(struct console *c, uint8_t byte)
{
	if (c->escape) { /* also while a save is waited for: one may leave meanwhile */
		escape(c, (char)byte);
	} else if (c->terminal && byte == CTRL_KEY('a')) {
		c->escape = true;
	} else if (c->prompt && c->waiting) {
		return false;
	} else if (c->prompt) {
		edit(c, (char)byte);
	} else if (serial_receive(c->serial, &byte, 1) == 0) {
		return false;
	}
	return true;
}

static void on_stdin(void *arg, uint32_t events);

static void watch(struct console *c, bool on)
{
	if (on == c->watched)
		return;
	if (on)
		c->watched = loop_add(c->loop, STDIN_FILENO, EPOLLIN, on_stdin, c) == 0;
	else
		loop_remove(c->loop, STDIN_FILENO);
	c->watched = on && c->watched;
}

/* Hands on what was read; while some is left, no more is read. */
static void consume(struct console *c)
{
	size_t done = 0;

	while (done < c->npending && take(c, c->pending[done]))
		done++;
	c->npending -= done;
	memmove(c->pending, c->pending + done, c->npending);
	/* An end without a newline is a line too. */
	if (c->ended && !c->npending && c->prompt && c->len && !c->waiting) {
		run_line(c);
		c->len = 0;
	}
	watch(c, !c->ended && c->npending == 0);
}

static void on_stdin(void *arg, uint32_t events)
{
	struct console *c = arg;
	ssize_t n = read(STDIN_FILENO, c->pending, sizeof(c->pending));

	(void)events;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		c->ended = true; /* the machine goes on: it may have a control socket */
	else
		c->npending = (size_t)n;
	consume(c);
}

bool console_waits(const struct console *c)
{
	return c->npending || (!c->watched && !c->ended);
}

void console_poll(struct console *c)
{
	if (c->npending)
		consume(c);
	else if (console_waits(c))
		on_stdin(c, EPOLLIN);
}

static int make_raw(struct console *c)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &c->before) < 0)
		return -errno;
	raw = c->before;
	raw.c_iflag &= ~(tcflag_t)(ICRNL | IXON | ISTRIP | INLCR | IGNCR);
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0 ? -errno : 0;
}

int console_open(struct console *c, struct loop *loop, struct monitor *monitor,
		 struct serial *serial, struct err *e)
{
	int rc;

	*c = (struct console){ .loop = loop, .monitor = monitor, .serial = serial };
	c->prompt = serial == NULL;
	if (isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) != getpgrp()) {
		/* The shell's or another job's: to touch it would stop this process. */
		c->ended = true;
		return 0;
	}
	if (isatty(STDIN_FILENO)) {
		rc = make_raw(c);
		if (rc < 0)
			return err_sys(e, -rc, "cannot set the terminal up");
		c->terminal = true;
		if (serial)
			say("vmm: Ctrl-a c for the prompt, Ctrl-a x to quit\n");
	}
	new_prompt(c);
	watch(c,
	      true); /* a regular file or /dev/null cannot be waited for: console_poll() reads it */
	return 0;
}

void console_close(struct console *c)
{
	if (!c->loop)
		return;
	monitor_forget(c->monitor, c);
	watch(c, false);
	if (c->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &c->before);
	c->terminal = false;
	c->loop = NULL;
}
