#!/usr/bin/env bash
# A damaged snapshot never runs from the mount either: what is wrong at open gives
# an error there, what is wrong in a block of RAM not yet read pauses the guest
# or is refused, and no guest sees a wrong byte.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse

demo_snapshot good
for name in manifest state memory; do
	cp -r "$STORE/snapshots/good" "$STORE/snapshots/$name"
	chmod u+w "$STORE/snapshots/$name/$name.bin"
	flip "$STORE/snapshots/$name/$name.bin" 300
done
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"
for name in manifest state; do
	refused 1 "$name.bin" "$BIN/vmm" --restore-snapshot "$mnt/$name" --serial "file=$WORK/serial"
	says "see $mnt/$name/status"
	[ ! -e "$WORK/serial" ] || fail "it began to start"
done

# The page with the guest's program: damaged where the guest must read it.
chmod u+w "$STORE/snapshots/memory/memory.bin"
flip "$STORE/snapshots/memory/memory.bin" $((0x100000 + 64))
start_vmm m --restore-snapshot "$mnt/memory"
refused_or_paused() {
	! kill -0 "${vmm_pid[m]}" 2>/dev/null || ctl m status 2>/dev/null | grep -q host-memory-fault
}
until_true 10 refused_or_paused || fail "a damaged guest runs: $(ctl m status)"
[ ! -s "$WORK/m.serial" ] || fail "a damaged guest printed: $(cat "$WORK/m.serial")"
grep -Eq 'memory|fault' "$WORK/m.log" || fail "no word of it: $(cat "$WORK/m.log")"
grep -q "memory.bin" "$mnt/memory/status" || fail "its status: $(cat "$mnt/memory/status")"

start_vmm g --restore-snapshot "$mnt/good"
ticks_on g
