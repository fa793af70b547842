/* What a machine boots: by options, by a manifest, and into RAM. */
#include "unit.h"

#include "vmm/boot.h"
#include "vmm/demo_guest.h"

static void path_of(const struct folder *f, const char *name, char out[128])
{
	snprintf(out, 128, "%s/%s", f->path, name);
}

static void options_of_a_kernel_keep_absolute_paths(void **state)
{
	const struct folder *f = *state;
	char kernel[128], initrd[128], *before = getcwd(NULL, 0);
	struct err e = { 0 };
	struct boot b;

	path_of(f, "kernel", kernel);
	path_of(f, "initrd", initrd);
	folder_put(f, "kernel", "k", 1);
	folder_put(f, "initrd", "i", 1);
	assert_int_equal(chdir(f->path), 0);
	assert_int_equal(boot_from_options(&b, false, "kernel", "./initrd", NULL, &e), 0);
	assert_int_equal(chdir(before), 0);
	free(before);
	assert_int_equal(b.kind, BOOT_KIND__BOOT_LINUX);
	assert_string_equal(b.kernel.path, kernel);
	assert_string_equal(b.initrd.path, initrd);
	assert_string_equal(b.cmdline, "console=ttyS0");
	assert_false(b.kernel.known);
	boot_free(&b);
	boot_free(&b); /* harmless */
	assert_int_equal(boot_from_options(&b, false, kernel, NULL, "quiet", &e), 0);
	assert_string_equal(b.cmdline, "quiet");
	assert_null(b.initrd.path);
	boot_free(&b);
}

static void options_of_the_demo_guest_need_nothing(void **state)
{
	struct boot b;

	(void)state;
	assert_int_equal(boot_from_options(&b, true, NULL, NULL, NULL, NULL), 0);
	assert_int_equal(b.kind, BOOT_KIND__BOOT_DEMO);
	assert_null(b.kernel.path);
	boot_free(&b);
}

