/* virtio-blk, by a driver of the test's own: data, flushes, hostile requests, state, faults. */
#include "unit.h"
#include "virtio_driver.h"

#include <linux/virtio_blk.h>

#include "vmm/fault.h"
#include "vmm/virtio/blk.h"

#define SECTORS 16384ULL /* 8 MiB */
#define SIZE	(SECTORS * 512)
#define STATUS	0xee /* what no device says */

struct rig {
	void *folder; /* first: its fixture */
	char path[128], overlay[128];
	Device config;
	struct driver d;
	uint8_t model[SIZE];
};

static int make(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r || folder_make(&r->folder) < 0)
		return -1;
	snprintf(r->path, sizeof(r->path), "%s/disk.img", ((struct folder *)r->folder)->path);
	snprintf(r->overlay, sizeof(r->overlay), "%s/clone", ((struct folder *)r->folder)->path);
	fill_random(r->model, SIZE, 3);
	folder_put(r->folder, "disk.img", r->model, SIZE);
	device__init(&r->config);
	r->config.path = r->path;
	*state = r;
	return 0;
}

static int destroy(void **state)
{
	struct rig *r = *state;
	void *folder = r->folder;

	free(r);
	return folder_remove(&folder);
}

/* The rig with its device open and its driver started. */
static struct rig *started(void **state, bool overlay)
{
	struct rig *r = *state;

	r->config.overlay = overlay ? r->overlay : r->config.overlay;
	driver_open(&r->d, &virtio_blk_ops, &r->config);
	driver_start(&r->d, ALL_FEATURES);
	return r;
}

/* A request with out_len bytes of data: its status; in_len bytes come to `in`. */
static uint8_t request(struct driver *d, uint32_t type, uint64_t sector, const void *out,
		       uint32_t out_len, void *in, uint32_t in_len, uint32_t *used)
{
	const struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };
	auto_free uint8_t *o = malloc(sizeof(hdr) + out_len);
	auto_free uint8_t *i = malloc(in_len + 1);
	uint32_t len;

	memcpy(o, &hdr, sizeof(hdr));
	if (out_len)
		memcpy(o + sizeof(hdr), out, out_len);
	len = driver_request(d, 0, o, (uint32_t)sizeof(hdr) + out_len, i, in_len + 1);
	if (in_len)
		memcpy(in, i, in_len);
	if (used)
		*used = len;
	return i[in_len];
}

static uint8_t write_sectors(struct rig *r, uint64_t sector, const void *bytes, uint32_t len)
{
	return request(&r->d, VIRTIO_BLK_T_OUT, sector, bytes, len, NULL, 0, NULL);
}

static void assert_is_model(struct rig *r)
{
	const uint32_t piece = 1 << 20;
	auto_free uint8_t *got = malloc(piece);
	uint32_t used;

	for (uint64_t at = 0; at < SIZE; at += piece) {
		assert_int_equal(
			request(&r->d, VIRTIO_BLK_T_IN, at / 512, NULL, 0, got, piece, &used),
			VIRTIO_BLK_S_OK);
		assert_int_equal(used, piece + 1);
		assert_memory_equal(got, r->model + at, piece);
	}
}

/* ---- what the driver sees ---- */

static void config_tells_the_disk(void **state)
{
	struct rig *r = started(state, false);
	struct virtio_blk_config c = { 0 };

	assert_int_equal(r->d.v->ops->id, 2);
	driver_get_config(&r->d, 0, &c, 60);
	assert_int_equal(c.capacity, SECTORS);
	assert_int_equal(c.blk_size, 512);
	assert_int_equal(c.seg_max, VIRTQ_SIZE_MAX - 2);
	assert_int_equal(c.physical_block_exp, 3);
	assert_true(c.max_discard_sectors && c.max_discard_seg);
	assert_true(c.max_write_zeroes_sectors && c.max_write_zeroes_seg);
	assert_true(virtio_has(r->d.v, VIRTIO_BLK_F_FLUSH));
	assert_true(virtio_has(r->d.v, VIRTIO_BLK_F_DISCARD));
	assert_false(virtio_has(r->d.v, VIRTIO_BLK_F_RO));
	driver_close(&r->d);
}

