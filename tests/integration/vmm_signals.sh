#!/usr/bin/env bash
# Signals end vmm in order, with its socket removed; nohup keeps it from SIGHUP.
. "$(dirname "$0")/lib.sh"
requires_kvm

for signal in TERM HUP; do
	start_vmm "$signal" --demo-guest --memory 8M
	wait_line "$signal" '^tick 3 '
	kill "-$signal" "${vmm_pid[$signal]}"
	wait "${vmm_pid[$signal]}" || fail "SIG$signal: it ends with $?"
	[ ! -e "$WORK/$signal.sock" ] || fail "SIG$signal: the control socket is left"
done

trap '' HUP
start_vmm nohup --demo-guest --memory 8M
trap - HUP
wait_line nohup '^tick 3 '
kill -HUP "${vmm_pid[nohup]}"
ticks_on nohup 10
ctl nohup "save-snapshot base" >/dev/null
quit_vmm nohup
