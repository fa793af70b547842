/* The saved state of virtio devices: round trips, and what is refused. */
#include "virtio_echo.h"

/* ---- state ---- */

static void save(struct rig *r, uint8_t **buf, size_t *len)
{
	assert_int_equal(r->d.v->dev.ops->save(&r->d.v->dev, buf, len), 0);
}

static int load(struct rig *r, const uint8_t *buf, size_t len, struct err *e)
{
	return r->d.v->dev.ops->load(&r->d.v->dev, buf, len, e);
}

/* A device like r's with its RAM and its state, as a restore makes it. */
static struct rig *restore(struct rig *r, const uint8_t *buf, size_t len)
{
	struct rig *s = open_rig(r->d.v->ops, 0);
	struct err e = { 0 };

	assert_int_equal(ram_write(&s->d.ram, 0, r->d.ram.base, DRIVER_RAM), 0);
	if (load(s, buf, len, &e) < 0)
		fail_msg("%s", e.text);
	memcpy(s->d.queue, r->d.queue, sizeof(s->d.queue));
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		s->d.queue[q].ram = &s->d.ram;
	s->d.next = r->d.next;
	return s;
}

static void state_loads_and_is_the_same_when_saved_again(void **state)
{
	struct rig *r = *state;

	/* As new; half way; with features refused; running, with requests not yet looked at. */
	for (int stage = 0; stage < 4; stage++) {
		auto_free uint8_t *once = NULL, *twice = NULL;
		struct driver_buf buf;
		size_t n, k;
		struct rig *s;

		if (stage == 1)
			driver_negotiate(&r->d, ALL_FEATURES);
		if (stage == 2) {
			driver_set(&r->d, VIRTIO_MMIO_STATUS, 0);
			driver_set(&r->d, VIRTIO_MMIO_STATUS, DRIVER_BEGUN);
			driver_accept(&r->d, ALL_FEATURES);
		}
		if (stage == 3) {
			driver_start(&r->d, ALL_FEATURES);
			for (int i = 0; i < 100; i++)
				echo(&r->d, 0);
			buf = (struct driver_buf){ driver_alloc(&r->d, 8), 8 };
			driver_offer(&r->d.queue[0], &buf, 1, 0);
		}
		fill_random(r->echo->private, sizeof(r->echo->private), 5);
		save(r, &once, &n);
		s = restore(r, once, n);
		save(s, &twice, &k);
		assert_int_equal(n, k);
		assert_memory_equal(once, twice, n);
		assert_memory_equal(r->echo->private, s->echo->private, 8);
		if (stage == 3) {
			/* It goes on where it was, and says so again. */
			virtio_kick_all(s->d.v);
			driver_run(&s->d);
			assert_true(driver_interrupts(&s->d) >= 1);
			assert_int_not_equal(driver_take(&s->d.queue[0], NULL), NO_HEAD);
			assert_int_equal(driver_take(&s->d.queue[0], NULL), NO_HEAD);
			for (int i = 0; i < 100; i++)
				echo(&s->d, (unsigned)i % 2);
		}
		close_rig(s);
	}
}

static void device_that_needs_reset_is_restored_so(void **state)
{
	struct rig *r = *state, *s;
	auto_free uint8_t *buf = NULL;
	size_t len;

	driver_start(&r->d, ALL_FEATURES);
	driver_put_avail(&r->d.queue[0], 9999);
	driver_kick(&r->d, 0);
	driver_run(&r->d);
	save(r, &buf, &len);
	s = restore(r, buf, len);
	assert_true(driver_needs_reset(&s->d));
	virtio_kick_all(s->d.v);
	assert_int_equal(driver_interrupts(&s->d), 1);
	driver_start(&s->d, ALL_FEATURES);
	echo(&s->d, 0);
	close_rig(s);
}

static void device_without_a_state_of_its_own_is_saved_too(void **state)
{
	Device config = DEVICE__INIT;
	auto_free uint8_t *buf = NULL;
	struct driver d;
	size_t len;

	(void)state;
	config.kind = (char *)(uintptr_t) "virtio-plain";
	driver_open(&d, &plain_ops, &config);
	driver_start(&d, ALL_FEATURES);
	echo(&d, 0);
	assert_int_equal(d.v->dev.ops->save(&d.v->dev, &buf, &len), 0);
	assert_int_equal(d.v->dev.ops->load(&d.v->dev, buf, len, NULL), 0);
	virtio_kick_all(d.v);
	echo(&d, 0);
	driver_set_config(&d, 0, "x", 1);
	driver_get_config(&d, 0, buf, 1);
	assert_int_equal(buf[0], 0);
	driver_close(&d);
}

static void fewer_features_offered_than_saved_is_refused_more_is_not(void **state)
{
	struct rig *r = *state, *more = open_rig(&echo_ops, VIRTIO_F(ECHO_FEATURE) | VIRTIO_F(7));
	auto_free uint8_t *buf = NULL, *more_buf = NULL, *again = NULL;
	struct err e = { 0 };
	size_t len, more_len, again_len;

	driver_start(&r->d, ALL_FEATURES);
	save(r, &buf, &len);
	driver_start(&more->d, ALL_FEATURES);
	save(more, &more_buf, &more_len);
	assert_int_equal(load(r, more_buf, more_len, &e), -EINVAL);
	assert_says(&e, "needs features 0x80");
	assert_int_equal(load(more, buf, len, NULL), 0);
	save(more, &again, &again_len);
	assert_int_equal(again_len, len);
	assert_memory_equal(again, buf, len);
	/* The guest is offered what it was. */
	assert_true(driver_offered(&more->d) == driver_offered(&r->d));
	close_rig(more);
}

