#!/usr/bin/env bash
# The files of disks that are kept with a snapshot: in the mount they are what they are
# in the store, damage in one is refused and named, and a copy is a whole snapshot.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 4 1 '' 2 >/dev/null
"$TOOLS/mksnap" "$STORE" plain 4 2 >/dev/null
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

[ "$(ls "$mnt/base/disks")" = $'disk0.0\ndisk0.1' ] || fail "disks/: $(ls -la "$mnt/base/disks")"
[ ! -e "$mnt/plain/disks" ] || fail "disks/ of a snapshot that keeps none"
[ -z "$(find "$mnt/plain" -name disks)" ] || fail "it is listed there"
[ ! -e "$mnt/base/disks/memory.bin" ] || fail "names of elsewhere"
for file in disks/disk0.0 disks/disk0.1; do
	cmp "$STORE/snapshots/base/$file" "$mnt/base/$file" || fail "$file differs"
	[ "$(stat -c '%a %s %b' "$mnt/base/$file")" = "$(stat -c '%a %s %b' "$STORE/snapshots/base/$file")" ] ||
		fail "$file looks otherwise"
done
[ "$(stat -c %a "$mnt/base/disks")" = 500 ] || fail "its mode: $(stat -c %a "$mnt/base/disks")"
[ "$(stat -c %i "$mnt/base/disks/..")" = "$(stat -c %i "$mnt/base")" ] ||
	fail ".. is not the snapshot"
! rm -f "$mnt/base/disks/disk0.0" 2>/dev/null || fail "it was removed through the mount"
grep -q '^disk: *disks/disk0.1, 1.* stamped' "$mnt/base/status" || fail "$(cat "$mnt/base/status")"
grep -q '"file": "disk0.1"' "$mnt/base/manifest.json" || fail "$(cat "$mnt/base/manifest.json")"

# A copy of what the mount shows is a snapshot, if nobody trusts it at first.
cp -r "$mnt/base" "$STORE/snapshots/copy"
chmod 700 "$STORE/snapshots/copy" "$STORE/snapshots/copy/disks"
"$BIN/snapctl" --store "$STORE" verify copy || fail "the copy is not whole"
grep -q '^state: *valid' "$mnt/copy/status" || fail "$(cat "$mnt/copy/status")"

# Damage in the copy's second file: that one is refused, and so says the status.
chmod u+w "$STORE/snapshots/copy/disks/disk0.1"
flip "$STORE/snapshots/copy/disks/disk0.1" 5000
chmod 0400 "$STORE/snapshots/copy/disks/disk0.1"
grep -q '^state: *unverified' "$mnt/copy/status" || fail "$(cat "$mnt/copy/status")"
! cat "$mnt/copy/disks/disk0.1" >"$WORK/out" 2>"$WORK/err" || fail "damage was served"
grep -q "Input/output error" "$WORK/err" || fail "$(cat "$WORK/err")"
cmp -n "$(stat -c %s "$WORK/out")" "$WORK/out" "$mnt/base/disks/disk0.1" || fail "wrong bytes were served"
[ "$(stat -c %s "$WORK/out")" -le 4096 ] || fail "bytes after the damage were served"
grep -q '^state: *damaged' "$mnt/copy/status" || fail "$(cat "$mnt/copy/status")"
grep -q '^problem:.*disks/disk0.1' "$mnt/copy/status" || fail "$(cat "$mnt/copy/status")"
cmp "$STORE/snapshots/base/disks/disk0.1" "$mnt/base/disks/disk0.1" || fail "the good one suffers"

# One that is missing.
rm -f "$STORE/snapshots/base/disks/disk0.0"
[ ! -e "$mnt/base/disks/disk0.0" ] || fail "it is still there"
grep -q '^state: *damaged' "$mnt/base/status" || fail "$(cat "$mnt/base/status")"
"$BIN/snapctl" --store "$STORE" rm base copy plain
[ -z "$(find "$STORE/snapshots" "$STORE/trash" -mindepth 1)" ] || fail "something is left"
