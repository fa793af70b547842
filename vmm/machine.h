/*
 * The machine: RAM, devices, what it booted, and the struct vm that runs it at
 * the moment. A reset, a restore or a save gives it another struct vm; the machine stays.
 *
 * Threads: one for each vCPU (cpu.c), iothreads for the virtio devices, and the
 * main thread, which owns everything else here. The main thread touches vm, ram
 * and the table of devices only while it alone runs, or while all are held.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base.h"
#include "base/text.h"
#include "boot.h"
#include "chardev.h"
#include "handover.h"
#include "i8042.h"
#include "iothread.h"
#include "options.h"
#include "pageset.h"
#include "power.h"
#include "ram.h"
#include "rtc.h"
#include "serial.h"
#include "timing.h"
#include "virtio/virtio.h"
#include "vm.h"

/* Why the vCPUs do not run; they run while no reason stands. */
enum hold {
	HOLD_USER = 1,	/* `pause`, --paused, not started yet */
	HOLD_SAVE = 2,	/* the state is being taken */
	HOLD_FAULT = 4, /* a RAM page cannot be had; `resume` tries again */
	HOLD_RESET = 8, /* the guest asked for a reset */
	HOLD_END = 16,	/* the machine ends */
};

/* What a vCPU thread tells the main thread. */
enum machine_event {
	EVENT_RESET = 1,     /* the guest asked for a reset */
	EVENT_FAULT = 2,     /* host-memory-fault: machine.fault says which */
	EVENT_FAILED = 4,    /* a vCPU cannot go on: machine.failure says why */
	EVENT_POWER_OFF = 8, /* the guest has powered itself off */
};

/* A RAM page that the host could not give: one event, whatever its form. */
struct memory_fault {
	uint64_t address; /* guest address, UINT64_MAX: KVM did not tell */
	const char *form; /* how it showed: "MMIO exit inside RAM", ... */
};

enum exit_kind { COUNT_IO, COUNT_MMIO, COUNT_INTERRUPTED, COUNT_OTHER, COUNT_KINDS };

#define MACHINE_VIRTIO_MAX  16
#define MACHINE_DEVICES_MAX (8 + MACHINE_VIRTIO_MAX)

struct machine;

/* A vCPU's thread. */
struct cpu {
	struct machine *machine;
	unsigned index;
	pthread_t thread;
	bool started;
	pid_t tid;	 /* the thread's; set before it parks first */
	bool retry_mmio; /* its pending exit is an access to RAM, to be done again */
	uint64_t exits[COUNT_KINDS];
};

struct machine {
	struct timing *timing; /* of the start; NULL: nobody asks */
	struct kvm_host kvm;
	struct vm vm; /* exchanged under lock */
	struct handover handover;
	enum freeze_way freeze;
	struct ram ram;
	struct pageset dirty;	       /* pages of RAM that have changed since the base: dirty.h */
	struct ram *pmem[VM_PMEM_MAX]; /* their devices', in the order of their addresses */
	unsigned npmem;
	struct boot boot;
	struct chardev console;
	struct serial serial;
	struct i8042 keyboard;
	struct rtc rtc;
	struct power power;
	struct vdev_host host; /* what every device is given */
	Machine *config;       /* of the virtio devices, in their order; owned */
	struct virtio *virtio[MACHINE_VIRTIO_MAX];
	unsigned nvirtio;
	enum disk_policy disk_policy;
	Disk **origin; /* the snapshot's disks that it was restored over, owned */
	size_t norigin;
	struct iothread
		io[1 + MACHINE_VIRTIO_MAX]; /* the shared one, then those of devices that block */
	unsigned nio;
	unsigned ncpus;
	struct cpu cpu[VM_VCPUS_MAX];
	const char *cpu_profile;  /* --cpu, NULL: host */
	struct kvm_cpuid2 *cpuid; /* what the vCPUs are shown, owned; NULL: not made yet */
	bool announce;		  /* restored, and not yet run: the guest is to be told */
	int event_fd;		  /* eventfd: a vCPU thread has posted events */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock: */
	unsigned holds;	    /* enum hold bits */
	unsigned parked;    /* vCPU threads that wait outside KVM_RUN */
	unsigned events;    /* enum machine_event bits, not yet taken */
	int64_t resumed_ns; /* CLOCK_MONOTONIC: when the last vCPU went on, the last time */
	bool quit;
	struct memory_fault fault;
	char failure[256];

	/* identity, the main thread's */
	struct timespec started;
	struct base base; /* the snapshot it was restored from or last saved as */
	bool restored;
	uint8_t restored_from[UUID_SIZE];
	uint8_t generation[UUID_SIZE];
};

/* The devices, by the one table in machine.c. */
unsigned machine_devices(struct machine *m, struct vdev **devices, unsigned room);

/* A device that every machine has, by number; false: there are no more. For preflight. */
struct machine_builtin {
	const char *name, *kind;
	uint16_t port;
	uint32_t irq, version;
};
bool machine_builtin(unsigned i, struct machine_builtin *out);

