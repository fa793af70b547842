#!/usr/bin/env bash
# Proves the rig itself, without the project's programs: both kernels come up
# with what tests need, statuses come through, time limits hold, lost boots and
# machines are tried again, nothing is left running; and the guest's initramfs
# works, booted directly, without nesting.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

passed=0 failed=0

# check WHAT COMMAND...: what it printed only if it failed.
check() {
	local what=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		passed=$((passed + 1))
		echo "ok - $what"
	else
		failed=$((failed + 1))
		echo "not ok - $what"
		sed 's/^/# /' "$work/out"
	fi
}

# rig WANTED_STATUS PATTERN OPTION... -- SCRIPT_TEXT: runs it; true if status and
# output (any of its lines) are as wanted.
rig() {
	local wanted=$1 pattern=$2 options=() status=0
	shift 2
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	echo "$2" >"$work/script.sh"
	"$rig_dir/run.sh" --bin "$work/none" "${options[@]}" "$work/script.sh" >"$work/rig.out" 2>&1 || status=$?
	cat "$work/rig.out"
	echo "status $status"
	[ "$status" -eq 77 ] && cleanup_and_skip
	[ "$status" -eq "$wanted" ] && grep -q "$pattern" "$work/rig.out"
}

cleanup_and_skip() {
	grep '^skipped: ' "$work/rig.out" >&3
	exit "$ST_SKIP"
}

# none_left: no emulator runs out of this test's temporary folder any more.
none_left() {
	local file line
	for file in /proc/[0-9]*/cmdline; do
		line=$(tr '\0' ' ' 2>/dev/null <"$file") || continue
		[[ $line != *qemu-system*"$work/"* ]] || return 1
	done
}

# stands_still: no program can make the machine do that; but one can stop its heartbeat.
stands_still() {
	local SNAPFS_RIG_STILL=8
	export SNAPFS_RIG_STILL
	rig "$ST_STILL" 'LOST: run 3 of at most 3' --kernel 6.1 -- 'kill -STOP -1; sleep 1000'
}

# stopped_by_a_signal: run.sh ends its machine when it is told to end.
stopped_by_a_signal() {
	local pid status=0
	echo 'echo begun; sleep 1000' >"$work/script.sh"
	"$rig_dir/run.sh" --kernel 6.1 --bin "$work/none" "$work/script.sh" >"$work/rig.out" 2>&1 &
	pid=$!
	for _ in {1..1200}; do
		! grep -q begun "$work/rig.out" || break
		sleep 0.1
	done
	kill -TERM "$pid"
	wait "$pid" || status=$?
	[ $status -eq 143 ] && none_left
}

# direct SERIES APPEND: the guest's kernel and initramfs under the emulator.
direct() {
	local folder
	folder=$(kernel_dir "$1")
	"$rig_dir/initramfs.sh" l2 "$1" "$work/l2.img" --guest "$work/none"
	timeout 120 qemu-system-x86_64 -accel tcg -cpu EPYC,-cx16 -m 256 -nodefaults -no-user-config \
		-display none -vga none -no-reboot -kernel "$folder/vmlinuz" -initrd "$work/l2.img" \
		-append "console=ttyS0 quiet panic=-1 $2" -serial stdio </dev/null 2>/dev/null |
		tr -d '\r' >"$work/serial"
	cat "$work/serial"
	[ "$(grep -c '^boot [0-9a-f]\{16\}$' "$work/serial")" -eq 1 ] &&
		[ "$(grep -o '^tick [0-9]* ' "$work/serial" | tr -dc '0-9\n' | paste -sd ' ')" = '1 2 3' ] &&
		! grep '^corrupt' "$work/serial"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work # where run.sh's own temporary folder goes
exec 3>&1

# shellcheck disable=SC2016 # for the machine's own shell
inside='set -e; [ -w /dev/kvm ]; [ -w /dev/fuse ]; grep -q "^kvm_amd " /proc/modules
grep -q " /store ext4 " /proc/mounts; [ -s /boot/bzImage ]; [ -s /boot/initrd ]
! ctl /nowhere status 2>/dev/null; echo "$(uname -r) has all"; exit 42'

check "6.1 comes up with KVM, FUSE, disk and guest; the status is the script's" \
	rig 42 '^6\.1\..* has all$' --kernel 6.1 --disk 1G -- "$inside"
check "6.12 does, too" rig 42 '^6\.12\..* has all$' --kernel 6.12 --l2-kernel 6.12 -- "$inside"
check "a script that takes too long is stopped" \
	rig "$ST_TIMEOUT" 'stopped after 3 s' --kernel 6.1 --timeout 3 -- 'sleep 1000'
check "a machine that dies under the script is tried again, three times" \
	rig "$ST_LOST" 'LOST: run 3 of at most 3' --kernel 6.1 -- 'echo c >/proc/sysrq-trigger'
# stty waits until the line has been sent.
check "but not once a check has failed" rig "$ST_LOST" 'not tried again' --kernel 6.1 -- \
	'echo not ok - this; stty -F /dev/ttyS1 raw; echo c >/proc/sysrq-trigger'
check "a lost boot is tried again, three times" \
	rig "$ST_ENV" 'boot 3 of at most 3 was lost' --kernel 6.1 --memory 48 -- true
check "so is a machine that stands still" stands_still
check "a signal ends the machine" stopped_by_a_signal
check "nothing is left running" none_left
check "the 6.1 guest ticks and powers off" direct 6.1 snapfs.poweroff=3
check "the 6.12 guest ticks and reboots" direct 6.12 snapfs.reboot=3
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] || exit 1
