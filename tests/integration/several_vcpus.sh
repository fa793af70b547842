#!/usr/bin/env bash
# A machine of several vCPUs is saved and restored with all of them.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

start_vmm a --demo-guest --memory 16M --processors 4
wait_line a '^tick 3 '
[ "$(ctl a status | field vcpus)" = 4 ] || fail "$(ctl a status)"
[ "$(ls "/proc/${vmm_pid[a]}/task" | wc -l)" -ge 5 ] || fail "its threads"
frozen_at a >"$WORK/last"
ctl a "snap base" >"$WORK/out"
ctl a resume >"$WORK/out"
[ "$(of_list base vcpus)" = 4 ] || fail "list: $("$BIN/snapctl" list)"

start_vmm b --restore-snapshot "$STORE/snapshots/base"
ticks_on b
[ "$(ctl b status | field vcpus)" = 4 ] || fail "$(ctl b status)"
for _ in 1 2 3; do
	ctl b pause >"$WORK/out"
	ctl b resume >"$WORK/out"
done
frozen_at b >"$WORK/last"
ctl b "snap second" >"$WORK/out"
start_vmm c --restore-snapshot "$STORE/snapshots/second" --processors 4
ticks_on c
for vm in a c; do quit_vmm $vm; done
refused 1 "the snapshot has 4" "$BIN/vmm" --restore-snapshot "$STORE/snapshots/base" --processors 2
refused 2 "vCPUs" "$BIN/vmm" --demo-guest --memory 4M --serial none --processors 1000
