#!/usr/bin/env bash
# A mount whose daemon was killed is replaced by the next start, which says so.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
for _ in 1 2; do
	"$BIN/snapfs" -f --store "$STORE" "$mnt" 2>/dev/null &
	pid=$!
	test_pids+=("$pid")
	until_true 10 test -e "$mnt/base" || fail "not mounted"
	kill -9 "$pid"
	wait "$pid" 2>/dev/null || true
	! stat "$mnt" >/dev/null 2>&1 || fail "the mount is not dead"
done
expect 0 "$BIN/snapfs" --store "$STORE" "$mnt"
says "replaced the dead mount"
cmp "$mnt/base/state.bin" "$STORE/snapshots/base/state.bin"
[ "$(grep -c " $mnt " /proc/self/mountinfo)" -eq 1 ] || fail "a dead mount is still below"

# A live one is not: nothing is hidden under it.
expect 1 "$BIN/snapfs" --store "$STORE" "$mnt"
says "already"
umount "$mnt"