static void bytes_written_come_back_and_are_in_the_file(void **state)
{
	struct rig *r = started(state, false);
	const uint32_t len = 3 * 4096 + 512;
	auto_fd int fd = open(r->path, O_RDONLY | O_CLOEXEC);
	uint8_t got[3 * 4096 + 512];

	assert_is_model(r);
	for (unsigned i = 0; i < 200; i++) {
		const uint64_t sector = (i * 7919ULL) % (SECTORS - 32);

		fill_random(r->model + sector * 512, len, i);
		assert_int_equal(write_sectors(r, sector, r->model + sector * 512, len),
				 VIRTIO_BLK_S_OK);
	}
	assert_is_model(r);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, NULL),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(pread(fd, got, len, 0), len);
	assert_memory_equal(got, r->model, len);
	driver_close(&r->d);
}

static void overlay_takes_the_writes(void **state)
{
	struct rig *r = started(state, true);
	auto_free uint8_t *base = malloc(SIZE);
	auto_fd int fd = open(r->path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes = r->model + 5 * 512;

	memcpy(base, r->model, SIZE);
	fill_random(bytes, 5120, 77);
	assert_int_equal(write_sectors(r, 5, bytes, 5120), VIRTIO_BLK_S_OK);
	assert_is_model(r);
	assert_int_equal(disk_layers(virtio_blk_disk(r->d.v)), 2);
	driver_close(&r->d);
	r = started(state, true); /* closed in order, opened again */
	assert_is_model(r);
	driver_close(&r->d);
	assert_int_equal(pread(fd, r->model, SIZE, 0), SIZE);
	assert_memory_equal(r->model, base, SIZE);
}

static void get_id_is_the_devices_name(void **state)
{
	struct rig *r = *state;
	char id[20];
	uint32_t used;

	r->config.name = (char *)(uintptr_t) "disk7";
	r = started(state, false);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, id, 20, &used),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(used, 21);
	assert_memory_equal(id, "disk7\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	driver_close(&r->d);
}

static void ranges(struct rig *r, uint32_t type, uint8_t status, unsigned n,
		   const struct virtio_blk_discard_write_zeroes *range)
{
	assert_int_equal(
		request(&r->d, type, 0, range, (uint32_t)(n * sizeof(*range)), NULL, 0, NULL),
		status);
}

static void discard_and_zeroes_are_zeros(void **state)
{
	static const struct virtio_blk_discard_write_zeroes two[] = {
		{ .sector = 8, .num_sectors = 16 },
		{ .sector = 1001, .num_sectors = 3 },
	};
	static const struct virtio_blk_discard_write_zeroes unmap[] = {
		{ .sector = 2000, .num_sectors = 99, .flags = 1 },
	};
	struct rig *r = started(state, true);

	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_OK, 2, two);
	memset(r->model + 8 * 512, 0, 16 * 512);
	memset(r->model + 1001 * 512, 0, 3 * 512);
	assert_is_model(r);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_OK, 1, unmap);
	memset(r->model + 2000 * 512, 0, 99 * 512);
	assert_is_model(r);
	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_OK, 1,
	       &(struct virtio_blk_discard_write_zeroes){ .sector = 4096, .num_sectors = 800 });
	memset(r->model + 4096 * 512, 0, 800 * 512);
	assert_is_model(r);
	driver_close(&r->d);
}

static void read_only_disk_refuses_writes(void **state)
{
	struct rig *r = *state;
	const struct virtio_blk_discard_write_zeroes range = { .num_sectors = 8 };

	r->config.read_only = true;
	r = started(state, false);
	assert_true(virtio_has(r->d.v, VIRTIO_BLK_F_RO));
	assert_false(virtio_has(r->d.v, VIRTIO_BLK_F_DISCARD));
	assert_int_equal(write_sectors(r, 0, "x", 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(write_sectors(r, 0, r->model + 512, 512), VIRTIO_BLK_S_IOERR);
	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP, 1, &range);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP, 1, &range);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, NULL),
			 VIRTIO_BLK_S_OK);
	assert_is_model(r);
	driver_close(&r->d);
}

