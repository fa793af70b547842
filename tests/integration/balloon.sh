#!/usr/bin/env bash
# `balloon SIZE` sets what the balloon is to take from the guest, in a running,
# a paused and a restored machine; what cannot be is refused and changes nothing.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

# target NAME BYTES: what `status` tells; the demo guest has no driver, and gives nothing.
target() {
	ctl "$1" status | json "(d['devices']['balloon0']['target_bytes'],
		d['devices']['balloon0']['actual_bytes']) == ($2, 0)" >"$WORK/out"
	grep -qx True "$WORK/out" || fail "the target of $1 is not $2: $(ctl "$1" status)"
}
refuses() {
	expect 1 ctl "$1" "$2"
	says '"ok":false'
	says "$3"
}

start_vmm a --demo-guest --memory 8M --balloon --paused
until_true 10 test -S "$WORK/a.sock" || fail "no control socket"
target a 0
[ "$(ctl a "balloon 3M")" = '{"ok":true}' ] || fail "balloon in a paused machine"
target a $((3 << 20))
ctl a resume >/dev/null
wait_line a '^tick 3 '
ctl a "balloon 2048K" >/dev/null
target a $((2 << 20))
ctl a "balloon 5000" >/dev/null
target a 4096
ctl a "balloon 8M" >/dev/null
refuses a "balloon 8193K" "no larger than the guest's RAM of 8 MiB"
refuses a "balloon" "a size such as"
refuses a "balloon lots" "a size such as"
target a $((8 << 20))
ticks_on a

# It is part of the state, and the machine that was saved keeps it.
ctl a "balloon 1M" >/dev/null
ctl a "save-snapshot base" >"$WORK/saved"
target a $((1 << 20))
ctl a "balloon 0" >/dev/null
quit_vmm a
start_vmm b --restore-snapshot "$STORE/snapshots/base"
ticks_on b
target b $((1 << 20))
ctl b "balloon 2M" >/dev/null
target b $((2 << 20))
quit_vmm b

start_vmm none --demo-guest --memory 8M
wait_line none '^tick 3 '
refuses none "balloon 1M" "no balloon"
refuses none "balloon" "no balloon"
ctl none status | grep -q target_bytes && fail "a balloon in the status of a machine without one"
ticks_on none
quit_vmm none
