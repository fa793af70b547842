/*
 * snapctl tree: which snapshot was saved after which. A parent that is gone stays as an
 * id, with those that came of it below. Whatever hostile manifests say, each snapshot is
 * drawn once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "catalog/cli.h"

/* Of lines deeper than this the indentation does not grow. */
#define PREFIX_MAX 512

struct node {
	struct cat_row row; /* of one that is gone: its id alone */
	bool is_gone, drawn;
	struct node *child, **last; /* the first, and where the next one goes */
	struct node *next;	    /* of the same parent */
};

struct lineage {
	struct node **node; /* owned; as listed, then those that are gone */
	size_t n, room;
};

static struct node *add(struct lineage *l, const struct cat_row *row)
{
	struct node *n = calloc(1, sizeof(*n));

	if (n && l->n == l->room) {
		const size_t room = l->room ? 2 * l->room : 64;
		void *v = reallocarray(l->node, room, sizeof(*l->node));

		if (!v) {
			free(n);
			return NULL;
		}
		l->node = v;
		l->room = room;
	}
	if (!n)
		return NULL;
	n->row = *row;
	n->last = &n->child;
	return l->node[l->n++] = n;
}

static int add_row(void *arg, const struct cat_row *row)
{
	return add(arg, row) ? 0 : -ENOMEM;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct node *const *)a)->row.name, (*(struct node *const *)b)->row.name);
}

static struct node *find_name(struct node **sorted, size_t n, const char *name)
{
	struct node key, *at = &key, **found;

	snprintf(key.row.name, sizeof(key.row.name), "%s", name);
	found = bsearch(&at, sorted, n, sizeof(at), by_name);
	return found ? *found : NULL;
}

/* The one that stands for a parent that is gone. */
static struct node *find_gone(struct lineage *l, size_t rows, const uint8_t id[UUID_SIZE])
{
	struct cat_row row = { 0 };
	struct node *n;

	for (size_t i = rows; i < l->n; i++)
		if (memcmp(l->node[i]->row.id, id, UUID_SIZE) == 0)
			return l->node[i];
	memcpy(row.id, id, UUID_SIZE);
	n = add(l, &row);
	if (n)
		n->is_gone = true;
	return n;
}

/* Puts each below its parent. */
static int connect(struct lineage *l)
{
	const size_t rows = l->n;
	struct node **sorted = calloc(rows ? rows : 1, sizeof(struct node *));
	int rc = sorted ? 0 : -ENOMEM;

	if (sorted && rows) {
		memcpy(sorted, l->node, rows * sizeof(*sorted));
		qsort(sorted, rows, sizeof(*sorted), by_name);
	}
	for (size_t i = 0; rc == 0 && i < rows; i++) {
		struct node *n = l->node[i], *parent;

		if (!n->row.has_parent)
			continue;
		parent = *n->row.parent_name ? find_name(sorted, rows, n->row.parent_name)
					     : find_gone(l, rows, n->row.parent);
		if (!parent) {
			rc = *n->row.parent_name ? 0 : -ENOMEM;
			continue;
		}
		*parent->last = n;
		parent->last = &n->next;
	}
	free(sorted);
	return rc;
}

static void print_node(const struct node *n, const char *prefix, const char *branch)
{
	char id[UUID_TEXT_MAX], size[TEXT_SIZE_MAX];

	if (n->is_gone)
		printf("%s%s(gone: %s)\n", prefix, branch, uuid_format(n->row.id, id));
	else if (n->row.status == CAT_VALID)
		printf("%s%s%s  %s\n", prefix, branch, n->row.name,
		       text_format_size(n->row.unique_bytes, size));
	else
		printf("%s%s%s  %s  %s\n", prefix, branch, n->row.name,
		       text_format_size(n->row.unique_bytes, size), cat_status_word(n->row.status));
}

/* What lies on the way down to the node that is drawn. */
struct level {
	struct node *next;
	size_t prefix; /* length of it there */
};

struct drawing {
	struct level *level; /* owned */
	size_t depth, room;
	char prefix[PREFIX_MAX];
};

static int descend(struct drawing *d, struct node *to, const char *more)
{
	if (d->depth == d->room) {
		const size_t room = d->room ? 2 * d->room : 64;
		void *v = reallocarray(d->level, room, sizeof(*d->level));

		if (!v)
			return -ENOMEM;
		d->level = v;
		d->room = room;
	}
	if (strlen(d->prefix) + strlen(more) < sizeof(d->prefix))
		strcat(d->prefix, more);
	d->level[d->depth++] = (struct level){ to, strlen(d->prefix) };
	return 0;
}

/* A root and all below it: without recursion, for a chain may be as long as the store. */
static int draw(struct node *root)
{
	struct drawing d = { 0 };
	int rc;

	print_node(root, "", "");
	root->drawn = true;
	rc = descend(&d, root->child, "");
	while (rc == 0 && d.depth) {
		struct level *at = &d.level[d.depth - 1];
		struct node *n = at->next;

		d.prefix[at->prefix] = '\0';
		if (!n) {
			d.depth--;
			continue;
		}
		at->next = n->next;
		if (n->drawn)
			continue;
		n->drawn = true;
		print_node(n, d.prefix, n->next ? "├─ " : "└─ ");
		rc = descend(&d, n->child, n->next ? "│  " : "   ");
	}
	free(d.level);
	return rc;
}

static bool is_root(const struct node *n)
{
	return n->is_gone || !n->row.has_parent;
}

/* First what has no parent; then what goes round in a circle. */
static int draw_all(struct lineage *l)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < l->n; i++)
		if (is_root(l->node[i]))
			rc = draw(l->node[i]);
	for (size_t i = 0; rc == 0 && i < l->n; i++)
		if (!l->node[i]->drawn)
			rc = draw(l->node[i]);
	return rc;
}

/* A list, each with its parent: a tree of JSON would be as deep as the store. */
static int print_json(const struct lineage *l, struct err *e)
{
	json_t *array = json_array();

	for (size_t i = 0; i < l->n; i++) {
		const struct node *n = l->node[i];
		char id[UUID_TEXT_MAX], parent[UUID_TEXT_MAX];
		json_t *children = json_array();

		for (const struct node *c = n->child; c; c = c->next)
			json_array_append_new(children, json_string(c->row.name));
		uuid_format(n->row.parent, parent);
		json_array_append_new(array,
				      json_pack("{s:s?, s:s, s:s?, s:s?, s:b, s:o}", "name",
						n->is_gone ? NULL : n->row.name, "id",
						uuid_format(n->row.id, id), "parent",
						n->row.has_parent ? parent : NULL, "parent_name",
						*n->row.parent_name ? n->row.parent_name : NULL,
						"gone", (int)n->is_gone, "children", children));
	}
	return cli_print_json(array, e);
}

int cli_tree(struct cli *cli, struct err *e)
{
	struct lineage l = { 0 };
	int rc = cat_index_list(cli->store, add_row, &l, e);

	if (rc == 0)
		rc = connect(&l);
	if (rc == 0)
		rc = cli->args.json ? print_json(&l, e) : draw_all(&l);
	if (rc == -ENOMEM)
		err_sys(e, ENOMEM, "cannot draw the snapshots");
	for (size_t i = 0; i < l.n; i++)
		free(l.node[i]);
	free(l.node);
	return rc;
}
