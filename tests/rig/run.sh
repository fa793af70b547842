#!/usr/bin/env bash
# Runs a script inside the rig: a machine emulated by QEMU that has AMD-V, hence
# a real /dev/kvm on any x86-64 host, with FUSE, an ext4 disk and the project's
# binaries. Real Linux guests run there.
#
#     run.sh [--kernel 6.1|6.12] [--l2-kernel 6.1|6.12] [--disk SIZE[:EXT4OPTS]]
#            [--bin DIR] [--memory MIB] [--timeout S] SCRIPT [FILE...]
#
#   --kernel     of the rig itself. 6.1: two processors, no FUSE passthrough.
#                6.12 (default): one processor, passthrough, fs-verity.
#   --l2-kernel  of its guests, at /boot/bzImage and /boot/initrd (default 6.1)
#   --disk       a fresh ext4 disk at /store; EXT4OPTS as mke2fs -O takes them
#                (default 4G, with verity on 6.12)
#   --bin        where vmm, snapfs and snapctl are (default build/bin)
#   --memory     of the rig, in MiB (default 4096)
#   --timeout    seconds for SCRIPT, not counting boots (default 300); for all its
#                runs together, if it takes more than one
#
# SCRIPT is for busybox sh; it and every FILE lie in /rig, beside lib.sh. What it
# prints comes out here as it is printed. The exit status is SCRIPT's own, or:
#     3    the rig could not be set up        77   it cannot work on this machine
#     124  the time was up                    125  the machine died under SCRIPT
#     126  the machine stood still
#
# A machine that dies or stands still is the emulator's failure: SCRIPT runs again
# on a fresh one, on three at most, and that is said. A check that has failed, a
# status of SCRIPT's own and time that is up are final.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

kernel=6.12 l2_kernel=6.1 disk=4G disk_opts='' bin=$top_dir/build/bin memory=4096 timeout=300
# An emulated machine may be lost for the emulator's reasons: in its boot, by a
# panic in its kernel's own entry code, or because an interrupt was lost and it
# waits for good. No program in it should be able to do that to it.
readonly BOOTS=3 RUNS=3
readonly BOOT_SECONDS=120 # 5 are usual; a busy machine takes its time
readonly STILL_SECONDS=${SNAPFS_RIG_STILL:-60} # without its heartbeat, of one in 3 s

usage() {
	sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		--kernel) kernel=${2:?} ;;
		--l2-kernel) l2_kernel=${2:?} ;;
		--disk)
			disk=${2%%:*}
			disk_opts=${2#"$disk"}
			;;
		--bin) bin=${2:?} ;;
		--memory) memory=${2:?} ;;
		--timeout) timeout=${2:?} ;;
		-*) usage ;;
		*) break ;;
		esac
		shift 2
	done
	[ $# -ge 1 ] || usage
	script=$1 files=("${@:2}")
	known_kernel "$kernel"
	known_kernel "$l2_kernel"
	[ -r "$script" ] || die "$script cannot be read"
}

# settings: what QEMU needs to carry each kernel. QEMU 7.2 gets two things
# wrong: cmpxchg16b, with which 6.12's allocator dies in up to one boot of three
# (so the processor has none), and code that one processor patches while another
# runs it, which 6.12 meets now and then and 6.1 was not seen to.
#
# A third one is left as it is: QEMU 7.2 lets a guest in the rig run XSETBV though
# KVM asks to see it (later versions do not). KVM goes on with XCR0 = 1, to which
# it sets the register back at the next exit, and with a size in CPUID 0xd.0 EBX
# that is that of XCR0 = 1. So Linux as a guest says "XSAVE consistency problem:
# size 832 != kernel_size 576" when it starts, and does without XSAVE, which is as
# well: with AVX hidden (-avx) the sizes would agree, and Linux would lose its
# SSE registers to the XCR0 that is set back under it.
settings() {
	case $kernel in
	6.1) accel=(-accel "tcg,thread=multi" -smp 2) ;;
	6.12)
		accel=(-accel "tcg,thread=single" -smp 1)
		[ -n "$disk_opts" ] || disk_opts=:verity
		;;
	esac
}

# kernel_or_exit SERIES: sets $folder; fetch.sh's reason and status are ours.
kernel_or_exit() {
	local status=0
	folder=$(kernel_dir "$1") || status=$?
	if [ $status -ne 0 ]; then
		echo "$folder"
		exit $status
	fi
}

prepare() {
	kernel_or_exit "$l2_kernel"
	"$rig_dir/initramfs.sh" l2 "$l2_kernel" "$work/l2.img" --guest "$bin/../guest"
	local l2_vmlinuz=$folder/vmlinuz
	kernel_or_exit "$kernel"
	"$rig_dir/initramfs.sh" l1 "$kernel" "$work/l1.img" --bin "$bin" \
		--l2-kernel "$l2_vmlinuz" --l2-initrd "$work/l2.img" "$script" "${files[@]}"
	rm "$work/l2.img"
}

# A fresh disk for every boot. fs-verity asks for blocks as large as pages.
make_disk() {
	rm -f "$work/disk.img"
	truncate -s "$disk" "$work/disk.img"
	mke2fs -q -F -t ext4 -b 4096 -m 0 -O "${disk_opts#:}" "$work/disk.img"
}

