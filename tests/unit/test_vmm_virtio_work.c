/* A virtio device at work: broken rings, lost pages, KVM's own paths, threads. */
#include "virtio_echo.h"

#include <pthread.h>

#include "vmm/fault.h"

/* ---- a guest that breaks the rules ---- */

static void broken_ring_needs_reset_and_is_left_alone(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	for (int i = 0; i < 50; i++) {
		driver_start(d, ALL_FEATURES);
		driver_run(d);
		driver_interrupts(d);
		driver_put_avail(&d->queue[0], 64);
		driver_kick(d, 0);
		driver_run(d);
		assert_true(driver_needs_reset(d));
		assert_int_equal(driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS),
				 VIRTIO_MMIO_INT_CONFIG);
		assert_int_equal(driver_interrupts(d), 1);
		r->echo->notified = 0;
		for (int n = 0; n < 20; n++) {
			driver_kick(d, 0);
			driver_run(d);
		}
		assert_int_equal(r->echo->notified, 0);
		assert_int_equal(driver_interrupts(d), 0);
		d->next = RAM_PAGE;
	}
	assert_int_equal(d->v->errors, 50);
	driver_start(d, ALL_FEATURES);
	echo(d, 0);
	assert_int_equal(d->faults, 0);
}

static void buffer_outside_ram_needs_reset(void **state)
{
	static const struct driver_buf buf[] = { { DRIVER_RAM - 4, 8 }, { 0, 8 } };
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	driver_offer(&d->queue[0], buf, 1, 1);
	driver_kick(d, 0);
	driver_run(d);
	assert_true(driver_needs_reset(d));
	assert_int_equal(d->faults, 0);
}

/* ---- pages that cannot be had ---- */

#define LOST_AT (8ULL << 20)

