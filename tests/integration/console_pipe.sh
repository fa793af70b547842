#!/usr/bin/env bash
# Where the serial line is a file, standard input is the prompt: commands piped in
# are run in order, a save is waited for. With --serial stdio it is the guest's.
. "$(dirname "$0")/lib.sh"
requires_kvm

vmm_reads() { timeout 60 "$BIN/vmm" --demo-guest --memory 8M "$@" >"$WORK/out" 2>&1; }

printf 'help\nstatus\n\nsnap one\nsave-snapshot one\nbogus\nsnap two\npause\nstatus\nquit' |
	vmm_reads --serial "file=$WORK/a.serial" || fail "it ends with $?"
says "save-snapshot NAME"
says "state: running"
says "name: one"
says "one already"
says "unknown command"
says "state: paused"
grep -q "vmm>" "$WORK/out" && fail "a prompt for a pipe"
[ "$("$BIN/snapctl" list --json | json "sorted(s['name'] for s in d)")" = "['one', 'two']" ] ||
	fail "the saves"
expect 0 "$BIN/snapctl" verify --all

# The end of standard input ends no machine.
start_vmm b --demo-guest --memory 8M
wait_line b '^tick 3 '
quit_vmm b

# The serial line: what comes in is the guest's, also 'quit'; what comes out is a pipe.
mkfifo "$WORK/in"
"$BIN/vmm" --demo-guest --memory 8M --control "$WORK/c.sock" <"$WORK/in" >"$WORK/c.serial" \
	2>"$WORK/c.log" &
vmm_pid[c]=$!
test_pids+=("$!")
exec 8>"$WORK/in"
wait_line c '^tick 3 '
printf 'quit\nquit\n' >&8
head -c 100000 /dev/zero >&8 &
test_pids+=("$!")
ticks_on c 10
unbroken c
exec 8>&-
kill "$!" 2>/dev/null || true
ticks_on c
quit_vmm c

# Nobody takes what the guest prints: it waits, nothing is lost.
mkfifo "$WORK/slow"
exec 7<>"$WORK/slow"
start_vmm d --demo-guest --memory 8M --serial "file=$WORK/slow"
until_true 10 test -S "$WORK/d.sock" || fail "no control socket"
sleep 0.3
ctl d status >"$WORK/out"
says running
timeout 10 head -n 20 <&7 >"$WORK/d.serial" || fail "no serial line"
unbroken d
quit_vmm d
