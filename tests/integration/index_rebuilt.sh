#!/usr/bin/env bash
# The index is only an index: deleted, cut short, overwritten, or another program's
# database in its place, it is made again from the directories, equal; nothing of a
# snapshot is touched, and `latest`, rm and a save work on.
. "$(dirname "$0")/lib.sh"
requires python3

for n in 1 2 3 4; do "$TOOLS/mksnap" "$STORE" "snap$n" 1 "$n" "${id:-}" >"$WORK/id" && id=$(<"$WORK/id"); done
expect 0 "$BIN/snapctl" verify --all
cp -r "$STORE/snapshots/snap1" "$STORE/snapshots/broken"
chmod u+w "$STORE/snapshots/broken/manifest.bin"
truncate -s 5 "$STORE/snapshots/broken/manifest.bin"

# verified_at is of the index alone; a rebuild has it where a stamp still holds.
listed() { "$BIN/snapctl" list --json | json "json.dumps([{k: v for k, v in s.items() if k != 'verified_at'} for s in d], indent=1)"; }
all_sums() { (cd "$STORE/snapshots" && find . -type f -exec sha256sum {} + | sort); }
listed >"$WORK/before"
all_sums >"$WORK/sums"
grep -q '"status": "damaged"' "$WORK/before" || fail "the broken one is not listed as damaged"
[ "$(grep -c '"status": "valid"' "$WORK/before")" -eq 4 ] || fail "not valid: $(cat "$WORK/before")"

same_again() {
	listed 2>"$WORK/words" >"$WORK/after" || fail "$1: list: $(cat "$WORK/words")"
	diff "$WORK/before" "$WORK/after" || fail "$1: the index is not the same again"
	all_sums | cmp - "$WORK/sums" || fail "$1: the snapshots were touched"
	expect 0 "$BIN/snapctl" show snap3
	sqlite3_ok
}
sqlite3_ok() {
	if command -v sqlite3 >/dev/null; then
		[ "$(sqlite3 "$STORE/catalog.db" 'PRAGMA integrity_check; SELECT count(*) >= 4 FROM snapshot' 2>&1 | tr '\n' ' ')" = "ok 1 " ] ||
			fail "the index: $(sqlite3 "$STORE/catalog.db" '.schema' 2>&1)"
	fi
}
without_wal() { rm -f "$STORE"/catalog.db-wal "$STORE"/catalog.db-shm; }

rm -f "$STORE"/catalog.db*
same_again deleted
rm "$STORE/catalog.db"
same_again "deleted alone, its log left"
expect 0 "$BIN/snapctl" reindex
same_again reindex

without_wal
head -c 30000 /dev/urandom >"$STORE/catalog.db"
same_again garbage
without_wal
: >"$STORE/catalog.db"
same_again empty
without_wal
truncate -s 6000 "$STORE/catalog.db"
same_again "cut short"
without_wal
dd if=/dev/urandom of="$STORE/catalog.db" bs=4096 seek=1 count=3 conv=notrunc status=none
same_again "overwritten in the middle"
flip "$STORE/catalog.db" 68
same_again "another application's number"
if command -v sqlite3 >/dev/null; then
	without_wal
	rm "$STORE/catalog.db"
	sqlite3 "$STORE/catalog.db" 'CREATE TABLE snapshot(a); INSERT INTO snapshot VALUES (1);'
	same_again "another program's database"
	sqlite3 "$STORE/catalog.db" 'PRAGMA user_version = 9999'
	refused 1 "version 9999" "$BIN/snapctl" list
	mv "$STORE/catalog.db" "$WORK/later"
	same_again "moved away"
fi
rm -f "$STORE"/catalog.db*
mkdir "$STORE/catalog.db"
timeout 30 "$BIN/snapctl" list >"$WORK/out" 2>&1 </dev/null || says catalog.db
rmdir "$STORE/catalog.db" 2>/dev/null || true

# Without stamps all is unverified, not lost.
rm -f "$STORE"/*.db*
[ "$("$BIN/snapctl" list --json | json "sum(s['status'] == 'unverified' for s in d)")" -eq 4 ] ||
	fail "without stamps: $("$BIN/snapctl" list)"
expect 1 "$BIN/snapctl" verify --all
same_again "all databases deleted, verified again"

# It is an index to work with.
rm -f "$STORE/catalog.db"
expect 0 "$BIN/snapctl" rm snap2
rm -f "$STORE"/catalog.db*
"$TOOLS/mksnap" "$STORE" snap5 1 5 >/dev/null
[ "$("$BIN/snapctl" list --json | json "sorted(s['name'] for s in d)")" = \
	"['broken', 'snap1', 'snap3', 'snap4', 'snap5']" ] || fail "$("$BIN/snapctl" list)"
