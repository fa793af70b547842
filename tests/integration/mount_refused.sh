#!/usr/bin/env bash
# What cannot be mounted is refused with one clear sentence and the right exit status.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
mkdir "$WORK/mnt" "$STORE/inside"
test_mounts+=("$WORK/mnt" "$STORE/inside" "$STORE" "$WORK")
ln -s "$STORE" "$WORK/alias"
: >"$WORK/file"

expect 1 "$BIN/snapfs" "$STORE/inside"
says "lie in one another"
expect 1 "$BIN/snapfs" "$WORK/alias/snapshots"
says "lie in one another"
expect 1 "$BIN/snapfs" "$STORE"
says "lie in one another"
expect 1 "$BIN/snapfs" "$WORK"
says "lie in one another"
expect 1 "$BIN/snapfs" --store "$WORK/alias" "$STORE/inside"
says "lie in one another"
expect 1 "$BIN/snapfs" "$WORK/none"
says "does not exist"
expect 1 "$BIN/snapfs" "$WORK/file"
says "not a directory"
expect 1 "$BIN/snapfs" --store "$WORK/nostore" "$WORK/mnt"
says "no store"
expect 2 "$BIN/snapfs"
expect 2 "$BIN/snapfs" a b c
expect 2 "$BIN/snapfs" --bogus "$WORK/mnt"
expect 2 "$BIN/snapfs" -o bogus "$WORK/mnt"
says "bogus"
expect 2 "$BIN/snapfs" --mode 0644 "$WORK/mnt"
expect 2 "$BIN/snapfs" -o auto_unmount "$WORK/mnt"
says "auto_unmount"
expect 0 "$BIN/snapfs" --help
says "usage"
[ "$(grep -c "$WORK" /proc/self/mountinfo)" -eq 0 ] || fail "something was mounted"
