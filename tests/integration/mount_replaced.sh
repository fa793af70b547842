#!/usr/bin/env bash
# Another whole manifest under the same name is not served until it is accepted.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 1 >/dev/null
"$TOOLS/mksnap" "$STORE" other 1 2 >/dev/null
"$BIN/snapctl" list >/dev/null
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"
cmp "$mnt/base/memory.bin" "$STORE/snapshots/base/memory.bin"

rm -rf "$STORE/snapshots/base"
cp -a "$STORE/snapshots/other" "$STORE/snapshots/base"
for file in manifest.bin state.bin memory.bin; do
	expect 1 cat "$mnt/base/$file"
	says "Input/output error"
done
grep -q '^state: *replaced$' "$mnt/base/status" || fail "status does not say replaced"
grep -q '^problem: .*reindex --accept base' "$mnt/base/status" || fail "status says not what to do"

"$BIN/snapctl" reindex --accept base >/dev/null
cmp "$mnt/base/memory.bin" "$mnt/other/memory.bin" || fail "not served after it was accepted"
