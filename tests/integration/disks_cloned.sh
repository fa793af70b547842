#!/usr/bin/env bash
# On a file system that makes clones (XFS), a disk that can be written and a pmem file
# are kept as clones: the guest goes on with the files that it was given.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires mkfs.xfs
requires python3
own_mounts
fs=$WORK/fs
truncate -s 400M "$WORK/image"
mkfs.xfs -q -m reflink=1 "$WORK/image"
mkdir "$fs"
mount -o loop "$WORK/image" "$fs" 2>"$WORK/out" || skip "no XFS can be mounted here: $(cat "$WORK/out")"
export SNAPFS_STORE=$fs/store
snaps=$SNAPFS_STORE/snapshots
"$python" -c "
import random
for name, mib in ('rw.img', 3), ('pmem.img', 4):
	open('$fs/' + name, 'wb').write(random.randbytes(mib << 20))"
sha() { sha256sum <"$1"; }
rw=$(sha "$fs/rw.img") pmem=$(sha "$fs/pmem.img")

start_vmm a --demo-guest --memory 16M --disk "$fs/rw.img" --pmem "$fs/pmem.img"
wait_line a '^tick 3 '
ctl a "snap one" >"$WORK/out"
ticks_on a
ctl a "snap two" >"$WORK/out"
ticks_on a
quit_vmm a
[ ! -e "$fs/rw.img.ov1" ] || fail "an overlay was made"
for name in one two; do
	[ "$(ls -I "*.tree" "$snaps/$name/disks")" = $'disk0.0\npmem0.0' ] || fail "disks/: $(ls -la "$snaps/$name/disks")"
	[ "$(sha "$snaps/$name/disks/disk0.0")" = "$rw" ] || fail "the disk of $name differs"
	[ "$(sha "$snaps/$name/disks/pmem0.0")" = "$pmem" ] || fail "the pmem of $name differs"
	[ "$(stat -c %h "$snaps/$name/disks/disk0.0")" -eq 1 ] || fail "it is no clone"
	[ "$(stat -c %a "$snaps/$name/disks/disk0.0")" = 400 ] || fail "its mode"
done
[ "$(stat -c %h "$fs/rw.img")" -eq 1 ] && [ -w "$fs/rw.img" ] || fail "the disk was linked"
[ "$(stat -c %h "$fs/pmem.img")" -eq 1 ] && [ -w "$fs/pmem.img" ] || fail "the pmem was linked"

# What is written later is not in the snapshot.
printf 'written later' | dd of="$fs/rw.img" conv=notrunc status=none
[ "$(sha "$snaps/one/disks/disk0.0")" = "$rw" ] || fail "the snapshot's disk has changed"
"$BIN/snapctl" verify --all >"$WORK/out" || fail "$(cat "$WORK/out")"
start_vmm b --restore-snapshot "$snaps/one"
ticks_on b
ctl b "snap three" >"$WORK/out"
quit_vmm b
[ "$(ls -I "*.tree" "$snaps/three/disks")" = $'disk0.0\ndisk0.1\npmem0.0' ] || fail "disks/: $(ls "$snaps/three/disks")"
[ "$(sha "$snaps/three/disks/disk0.0")" = "$rw" ] || fail "the disk differs"
nothing_left "$SNAPFS_STORE"
[ -z "$(ls -A "$SNAPFS_STORE/ram")" ] || fail "left: $(ls -la "$SNAPFS_STORE/ram")"
