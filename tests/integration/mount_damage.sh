#!/usr/bin/env bash
# One flipped bit in any file: opening it fails, `status` and the log name the
# file, and no other snapshot is touched by it. A mended one is good again.
. "$(dirname "$0")/lib.sh"
requires_fuse

for name in good manifest state memory; do
	"$TOOLS/mksnap" "$STORE" "$name" 4 >/dev/null
done
mnt=$WORK/mnt
mkdir -p "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/good" || fail "not mounted"

flip "$STORE/snapshots/manifest/manifest.bin" 30
flip "$STORE/snapshots/state/state.bin" 5000
flip "$STORE/snapshots/memory/memory.bin" 3000000

denied() {
	expect 1 cat "$mnt/$1"
	says "Input/output error"
}

for name in manifest state memory; do
	[ -d "$mnt/$name" ] || fail "$name is gone from the mount"
	denied "$name/$name.bin"
	denied "$name/$name.bin"
	grep -q '^state: *damaged$' "$mnt/$name/status" || fail "status of $name: not damaged"
	grep -q "^problem: .*$name\.bin" "$mnt/$name/status" || fail "status of $name names no file"
	grep -q "$name.*damaged.*$name\.bin" "$WORK/log" || fail "no word of $name in the log"
	if command -v getfattr >/dev/null; then
		getfattr --only-values -n user.snapfs.problem "$mnt/$name" | grep -q "$name\.bin" ||
			fail "the attribute of $name names no file"
	fi
done
[ "$(grep -c memory.bin "$WORK/log")" -eq 1 ] || fail "the log is repeated"
# A manifest that cannot be believed says nothing of the other files.
denied manifest/state.bin
denied manifest/memory.bin
[ ! -e "$mnt/manifest/manifest.json" ] || fail "JSON of a damaged manifest"

for file in manifest.bin state.bin memory.bin; do
	cmp "$mnt/good/$file" "$STORE/snapshots/good/$file" || fail "good/$file suffers"
done
grep -q '^state: *valid$' "$mnt/good/status" || fail "good is not valid"
[ "$(readlink "$mnt/latest")" = good ] || fail "latest is $(readlink "$mnt/latest")"
"$BIN/snapctl" list --json | tr -d ' \n' | grep -q '"status":"damaged"' || fail "list: not damaged"

flip "$STORE/snapshots/manifest/manifest.bin" 30
flip "$STORE/snapshots/state/state.bin" 5000
flip "$STORE/snapshots/memory/memory.bin" 3000000
# The memory is once it was verified, in idle time.
is_valid() { grep -q '^state: *valid$' "$mnt/$name/status"; }
for name in manifest state memory; do
	for file in manifest.bin state.bin memory.bin; do
		cmp "$mnt/$name/$file" "$STORE/snapshots/$name/$file" || fail "mended $name/$file"
	done
	until_true 20 is_valid || fail "mended $name is not valid"
done
