/* The -o list and the file mode: see mountopt.h. */
#define _GNU_SOURCE
#include "mountopt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

enum fate {
	PASS,	/* libfuse knows it */
	OURS,	/* of this mount alone */
	DROP,	/* for mount(8) or systemd, or true of this mount anyway */
	REFUSE, /* `why` says why */
};

/* A word that ends with '=' or '-' stands for all that begin with it. */
static const struct {
	const char *word;
	enum fate fate;
	const char *why;
} words[] = {
	{ "allow_other", PASS, NULL },
	{ "allow_root", PASS, NULL },
	{ "noexec", PASS, NULL },
	{ "noatime", PASS, NULL },
	{ "nopassthrough", OURS, NULL },
	{ "noverify", OURS, NULL },
	{ "debug", PASS, NULL },
	{ "context=", PASS, NULL },
	{ "fscontext=", PASS, NULL },
	{ "defcontext=", PASS, NULL },
	{ "rootcontext=", PASS, NULL },
	/* mount.fuse3 adds rw, dev and suid by itself: the mount stays ro,nosuid,nodev. */
	{ "ro", DROP, NULL },
	{ "rw", DROP, NULL },
	{ "suid", DROP, NULL },
	{ "nosuid", DROP, NULL },
	{ "dev", DROP, NULL },
	{ "nodev", DROP, NULL },
	{ "exec", DROP, NULL },
	{ "atime", DROP, NULL },
	{ "relatime", DROP, NULL },
	{ "norelatime", DROP, NULL },
	{ "strictatime", DROP, NULL },
	{ "diratime", DROP, NULL },
	{ "nodiratime", DROP, NULL },
	{ "lazytime", DROP, NULL },
	{ "nolazytime", DROP, NULL },
	{ "sync", DROP, NULL },
	{ "async", DROP, NULL },
	{ "dirsync", DROP, NULL },
	{ "default_permissions", DROP, NULL },
	{ "defaults", DROP, NULL },
	{ "auto", DROP, NULL },
	{ "noauto", DROP, NULL },
	{ "nofail", DROP, NULL },
	{ "_netdev", DROP, NULL },
	{ "user", DROP, NULL },
	{ "user=", DROP, NULL },
	{ "nouser", DROP, NULL },
	{ "users", DROP, NULL },
	{ "owner", DROP, NULL },
	{ "group", DROP, NULL },
	{ "comment=", DROP, NULL },
	{ "x-", DROP, NULL },
	{ "X-", DROP, NULL },
	{ "auto_unmount", REFUSE,
	  "after a crash it leaves an empty directory that looks like deleted snapshots; a dead "
	  "mount is replaced by the next start" },
};

static int find(const char *word, size_t len)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		size_t n = strlen(words[i].word);
		char last = words[i].word[n - 1];
		bool prefix = last == '=' || last == '-';

		if ((prefix ? len >= n : len == n) && memcmp(word, words[i].word, n) == 0)
			return (int)i;
	}
	return -1;
}

/* Appends one word to the comma separated list *list. 0 or -ENOMEM. */
static int append(char **list, const char *word, size_t len)
{
	size_t was = *list ? strlen(*list) : 0;
	char *grown = realloc(*list, was + len + 2);

	if (!grown)
		return -ENOMEM;
	*list = grown;
	if (was)
		grown[was++] = ',';
	memcpy(grown + was, word, len);
	grown[was + len] = '\0';
	return 0;
}

/* 1 to a day. */
static int take_seconds(const char *text, size_t len, unsigned *seconds, struct err *e)
{
	unsigned v = 0;

	for (size_t i = 0; i < len && v <= 86400; i++) {
		if (text[i] < '0' || text[i] > '9')
			v = 86401;
		else
			v = v * 10 + (unsigned)(text[i] - '0');
	}
	if (v == 0 || v > 86400)
		return err_usage(e, EINVAL,
				 "mount option verify_after= takes 1 to 86400 seconds, not '%.*s'",
				 (int)len, text);
	*seconds = v;
	return 0;
}

static int take(struct mount_options *o, const char *word, size_t len, struct err *e)
{
	int i;

	if (len == 0)
		return 0;
	if (len > 5 && memcmp(word, "mode=", 5) == 0) {
		free(o->mode);
		o->mode = strndup(word + 5, len - 5);
		return o->mode ? 0 : -ENOMEM;
	}
	if (len > 13 && memcmp(word, "verify_after=", 13) == 0)
		return take_seconds(word + 13, len - 13, &o->verify_after, e);
	i = find(word, len);
	if (i < 0)
		return err_usage(e, EINVAL, "unknown mount option '%.*s'", (int)len, word);
	if (words[i].fate == REFUSE)
		return err_usage(e, EINVAL, "mount option '%s' is not offered: %s", words[i].word,
				 words[i].why);
	if (strcmp(words[i].word, "nopassthrough") == 0)
		o->nopassthrough = true;
	if (strcmp(words[i].word, "noverify") == 0)
		o->noverify = true;
	if (words[i].fate != PASS)
		return 0;
	if (strncmp(word, "allow_", 6) == 0)
		o->allow_other = true;
	return append(&o->fuse, word, len);
}

int sfs_mountopt_parse(struct mount_options *o, const char *list, struct err *e)
{
	while (list && *list) {
		size_t len = strcspn(list, ",");
		int rc = take(o, list, len, e);

		if (rc < 0)
			return rc;
		list += len + (list[len] == ',');
	}
	return 0;
}

void sfs_mountopt_free(struct mount_options *o)
{
	free(o->fuse);
	free(o->mode);
	*o = (struct mount_options){ 0 };
}

int sfs_mode_parse(const char *text, mode_t *mode, struct err *e)
{
	char *end = NULL;
	unsigned long v;

	/* strtoul takes signs and spaces too; a mode has none. */
	if (strspn(text, "01234567") != strlen(text) || !*text || strlen(text) > 5)
		return err_usage(e, EINVAL,
				 "--mode takes an octal file mode such as 0440, not '%s'", text);
	v = strtoul(text, &end, 8);
	if ((v & ~0444UL) || !(v & 0400))
		return err_usage(e, EINVAL,
				 "--mode gives read permission only, 0400 to 0444, not '%s'", text);
	*mode = (mode_t)v;
	return 0;
}

mode_t sfs_mode_of_dir(mode_t file_mode)
{
	return file_mode | (file_mode & 0444) >> 2;
}
