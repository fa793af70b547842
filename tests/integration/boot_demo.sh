#!/usr/bin/env bash
# The demo guest boots once, ticks on without a gap, and vmm ends in order; it
# leaves no file, socket or snapshot behind.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 16M
start_vmm b --demo-guest --memory 4M
wait_line a '^tick 20 '
wait_line b '^tick 5 '
[ "$(head -1 "$WORK/a.serial")" = "boot $(nonce_of a)" ] || fail "it does not start with boot"
[ "$(grep -c boot "$WORK/a.serial")" -eq 1 ] || fail "it boots more than once"
[ "$(first_tick a)" -eq 1 ] || fail "its first tick is $(first_tick a)"
unbroken a
[ "$(nonce_of a)" != "$(nonce_of b)" ] || fail "two guests have one nonce"

quit_vmm a
quit_vmm b
[ ! -s "$WORK/a.log" ] || fail "vmm has something to say: $(cat "$WORK/a.log")"
[ ! -e "$WORK/a.sock" ] || fail "the control socket is left"
[ -z "$(ls -A "$STORE/ram" "$STORE/snapshots" "$STORE/staging" | grep -v ':$')" ] ||
	fail "something is left in the store"

# Its RAM may be of any size, also beyond the hole below 4 GiB.
start_vmm c --demo-guest --memory 3G --no-reserve
wait_line c '^tick 3 '
quit_vmm c