/* Puts a request up whose in buffer lies at LOST_AT, takes that away, kicks. */
static void offer_lost(struct rig *r, uint8_t *copy)
{
	struct driver *d = &r->d;
	const struct driver_buf buf[] = { { driver_alloc(d, 8), 8 }, { LOST_AT + 40, 8 } };

	guest_write(&d->ram, buf[0].address, "goes on!", 8);
	driver_offer(&d->queue[0], buf, 1, 1);
	assert_int_equal(io_pread_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
	assert_int_equal(ftruncate(d->ram.fd, LOST_AT), 0);
	driver_kick(d, 0);
	driver_run(d);
}

static void mend(struct driver *d, const uint8_t *copy)
{
	assert_int_equal(ftruncate(d->ram.fd, DRIVER_RAM), 0);
	assert_int_equal(io_pwrite_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
}

static void lost_buffer_is_reported_and_taken_again(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;
	char bytes[8];

	assert_int_equal(fault_install(), 0);
	for (int i = 0; i < 2; i++) {
		r->echo->by_kernel = i;
		driver_start(d, ALL_FEATURES);
		driver_run(d);
		driver_interrupts(d);
		d->faults = 0;
		offer_lost(r, copy);
		assert_int_equal(d->faults, 1);
		assert_int_equal(d->fault & ~(RAM_PAGE - 1), LOST_AT);
		assert_false(driver_needs_reset(d));
		/* Resumed, and still not there. */
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_equal(d->faults, 2);
		assert_int_equal(driver_interrupts(d), 0);
		mend(d, copy);
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_equal(driver_interrupts(d), 1);
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		assert_int_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		guest_read(&d->ram, LOST_AT + 40, bytes, 8);
		assert_memory_equal(bytes, i ? "\0\0\0\0\0\0\0" : "goes on!", 8);
		assert_int_equal(d->faults, 2);
	}
}

static void lost_rings_are_reported_and_go_on(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;

	assert_int_equal(fault_install(), 0);
	d->next = LOST_AT;
	driver_start(d, ALL_FEATURES);
	driver_run(d);
	d->next = RAM_PAGE;
	offer_lost(r, copy);
	assert_int_equal(d->faults, 1);
	assert_in_range(d->fault, LOST_AT, LOST_AT + 8 * RAM_PAGE);
	assert_false(driver_needs_reset(d));
	mend(d, copy);
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
	assert_int_equal(driver_interrupts(d), 1);
}

/* Where the used ring alone is gone: the request is done, cannot be given back, is done again. */
static void lost_used_ring_gives_the_request_back_once(void **state)
{
	auto_free uint8_t *copy = malloc(DRIVER_RAM);
	struct rig *r = *state;
	struct driver *d = &r->d;
	struct driver_queue *q = &d->queue[0];

	assert_int_equal(fault_install(), 0);
	driver_negotiate(d, ALL_FEATURES);
	q->used = LOST_AT;
	for (unsigned i = 0; i < 2; i++) {
		driver_place_queue(d, i);
		driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	driver_set(d, VIRTIO_MMIO_STATUS,
		   driver_get(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	driver_run(d);
	{
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };

		driver_offer(q, &buf, 1, 0);
	}
	assert_int_equal(io_pread_full(d->ram.fd, copy, DRIVER_RAM, 0), 0);
	assert_int_equal(ftruncate(d->ram.fd, LOST_AT), 0);
	driver_kick(d, 0);
	driver_run(d);
	assert_int_equal(d->faults, 1);
	assert_int_equal(d->fault & ~(RAM_PAGE - 1), LOST_AT);
	assert_int_equal(d->v->requests, 0);
	mend(d, copy);
	virtio_kick_all(d->v);
	driver_run(d);
	assert_int_not_equal(driver_take(q, NULL), NO_HEAD);
	assert_int_equal(driver_take(q, NULL), NO_HEAD);
	assert_int_equal(d->v->requests, 1);
}

/* ---- opening, binding ---- */

static void open_that_fails_says_why_and_leaves_nothing(void **state)
{
	const unsigned before = open_descriptors();
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct driver d;

	(void)state;
	config.path = (char *)(uintptr_t) "/nowhere";
	assert_int_equal(driver_try_open(&d, &echo_ops, &config, &e), -ENOENT);
	assert_says(&e, "/nowhere");
	assert_int_equal(open_descriptors(), before);
}

static void open_of_an_unknown_kind_is_refused(void **state)
{
	const struct vdev_host host = { 0 };
	Device config = DEVICE__INIT;
	struct err e = { 0 };
	struct virtio *v;

	(void)state;
	config.name = (char *)(uintptr_t) "disk0";
	config.kind = (char *)(uintptr_t) "virtio-nothing";
	assert_null(virtio_find_kind(config.kind));
	assert_null(virtio_find_kind(""));
	assert_int_equal(virtio_open(&config, 0, 5, NULL, NULL, &host, &v, &e), -EINVAL);
	assert_says(&e, "disk0");
	assert_says(&e, "virtio-nothing");
	for (size_t i = 0; virtio_kinds[i]; i++)
		assert_ptr_equal(virtio_find_kind(virtio_kinds[i]->kind), virtio_kinds[i]);
}

static void device_bound_again_goes_on(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	unsigned before;

	driver_start(d, ALL_FEATURES);
	driver_run(d);
	before = open_descriptors();
	for (int i = 0; i < 10; i++) {
		/* A kick that was on its way is not lost. */
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };

		driver_offer(&d->queue[0], &buf, 1, 0);
		driver_kick(d, 0);
		assert_int_equal(virtio_bind(d->v, NULL, NULL), 0);
		virtio_kick_all(d->v);
		driver_run(d);
		assert_int_not_equal(driver_take(&d->queue[0], NULL), NO_HEAD);
		echo(d, 1);
	}
	assert_int_equal(open_descriptors(), before);
}

static void bind_that_fails_keeps_what_was(void **state)
{
	const struct vm none = { .fd = -1 };
	struct rig *r = *state;
	struct err e = { 0 };

	driver_start(&r->d, ALL_FEATURES);
	assert_true(virtio_bind(r->d.v, &none, &e) < 0);
	assert_says(&e, "device0");
	echo(&r->d, 0);
	assert_int_equal(driver_interrupts(&r->d), 1);
}

static void interrupt_that_stands_is_raised_again(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	driver_start(d, ALL_FEATURES);
	echo(d, 0);
	assert_int_equal(virtio_bind(d->v, NULL, NULL), 0);
	assert_int_equal(driver_interrupts(d), 0);
	virtio_kick_all(d->v);
	assert_int_equal(driver_interrupts(d), 1);
	driver_set(d, VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
	virtio_kick_all(d->v);
	assert_int_equal(driver_interrupts(d), 0);
}

/* KVM's own paths: a guest's write to QueueNotify makes no exit, an irqfd reaches the PIC. */
static void run_guest(struct vm *vm, struct ram *ram, uint32_t value)
{
	/* mov %ebx, (%eax); out %al, $0x10 */
	static const uint8_t code[] = { 0x89, 0x18, 0xe6, 0x10 };
	struct kvm_regs regs = { .rip = 0x1000,
				 .rflags = 2,
				 .rbx = value,
				 .rax = DRIVER_ADDRESS + VIRTIO_MMIO_QUEUE_NOTIFY };
	struct kvm_segment flat = { .limit = UINT32_MAX, .present = 1, .db = 1, .s = 1, .g = 1 };
	const int fd = vm->vcpu[0].fd;
	struct kvm_sregs sregs;

	assert_int_equal(ram_write(ram, regs.rip, code, sizeof(code)), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.ss = flat;
	flat.type = 11;
	flat.selector = 8;
	sregs.cs = flat;
	sregs.cr0 |= 1;
	assert_int_equal(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_RUN, NULL), 0);
}

static uint8_t pic_requests(const struct vm *vm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	assert_int_equal(kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.pic.irr;
}

static void bound_to_kvm_kicks_and_interrupts_without_exits(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;
	struct kvm_host host;

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("skipped: /dev/kvm: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(kvm_host_open(&host, NULL), 0);
	d->v->dev.irq = 5;
	driver_start(d, ALL_FEATURES);
	/* Two VMs, one after the other, as at a reset. */
	for (int i = 0; i < 2; i++) {
		const struct driver_buf buf = { driver_alloc(d, 8), 8 };
		struct vm vm;

		assert_int_equal(
			vm_create(&vm, &host, (const struct ram *[]){ &d->ram }, 1, 1, NULL), 0);
		assert_int_equal(virtio_bind(d->v, &vm, NULL), 0);
		driver_run(d);
		r->echo->notified = 0;
		driver_offer(&d->queue[1], &buf, 1, 0);
		run_guest(&vm, &d->ram, 1);
		assert_int_equal(vm.vcpu[0].run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(pic_requests(&vm) & 1 << 5, 0);
		driver_run(d);
		assert_int_equal(r->echo->notified, 1);
		assert_int_not_equal(driver_take(&d->queue[1], NULL), NO_HEAD);
		/* Brought by a worker of the kernel's. */
		for (int n = 0; !(pic_requests(&vm) & 1 << 5); n++) {
			assert_true(n < 10000);
			usleep(1000);
		}
		/* A queue that there is not is an MMIO exit. */
		run_guest(&vm, &d->ram, 2);
		assert_int_equal(vm.vcpu[0].run->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(vm.vcpu[0].run->mmio.phys_addr,
				 DRIVER_ADDRESS + VIRTIO_MMIO_QUEUE_NOTIFY);
		vm_destroy(&vm);
	}
	kvm_host_close(&host);
}

/* ---- threads ---- */

/* A vCPU that resets and starts over, again and again, while its iothread works. */
static void reset_while_the_iothread_works_waits_for_it(void **state)
{
	struct rig *r = *state;
	struct driver *d = &r->d;

	assert_int_equal(iothread_start(&d->io, NULL), 0);
	iothread_release(&d->io);
	for (int i = 0; i < 300; i++) {
		struct driver_buf buf[2];

		d->next = RAM_PAGE;
		driver_start(d, ALL_FEATURES);
		assert_int_not_equal(r->echo->extra_fd, -1);
		buf[0] = (struct driver_buf){ driver_alloc(d, 64), 64 };
		buf[1] = (struct driver_buf){ driver_alloc(d, 64), 64 };
		for (int n = 0; n < 32; n++) {
			driver_offer(&d->queue[n % 2], buf, 1, 1);
			driver_kick(d, (unsigned)n % 2);
		}
		while (i % 3 == 0 && driver_take(&d->queue[1], NULL) == NO_HEAD)
			usleep(10);
	}
	/* And the machine holds it in the midst of that. */
	iothread_hold(&d->io);
	driver_set(d, VIRTIO_MMIO_STATUS, 0);
	driver_start(d, ALL_FEATURES);
	assert_true(d->io.hold && d->io.parked);
	iothread_release(&d->io);
	driver_kick(d, 0);
}

static void *pause_often(void *arg)
{
	struct iothread *t = arg;

	for (int i = 0; i < 1000; i++) {
		iothread_pause(t);
		/* The loop is this thread's alone. */
		assert_int_equal(loop_add(&t->loop, t->wake_fd, EPOLLIN, on_extra, NULL), -EEXIST);
		iothread_unpause(t);
	}
	return NULL;
}

static void pauses_of_several_vcpus_and_holds_take_turns(void **state)
{
	struct rig *r = *state;
	struct iothread *t = &r->d.io;
	pthread_t vcpu[3];

	assert_int_equal(iothread_start(t, NULL), 0);
	iothread_release(t);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&vcpu[i], NULL, pause_often, t), 0);
	for (int i = 0; i < 200; i++) {
		iothread_hold(t);
		iothread_release(t);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(vcpu[i], NULL);
	/* And it still works. */
	driver_start(&r->d, ALL_FEATURES);
	for (int i = 0; __atomic_load_n(&r->echo->notified, __ATOMIC_RELAXED) == 0; i++) {
		assert_true(i < 3000);
		usleep(1000);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(broken_ring_needs_reset_and_is_left_alone),
		T(buffer_outside_ram_needs_reset),
		T(lost_buffer_is_reported_and_taken_again),
		T(lost_rings_are_reported_and_go_on),
		T(lost_used_ring_gives_the_request_back_once),
		cmocka_unit_test(open_that_fails_says_why_and_leaves_nothing),
		cmocka_unit_test(open_of_an_unknown_kind_is_refused),
		T(device_bound_again_goes_on),
		T(bind_that_fails_keeps_what_was),
		T(interrupt_that_stands_is_raised_again),
		T(bound_to_kvm_kicks_and_interrupts_without_exits),
		T(reset_while_the_iothread_works_waits_for_it),
		T(pauses_of_several_vcpus_and_holds_take_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
