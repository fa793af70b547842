#!/usr/bin/env bash
# The command line that mount(8) makes of a line of fstab is accepted.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")

unset SNAPFS_STORE
"$BIN/snapfs" "$STORE" "$mnt" -o rw,noauto,_netdev,nofail,user,x-systemd.automount,dev,suid,mode=0440
grep -q " $mnt ro,nosuid,nodev" /proc/self/mountinfo || fail "not ro,nosuid,nodev"
[ "$(stat -c %a "$mnt/base/state.bin")" = 440 ] || fail "mode="
umount "$mnt"

export SNAPFS_STORE=$STORE
"$BIN/snapfs" none "$mnt" -o noatime -o noexec,ro
grep -q " $mnt ro,nosuid,nodev,noexec" /proc/self/mountinfo || fail "not noexec"
umount "$mnt"