static void batch_is_one_interrupt_and_indirect_works(void **state)
{
	struct rig *r = started(state, false);
	struct driver *d = &r->d;
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_IN };
	struct driver_buf buf[20][3];
	uint8_t got[512], status;
	uint64_t table;

	for (uint64_t i = 0; i < 20; i++) {
		hdr.sector = i * 3;
		buf[i][0] = (struct driver_buf){ driver_alloc(d, sizeof(hdr)), sizeof(hdr) };
		buf[i][1] = (struct driver_buf){ driver_alloc(d, 512), 512 };
		buf[i][2] = (struct driver_buf){ driver_alloc(d, 1), 1 };
		guest_write(&d->ram, buf[i][0].address, &hdr, sizeof(hdr));
		table = driver_alloc(d, 48);
		if (i % 2)
			driver_offer_indirect(&d->queue[0], table, buf[i], 1, 2);
		else
			driver_offer(&d->queue[0], buf[i], 1, 2);
	}
	driver_interrupts(d);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_equal(driver_interrupts(d), 1);
	for (uint64_t i = 0; i < 20; i++) {
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		guest_read(&d->ram, buf[i][1].address, got, 512);
		guest_read(&d->ram, buf[i][2].address, &status, 1);
		assert_int_equal(status, VIRTIO_BLK_S_OK);
		assert_memory_equal(got, r->model + i * 3 * 512, 512);
	}
	driver_close(d);
}

/* More than a batch: the iothread comes back for the rest by itself. */
static void full_queue_is_worked_off_by_one_kick(void **state)
{
	struct rig *r = started(state, false);
	struct driver *d = &r->d;
	const struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_FLUSH };
	unsigned n = 0, taken = 0;

	for (; d->queue[0].nfree >= 2; n++) {
		struct driver_buf buf[2] = { { driver_alloc(d, sizeof(hdr)), sizeof(hdr) },
					     { driver_alloc(d, 1), 1 } };

		guest_write(&d->ram, buf[0].address, &hdr, sizeof(hdr));
		driver_offer(&d->queue[0], buf, 1, 1);
	}
	assert_true(n > 64);
	driver_kick(d, 0);
	driver_run(d);
	while (driver_take(&d->queue[0], NULL) != NO_HEAD)
		taken++;
	assert_int_equal(taken, n);
	driver_close(d);
}

/* ---- hostile requests ---- */

static void requests_outside_the_disk_are_ioerr(void **state)
{
	static const uint64_t sectors[] = { SECTORS,	      SECTORS - 1,     UINT64_MAX,
					    UINT64_MAX / 512, UINT64_MAX >> 9, (1ULL << 55) };
	struct rig *r = started(state, false);
	uint8_t bytes[1024];
	uint32_t used;

	for (size_t i = 0; i < sizeof(sectors) / sizeof(sectors[0]); i++) {
		const struct virtio_blk_discard_write_zeroes range = { .sector = sectors[i],
								       .num_sectors = 2 };

		assert_int_equal(write_sectors(r, sectors[i], r->model, 1024), VIRTIO_BLK_S_IOERR);
		assert_int_equal(
			request(&r->d, VIRTIO_BLK_T_IN, sectors[i], NULL, 0, bytes, 1024, &used),
			VIRTIO_BLK_S_IOERR);
		assert_int_equal(used, 0);
		ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR, 1, &range);
		ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, 1, &range);
	}
	assert_int_equal(write_sectors(r, 0, r->model, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_IN, 0, NULL, 0, bytes, 513, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_is_model(r);
	assert_false(driver_needs_reset(&r->d));
	driver_close(&r->d);
}

static void bad_ranges_are_refused(void **state)
{
	static const struct virtio_blk_discard_write_zeroes unmap = { .num_sectors = 8,
								      .flags = 1 };
	static const struct virtio_blk_discard_write_zeroes reserved = { .num_sectors = 8,
									 .flags = 2 };
	static const struct virtio_blk_discard_write_zeroes huge = { .num_sectors = UINT32_MAX };
	static const struct virtio_blk_discard_write_zeroes many[17];
	struct rig *r = started(state, false);

	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP, 1, &unmap);
	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP, 1, &reserved);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP, 1, &reserved);
	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR, 1, &huge);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, 1, &huge);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, 0, many);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, 17, many);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_OK, 16, many); /* of no length */
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_DISCARD, 0, &huge, 15, NULL, 0, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_is_model(r);
	driver_close(&r->d);
}