/* Where the guest finds the i-th virtio device, i < MACHINE_VIRTIO_MAX. */
void machine_virtio_place(unsigned i, uint64_t *address, uint32_t *irq);

/* The newest version of the state of a kind of device; false: the kind is unknown. */
bool machine_kind_version(const char *kind, uint32_t *version);

/*
 * Sets up everything but KVM, RAM, boot and vm: makes the devices. `output` is where
 * the serial line ends, -1: nowhere. 0 or a negative errno.
 */
int machine_init(struct machine *m, unsigned ncpus, int output, struct err *e);

/*
 * Opens the virtio devices that `config` lists, in its order, and takes it over,
 * also when this fails. After machine_init() and with RAM mapped, before a vm is
 * made. Each gets the next window and interrupt, and config says which: where it
 * has them already (a restore) they must be the same. 0 or a negative errno.
 */
int machine_add_virtio(struct machine *m, Machine *config, struct err *e);

/* Puts the devices that every machine has in their state after power-on; machine_init() does. */
void machine_init_builtin(struct machine *m);

/* Connects the virtio devices with another vm; everything is held. 0 or a negative errno. */
int machine_bind_virtio(struct machine *m, const struct vm *vm, struct err *e);

/* Gives pmem devices, once mapped, their guest addresses. Before a vm is made. 0 or negative. */
int machine_place_memories(struct machine *m, struct err *e);

/* The virtio device of that name, or NULL. */
struct virtio *machine_find_virtio(struct machine *m, const char *name);

/* Starts the iothreads and the vCPU threads, held by HOLD_USER. 0 or a negative errno. */
int machine_start(struct machine *m, struct err *e);

/* Ends the vCPU threads and frees all. */
void machine_destroy(struct machine *m);

/*
 * Main thread. hold: adds a reason and waits until nothing of a device is under
 * way and every vCPU is outside KVM_RUN with no exit half done. hold_devices is
 * the first half of it: the vCPUs go on. release: takes reasons away; when none
 * is left devices and vCPUs run, and it returns when all of them do.
 */
void machine_hold_devices(struct machine *m);
void machine_hold(struct machine *m, enum hold why);
void machine_release(struct machine *m, unsigned why);
unsigned machine_holds(struct machine *m);

/* When the last vCPU went on after the last hold, CLOCK_MONOTONIC in ns; 0: none has yet. */
int64_t machine_resumed_ns(struct machine *m);

/* Any thread: as hold, but does not wait; and posts the event to the main thread. */
void machine_post(struct machine *m, enum machine_event event, enum hold why);

/* Any thread: a RAM page cannot be had. Everything is held, and the main thread told. */
void machine_report_fault(struct machine *m, uint64_t address, const char *form);

/* The events posted since the last call; main thread, when event_fd is readable. */
unsigned machine_take_events(struct machine *m);

/*
 * Boots m->boot from the start: a fresh struct vm over the same RAM, devices in
 * their state after power-on. The vCPUs must be held. 0 or a negative errno.
 */
int machine_boot(struct machine *m, struct err *e);

/*
 * The machine's state, with its vCPUs held, as state.bin has it (the caller's).
 * And the reverse, into a machine without a vm yet whose RAM is there: builds
 * the vm; preflight is restore.c's. 0 or a negative errno.
 */
int machine_save_state(struct machine *m, uint8_t **buf, size_t *len, struct err *e);
/* The same before it is encoded, for proto_state_free(). */
int machine_take_state(struct machine *m, VmState **state, struct err *e);
int machine_load_state(struct machine *m, const VmState *state, struct err *e);

/*
 * Gives a restored machine, its state loaded, a VM generation ID of its own. The
 * guest is told when it is first released: until then its state is the snapshot's.
 * vCPUs held. 0 or a negative errno.
 */
int machine_renew_generation(struct machine *m, struct err *e);

/* Tells the guest that time has passed unseen (KVM_KVMCLOCK_CTRL). vCPUs held. */
void machine_tell_paused(struct machine *m);

/* Everything is held: *vm runs the machine from now on, and is what has run it until now. */
void machine_exchange_vm(struct machine *m, struct vm *vm);

/* All memory in the order of its slots (vm.h): RAM, then pmem. Returns how many. */
unsigned machine_memories(struct machine *m, struct ram *memory[VM_MEMORIES_MAX]);

/* The memory that holds all of [address, address + len), or NULL. Any thread. */
struct ram *machine_memory_at(struct machine *m, uint64_t address, uint64_t len);

/* Dispatches a guest's access to an I/O port, or to an address that is no RAM. vCPU threads. */
void machine_port_io(struct machine *m, bool out, uint16_t port, uint8_t *data, unsigned size);
void machine_mmio(struct machine *m, bool write, uint64_t address, uint8_t *data, unsigned size);

/* The body of a vCPU's thread (cpu.c). */
void *cpu_main(void *arg);

/* Sets up the signal that gets a vCPU out of KVM_RUN. Once. 0 or a negative errno. */
int cpu_install_kick(void);
void cpu_kick(struct cpu *c);
