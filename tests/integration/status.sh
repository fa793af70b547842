#!/usr/bin/env bash
# `status` tells state, counts, devices, memory and whether the machine can be
# saved; for programs on the control socket, for people on the console.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

start_vmm a --demo-guest --memory 16M --processors 2
wait_line a '^tick 20 '
holds() {
	ctl "$1" status >"$WORK/status"
	json "$2" <"$WORK/status" >"$WORK/out"
	grep -qx True "$WORK/out" || fail "not so: $2: $(cat "$WORK/status")"
}
holds a "d['can_save'] and 'cannot_save_because' not in d and d['resets'] == 0"
holds a "len(d['exits_by_vcpu']) == 2 and all(
	sum(v[k] for v in d['exits_by_vcpu']) == d['exits'][k] for k in d['exits'])"
holds a "d['devices']['serial0']['kind'] == '16550' and d['devices']['serial0']['bytes_in'] == 0"
holds a "d['devices']['serial0']['bytes_out'] >= 20 * len('tick 1 0123456789abcdef')"
# A demo guest touches little of its RAM; none of the file's pages are its own.
holds a "0 < d['memory_resident_bytes'] <= 16 << 20 and d['memory_private_bytes'] == 0"
ctl a "save-snapshot base" >"$WORK/out"
ticks_on a
holds a "0 < d['memory_private_bytes'] <= d['memory_resident_bytes'] <= 16 << 20"

# What stands in the way of a save is said before it is tried.
kill -STOP "$(publisher_of a)"
"$TOOLS/../guest/guest-ctl" "$WORK/a.sock" "save-snapshot slow" >"$WORK/answer" &
waiter=$!
under_way() { [ "$(ctl a status | field save)" = "under way" ]; }
until_true 10 under_way || fail "the save does not begin"
holds a "not d['can_save'] and 'under way' in d['cannot_save_because'][0]"
kill -CONT "$(publisher_of a)"
wait "$waiter" || fail "the save: $(cat "$WORK/answer")"
holds a "d['can_save']"
# A publisher that is gone is replaced: no obstacle.
kill -9 "$(publisher_of a)"
sleep 0.1
holds a "d['can_save']"
quit_vmm a

# On the console: lines for people, sizes as they read them.
mkfifo "$WORK/in"
"$BIN/vmm" --restore-snapshot "$STORE/snapshots/base" --serial none <>"$WORK/in" >"$WORK/b.out" \
	2>"$WORK/b.log" &
vmm_pid[b]=$!
echo status >"$WORK/in"
answered() { grep -q '^can_save: true$' "$WORK/b.out"; }
until_true 20 answered || fail "no status on the console: $(cat "$WORK/b.out" "$WORK/b.log")"
for line in '^state: running$' '^memory_bytes: 16777216 (16 MiB)$' '^  0: io [0-9]*, mmio ' \
	'^  serial0: kind 16550, bytes_out [0-9]*, bytes_in 0$'; do
	grep -q "$line" "$WORK/b.out" || fail "no line '$line': $(cat "$WORK/b.out")"
done
echo quit >"$WORK/in"
wait "${vmm_pid[b]}" || fail "it ends with $?"
