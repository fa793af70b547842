#!/usr/bin/env bash
# The mount serves more snapshots than its process may have descriptors, whatever
# the kernel remembers of them.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
for i in $(seq 400); do cp -a "$STORE/snapshots/base" "$STORE/snapshots/s$i"; done
ulimit -n 128
mount_snapfs "$STORE" "$WORK/mnt"
# shellcheck disable=SC2010
[ "$(ls -l "$WORK/mnt" 2>"$WORK/err" | grep -c '^d')" -eq 401 ] ||
	fail "the long listing is not whole: $(head -n 3 "$WORK/err")"
for d in "$WORK"/mnt/s*/; do
	ls -l "$d" >/dev/null || fail "$d cannot be listed"
	cat "$d/manifest.bin" "$d/status" >/dev/null || fail "$d cannot be read"
done
# A first one, which others have long pushed out, and one under a new name.
cd "$WORK/mnt/s1" || fail "no s1"
mv "$STORE/snapshots/s1" "$STORE/snapshots/renamed"
"$BIN/snapctl" list >/dev/null || true
cmp manifest.bin "$WORK/mnt/renamed/manifest.bin" || fail "lost with its name"
cd "$WORK" || exit 1
