#!/usr/bin/env bash
# What is read through the mount is what is in the store, by every way of reading.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 8 1 >/dev/null
"$TOOLS/mksnap" "$STORE" other 8 2 >/dev/null
mount_snapfs "$STORE" "$WORK/mnt"

for name in base other; do
	for file in manifest.bin state.bin memory.bin; do
		cmp "$STORE/snapshots/$name/$file" "$WORK/mnt/$name/$file" ||
			fail "$name/$file differs"
		[ "$(sha256sum <"$STORE/snapshots/$name/$file")" = \
			"$(sha256sum <"$WORK/mnt/$name/$file")" ] || fail "$name/$file differs by sha256"
	done
done
# In the middle, beyond the end, unaligned.
cmp <(tail -c +1000001 "$STORE/snapshots/base/memory.bin" | head -c 70001) \
	<(tail -c +1000001 "$WORK/mnt/base/memory.bin" | head -c 70001)
[ -z "$(tail -c +9000000 "$WORK/mnt/base/memory.bin")" ] || fail "bytes beyond the end"

cp -r "$WORK/mnt/base" "$WORK/copy"
for file in manifest.bin state.bin memory.bin; do
	cmp "$STORE/snapshots/base/$file" "$WORK/copy/$file" || fail "cp -r: $file differs"
done
cmp <(cat "$WORK/mnt/base/manifest.json") "$WORK/copy/manifest.json" || fail "cp -r: json"
[ -s "$WORK/copy/status" ] || fail "cp -r: the status is empty"
tar -C "$WORK/mnt" -cf - base | tar -C "$WORK" -xf -
diff -r "$WORK/copy" "$WORK/base" || fail "tar differs from cp -r"
