#!/usr/bin/env bash
# On a full disk what is there is still listed and removed, and what was removed
# is not listed any more.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || skip "only root mounts a small disk"

mkdir "$STORE"
mount -t tmpfs -o size=8m tmpfs "$STORE" || skip "tmpfs cannot be mounted here"
test_mounts+=("$STORE")
"$TOOLS/mksnap" "$STORE" one 2 >/dev/null
"$TOOLS/mksnap" "$STORE" two 2 >/dev/null
dd if=/dev/zero of="$STORE/filler" bs=4k status=none 2>/dev/null || true
[ "$(df --output=avail "$STORE" | tail -1)" -eq 0 ] || fail "the disk is not full"

expect 0 "$BIN/snapctl" list
says one
expect 0 "$BIN/snapctl" rm one
expect 0 "$BIN/snapctl" list
! grep -q one "$WORK/out" || fail "what was removed is listed"
says two
nothing_left "$STORE"

# Without any index there is no room for one either.
rm -f "$STORE"/catalog.db*
dd if=/dev/zero of="$STORE/filler2" bs=4k status=none 2>/dev/null || true
expect 0 "$BIN/snapctl" list
says two
expect 0 "$BIN/snapctl" rm two
expect 0 "$BIN/snapctl" list
! grep -q two "$WORK/out" || fail "what was removed is listed"
