#!/usr/bin/env bash
# One flipped bit anywhere in a snapshot: in the first, the last and a random block of
# each file and each tree, and in each field of the manifest. In the mount the open or
# that block is refused, everything else is read as it was, and so is the next snapshot.
# A digest or size that is wrong in a manifest that is right otherwise finds the file.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

seed=${SEED:-$RANDOM$RANDOM}
echo "SEED=$seed"
flips=$here/bit_flips.py
proto=$here/../../proto/manifest.proto
snaps=$STORE/snapshots

# original STORE NAME: a copy of the snapshot, out of the store, with all fields that there are.
original() {
	cp -r "$1/snapshots/$2" "$WORK/$2"
	rm -f "$WORK/$2/working-set"
	"$python" "$flips" enrich "$WORK/$2" "$proto"
}

# --- flat, with a disk ---

"$TOOLS/mksnap" "$STORE" good 2 "$seed" '' 1 >/dev/null
original "$STORE" good
"$python" "$flips" make "$WORK/good" "$proto" "$snaps" "$WORK/plan" "$seed"
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt" -o noverify
"$python" "$flips" read "$WORK/good" "$snaps" "$WORK/plan" "$mnt" || fail "SEED=$seed"
for file in manifest.bin state.bin memory.bin disks/disk0.0; do
	cmp "$mnt/good/$file" "$snaps/good/$file" || fail "good/$file suffers, SEED=$seed"
done
grep -q '^state: *valid$' "$mnt/good/status" || fail "$(cat "$mnt/good/status")"
umount "$mnt"

# --- in layers, by verify ---

layered=$WORK/layered
"$TOOLS/mksnap" "$layered" base 2 "$seed" >/dev/null
"$TOOLS/mksnap" "$layered" one 0 --parent base --pages 3,200-399 "$seed" >/dev/null
"$TOOLS/mksnap" "$layered" two 0 --parent one --pages 7,210z,400-409 "$seed" >/dev/null
original "$layered" two
"$python" "$flips" make "$WORK/two" "$proto" "$layered/snapshots" "$WORK/plan" "$seed"
mapfile -t names < <(cd "$layered/snapshots" && echo flip* | tr ' ' '\n')
expect 1 "$BIN/snapctl" --store "$layered" verify --json "${names[@]}"
grep '^{' "$WORK/out" >"$WORK/json"
"$python" "$flips" verified "$WORK/two" "$layered/snapshots" "$WORK/plan" <"$WORK/json" ||
	fail "SEED=$seed"
expect 0 "$BIN/snapctl" --store "$layered" verify base one two