static void unknown_types_are_unsupported(void **state)
{
	static const uint32_t types[] = { 2, 5, 7, 10, 14, 0x80000000, UINT32_MAX };
	struct rig *r = started(state, false);

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		assert_int_equal(request(&r->d, types[i], 0, r->model, 512, NULL, 0, NULL),
				 VIRTIO_BLK_S_UNSUPP);
	assert_is_model(r);
	driver_close(&r->d);
}

static void unnegotiated_discard_is_unsupported(void **state)
{
	const struct virtio_blk_discard_write_zeroes range = { .num_sectors = 8 };
	struct rig *r = *state;

	driver_open(&r->d, &virtio_blk_ops, &r->config);
	driver_start(&r->d, 0);
	ranges(r, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP, 1, &range);
	ranges(r, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP, 1, &range);
	/* Without flushes each write is durable by itself. */
	memset(r->model, 1, 512);
	assert_int_equal(write_sectors(r, 0, r->model, 512), VIRTIO_BLK_S_OK);
	assert_is_model(r);
	driver_close(&r->d);
}

/* Buffers of these lengths, nout of them to be read. */
static void offer_lengths(struct driver *d, const uint32_t *len, unsigned nout, unsigned n)
{
	struct driver_buf buf[4];

	for (unsigned i = 0; i < n; i++)
		buf[i] = (struct driver_buf){ driver_alloc(d, len[i] ? len[i] : 1), len[i] };
	driver_offer(&d->queue[0], buf, nout, n - nout);
	driver_kick(d, 0);
	driver_run(d);
}

static void requests_without_header_or_status_need_a_reset(void **state)
{
	static const struct {
		unsigned nout, n;
		uint32_t len[3];
	} cases[] = {
		{ 1, 1, { 16 } },      /* no status */
		{ 2, 2, { 16, 512 } }, /* the same of a write */
		{ 0, 1, { 512 } },     /* no header */
		{ 1, 2, { 15, 1 } },   /* cut off */
	};
	struct rig *r = *state;

	driver_open(&r->d, &virtio_blk_ops, &r->config);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		driver_start(&r->d, ALL_FEATURES);
		offer_lengths(&r->d, cases[i].len, cases[i].nout, cases[i].n);
		assert_true(driver_needs_reset(&r->d));
		assert_int_equal(driver_take(&r->d.queue[0], NULL), NO_HEAD);
	}
	driver_start(&r->d, ALL_FEATURES);
	assert_is_model(r);
	assert_int_equal(r->d.faults, 0);
	driver_close(&r->d);
}

static void buffers_outside_ram_need_a_reset(void **state)
{
	const struct virtio_blk_outhdr hdr[2] = { { .type = VIRTIO_BLK_T_IN },
						  { .type = VIRTIO_BLK_T_OUT } };
	struct rig *r = *state;

	driver_open(&r->d, &virtio_blk_ops, &r->config);
	for (unsigned i = 0; i < 2; i++) {
		struct driver_buf buf[3] = { { 0, sizeof(hdr[0]) },
					     { DRIVER_RAM - 256, 512 },
					     { 0, 1 } };

		driver_start(&r->d, ALL_FEATURES);
		buf[0].address = driver_alloc(&r->d, sizeof(hdr[0]));
		buf[2].address = driver_alloc(&r->d, 1);
		guest_write(&r->d.ram, buf[0].address, &hdr[i], sizeof(hdr[0]));
		driver_offer(&r->d.queue[0], buf, 1 + i, 2 - i);
		driver_kick(&r->d, 0);
		driver_run(&r->d);
		assert_true(driver_needs_reset(&r->d));
	}
	assert_int_equal(r->d.faults, 0);
	driver_close(&r->d);
}

