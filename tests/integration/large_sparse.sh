#!/usr/bin/env bash
# A machine of 8 GiB that uses little of it, RAM on both sides of the device hole:
# started, saved, read, restored and saved again in seconds, and in little space.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3
[ "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)" -gt $((8 << 20)) ] ||
	skip "this host has less than 8 GiB of RAM"

size=$((8 << 30))
start_vmm a --demo-guest --memory 8G --no-reserve
wait_line a '^tick 3 '
SECONDS=0
ctl a "snap base" >"$WORK/out"
[ "$SECONDS" -lt 60 ] || fail "the save took $SECONDS s"
[ "$(of_list base memory_bytes)" = $size ] || fail "list: $("$BIN/snapctl" list)"
used=$(du -k "$STORE/snapshots/base/memory.bin" | cut -f 1)
[ "$used" -lt 10240 ] || fail "memory.bin takes $used KiB"
quit_vmm a

SECONDS=0
start_vmm b --restore-snapshot "$STORE/snapshots/base"
ticks_on b
[ "$SECONDS" -lt 60 ] || fail "the restore took $SECONDS s"
unbroken b
[ "$(ctl b status | field memory_bytes)" = $size ] || fail "$(ctl b status)"

# A restored one is saved page by page, of which it has two million.
resave() {
	local start=${EPOCHREALTIME/[.,]/}
	ctl "$1" "snap $2" >"$WORK/out"
	echo "saved again in $(((${EPOCHREALTIME/[.,]/} - start) / 1000)) ms"
	used=$(du -sk "$STORE/snapshots/$2" | cut -f 1)
	[ "$used" -lt 10240 ] || fail "$2 takes $used KiB"
}
frozen_at b >"$WORK/out"
resave b running
quit_vmm b
start_vmm c --restore-snapshot "$STORE/snapshots/running"
ticks_on c
unbroken b c
quit_vmm c

# Its pages are the same ones: those it has written, and those of the file.
start_vmm d --restore-snapshot "$STORE/snapshots/running" --paused
until_true 20 ctl d status >"$WORK/out" || fail "it does not start"
resave d again
quit_vmm d
[ "$(of_list again memory_bytes)" = $size ] || fail "list: $("$BIN/snapctl" list)"
for name in running again; do
	"$BIN/snapctl" show --json $name | json "d['memory_digest']" >"$WORK/$name"
done
cmp "$WORK/running" "$WORK/again" || fail "its RAM has changed"
expect 0 "$BIN/snapctl" verify --all
