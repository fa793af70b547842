#!/usr/bin/env bash
# A restored guest is saved again, three generations: each knows its parent, and
# the guest's life is unbroken through all of them.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm g0 --demo-guest --memory 8M
wait_line g0 '^tick 3 '
for n in 1 2 3; do
	frozen_at g$((n - 1)) >/dev/null
	ctl g$((n - 1)) "save-snapshot gen$n" | field id >"$WORK/id$n"
	start_vmm g$n --restore-snapshot "$STORE/snapshots/gen$n"
	ticks_on g$n
done
unbroken g0 g1 g2 g3
grep -q boot "$WORK"/g[123].serial && fail "a restored guest boots"

[ "$(of_list gen1 parent)" = None ] || fail "the first has a parent"
for n in 2 3; do
	[ "$(of_list gen$n parent)" = "$(cat "$WORK/id$((n - 1))")" ] || fail "the parent of gen$n"
	[ "$(of_list gen$n parent_name)" = gen$((n - 1)) ] || fail "the name of gen$n's parent"
	[ "$(of_list gen$n id)" = "$(cat "$WORK/id$n")" ] || fail "the id of gen$n"
done

# Each is whole by itself: the last restores without the others.
expect 0 "$BIN/snapctl" rm gen1 gen2
[ "$(of_list gen3 parent)" = "$(cat "$WORK/id2")" ] || fail "a parent that is gone stays as an id"
[ "$(of_list gen3 parent_name)" = None ] || fail "a parent that is gone has no name"
expect 0 "$BIN/snapctl" verify gen3
start_vmm again --restore-snapshot "$STORE/snapshots/gen3"
ticks_on again
unbroken g0 g1 g2 again
# The guests whose snapshots are gone do not notice.
for n in 1 2; do
	ctl g$n resume >"$WORK/out"
	ticks_on g$n
	unbroken g$n
done
