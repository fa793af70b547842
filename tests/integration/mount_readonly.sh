#!/usr/bin/env bash
# Nothing can be changed through the mount; the mount stays so if it is remounted.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

refused() {
	expect 1 "$@"
	says "Read-only file system"
}

try_all() {
	refused touch "$mnt/new"
	refused touch "$mnt/base/status"
	refused mkdir "$mnt/new"
	refused rmdir "$mnt/base"
	refused rm -f "$mnt/base/memory.bin"
	refused mv "$mnt/base" "$mnt/moved"
	refused mv -T "$mnt/base/state.bin" "$mnt/base/status"
	refused ln "$mnt/base/state.bin" "$mnt/base/again"
	refused ln -s base "$mnt/link"
	refused mkfifo "$mnt/fifo"
	refused chmod 0644 "$mnt/base/memory.bin"
	refused chown 1:1 "$mnt/base"
	refused truncate -s 0 "$mnt/base/memory.bin"
	refused dd if=/dev/zero of="$mnt/base/memory.bin" bs=1 count=1 conv=notrunc
	refused dd if=/dev/zero of="$mnt/base/new" bs=1 count=1
	refused fallocate -l 4096 "$mnt/base/memory.bin"
	if command -v setfattr >/dev/null; then
		refused setfattr -n user.x -v y "$mnt/base"
	fi
}

before=$(find "$STORE/snapshots" -type f -exec sha256sum {} + | sort)
try_all
if [ "$(id -u)" -eq 0 ] && mount -i -o remount,rw "$mnt" 2>/dev/null; then
	try_all
fi
[ "$before" = "$(find "$STORE/snapshots" -type f -exec sha256sum {} + | sort)" ] ||
	fail "the store was changed"
