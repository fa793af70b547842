#!/usr/bin/env bash
# A snapshot copied out of the store or the mount, by any usual way of copying,
# restores without them.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
last=$(frozen_at a)
ctl a "save-snapshot base" >"$WORK/out"
quit_vmm a
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

copies=$WORK/copies
mkdir "$copies"
cp -r "$STORE/snapshots/base" "$copies/cp-store"
cp -r "$mnt/base" "$copies/cp-mount"
cp -rL "$STORE/snapshots/base" "$copies/cpL-store"
cp -rL "$mnt/latest" "$copies/cpL-mount"
cp -r --sparse=always "$mnt/base" "$copies/sparse"
for from in "$STORE/snapshots" "$mnt"; do
	mkdir "$copies/tar-${from##*/}"
	tar -C "$from/base" -cf - . | tar -C "$copies/tar-${from##*/}" -xf -
	if command -v rsync >/dev/null; then
		rsync -a "$from/base/" "$copies/rsync-${from##*/}/"
	fi
done
command -v rsync >/dev/null || echo "not tried: rsync is not installed"
sums "$STORE/snapshots/base" >"$WORK/before"
umount "$mnt"
rm -rf "$STORE"

for copy in "$copies"/*; do
	sums "$copy" | cmp - "$WORK/before" || fail "$copy: other bytes"
	expect 0 "$BIN/vmm" --restore-snapshot "$copy" --check
	start_vmm b --restore-snapshot "$copy"
	ticks_on b
	unbroken a b
	[ "$(first_tick b)" -ge "$last" ] || fail "$copy goes on at $(first_tick b), after $last"
	quit_vmm b
	sums "$copy" | cmp - "$WORK/before" || fail "$copy was changed"
done
[ ! -e "$STORE" ] || fail "restoring made a store"

# By a relative path, with slashes behind it, by a symbolic link to it.
ln -s cp-store "$copies/link"
for path in cp-store ./cp-store/// link; do
	(cd "$copies" && expect 0 "$BIN/vmm" --restore-snapshot "$path" --check)
done
