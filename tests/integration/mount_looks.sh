#!/usr/bin/env bash
# Modes, owner, times, sizes and block counts; --mode widens; the kind of mount.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 8 >/dev/null
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

[ "$(stat -c %A "$mnt")" = dr-x------ ] || fail "mode of the root"
[ "$(stat -c %A "$mnt/base")" = dr-x------ ] || fail "mode of a snapshot"
for file in manifest.bin state.bin memory.bin manifest.json status; do
	[ "$(stat -c '%A %u' "$mnt/base/$file")" = "-r-------- $(stat -c %u "$STORE")" ] ||
		fail "mode or owner of $file"
done
for file in manifest.bin state.bin memory.bin; do
	[ "$(stat -c '%s %b' "$mnt/base/$file")" = \
		"$(stat -c '%s %b' "$STORE/snapshots/base/$file")" ] || fail "size or blocks of $file"
done
[ "$(du -k "$mnt/base/memory.bin" | cut -f1)" -lt 4096 ] || fail "holes count as blocks"
[ "$(stat -c %s "$mnt/base/status")" -eq "$(wc -c <"$mnt/base/status")" ] || fail "size of status"

created=$(sed -nE 's/.*"created_at": "([^"]+)".*/\1/p' "$mnt/base/manifest.json")
[ "$(date -u -r "$mnt/base" +%FT%T.%NZ)" = "$created" ] || fail "the directory's time is not $created"

# The numbers of a listing are those of stat, and no two are the same.
# shellcheck disable=SC2012
ls -ai "$mnt/base" | awk '{print $1}' | sort >"$WORK/numbers"
[ -z "$(uniq -d "$WORK/numbers")" ] || fail "two entries have one inode number"
# shellcheck disable=SC2012
[ "$(ls -i "$mnt/base/memory.bin" | cut -d' ' -f1)" = "$(stat -c %i "$mnt/base/memory.bin")" ] ||
	fail "inode number of memory.bin"

grep -qE " $mnt ro,nosuid,nodev[^-]* - fuse.snapfs snapfs ro," /proc/self/mountinfo ||
	fail "the mount is not a read-only fuse.snapfs"

umount "$mnt"
mount_snapfs "$STORE" "$mnt" --mode 0444 -o allow_other
[ "$(stat -c %A "$mnt/base")" = dr-xr-xr-x ] || fail "--mode on a directory"
[ "$(stat -c %A "$mnt/base/memory.bin")" = -r--r--r-- ] || fail "--mode on a file"
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	chmod 0755 "$WORK"
	other="setpriv --reuid 65534 --regid 65534 --clear-groups"
	$other cmp "$mnt/base/memory.bin" "$mnt/latest/memory.bin" || fail "others cannot read"
	umount "$mnt"
	mount_snapfs "$STORE" "$mnt" -o allow_other
	! $other cat "$mnt/base/state.bin" 2>/dev/null || fail "others can read without --mode"
fi