static void headers_and_data_in_pieces_are_one_request(void **state)
{
	struct rig *r = started(state, false);
	struct driver *d = &r->d;
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_OUT, .sector = 11 };
	uint64_t at = driver_alloc(d, 16 + 512 + 1);
	/* The driver may cut where it likes: 2.7.4.2 */
	struct driver_buf buf[4] = {
		{ at, 5 }, { at + 5, 100 }, { at + 105, 423 }, { at + 528, 1 }
	};
	uint8_t status = STATUS;

	fill_random(r->model + 11 * 512, 512, 99);
	guest_write(&d->ram, at, &hdr, sizeof(hdr));
	guest_write(&d->ram, at + 16, r->model + 11 * 512, 512);
	driver_offer(&d->queue[0], buf, 3, 1);
	driver_kick(d, 0);
	driver_run(d);
	guest_read(&d->ram, at + 528, &status, 1);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
	assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
	assert_is_model(r);
	driver_close(d);
}

/* ---- faults ---- */

static void lost_page_puts_the_request_back(void **state)
{
	const struct virtio_blk_outhdr hdr[2] = { { .type = VIRTIO_BLK_T_IN, .sector = 8 },
						  { .type = VIRTIO_BLK_T_OUT, .sector = 16 } };
	struct rig *r = started(state, true);
	const uint64_t lost = DRIVER_RAM - 8192;
	struct driver *d = &r->d;
	uint8_t got[4096], status;

	assert_int_equal(fault_install(), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct driver_buf buf[3] = { { driver_alloc(d, sizeof(hdr[0])), sizeof(hdr[0]) },
					     { lost, 4096 },
					     { driver_alloc(d, 1), 1 } };

		guest_write(&d->ram, buf[0].address, &hdr[i], sizeof(hdr[0]));
		assert_int_equal(ftruncate(d->ram.fd, (off_t)lost), 0);
		driver_offer(&d->queue[0], buf, 1 + i, 2 - i);
		driver_kick(d, 0);
		driver_run(d);
		assert_int_equal(d->faults, i + 1);
		assert_int_equal(d->fault, lost);
		assert_false(driver_needs_reset(d));
		assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		/* The page is back, the machine goes on. */
		assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM), 0);
		guest_write(&d->ram, lost, r->model, 4096);
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		guest_read(&d->ram, buf[2].address, &status, 1);
		assert_int_equal(status, VIRTIO_BLK_S_OK);
		assert_int_equal(d->faults, i + 1);
		if (i == 0) {
			guest_read(&d->ram, lost, got, 4096);
			assert_memory_equal(got, r->model + 8 * 512, 4096);
		}
	}
	memcpy(r->model + 16 * 512, r->model, 4096);
	assert_is_model(r);
	driver_close(d);
}

static void failing_disk_is_ioerr_and_counted(void **state)
{
	struct rig *r = started(state, true);
	uint8_t got[512];

	assert_int_equal(truncate(r->path, 4096), 0);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_IN, 100, NULL, 0, got, 512, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(r->d.v->errors, 1);
	assert_false(driver_needs_reset(&r->d));
	driver_close(&r->d);
}

/* ---- state ---- */

