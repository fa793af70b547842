#!/usr/bin/env bash
# An open that waits for a verification, for there is no tree to check blocks by, can be
# interrupted, and holds up nobody.
. "$(dirname "$0")/lib.sh"
requires_fuse

# Without holes, so that hashing takes its time.
"$TOOLS/mksnap" "$STORE" small 1 >/dev/null
"$TOOLS/mksnap" "$STORE" big 768 >/dev/null
touch "$STORE/snapshots/big/memory.bin"
rm "$STORE/snapshots/big/memory.tree"
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f -v --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/big" || fail "not mounted"

# By its own shell: `wait` then tells when the open is over.
bash -c "exec 5<'$mnt/big/memory.bin'" &
pid=$!
test_pids+=("$pid")
until_true 10 grep -q "verifying big" "$WORK/log" || fail "no verification"
started=$(date +%s%N)
cmp "$mnt/small/memory.bin" "$STORE/snapshots/small/memory.bin"
ls -l "$mnt" "$mnt/big" >/dev/null
head -c 100 "$mnt/big/state.bin" >/dev/null
kill -0 "$pid" 2>/dev/null || skip "this machine hashes 256 MiB before one can look"
kill -TERM "$pid"
wait "$pid" && fail "the open was not interrupted"
ms=$((($(date +%s%N) - started) / 1000000))
[ "$ms" -lt 500 ] || fail "it took $ms ms"
# The verification goes on, and is there for the next one.
cmp "$mnt/big/memory.bin" "$STORE/snapshots/big/memory.bin"
[ "$(grep -c "verifying big" "$WORK/log")" -le 2 ] || fail "verified over and over"
