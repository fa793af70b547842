#!/usr/bin/env bash
# A file that changes after it was verified is verified again by the next open.
# Those who have it open get an error, never the changed bytes, where snapfs
# serves them; what the kernel reads by itself is seen as it is by them alone.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 64 >/dev/null
memory=$STORE/snapshots/base/memory.bin
sum=$(sha256sum <"$memory")
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f -v -o nopassthrough --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/base" || fail "not mounted"
[ "$(sha256sum <"$mnt/base/memory.bin")" = "$sum" ] || fail "differs"
! grep -q verifying "$WORK/log" || fail "a stamped file was verified again"

# Touched, with the same bytes: verified once more, then good.
sleep 0.1
touch "$memory"
[ "$(sha256sum <"$mnt/base/memory.bin")" = "$sum" ] || fail "differs after a touch"
[ "$(sha256sum <"$mnt/base/memory.bin")" = "$sum" ] || fail "differs the second time"
[ "$(grep -c "verifying base" "$WORK/log")" -eq 1 ] || fail "not verified exactly once"

# Changed under an open file: what the kernel has not cached yet is refused.
exec 5<"$mnt/base/memory.bin"
head -c 4096 <&5 >/dev/null
sleep 0.1
flip "$memory" 50000000
if dd bs=4096 skip=12000 count=400 status=none <&5 >"$WORK/read" 2>/dev/null; then
	cmp -n 1638400 -i 0:49156096 "$WORK/read" "$memory" && fail "changed bytes were served"
fi
exec 5<&-
expect 1 cat "$mnt/base/memory.bin"
says "Input/output error"

# Links come and go: no reason for either.
flip "$memory" 50000000
[ "$(sha256sum <"$mnt/base/memory.bin")" = "$sum" ] || fail "differs after it was mended"
exec 5<"$mnt/base/memory.bin"
ln "$memory" "$WORK/link"
rm "$WORK/link"
[ "$(sha256sum <&5)" = "$sum" ] || fail "a link disturbs a reader"
exec 5<&-