# start_qemu: in the background, its pid in $qemu. What the script prints goes
# through a pipe, because QEMU makes the descriptor it writes to non-blocking,
# and ours belongs to others too; and in whole lines (sed), because QEMU writes
# byte by byte and we say things in between. QEMU ends with this script whatever
# ends that.
#
# nohz=off highres=off: QEMU 7.2 changes a processor's pending interrupts without
# the lock when it enters a guest by VMRUN, and so can forget one. It finds it again at
# the processor's next interrupt, which a periodic timer is sure to bring; a one-shot
# timer whose interrupt was forgotten is never set again.
start_qemu() {
	make_disk
	rm -f "$work/console" "$work/control" "$work/out"
	touch "$work/console" "$work/control"
	mkfifo "$work/out"
	sed -u "w $work/said" "$work/out" &
	reader=$!
	setpriv --pdeathsig KILL qemu-system-x86_64 "${accel[@]}" -cpu EPYC,+svm,-cx16 -m "$memory" \
		-nodefaults -no-user-config -display none -vga none -no-reboot \
		-kernel "$folder/vmlinuz" -initrd "$work/l1.img" \
		-append "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nowatchdog nohz=off highres=off" \
		-drive "if=none,id=store,format=raw,cache=unsafe,discard=unmap,file=$work/disk.img" \
		-device virtio-blk-pci,drive=store \
		-serial "file:$work/console" -serial stdio -serial "file:$work/control" \
		</dev/null >"$work/out" 2>"$work/qemu.log" &
	qemu=$!
}

stop_qemu() {
	[ -n "${qemu:-}" ] || return 0
	kill "$qemu" 2>/dev/null || true
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		kill -0 "$qemu" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$qemu" 2>/dev/null || true
	wait "$qemu" 2>/dev/null || true
	# The reader sees the pipe's end, after everything that was in it.
	wait "$reader" 2>/dev/null || true
	qemu=''
}

# await WORD SECONDS [STILL]: until the control line says WORD. Fails with 1 if
# QEMU ended before that, with 2 if the time is up, with 3 if the line has said
# nothing for STILL seconds.
await() {
	local end=$((SECONDS + $2)) said='' heard=$SECONDS
	while ! grep -q "^$1" "$work/control"; do
		[ $SECONDS -lt $end ] || return 2
		if [ -n "${3:-}" ]; then
			[ "$said" = "$(stat -c %s "$work/control")" ] || heard=$SECONDS
			said=$(stat -c %s "$work/control")
			[ $((SECONDS - heard)) -lt "$3" ] || return 3
		fi
		if ! kill -0 "$qemu" 2>/dev/null; then
			# It may have said so with its last breath.
			grep -q "^$1" "$work/control" && return 0
			return 1
		fi
		sleep 0.1
	done
}

# show_console [LINES]: how it ended, and before that how its kernel's trouble began.
show_console() {
	local last=${1:-25}
	say "the last lines of the machine's console, and where its trouble began:"
	tr -d '\r' <"$work/console" | awk -v last="$last" '
		{ line[NR] = $0 }
		!begin && /BUG:|Oops:|PANIC:|Kernel panic|general protection/ { begin = NR }
		END {
			at = NR > last ? NR - last + 1 : 1
			if (begin && begin < at) {
				for (i = begin; i < at && i < begin + 25; i++) print line[i]
				if (i < at) print "..."
			}
			for (i = at; i <= NR; i++) print line[i]
		}' >&2
	# What the processor is asked for and the emulator leaves out is known.
	grep -v "TCG doesn't support" "$work/qemu.log" >&2 || true
}

boot() {
	local n start
	for ((n = 1; n <= BOOTS; n++)); do
		start=$SECONDS
		start_qemu
		if await READY "$BOOT_SECONDS"; then
			say "Linux $(<"$folder/release") up after $((SECONDS - start)) s, boot $n of at most $BOOTS"
			return
		fi
		say "boot $n of at most $BOOTS was lost after $((SECONDS - start)) s"
		show_console 5
		stop_qemu
	done
	die "the machine did not boot"
}

# run_script SECONDS: sets $status, which is the script's where it had one.
run_script() {
	local start=$SECONDS lost=0 name
	name=$(basename "$script")
	await EXIT "$1" "$STILL_SECONDS" || lost=$?
	case $lost in
	0)
		status=$(sed -n 's/^EXIT \([0-9]*\).*/\1/p' "$work/control")
		# Its last lines are out once it has powered itself off.
		for _ in {1..100}; do
			kill -0 "$qemu" 2>/dev/null || break
			sleep 0.1
		done
		;;
	1) status=$ST_LOST lost="the machine died under $name" ;;
	2) status=$ST_TIMEOUT lost="$name was stopped after $1 s" ;;
	3) status=$ST_STILL lost="the machine has stood still for $STILL_SECONDS s" ;;
	esac
	stop_qemu
	if [ "$lost" != 0 ]; then
		show_console
		say "$lost"
	fi
	say "$name ended with $status after $((SECONDS - start)) s"
}

# again: whether the run is to be had again: only its machine has failed.
again() {
	case $status in
	"$ST_LOST" | "$ST_STILL") ;;
	*) return 1 ;;
	esac
	if grep '^not ok' "$work/said" >&2; then
		say "not tried again: a check had failed before that"
		return 1
	fi
}

# run_all: the script, on as many machines as it takes; sets $status.
run_all() {
	local run left=$timeout start
	for ((run = 1; run <= RUNS; run++)); do
		boot
		start=$SECONDS
		run_script "$left"
		left=$((left - (SECONDS - start)))
		again || return 0
		say "LOST: run $run of at most $RUNS, by the emulator; its lines above do not count"
		[ "$left" -gt 0 ] || return 0
	done
}

# shellcheck disable=SC2317 # called by the trap
cleanup() {
	stop_qemu
	rm -rf "$work"
}

parse "$@"
[ "$(uname -m)" = x86_64 ] || skip "the rig's machine is an x86-64 one"
need qemu-system-x86_64 qemu-system-x86 mke2fs e2fsprogs setpriv util-linux busybox busybox-static \
	cpio cpio depmod kmod xz xz-utils
settings
work=$(mktemp -d)
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
prepare
run_all
exit "$status"