static void options_that_cannot_boot_are_one_sentence(void **state)
{
	const struct folder *f = *state;
	static char long_line[MANIFEST_CMDLINE_MAX + 2];
	char kernel[128], missing[128];
	struct boot b;

	memset(long_line, 'x', sizeof(long_line) - 1);
	folder_put(f, "kernel", "k", 1);
	path_of(f, "kernel", kernel);
	path_of(f, "missing", missing);
	const struct {
		bool demo;
		const char *kernel, *initrd, *cmdline;
		int rc;
		const char *says;
	} cases[] = {
		{ false, NULL, NULL, NULL, -EINVAL, "nothing to boot" },
		{ false, NULL, kernel, NULL, -EINVAL, "nothing to boot" },
		{ true, kernel, NULL, NULL, -EINVAL, "--demo-guest" },
		{ true, NULL, kernel, NULL, -EINVAL, "--demo-guest" },
		{ true, NULL, NULL, "quiet", -EINVAL, "--demo-guest" },
		{ false, missing, NULL, NULL, -ENOENT, "--kernel" },
		{ false, kernel, missing, NULL, -ENOENT, "--initrd" },
		{ false, "", NULL, NULL, -ENOENT, "--kernel" },
		{ false, kernel, NULL, long_line, -EINVAL, "--cmdline" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = { 0 };

		if (boot_from_options(&b, cases[i].demo, cases[i].kernel, cases[i].initrd,
				      cases[i].cmdline, &e) != cases[i].rc)
			fail_msg("case %zu", i);
		assert_says(&e, cases[i].says);
	}
	assert_int_equal(boot_from_options(&b, false, kernel, NULL, long_line + 1, NULL), 0);
	boot_free(&b);
}

static void manifest_and_back_is_the_same(void **state)
{
	struct boot a = { .kind = BOOT_KIND__BOOT_LINUX }, b;
	Boot *m;

	(void)state;
	a.cmdline = strdup("quiet ro");
	a.kernel.path = strdup("/boot/k");
	a.kernel.size = 1234;
	memset(a.kernel.sha256, 7, DIGEST_SIZE);
	m = boot_to_manifest(&a);
	assert_non_null(m);
	assert_null(m->initrd);
	assert_int_equal(boot_from_manifest(&b, m, NULL), 0);
	boot__free_unpacked(m, NULL);
	assert_int_equal(b.kind, a.kind);
	assert_string_equal(b.cmdline, "quiet ro");
	assert_string_equal(b.kernel.path, "/boot/k");
	assert_int_equal(b.kernel.size, 1234);
	assert_memory_equal(b.kernel.sha256, a.kernel.sha256, DIGEST_SIZE);
	assert_true(b.kernel.known);
	assert_null(b.initrd.path);
	boot_free(&a);
	boot_free(&b);
	assert_int_equal(boot_from_manifest(&b, NULL, NULL), 0);
	assert_int_equal(b.kind, BOOT_KIND__BOOT_NONE);
	m = boot_to_manifest(&b); /* a machine that was restored of one without */
	assert_non_null(m);
	boot__free_unpacked(m, NULL);
	boot_free(&b);
}

/* Loads into RAM only: with no vCPU, what touches KVM fails, after the files were read. */
static int load(struct boot *b, struct err *e)
{
	static const uint8_t generation[16];
	const struct acpi_config acpi = { .ncpus = 1, .generation = generation };
	struct vm vm = { .fd = -1, .vcpu[0].fd = -1 };
	struct ram ram;
	int rc;

	assert_int_equal(ram_map_memfd(&ram, 64ULL << 20, NULL), 0);
	rc = boot_load(b, &ram, &vm, &acpi, e);
	ram_unmap(&ram);
	return rc;
}

static void load_of_no_kernel_names_the_file(void **state)
{
	const struct folder *f = *state;
	char kernel[128];
	struct err e = { 0 };
	struct boot b;

	path_of(f, "kernel", kernel);
	folder_put(f, "kernel", "not a kernel", 12);
	assert_int_equal(boot_from_options(&b, false, kernel, NULL, NULL, &e), 0);
	assert_int_equal(load(&b, &e), -ENOEXEC);
	assert_says(&e, kernel);
	assert_says(&e, "not a Linux bzImage");
	boot_free(&b);
}

static void load_of_a_kernel_that_changed_is_estale(void **state)
{
	const struct folder *f = *state;
	char kernel[128];
	struct err e = { 0 };
	struct boot b;

	path_of(f, "kernel", kernel);
	folder_put(f, "kernel", "first", 5);
	assert_int_equal(boot_from_options(&b, false, kernel, NULL, NULL, &e), 0);
	assert_int_equal(load(&b, &e), -ENOEXEC); /* and noted what it was */
	assert_true(b.kernel.known);
	folder_put(f, "kernel", "other", 5);
	assert_int_equal(load(&b, &e), -ESTALE);
	assert_says(&e, kernel);
	folder_put(f, "kernel", "longer one", 10);
	assert_int_equal(load(&b, &e), -ESTALE);
	unlinkat(f->fd, "kernel", 0);
	assert_int_equal(load(&b, &e), -ENOENT);
	boot_free(&b);
}

static void load_of_nothing_known_is_estale(void **state)
{
	static const int kinds[] = { BOOT_KIND__BOOT_NONE, BOOT_KIND__BOOT_LINUX, 77, -1 };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct boot b = { .kind = (BootKind)kinds[i] };
		struct err e = { 0 };

		assert_int_equal(load(&b, &e), -ESTALE);
		assert_says(&e, "does not say what this machine booted from");
	}
}

static void demo_guest_has_its_nonce_within_itself(void **state)
{
	const uintptr_t nonce = (uintptr_t)demo_guest_nonce;

	(void)state;
	assert_in_range(nonce, (uintptr_t)demo_guest_start, (uintptr_t)demo_guest_end - 17);
	assert_memory_equal(demo_guest_nonce, "0000000000000000", 17);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(options_of_a_kernel_keep_absolute_paths),
		cmocka_unit_test(options_of_the_demo_guest_need_nothing),
		IN_FOLDER(options_that_cannot_boot_are_one_sentence),
		cmocka_unit_test(manifest_and_back_is_the_same),
		IN_FOLDER(load_of_no_kernel_names_the_file),
		IN_FOLDER(load_of_a_kernel_that_changed_is_estale),
		cmocka_unit_test(load_of_nothing_known_is_estale),
		cmocka_unit_test(demo_guest_has_its_nonce_within_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
