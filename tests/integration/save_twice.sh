#!/usr/bin/env bash
# One machine is saved three times: each snapshot is the machine at its own time,
# the earlier ones stay as they are, a name that is taken is refused.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
for name in one two three; do
	ctl a "snap $name" >"$WORK/saved.$name"
	sums "$STORE/snapshots/$name" >"$WORK/sums.$name"
	cp "$WORK/a.serial" "$WORK/at-$name.serial"
	ticks_on a 5
done
expect 1 ctl a "snap two"
says "two already"
ticks_on a
unbroken a
[ "$(of_list two parent_name)/$(of_list three parent_name)" = one/two ] || fail "the parents"

before=0
for name in one two three; do
	sums "$STORE/snapshots/$name" | cmp - "$WORK/sums.$name" || fail "$name has changed"
	start_vmm b --restore-snapshot "$STORE/snapshots/$name"
	ticks_on b
	[ "$(nonce_of b)" = "$(nonce_of a)" ] || fail "$name is another guest"
	[ "$(first_tick b)" -gt "$before" ] && [ "$(first_tick b)" -le $(($(last_tick at-$name) + 1)) ] ||
		fail "$name goes on at $(first_tick b), not behind $before and by $(last_tick at-$name)"
	before=$(first_tick b)
	quit_vmm b
done
expect 0 "$BIN/snapctl" verify --all
nothing_left "$STORE"
quit_vmm a
