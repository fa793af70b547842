/* The sandbox's allow-list: see sandbox_rules.h. */
#define _GNU_SOURCE
#include "sandbox_rules.h"

#include <asm/termbits.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* An int of the ABI: its upper half has no meaning. */
#define INT 0xffffffffU

/* clang-format off */
#define CALL(name, why)		      { SCMP_SYS(name), why, 0, 0, 0 }
#define WHERE(name, n, m, v, why)     { SCMP_SYS(name), why, n, m, v }
#define IOCTL(request, why)	      { SCMP_SYS(ioctl), why, 1, INT, (uint32_t)(request) }
#define FCNTL(command, why)	      { SCMP_SYS(fcntl), why, 1, INT, command }
#define PRCTL(option, why)	      { SCMP_SYS(prctl), why, 0, INT, option }

const int sandbox_unsupported = SCMP_SYS(clone3);

const struct sandbox_rule sandbox_rules[] = {
	/* ---- running the guest ---- */
	IOCTL(KVM_RUN, "a vCPU runs"),
	IOCTL(KVM_IRQ_LINE, "a device raises or lowers its line"),
	IOCTL(KVM_GET_REGS, "state; a lost page is looked for"),
	IOCTL(KVM_GET_SREGS, "state; a lost page is looked for"),
	IOCTL(KVM_GET_LAPIC, "state; an interrupt is taken back"),
	IOCTL(KVM_GET_VCPU_EVENTS, "state; an interrupt is taken back"),
	IOCTL(KVM_SET_VCPU_EVENTS, "state; an interrupt is taken back"),
	IOCTL(KVM_KVMCLOCK_CTRL, "the guest is told of a pause"),

	/* ---- a VM is made: reset, and the hand-over of a save ---- */
	IOCTL(KVM_CREATE_VM, "a reset, a hand-over"),
	IOCTL(KVM_CREATE_VCPU, "a reset, a hand-over"),
	IOCTL(KVM_CREATE_IRQCHIP, "a reset, a hand-over"),
	IOCTL(KVM_CREATE_PIT2, "a reset, a hand-over"),
	IOCTL(KVM_SET_TSS_ADDR, "a reset, a hand-over"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, "RAM is placed, moved by a freeze"),
	IOCTL(KVM_GET_DIRTY_LOG, "the pages that changed since the last save"),
	IOCTL(KVM_CLEAR_DIRTY_LOG, "the pages that changed since the last save"),
	IOCTL(KVM_ENABLE_CAP, "the dirty log of a new VM"),
	IOCTL(KVM_CHECK_EXTENSION, "what a new VM can do"),
	IOCTL(KVM_GET_SUPPORTED_CPUID, "a reset"),
	IOCTL(KVM_SET_CPUID2, "a reset, a hand-over"),
	IOCTL(KVM_GET_MSR_INDEX_LIST, "a reset, a hand-over"),
	IOCTL(KVM_SET_GSI_ROUTING, "interrupt routes of a new VM"),
	IOCTL(KVM_IRQFD, "devices are bound to a new VM"),
	IOCTL(KVM_IOEVENTFD, "devices are bound to a new VM"),
	IOCTL(KVM_SET_REGS, "a vCPU's entry point; state"),
	IOCTL(KVM_SET_SREGS, "a vCPU's entry point; state"),

	/* ---- state, taken and set ---- */
	IOCTL(KVM_GET_MP_STATE, "state"),
	IOCTL(KVM_SET_MP_STATE, "state"),
	IOCTL(KVM_GET_SREGS2, "state"),
	IOCTL(KVM_SET_SREGS2, "state"),
	IOCTL(KVM_GET_XSAVE, "state"),
	IOCTL(KVM_GET_XSAVE2, "state"),
	IOCTL(KVM_SET_XSAVE, "state"),
	IOCTL(KVM_GET_XCRS, "state"),
	IOCTL(KVM_SET_XCRS, "state"),
	IOCTL(KVM_GET_DEBUGREGS, "state"),
	IOCTL(KVM_SET_DEBUGREGS, "state"),
	IOCTL(KVM_SET_LAPIC, "state"),
	IOCTL(KVM_GET_TSC_KHZ, "state"),
	IOCTL(KVM_SET_TSC_KHZ, "state"),
	IOCTL(KVM_GET_CPUID2, "state"),
	IOCTL(KVM_GET_MSRS, "state"),
	IOCTL(KVM_SET_MSRS, "state"),
	IOCTL(KVM_HAS_DEVICE_ATTR, "state: a vCPU's TSC offset"),
	IOCTL(KVM_GET_DEVICE_ATTR, "state: a vCPU's TSC offset"),
	IOCTL(KVM_SET_DEVICE_ATTR, "state: a vCPU's TSC offset"),
	IOCTL(KVM_GET_PIT2, "state"),
	IOCTL(KVM_SET_PIT2, "state"),
	IOCTL(KVM_GET_CLOCK, "state"),
	IOCTL(KVM_SET_CLOCK, "state"),
	IOCTL(KVM_GET_IRQCHIP, "state"),
	IOCTL(KVM_SET_IRQCHIP, "state"),
	IOCTL(KVM_GET_STATS_FD, "status: KVM's counters"),

	/* ---- other descriptors ---- */
	IOCTL(TUNSETOFFLOAD, "a network driver has negotiated its offloads"),
	IOCTL(TUNSETVNETHDRSZ, "a network driver has negotiated its header"),
	IOCTL(FICLONE, "a disk is kept with a snapshot by reflink"),
	IOCTL(TCGETS, "the terminal; is it one?"),
	IOCTL(TCSETS, "the terminal is given back as it was"),
	IOCTL(TCSETSW, "the terminal is given back as it was"),
	IOCTL(TIOCGPGRP, "is the terminal this job's?"),

	/* ---- reading and writing what is open ---- */
	CALL(read, "events, the terminal, sockets, files"),
	CALL(write, "events, the serial line, the log"),
	CALL(readv, "a packet from a tap"),
	CALL(writev, "a packet to a tap; glibc's last words"),
	CALL(pread64, "disks, KVM's counters, which pages of RAM are its own"),
	CALL(pwrite64, "disks, RAM files"),
	CALL(preadv, "disks"),
	CALL(pwritev, "disks"),
	CALL(preadv2, "disks"),
	CALL(pwritev2, "disks"),
	CALL(lseek, "holes in files, in RAM files above all"),
	CALL(close, "all"),
	CALL(fsync, "a disk's flush"),
	CALL(fdatasync, "a disk's flush"),
	CALL(fallocate, "discards, overlays, the balloon"),
	CALL(ftruncate, "RAM written out, overlays"),
	CALL(copy_file_range, "a disk kept with a snapshot, where there is no reflink"),
	CALL(flock, "an overlay is this machine's own"),
	CALL(fstat, "sizes and kinds of files"),
	CALL(fstatfs, "what a file system can do"),
	FCNTL(F_GETFL, "descriptors opened again"),
	FCNTL(F_SETFL, "descriptors opened again"),
	FCNTL(F_GETFD, "descriptors that are passed on"),
	FCNTL(F_SETFD, "descriptors that are passed on"),
	FCNTL(F_DUPFD_CLOEXEC, "descriptors that are passed on"),

	/* ---- files by name: kernel and initrd at a reset, overlays, /proc/self ---- */
	CALL(openat, "a reset, overlays, descriptors opened again, status, pagemap"),
	CALL(newfstatat, "sizes and kinds of files; glibc's fstat"),
	CALL(statx, "sizes and kinds of files"),
	CALL(access, "files that may not be there"),
	CALL(faccessat, "files that may not be there"),
	CALL(faccessat2, "files that may not be there"),
	CALL(readlink, "where a descriptor's file is"),
	CALL(readlinkat, "where a descriptor's file is"),
	CALL(linkat, "an overlay gets its name"),
	CALL(renameat2, "an overlay takes the place of another"),
	CALL(unlink, "the control socket goes when vmm ends"),
	CALL(unlinkat, "an overlay that was not needed"),
	CALL(fchmod, "the mode of an overlay"),

	/* ---- memory ---- */
	WHERE(mmap, 2, PROT_EXEC, 0, "RAM, vCPUs, malloc: never code"),
	WHERE(mprotect, 2, PROT_EXEC, 0, "stacks of threads, malloc: never code"),
	CALL(munmap, "RAM that has been frozen, malloc"),
	CALL(mremap, "malloc"),
	CALL(madvise, "RAM, the balloon, stacks of threads that have ended"),
	CALL(brk, "malloc"),
	CALL(memfd_create, "state and manifest on their way to the publisher"),

	/* ---- sockets: those of this host's file system, and of the publisher ---- */
	WHERE(socket, 0, INT, AF_UNIX, "a guest connects to a host's socket (vsock)"),
	WHERE(socketpair, 0, INT, AF_UNIX, "a publisher is started anew"),
	CALL(connect, "a guest connects to a host's socket (vsock)"),
	CALL(accept4, "clients of the control socket, connections to a guest (vsock)"),
	CALL(sendmsg, "publisher, control socket"),
	CALL(recvmsg, "publisher"),
	CALL(sendto, "vsock; the service manager is told"),
	CALL(recvfrom, "control socket, vsock"),
	CALL(shutdown, "vsock"),
	CALL(getsockopt, "vsock"),
	CALL(setsockopt, "vsock; how long a publisher is waited for"),

	/* ---- waiting, time ---- */
	CALL(epoll_create1, "loops"),
	CALL(epoll_ctl, "loops"),
	CALL(epoll_wait, "loops"),
	CALL(epoll_pwait, "loops; glibc's epoll_wait"),
	CALL(poll, "can the serial line take more?"),
	CALL(ppoll, "can the serial line take more?"),
	CALL(eventfd2, "devices are bound to a new VM"),
	CALL(timerfd_create, "timers of devices"),
	CALL(timerfd_settime, "timers of devices"),
	CALL(timerfd_gettime, "timers of devices"),
	CALL(clock_gettime, "time, where the vDSO has none"),
	CALL(gettimeofday, "time, where the vDSO has none"),
	CALL(time, "time, where the vDSO has none"),
	CALL(clock_getres, "time, where the vDSO has none"),
	CALL(nanosleep, "a moment's wait"),
	CALL(clock_nanosleep, "a moment's wait"),
	CALL(restart_syscall, "a wait that was interrupted"),
	CALL(getrandom, "entropy for the guest, identifiers"),

	/* ---- threads, signals, the end ---- */
	WHERE(clone, 0, CLONE_VM | CLONE_THREAD, CLONE_VM | CLONE_THREAD,
	      "threads, no processes"),
	CALL(futex, "locks"),
	CALL(set_robust_list, "a thread starts"),
	CALL(rseq, "a thread starts"),
	CALL(sched_yield, "locks"),
	CALL(sched_getaffinity, "glibc: how many arenas"),
	PRCTL(PR_SET_NAME, "a thread's name"),
	PRCTL(0x53564d41 /* PR_SET_VMA */, "glibc: a name for what it maps"),
	WHERE(prlimit64, 2, UINT64_MAX, 0, "limits, asked only"),
	CALL(getpid, "the end by a bug: abort()"),
	CALL(gettid, "the end by a bug: abort()"),
	CALL(getuid, "whose a file is"),
	CALL(geteuid, "whose a file is"),
	CALL(getgid, "whose a file is"),
	CALL(getegid, "whose a file is"),
	CALL(sysinfo, "how much memory the host has"),
	CALL(uname, "the host's kernel"),
	WHERE(tgkill, 0, INT, SANDBOX_OWN_PID, "a vCPU is kicked out of KVM_RUN; abort()"),
	CALL(rt_sigaction, "a SIGBUS that is none of ours ends vmm; abort()"),
	CALL(rt_sigprocmask, "threads' signals; a SIGBUS survived"),
	CALL(rt_sigreturn, "a kick has been taken"),
	CALL(wait4, "a publisher that has ended"),
	CALL(exit, "a thread ends"),
	CALL(exit_group, "vmm ends"),

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	/* ---- what sanitizers do, above all when they report and look for leaks ---- */
	WHERE(clone, 0, 0, 0, "the leak sanitizer's tracer"),
	CALL(ptrace, "the leak sanitizer's tracer"),
	CALL(prctl, "the leak sanitizer's tracer"),
	CALL(kill, "the leak sanitizer's tracer"),
	CALL(sigaltstack, "stacks for reports"),
	CALL(personality, "the layout of memory"),
	CALL(set_tid_address, "threads"),
	CALL(arch_prctl, "threads"),
	CALL(getppid, "reports"),
	CALL(getcwd, "reports"),
	CALL(ioctl, "reports"),
	CALL(tgkill, "reports"),
	CALL(mmap, "shadow memory"),
	CALL(mprotect, "shadow memory"),
	CALL(prlimit64, "limits"),
	CALL(getrlimit, "limits"),
	CALL(getrusage, "limits"),
	CALL(open, "reports"),
	CALL(stat, "reports"),
	CALL(lstat, "reports"),
	CALL(getdents, "the threads of the process"),
	CALL(getdents64, "the threads of the process"),
	CALL(pipe2, "is an address readable?"),
	CALL(pipe, "is an address readable?"),
	CALL(process_vm_readv, "reports"),
	CALL(dup, "reports"),
	CALL(dup2, "reports"),
#endif
	{ 0 },
};
/* clang-format on */