static void saved_state_goes_on_in_another_device(void **state)
{
	struct rig *r = started(state, true);
	struct driver *d = &r->d;
	struct driver_queue queue;
	uint64_t next;
	auto_free uint8_t *buf = NULL;
	auto_free uint8_t *ram = malloc(DRIVER_RAM);
	struct err e = { 0 };
	size_t len;

	fill_random(r->model, 4096, 8);
	assert_int_equal(write_sectors(r, 0, r->model, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(d->v->ops->quiesce(d->v, &e), 0);
	assert_int_equal(d->v->dev.ops->save(&d->v->dev, &buf, &len), 0);
	guest_read(&d->ram, 0, ram, DRIVER_RAM);
	queue = d->queue[0];
	next = d->next;
	driver_close(d);
	driver_open(d, &virtio_blk_ops, &r->config);
	guest_write(&d->ram, 0, ram, DRIVER_RAM);
	queue.ram = &d->ram;
	d->queue[0] = queue;
	d->next = next;
	if (d->v->dev.ops->load(&d->v->dev, buf, len, &e) < 0)
		fail_msg("%s", e.text);
	assert_true(virtio_has(d->v, VIRTIO_BLK_F_FLUSH));
	assert_is_model(r);
	fill_random(r->model + 4096, 4096, 9);
	assert_int_equal(write_sectors(r, 8, r->model + 4096, 4096), VIRTIO_BLK_S_OK);
	assert_is_model(r);
	driver_close(d);
}

/* ---- opening ---- */

static void refuse_open(struct rig *r, const char *words)
{
	const unsigned before = open_descriptors();
	struct err e = { 0 };

	assert_true(driver_try_open(&r->d, &virtio_blk_ops, &r->config, &e) < 0);
	assert_says(&e, words);
	assert_int_equal(open_descriptors(), before);
}

static void open_of_what_does_not_fit_says_so(void **state)
{
	struct rig *r = *state;
	const struct folder *f = r->folder;

	r->config.size = SIZE + 512;
	r->config.overlay = r->overlay;
	refuse_open(r, "the machine's has");
	assert_int_equal(faccessat(f->fd, "clone", F_OK, 0), -1); /* nothing made */
	r->config.size = SIZE;
	r->config.read_only = true;
	refuse_open(r, "clone is missing");
	r->config.path = (char *)(uintptr_t) "/nowhere/disk";
	refuse_open(r, "/nowhere/disk");
}

static void disk_given_by_a_restore_is_used(void **state)
{
	struct rig *r = *state;
	struct disk *d = NULL;
	struct err e = { 0 };
	int fd = open(r->path, O_RDONLY | O_CLOEXEC);
	uint8_t got[512];

	r->config.path = (char *)(uintptr_t) "";
	r->config.size = SIZE;
	driver_open(&r->d, &virtio_blk_ops, &r->config);
	assert_null(virtio_blk_disk(r->d.v));
	driver_start(&r->d, ALL_FEATURES);
	assert_int_equal(request(&r->d, VIRTIO_BLK_T_IN, 0, NULL, 0, got, 512, NULL),
			 VIRTIO_BLK_S_IOERR); /* there is none yet */
	assert_int_equal(disk_open_fds("disk0", &fd, 1, -1, NULL, true, &d, &e), 0);
	assert_int_equal(virtio_blk_set_disk(r->d.v, d, &e), -EINVAL);
	assert_says(&e, "is read-only");
	disk_close(d);
	fd = open(r->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(disk_open_fds("disk0", &fd, 1, -1, r->overlay, false, &d, &e), 0);
	assert_int_equal(virtio_blk_set_disk(r->d.v, d, &e), 0);
	assert_ptr_equal(virtio_blk_disk(r->d.v), d);
	assert_is_model(r);
	driver_close(&r->d);
}

static void kind_is_listed(void **state)
{
	(void)state;
	assert_ptr_equal(virtio_find_kind("virtio-blk"), &virtio_blk_ops);
}

#define ON_DISK(f) cmocka_unit_test_setup_teardown(f, make, destroy)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_DISK(config_tells_the_disk),
		ON_DISK(bytes_written_come_back_and_are_in_the_file),
		ON_DISK(overlay_takes_the_writes),
		ON_DISK(get_id_is_the_devices_name),
		ON_DISK(discard_and_zeroes_are_zeros),
		ON_DISK(read_only_disk_refuses_writes),
		ON_DISK(batch_is_one_interrupt_and_indirect_works),
		ON_DISK(full_queue_is_worked_off_by_one_kick),
		ON_DISK(requests_outside_the_disk_are_ioerr),
		ON_DISK(bad_ranges_are_refused),
		ON_DISK(unknown_types_are_unsupported),
		ON_DISK(unnegotiated_discard_is_unsupported),
		ON_DISK(requests_without_header_or_status_need_a_reset),
		ON_DISK(buffers_outside_ram_need_a_reset),
		ON_DISK(headers_and_data_in_pieces_are_one_request),
		ON_DISK(lost_page_puts_the_request_back),
		ON_DISK(failing_disk_is_ioerr_and_counted),
		ON_DISK(saved_state_goes_on_in_another_device),
		ON_DISK(open_of_what_does_not_fit_says_so),
		ON_DISK(disk_given_by_a_restore_is_used),
		cmocka_unit_test(kind_is_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
