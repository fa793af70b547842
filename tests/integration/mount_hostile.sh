#!/usr/bin/env bash
# Directories that mean no good: they appear as damaged or not at all; nothing
# hangs, nothing is followed, and the good snapshot is served.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" good 1 >/dev/null
s=$STORE/snapshots
echo secret >"$WORK/secret"
copy() { cp -a "$s/good" "$s/$1"; }
copy fifo && rm -f "$s/fifo/memory.bin" && mkfifo "$s/fifo/memory.bin"
copy link && mv "$s/link/memory.bin" "$WORK/ram" && ln -s "$WORK/ram" "$s/link/memory.bin"
copy state && rm -f "$s/state/state.bin" && ln -s "$WORK/secret" "$s/state/state.bin"
copy dir && rm -f "$s/dir/memory.bin" && mkdir "$s/dir/memory.bin"
copy short && truncate -s 4096 "$s/short/memory.bin"
copy gone && rm -f "$s/gone/memory.bin"
copy fifos && rm -f "$s/fifos/manifest.bin" && mkfifo "$s/fifos/manifest.bin"
copy huge && truncate -s 3M "$s/huge/manifest.bin"
mkdir "$s/empty" "$s/.hidden" "$s/latest" "$s/-dash" "$s/$(printf 'new\nline')"
ln -s "$WORK" "$s/outside"
ln -s good "$s/inside"
mkfifo "$s/pipe"
: >"$s/file"

mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

[ "$(find "$mnt" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort | tr '\n' ' ')" = \
	".by-id .layers dir empty fifo fifos gone good huge link short state " ] || {
	ls -la "$mnt"
	fail "the wrong things appear"
}
for name in outside inside pipe file .hidden -dash; do
	[ ! -e "$mnt/$name" ] || fail "$name is there"
done
for name in fifo link dir short; do
	expect 1 timeout 10 cat "$mnt/$name/memory.bin"
	says "Input/output error"
	grep -q '^state: *damaged$' "$mnt/$name/status" || fail "$name is not damaged"
	grep -q '^problem: .*memory.bin' "$mnt/$name/status" || fail "status of $name"
done
expect 1 timeout 10 cat "$mnt/state/state.bin"
says "Input/output error"
[ ! -e "$mnt/gone/memory.bin" ] || fail "a missing file is listed"
grep -q '^state: *damaged$' "$mnt/gone/status" || fail "gone is not damaged"
for name in fifos huge; do
	expect 1 timeout 10 cat "$mnt/$name/manifest.bin"
	says "Input/output error"
	grep -q '^state: *damaged$' "$mnt/$name/status" || fail "$name is not damaged"
done
grep -q '^state: *damaged$' "$mnt/empty/status" || fail "empty is not damaged"
timeout 20 grep -r secret "$mnt" >/dev/null 2>&1 && fail "a link was followed"
cmp "$mnt/good/memory.bin" "$s/good/memory.bin"