/* A good state is spoilt in one place. */
static const struct {
	const char *words;
	size_t offset;
	uint32_t value;
} spoilt[] = {
#define FIELD(f) offsetof(VirtioState, f)
	{ "type 1, not 4242", FIELD(device_id), 1 },
	{ "version 4", FIELD(device_version), 4 },
	{ "status 0x1f", FIELD(status), 0x1f }, /* 0x10 is nothing */
	{ "status 0x100", FIELD(status), 0x100 },
	{ "status 0xf0000000", FIELD(status), 0xf0000000 },
	{ "status 0x7", FIELD(status), 7 }, /* DRIVER_OK, not FEATURES_OK */
	{ "status 0x8", FIELD(status), 8 }, /* FEATURES_OK, no driver */
	{ "status 0x3", FIELD(status), 3 }, /* with queues ready */
	{ "interrupts 0x4", FIELD(interrupt_status), 4 },
	{ "interrupts 0xffffffff", FIELD(interrupt_status), UINT32_MAX },
	{ "1 queues, not 2", FIELD(n_queue), 1 },
#undef FIELD
};

static void put_field(VirtioState *m, size_t offset, uint32_t value)
{
	if (offset == offsetof(VirtioState, n_queue))
		m->n_queue = value;
	else
		*(uint32_t *)(void *)((uint8_t *)m + offset) = value;
}

static int load_spoilt(struct rig *r, const VirtioState *m, struct err *e)
{
	const size_t len = virtio_state__get_packed_size(m);
	auto_free uint8_t *buf = malloc(len);

	assert_non_null(buf);
	virtio_state__pack(m, buf);
	*e = (struct err){ 0 };
	return load(r, buf, len, e);
}

/* What is refused leaves a device that works. */
static void assert_refused(struct rig *r, const VirtioState *m, const char *words)
{
	struct err e;

	assert_int_equal(load_spoilt(r, m, &e), -EINVAL);
	assert_says(&e, words);
	r->d.next = RAM_PAGE;
	driver_start(&r->d, ALL_FEATURES);
	echo(&r->d, 0);
}

static VirtioState *good_state(struct rig *r)
{
	auto_free uint8_t *buf = NULL;
	VirtioState *m;
	size_t len;

	driver_start(&r->d, ALL_FEATURES);
	save(r, &buf, &len);
	m = virtio_state__unpack(NULL, len, buf);
	assert_non_null(m);
	return m;
}

static void hostile_states_are_refused(void **state)
{
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(spoilt) / sizeof(spoilt[0]); i++) {
		VirtioState *m = good_state(r);
		const size_t n = m->n_queue;

		put_field(m, spoilt[i].offset, spoilt[i].value);
		assert_refused(r, m, spoilt[i].words);
		m->n_queue = n;
		virtio_state__free_unpacked(m, NULL);
	}
}

static void hostile_features_and_queues_are_refused(void **state)
{
	struct rig *r = *state;
	VirtioState *m = good_state(r);
	const uint64_t features = m->driver_features;

	m->driver_features |= 1ULL << 40;
	assert_refused(r, m, "accepted, which were not offered");
	m->driver_features = features & ~VIRTIO_F(VIRTIO_F_VERSION_1);
	assert_refused(r, m, "VERSION_1");
	m->driver_features = features;
	m->features |= 1ULL << 40;
	assert_refused(r, m, "needs features");
	m->features &= ~(1ULL << 40);
	m->queue[1]->used = DRIVER_RAM;
	assert_refused(r, m, "outside RAM");
	m->queue[1]->used = m->queue[0]->used;
	m->queue[0]->next_avail = 77;
	assert_refused(r, m, "further apart");
	m->queue[0]->next_avail = 0;
	m->device.len = 7;
	assert_refused(r, m, "the echo has 7 bytes");
	m->device.len = 8;
	assert_int_equal(load_spoilt(r, m, &(struct err){ 0 }), 0);
	virtio_state__free_unpacked(m, NULL);
}

static void nonsense_is_refused(void **state)
{
	struct rig *r = *state;
	auto_free uint8_t *many = malloc(1 << 20);
	uint8_t bytes[200];
	struct err e = { 0 };

	for (uint32_t seed = 0; seed < 500; seed++) {
		fill_random(bytes, sizeof(bytes), seed);
		assert_int_equal(load(r, bytes, seed % 200, NULL), -EINVAL);
	}
	/* Half a million empty queues: two bytes each here, much more in memory. */
	for (size_t i = 0; i < 1 << 20; i += 2)
		memcpy(many + i, "\x52\x00", 2);
	assert_int_equal(load(r, many, 1 << 20, &e), -EINVAL);
	assert_says(&e, "cannot be parsed");
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(state_loads_and_is_the_same_when_saved_again),
		T(device_that_needs_reset_is_restored_so),
		cmocka_unit_test(device_without_a_state_of_its_own_is_saved_too),
		T(fewer_features_offered_than_saved_is_refused_more_is_not),
		T(hostile_states_are_refused),
		T(hostile_features_and_queues_are_refused),
		T(nonsense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
