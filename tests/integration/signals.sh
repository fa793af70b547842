#!/usr/bin/env bash
# SIGTERM, SIGINT and SIGHUP end vmm in order; in the middle of a save they wait for
# it, unless they come twice. No process, socket or half a snapshot is left.
. "$(dirname "$0")/lib.sh"
requires_kvm

for signal in TERM INT HUP; do
	start_vmm a --demo-guest --memory 4M
	wait_line a '^tick 3 '
	ctl a "snap before-$signal" >"$WORK/out"
	publisher=$(publisher_of a)
	kill -$signal "${vmm_pid[a]}"
	status=0
	wait "${vmm_pid[a]}" || status=$?
	[ $status -eq 0 ] || fail "SIG$signal ends it with $status: $(cat "$WORK/a.log")"
	[ ! -e "$WORK/a.sock" ] || fail "SIG$signal leaves the socket"
	until_true 10 gone "$publisher" || fail "SIG$signal leaves the publisher"
done

# in_a_save NAME: starts one whose save is under way, its publisher stopped.
in_a_save() {
	start_vmm a --demo-guest --memory 4M
	wait_line a '^tick 3 '
	publisher=$(publisher_of a)
	kill -STOP "$publisher"
	ctl a "snap $1" >"$WORK/answer" 2>&1 &
	waiter=$!
	test_pids+=("$waiter")
	until_true 10 under_way || fail "no save is under way: $(ctl a status)"
}
under_way() { [ "$(ctl a status | field save)" = "under way" ]; }
# It has had the time to end, and has not.
waits() { sleep 0.3; ! gone "${vmm_pid[a]}"; }

for how in TERM INT quit; do
	in_a_save "by-$how"
	if [ $how = quit ]; then ctl a quit >"$WORK/out"; else kill -$how "${vmm_pid[a]}"; fi
	waits || fail "$how: it does not wait for the save: $(cat "$WORK/a.log")"
	kill -CONT "$publisher"
	wait "$waiter" || fail "$how: the save: $(cat "$WORK/answer")"
	status=0
	wait "${vmm_pid[a]}" || status=$?
	[ $status -eq 0 ] || fail "$how: it ends with $status"
	expect 0 "$BIN/snapctl" verify "by-$how"
	until_true 10 gone "$publisher" || fail "$how: the publisher is left"
done

# The second one does not wait; what the publisher has it may finish, or drop.
in_a_save twice
kill -INT "${vmm_pid[a]}"
waits || fail "it does not wait for the save: $(cat "$WORK/a.log")"
kill -INT "${vmm_pid[a]}"
until_true 10 gone "${vmm_pid[a]}" || fail "the second Ctrl-C does not end it"
kill -CONT "$publisher"
wait "$waiter" || true
until_true 10 gone "$publisher" || fail "the publisher is left"
expect 0 "$BIN/snapctl" list
[ ! -e "$STORE/snapshots/twice" ] || expect 0 "$BIN/snapctl" verify twice
expect 0 "$BIN/snapctl" check
nothing_left "$STORE"

# Ctrl-C on a terminal goes to all of its processes: the publisher is not one of them.
start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
publisher=$(publisher_of a)
for signal in INT HUP; do kill -$signal "$publisher"; done
ctl a "snap after" >"$WORK/out" || fail "a signal has ended the publisher: $(cat "$WORK/out")"
for signal in INT HUP QUIT; do kill -$signal "$publisher"; done
ctl a "snap again" >"$WORK/out" || fail "a signal has ended the publisher: $(cat "$WORK/out")"
quit_vmm a
expect 0 "$BIN/snapctl" verify --all

# A publisher that is killed between two saves is replaced by the next one.
start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
publisher=$(publisher_of a)
kill -9 "$publisher"
until_true 10 gone "$publisher" || fail "the publisher does not die"
ctl a "snap orphan" >"$WORK/out" || fail "no other publisher: $(cat "$WORK/out")"
expect 0 "$BIN/snapctl" verify orphan
ticks_on a
unbroken a
quit_vmm a
