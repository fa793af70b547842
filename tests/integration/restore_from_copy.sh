#!/usr/bin/env bash
# A snapshot copied out of the store or the mount, by any usual way of copying, restores
# without them: the guest goes on with the next tick and the nonce that it had.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse
requires python3

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
ctl a "save-snapshot base" >"$WORK/out"
ticks_on a
last=$(frozen_at a)
ctl a "save-snapshot child" >"$WORK/out"
quit_vmm a
nonce=$(nonce_of a)
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt" -o noverify
"$BIN/snapctl" flatten child >/dev/null
[ -f "$STORE/snapshots/child/memory.bin" ] || fail "child is not flat"
[ "$(readlink "$mnt/child/parent")" = ../base ] || fail "child has no parent in the mount"

# by_all WHERE DIRECTORY: copies it in each way to $copies/WAY-WHERE.
copies=$WORK/copies
mkdir "$copies"
by_all() {
	local way
	cp -r "$2" "$copies/cp-$1"
	# The mount's link to the parent becomes a copy of that.
	cp -rL "$2" "$copies/cpL-$1"
	cp -a --sparse=always "$2" "$copies/cpa-$1"
	for way in tar tarh rsync rsyncL; do mkdir "$copies/$way-$1"; done
	tar -C "$2" -cf - . | tar -C "$copies/tar-$1" -xf -
	tar -C "$2" -chSf - . | tar -C "$copies/tarh-$1" -xf -
	if command -v rsync >/dev/null; then
		rsync -a "$2/" "$copies/rsync-$1/"
		rsync -rLS "$2/" "$copies/rsyncL-$1/"
	else
		rmdir "$copies/rsync-$1" "$copies/rsyncL-$1"
	fi
}
command -v rsync >/dev/null || echo "not tried: rsync is not installed"
by_all store "$STORE/snapshots/child"
by_all mount "$mnt/child"
# What nobody knows to be good comes out as well, and by the links to it.
touch "$STORE/snapshots/child/memory.bin"
grep -q '^state: *unverified$' "$mnt/child/status" || fail "$(cat "$mnt/child/status")"
by_all unverified "$mnt/child"
cp -rL "$mnt/latest" "$copies/latest"
cp -rL "$mnt/.by-id/$("$BIN/snapctl" list --json | json "[s['id'] for s in d if s['name'] == 'child'][0]")" \
	"$copies/by-id"
[ -s "$copies/cpL-mount/parent/memory.bin" ] || fail "cp -rL did not follow the parent"

sums "$STORE/snapshots/child" >"$WORK/before"
umount "$mnt"
rm -rf "$STORE"

for copy in "$copies"/*; do
	sums "$copy" | cmp - "$WORK/before" || fail "$copy: other bytes"
	expect 0 "$BIN/vmm" --restore-snapshot "$copy" --check
	start_vmm b --restore-snapshot "$copy"
	ticks_on b 2
	unbroken a b
	[ "$(nonce_of b)" = "$nonce" ] || fail "$copy: the nonce is $(nonce_of b), not $nonce"
	# A line that it was frozen in is ended by the restored guest.
	case $(($(first_tick b) - last)) in
	1 | 2) ;;
	*) fail "$copy goes on at $(first_tick b), after $last" ;;
	esac
	quit_vmm b
	sums "$copy" | cmp - "$WORK/before" || fail "$copy was changed"
done
[ ! -e "$STORE" ] || fail "restoring made a store"

# By a relative path, with slashes behind it, by a symbolic link to it.
ln -s cp-store "$copies/link"
for path in cp-store ./cp-store/// link; do
	(cd "$copies" && expect 0 "$BIN/vmm" --restore-snapshot "$path" --check)
done
