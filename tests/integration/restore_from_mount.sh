#!/usr/bin/env bash
# Restoring from the mount: the same guest as from the store, every file the same
# bytes in both places, before and after.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse

start_vmm a --demo-guest --memory 16M
wait_line a '^tick 3 '
last=$(frozen_at a)
ctl a "save-snapshot base" >"$WORK/out"
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"
sums "$STORE/snapshots/base" >"$WORK/before"
sums "$mnt/base" | cmp - "$WORK/before" || fail "the mount shows other bytes"

start_vmm b --restore-snapshot "$mnt/base"
start_vmm c --restore-snapshot "$mnt/latest"
ticks_on b 10
ticks_on c 10
[ "$(ctl b status | field state)" = running ] || fail "b: $(ctl b status)"
for vm in b c; do
	grep -q boot "$WORK/$vm.serial" && fail "$vm boots"
	unbroken a $vm
	[ "$(first_tick $vm)" -ge "$last" ] || fail "$vm goes on at $(first_tick $vm), after $last"
done
sums "$mnt/base" | cmp - "$WORK/before" || fail "the mount shows other bytes"
sums "$STORE/snapshots/base" | cmp - "$WORK/before" || fail "the store's bytes changed"

# A snapshot that is saved meanwhile shows at once, and restores.
ctl b "save-snapshot second" >"$WORK/out"
start_vmm d --restore-snapshot "$mnt/second"
ticks_on d
[ "$(nonce_of d)" = "$(nonce_of a)" ] || fail "the second snapshot is another guest"
[ "$(readlink "$mnt/latest")" = second ] || fail "latest is $(readlink "$mnt/latest")"
[ "$(readlink "$mnt/second/parent")" = ../base ] || fail "its parent is another"

# No mount stays busy once its guests have ended.
for vm in a b c d; do
	quit_vmm $vm
	[ ! -s "$WORK/$vm.log" ] || fail "$vm says: $(cat "$WORK/$vm.log")"
done
umount "$mnt" || fail "the mount is still busy"
