#!/usr/bin/env bash
# Where the serial line ends: what cannot be opened is said at once, also a FIFO that
# nobody reads; a full disk and a reader that has gone do not stop the guest.
. "$(dirname "$0")/lib.sh"
requires_kvm

mkfifo "$WORK/fifo"
refused 1 "nobody reads" "$BIN/vmm" --demo-guest --memory 8M --serial "file=$WORK/fifo"
refused 3 "$WORK" "$BIN/vmm" --demo-guest --memory 8M --serial "file=$WORK"
refused 3 "$WORK/none/x" "$BIN/vmm" --demo-guest --memory 8M --serial "file=$WORK/none/x"
refused 2 "--serial takes" "$BIN/vmm" --demo-guest --memory 8M --serial tape

goes_on() {
	local exits
	exits=$(ctl "$1" status | json "d['exits']['io']")
	sleep 0.3
	[ "$(ctl "$1" status | json "d['exits']['io']")" -gt "$exits" ] || fail "$1 stands still"
	quit_vmm "$1"
}

start_vmm full --demo-guest --memory 8M --serial file=/dev/full
until_true 10 test -S "$WORK/full.sock" || fail "no control socket"
goes_on full

"$BIN/vmm" --demo-guest --memory 8M --control "$WORK/gone.sock" </dev/null 2>/dev/null > >(head -n 3 >/dev/null) &
vmm_pid[gone]=$!
test_pids+=("$!")
until_true 10 test -S "$WORK/gone.sock" || fail "no control socket"
sleep 0.3
goes_on gone
