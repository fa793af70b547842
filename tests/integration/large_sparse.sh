#!/usr/bin/env bash
# A machine of 8 GiB that uses little of it, RAM on both sides of the device hole:
# started, saved, read and restored in seconds, and in little space.
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
quit_vmm b
expect 0 "$BIN/snapctl" verify base
