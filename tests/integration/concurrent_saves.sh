#!/usr/bin/env bash
# One machine saves once at a time: while a save is under way another is refused with
# words. Of two machines that save under one name, one has it and one is told.
. "$(dirname "$0")/lib.sh"
requires_kvm

for vm in a b; do start_vmm $vm --demo-guest --memory 64M; done
for vm in a b; do wait_line $vm '^tick 3 '; done

# The publisher is stopped, so that the save is surely under way.
kill -STOP "$(publisher_of a)"
ctl a "snap first" >"$WORK/first" &
waiter=$!
test_pids+=("$waiter")
under_way() { [ "$(ctl a status | field save)" = "under way" ]; }
until_true 10 under_way || fail "no save is under way: $(ctl a status)"
expect 1 ctl a "snap second"
says "under way"
ticks_on a
ctl a pause >"$WORK/out"
ctl a resume >"$WORK/out"
kill -CONT "$(publisher_of a)"
wait "$waiter" || fail "the first save: $(cat "$WORK/first")"
ctl a "snap second" >"$WORK/out"

for n in 1 2 3; do
	ctl a "snap same$n" >"$WORK/a.answer" &
	waiter=$!
	test_pids+=("$waiter")
	got=0 other=0
	ctl b "snap same$n" >"$WORK/b.answer" || got=$?
	wait "$waiter" || other=$?
	[ $((got + other)) -eq 1 ] || fail "two saves as same$n: $(cat "$WORK/a.answer" "$WORK/b.answer")"
	cat "$WORK/a.answer" "$WORK/b.answer" >"$WORK/out"
	says "same$n already"
done
expect 0 "$BIN/snapctl" verify --all
nothing_left "$STORE"
for vm in a b; do
	ticks_on $vm
	unbroken $vm
	quit_vmm $vm
done
