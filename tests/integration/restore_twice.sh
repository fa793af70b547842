#!/usr/bin/env bash
# A snapshot in the store restores any number of times, also at once: each guest
# goes on behind the frozen tick with the same nonce, and the files stay as they are.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 16M
wait_line a '^tick 5 '
earliest=$(last_tick a)
ctl a "save-snapshot base" >"$WORK/saved"
latest=$(last_tick a)
snap=$STORE/snapshots/base
sums "$snap" >"$WORK/before"

start_vmm b --restore-snapshot "$snap"
start_vmm c --restore-snapshot "$snap"
ticks_on b 20
ticks_on c 20
for vm in b c; do
	grep -q boot "$WORK/$vm.serial" && fail "$vm boots"
	[ "$(nonce_of $vm)" = "$(nonce_of a)" ] || fail "$vm is another guest"
	unbroken $vm
done
first=$(first_tick b)
[ "$first" -gt "$earliest" ] && [ "$first" -le $((latest + 1)) ] ||
	fail "it goes on at $first, frozen between $earliest and $latest"
[ "$(first_tick c)" = "$first" ] || fail "the two go on at $first and $(first_tick c)"
[ "$(ctl b status | field parent)" = "$(field id <"$WORK/saved")" ] || fail "its parent"

# Frozen between two ticks: what both print, one behind the other, is one life.
last=$(frozen_at a)
ctl a "save-snapshot still" >"$WORK/out"
start_vmm d --restore-snapshot "$STORE/snapshots/still"
ticks_on d
unbroken a d
[ "$(first_tick d)" -ge "$last" ] || fail "$(first_tick d) after $last"

for _ in 1 2 3 4 5 6 7 8; do
	start_vmm e --restore-snapshot "$snap"
	ticks_on e 1
	[ "$(first_tick e)" = "$first" ] || fail "another restore goes on at $(first_tick e), not $first"
	quit_vmm e
done
sums "$snap" | cmp - "$WORK/before" || fail "restoring changed the snapshot"
for vm in a b c d; do
	quit_vmm $vm
	[ ! -s "$WORK/$vm.log" ] || fail "$vm says: $(cat "$WORK/$vm.log")"
done
sums "$snap" | cmp - "$WORK/before" || fail "restoring changed the snapshot"
