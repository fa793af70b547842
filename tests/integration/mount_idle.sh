#!/usr/bin/env bash
# What nobody has verified the daemon verifies when it has time, unless it is told not to:
# the good becomes stamped, the damaged is known without anybody having opened it, and
# what was verified long ago is read again. It ends at once while it reads.
. "$(dirname "$0")/lib.sh"
requires_fuse

snaps=$STORE/snapshots
"$TOOLS/mksnap" "$STORE" base 8 >/dev/null
for name in good bad; do cp -r "$snaps/base" "$snaps/$name"; done
chmod u+w "$snaps/bad/memory.bin"
flip "$snaps/bad/memory.bin" 12345
chmod 400 "$snaps/bad/memory.bin"
index() { "$BIN/snapctl" list --json | python3 -c 'import json, sys
print([s[sys.argv[2]] for s in json.load(sys.stdin) if s["name"] == sys.argv[1]][0])' "$1" "$2"; }
is() { [ "$(index "$1" status)" = "$2" ]; }

mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
refused 2 "verify_after=" "$BIN/snapfs" -o verify_after=soon "$mnt"

"$BIN/snapfs" -o noverify,verify_after=1 "$mnt"
sleep 3
is good unverified || fail "it was verified with noverify: $(index good status)"
umount "$mnt"

"$BIN/snapfs" -o verify_after=1 "$mnt"
until_true 30 is good valid || fail "it is $(index good status)"
until_true 30 is bad damaged || fail "it is $(index bad status)"
grep -q '^memory: *stamped' "$mnt/good/status" || fail "$(cat "$mnt/good/status")"
grep -q '^problem:.*memory.bin.*block 3' "$mnt/bad/status" || fail "$(cat "$mnt/bad/status")"

# As old as a stamp gets.
python3 - "$STORE" <<'P'
import sqlite3, sys
for name, table in ("catalog", "snapshot"), ("stamps", "stamp"):
    db = sqlite3.connect(f"{sys.argv[1]}/{name}.db", timeout=30)
    db.execute(f"UPDATE {table} SET verified_at = 1000000")
    db.commit()
    db.close()
P
old=$(index good verified_at)
case $old in 1970-*) ;; *) fail "the test did not make it old: $old" ;; esac
is_young() { [ "$(index good verified_at)" != "$old" ]; }
until_true 30 is_young || fail "it was not read again"
umount "$mnt"

# While it reads, it ends all the same.
"$TOOLS/mksnap" "$STORE" large 1024 >/dev/null
cp -r --reflink=auto --sparse=always "$snaps/large" "$snaps/copy"
"$BIN/snapfs" -f -o verify_after=1 "$mnt" 2>"$WORK/err" &
pid=$!
test_pids+=("$pid")
sleep 1.3
kill $pid
has_ended() { ! kill -0 $pid 2>/dev/null; }
until_true 5 has_ended || fail "it does not end"
wait $pid || fail "it ended with $?: $(cat "$WORK/err")"
