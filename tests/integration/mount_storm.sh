#!/usr/bin/env bash
# Many opens of files that nobody has verified yet, at once: one verification
# each, all get the right bytes, and listings are answered meanwhile.
. "$(dirname "$0")/lib.sh"
requires_fuse

for i in 1 2 3; do
	"$TOOLS/mksnap" "$STORE" "s$i" 24 "$i" >/dev/null
	# A changed time takes the stamp's ground away.
	touch "$STORE/snapshots/s$i/memory.bin"
done
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f -v --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/s1" || fail "not mounted"
grep -q '^state: *unverified$' "$mnt/s1/status" || fail "s1 counts as verified"

for i in 1 2 3; do
	sha256sum <"$STORE/snapshots/s$i/memory.bin" >"$WORK/want.$i"
done
jobs=()
for n in $(seq 60); do
	i=$((n % 3 + 1))
	sha256sum <"$mnt/s$i/memory.bin" >"$WORK/got.$n" &
	jobs+=("$!")
done
for _ in $(seq 20); do
	ls -lR "$mnt" >/dev/null || true
done
for pid in "${jobs[@]}"; do
	wait "$pid" || fail "a read failed"
done
for n in $(seq 60); do
	cmp "$WORK/got.$n" "$WORK/want.$((n % 3 + 1))" || fail "wrong bytes"
done
for i in 1 2 3; do
	[ "$(grep -c "verifying s$i/memory.bin" "$WORK/log")" -eq 1 ] || {
		cat "$WORK/log"
		fail "s$i was not verified exactly once"
	}
	until_true 20 grep -q '^state: *valid$' "$mnt/s$i/status" || fail "s$i is not valid"
done
