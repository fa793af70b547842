#!/usr/bin/env bash
# Saves in layers when things go away: the parent is removed before and during a child's
# save, the publisher is killed in one, RAM cannot be had, the store's snapshot is copied out.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
# layer N: saves as N, which has to be a layer.
layer() {
	ctl a "snap $1" >"$WORK/out"
	says '"layer":true'
	says '"pages_changed":'
	says '"pages_in_pause":'
}
goes_on() {
	start_vmm b --restore-snapshot "$1"
	ticks_on b
	[ "$(nonce_of b)" = "$(nonce_of a)" ] || fail "$1 is another guest"
	[ "$(first_tick b)" -gt "$2" ] || fail "$1 goes on at $(first_tick b), not behind $2"
	quit_vmm b
}
ctl a "snap base" >"$WORK/out"
at=$(last_tick a)
ticks_on a 5
layer one
goes_on "$STORE/snapshots/one" "$at"

# The parent is gone, before the save and while it is under way.
expect 0 "$BIN/snapctl" rm base one
at=$(last_tick a)
layer two
goes_on "$STORE/snapshots/two" "$at"
at=$(last_tick a)
ctl a "snap three" >"$WORK/out.three" &
saving=$!
"$BIN/snapctl" rm two >/dev/null
wait $saving || fail "$(cat "$WORK/out.three")"
goes_on "$STORE/snapshots/three" "$at"

# To a directory elsewhere, and copied out of the store: whole by itself.
layer "$WORK/away"
cp -r "$STORE/snapshots/three" "$WORK/copy"
expect 0 "$BIN/snapctl" rm three
goes_on "$WORK/copy" "$at"
goes_on "$WORK/away" "$at"

# The publisher ends in the middle: the next save has all that has changed.
for n in 1 2 3 4; do
	ticks_on a 2
	ctl a "snap lost$n" >"$WORK/out.lost" 2>&1 &
	saving=$!
	sleep "0.00$n"
	kill -9 "$(publisher_of a)" 2>/dev/null || true
	wait $saving || true
	at=$(last_tick a)
	ctl a "snap found$n" >"$WORK/out" || fail "$(cat "$WORK/out")"
	goes_on "$STORE/snapshots/found$n" "$at"
done
expect 0 "$BIN/snapctl" verify --all
ticks_on a
unbroken a
expect 1 ctl a "snap found1"
says "found1"
quit_vmm a
