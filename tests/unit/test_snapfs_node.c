/* The node table: who is found, who is dropped, and which numbers they have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "snapfs/fs.h"
#include "snapfs/node.h"

static unsigned dropped;

static void drop(struct node *n)
{
	dropped++;
	free(n);
}

static struct node *make(uint64_t kind, uint64_t dir_ino)
{
	struct node *n = calloc(1, sizeof(*n));

	assert_non_null(n);
	n->key.kind = kind;
	n->key.dir_ino = dir_ino;
	return n;
}

static int setup(void **state)
{
	struct node_table *t = malloc(sizeof(*t));

	assert_non_null(t);
	dropped = 0;
	assert_int_equal(sfs_nodes_init(t, drop), 0);
	assert_int_equal(sfs_nodes_add(t, make(NODE_ROOT, 0))->id, NODE_ROOT_ID);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	sfs_nodes_destroy(*state);
	free(*state);
	return 0;
}

static void add_of_a_known_key_gives_the_same_node(void **state)
{
	struct node_table *t = *state;
	struct node *n = sfs_nodes_add(t, make(NODE_SNAPSHOT, 7));

	assert_ptr_equal(sfs_nodes_add(t, make(NODE_SNAPSHOT, 7)), n);
	assert_int_equal(dropped, 1);
	assert_ptr_equal(sfs_nodes_find(t, &n->key), n);
	assert_int_equal(n->lookups, 3);
	assert_ptr_not_equal(sfs_nodes_add(t, make(NODE_MEMORY, 7)), n);
	assert_ptr_not_equal(sfs_nodes_add(t, make(NODE_SNAPSHOT, 8)), n);
}

static void forget_of_the_last_lookup_drops_it(void **state)
{
	struct node_table *t = *state;
	struct node *n = sfs_nodes_add(t, make(NODE_SNAPSHOT, 7));
	const struct node_key key = n->key;
	uint64_t id = n->id;

	sfs_nodes_find(t, &key);
	sfs_nodes_forget(t, id, 1);
	assert_int_equal(dropped, 0);
	sfs_nodes_forget(t, id, 1);
	assert_int_equal(dropped, 1);
	assert_null(sfs_nodes_find(t, &key));
	assert_null(sfs_nodes_get(t, id));
}

static void forget_of_too_many_is_survived(void **state)
{
	struct node_table *t = *state;
	uint64_t id = sfs_nodes_add(t, make(NODE_SNAPSHOT, 7))->id;

	sfs_nodes_forget(t, id, 1000);
	assert_int_equal(dropped, 1);
	sfs_nodes_forget(t, id, 1);
	sfs_nodes_forget(t, 424242, 1);
	assert_int_equal(dropped, 1);
}

static void node_in_use_outlives_its_lookups(void **state)
{
	struct node_table *t = *state;
	uint64_t id = sfs_nodes_add(t, make(NODE_MEMORY, 7))->id;
	struct node *n = sfs_nodes_get(t, id);

	sfs_nodes_forget(t, id, 1);
	assert_int_equal(dropped, 0);
	sfs_nodes_put(t, n);
	assert_int_equal(dropped, 1);
}

static void root_is_never_forgotten(void **state)
{
	struct node_table *t = *state;

	sfs_nodes_forget(t, NODE_ROOT_ID, 5);
	assert_int_equal(dropped, 0);
	assert_non_null(sfs_nodes_get(t, NODE_ROOT_ID));
}

static void many_nodes_are_all_found_and_never_share_a_number(void **state)
{
	enum { N = 5000 };
	struct node_table *t = *state;
	static uint64_t ids[N];

	for (uint64_t i = 0; i < N; i++)
		ids[i] = sfs_nodes_add(t, make(NODE_SNAPSHOT, i + 1))->id;
	for (uint64_t i = 0; i < N; i++) {
		struct node *n = sfs_nodes_get(t, ids[i]);

		assert_non_null(n);
		assert_int_equal(n->key.dir_ino, i + 1);
		sfs_nodes_put(t, n);
		sfs_nodes_forget(t, ids[i], 1);
	}
	assert_int_equal(dropped, N);
	assert_true(sfs_nodes_add(t, make(NODE_SNAPSHOT, 1))->id > ids[N - 1]);
}

static void inode_numbers_differ_by_directory_and_kind(void **state)
{
	ino_t seen[64];
	size_t n = 0;

	(void)state;
	for (uint64_t kind = NODE_ROOT; kind <= NODE_ALL_LAYERS; kind++)
		seen[n++] = sfs_node_ino(&(struct node_key){ .kind = kind });
	for (uint64_t dir = 1; dir <= 3; dir++)
		for (uint64_t kind = NODE_SNAPSHOT; kind <= NODE_DISKS; kind++)
			seen[n++] =
				sfs_node_ino(&(struct node_key){ .kind = kind, .dir_ino = dir });
	seen[n++] = sfs_node_ino(&(struct node_key){ .kind = NODE_ID_LINK, .id = { [15] = 1 } });
	seen[n++] = sfs_node_ino(&(struct node_key){ .kind = NODE_ID_LINK, .id = { [15] = 2 } });
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(seen[i], seen[j]);
}

static void uuid_is_parsed_in_one_form_only(void **state)
{
	static const char *const bad[] = {
		"",
		"018f0c2e",
		"018F0C2E-1111-7222-8333-444455556666",
		"018f0c2e-1111-7222-8333-44445555666",
		"018f0c2e-1111-7222-8333-4444555566667",
		"018f0c2e 1111-7222-8333-444455556666",
		"018f0c2e-1111-7222-8333- 44455556666",
		"../018f0c2e-1111-7222-8333-444455556666",
	};
	uint8_t id[UUID_SIZE];

	(void)state;
	assert_int_equal(uuid_parse("018f0c2e-1111-7222-8333-444455556666", id), 0);
	assert_int_equal(id[0], 0x01);
	assert_int_equal(id[15], 0x66);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_true(uuid_parse(bad[i], id) < 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(add_of_a_known_key_gives_the_same_node, setup,
						teardown),
		cmocka_unit_test_setup_teardown(forget_of_the_last_lookup_drops_it, setup,
						teardown),
		cmocka_unit_test_setup_teardown(forget_of_too_many_is_survived, setup, teardown),
		cmocka_unit_test_setup_teardown(node_in_use_outlives_its_lookups, setup, teardown),
		cmocka_unit_test_setup_teardown(root_is_never_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(many_nodes_are_all_found_and_never_share_a_number,
						setup, teardown),
		cmocka_unit_test(inode_numbers_differ_by_directory_and_kind),
		cmocka_unit_test(uuid_is_parsed_in_one_form_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
