#!/usr/bin/env bash
# Without /dev/kvm or /dev/fuse, or where they are something else, it is said in one
# sentence with what to do, status 3, and nothing is made; what needs them not works.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse
own_mounts

demo_snapshot base
sums "$STORE/snapshots/base" >"$WORK/before"
mkdir "$WORK/mnt"
hide() { mount --bind "$1" "$2"; }

hide /dev/null /dev/kvm
: >"$WORK/ram"
refused 3 "/dev/kvm" "$BIN/vmm" --demo-guest --memory 4M --serial none
refused 3 "/dev/kvm" "$BIN/vmm" --demo-guest --memory 4M --serial none --memory-backing-file "$WORK/new"
[ ! -e "$WORK/new" ] || fail "a RAM file for nothing"
refused 3 "/dev/kvm" "$BIN/vmm" --restore-snapshot "$STORE/snapshots/base"
refused 3 "/dev/kvm" "$BIN/vmm" --check-host
hide /dev/null /dev/fuse
expect 3 "$BIN/snapfs" "$WORK/mnt"
says "cannot mount at $WORK/mnt"
grep -q "$WORK/mnt" /proc/self/mountinfo && fail "something is mounted"

# No such files at all.
umount /dev/kvm /dev/fuse
mkdir "$WORK/dev"
mknod "$WORK/dev/null" c 1 3
mknod "$WORK/dev/urandom" c 1 9
hide "$WORK/dev" /dev
refused 3 "/dev/kvm" "$BIN/vmm" --demo-guest --memory 4M --serial none
refused 3 "/dev/kvm" "$BIN/vmm" --restore-snapshot "$STORE/snapshots/base"
refused 3 "/dev/fuse" "$BIN/snapfs" "$WORK/mnt"
expect 0 "$BIN/snapctl" verify base
umount /dev

sums "$STORE/snapshots/base" | cmp - "$WORK/before" || fail "the snapshot was changed"
[ "$(ls -A "$STORE/snapshots" "$STORE/ram" "$STORE/staging" | grep -cv -e ':$' -e '^$')" -eq 1 ] || fail "something is left"
start_vmm b --restore-snapshot "$STORE/snapshots/base"
ticks_on b
