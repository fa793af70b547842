/* A kernel image's header: taken, refused, and never read beyond its end. */
#include "unit.h"

#include "vmm/bzimage.h"

#define SETUP_SECTS  3
#define KERNEL_AT    ((SETUP_SECTS + 1) * 512)
#define IMAGE_SIZE   (KERNEL_AT + 5000)
#define LOAD_ADDRESS 0x1000000ULL

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* A header as Linux 6 has it, protocol 2.15. Offsets: Documentation/arch/x86/boot.rst. */
static void make_image(uint8_t *image)
{
	memset(image, 0x90, IMAGE_SIZE);
	image[0x1f1] = SETUP_SECTS;
	image[0x201] = 0x6a; /* the header ends at 0x26c */
	memcpy(image + 0x202, "HdrS", 4);
	put16(image + 0x206, 0x020f);
	image[0x211] = 0x01;		    /* loadflags: LOADED_HIGH */
	put32(image + 0x22c, 0x7fffffff);   /* initrd_addr_max */
	put16(image + 0x236, 0x003f);	    /* xloadflags: a 64-bit entry */
	put32(image + 0x238, 2047);	    /* cmdline_size */
	put64(image + 0x258, LOAD_ADDRESS); /* pref_address */
	put32(image + 0x260, 0x2000000);    /* init_size */
}

static int parse(const uint8_t *image, size_t len, struct bzimage *z, struct err *e)
{
	auto_free uint8_t *exact = malloc(len ? len : 1); /* a read beyond the end shows */

	memcpy(exact, image, len);
	return bzimage_parse(exact, len, z, e);
}

static void parse_of_a_kernel_gives_its_header(void **state)
{
	uint8_t image[IMAGE_SIZE];
	struct bzimage z;
	struct err e = { 0 };

	(void)state;
	make_image(image);
	assert_int_equal(parse(image, sizeof(image), &z, &e), 0);
	assert_int_equal(z.header_offset, 0x1f1);
	assert_int_equal(z.header_size, 0x26c - 0x1f1);
	assert_int_equal(z.kernel_offset, KERNEL_AT);
	assert_int_equal(z.kernel_size, 5000);
	assert_int_equal(z.load_address, LOAD_ADDRESS);
	assert_int_equal(z.init_size, 0x2000000);
	assert_int_equal(z.initrd_max, 0x7fffffff);
	assert_int_equal(z.cmdline_max, 2047);
}

static void parse_zero_setup_sectors_are_four(void **state)
{
	uint8_t image[IMAGE_SIZE];
	struct bzimage z;

	(void)state;
	make_image(image);
	image[0x1f1] = 0;
	assert_int_equal(parse(image, sizeof(image), &z, NULL), 0);
	assert_int_equal(z.kernel_offset, 5 * 512);
}

static void parse_init_size_below_the_kernels_is_raised(void **state)
{
	uint8_t image[IMAGE_SIZE];
	struct bzimage z;

	(void)state;
	make_image(image);
	put32(image + 0x260, 100);
	assert_int_equal(parse(image, sizeof(image), &z, NULL), 0);
	assert_int_equal(z.init_size, 5000);
}

static void parse_truncated_at_every_length_is_refused_or_has_a_kernel(void **state)
{
	uint8_t image[IMAGE_SIZE];

	(void)state;
	make_image(image);
	for (size_t len = 0; len <= IMAGE_SIZE; len++) {
		struct bzimage z;
		struct err e = { 0 };
		int rc = parse(image, len, &z, &e);

		if (len > KERNEL_AT) {
			assert_int_equal(rc, 0);
			assert_int_equal(z.kernel_size, len - KERNEL_AT);
		} else {
			assert_int_equal(rc, -ENOEXEC);
			assert_says(&e, "it");
			assert_int_equal(e.status, STATUS_REFUSED);
		}
	}
}

static void parse_every_setup_sector_count_stays_in_the_file(void **state)
{
	uint8_t image[IMAGE_SIZE];

	(void)state;
	make_image(image);
	for (unsigned n = 0; n < 256; n++) {
		struct bzimage z;

		image[0x1f1] = (uint8_t)n;
		if (parse(image, sizeof(image), &z, NULL) == 0) {
			assert_true(z.kernel_offset < IMAGE_SIZE);
			assert_int_equal(z.kernel_offset + z.kernel_size, IMAGE_SIZE);
		}
	}
}

static void parse_every_header_length_stays_in_the_file(void **state)
{
	uint8_t image[IMAGE_SIZE];

	(void)state;
	make_image(image);
	for (unsigned n = 0; n < 256; n++) {
		struct bzimage z;
		int rc;

		image[0x201] = (uint8_t)n;
		rc = parse(image, sizeof(image), &z, NULL);
		assert_int_equal(rc, n >= 0x66 ? 0 : -ENOEXEC);
		if (rc == 0)
			assert_int_equal(z.header_offset + z.header_size, 0x202 + n);
	}
}

static void no_magic(uint8_t *image)
{
	image[0x203] = 'x';
}

static void old_protocol(uint8_t *image)
{
	put16(image + 0x206, 0x020b);
}

static void no_64_bit_entry(uint8_t *image)
{
	put16(image + 0x236, 0x003e);
}

static void loaded_low(uint8_t *image)
{
	image[0x211] = 0;
}

static void wants_low_memory(uint8_t *image)
{
	put64(image + 0x258, 0xff000);
}

static void wants_an_odd_place(uint8_t *image)
{
	put64(image + 0x258, LOAD_ADDRESS + 1);
}

static void wants_above_4_gib(uint8_t *image)
{
	put64(image + 0x258, 1ULL << 32);
}

static void wants_the_end(uint8_t *image)
{
	put64(image + 0x258, UINT64_MAX - 4095);
}

static void parse_what_cannot_be_booted_is_refused_with_a_reason(void **state)
{
	static const struct {
		void (*change)(uint8_t *image);
		const char *says;
	} cases[] = {
		{ no_magic, "not a Linux bzImage" },
		{ old_protocol, "64-bit entry" },
		{ no_64_bit_entry, "64-bit entry" },
		{ loaded_low, "zImage" },
		{ wants_low_memory, "loaded at 0xff000" },
		{ wants_an_odd_place, "loaded at 0x1000001" },
		{ wants_above_4_gib, "loaded at 0x100000000" },
		{ wants_the_end, "loaded at 0xfffffffffffff000" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t image[IMAGE_SIZE];
		struct bzimage z;
		struct err e = { 0 };

		make_image(image);
		cases[i].change(image);
		assert_int_equal(parse(image, sizeof(image), &z, &e), -ENOEXEC);
		assert_says(&e, cases[i].says);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_of_a_kernel_gives_its_header),
		cmocka_unit_test(parse_zero_setup_sectors_are_four),
		cmocka_unit_test(parse_init_size_below_the_kernels_is_raised),
		cmocka_unit_test(parse_truncated_at_every_length_is_refused_or_has_a_kernel),
		cmocka_unit_test(parse_every_setup_sector_count_stays_in_the_file),
		cmocka_unit_test(parse_every_header_length_stays_in_the_file),
		cmocka_unit_test(parse_what_cannot_be_booted_is_refused_with_a_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
