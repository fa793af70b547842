#!/usr/bin/env bash
# Whoever changes the directories in snapshots/ by hand (mv, rm -rf, cp -r, another
# file of the same name) sees it in the next list; nothing has to be told.
. "$(dirname "$0")/lib.sh"
requires python3

a=$("$TOOLS/mksnap" "$STORE" a 1 1)
"$TOOLS/mksnap" "$STORE" b 1 2 "$a" >/dev/null
snaps=$STORE/snapshots
names() { "$BIN/snapctl" list --json | json "' '.join(sorted(s['name'] + ':' + s['status'] for s in d))"; }
are() { [ "$(names)" = "$1" ] || fail "$2: $(names)"; }
are "a:valid b:valid" "at first"

mv "$snaps/a" "$snaps/moved"
are "b:valid moved:valid" "mv"
[ "$(of_list moved id)" = "$a" ] || fail "mv: the id"
[ "$(of_list b parent_name)" = moved ] || fail "mv: the parent's name"
expect 0 "$BIN/snapctl" verify moved

cp -r "$snaps/moved" "$snaps/copy"
[ "$(of_list copy id)" = "$a" ] || fail "cp -r: the id"
[ "$(of_list copy status)" = unverified ] || fail "cp -r: $(names)"
[ "$(of_list b parent_name)" = copy ] || fail "cp -r: of equal ones the first name stands for the id"
expect 1 "$BIN/snapctl" check
says "$a"
expect 0 "$BIN/snapctl" verify copy
are "b:valid copy:valid moved:valid" "verify"

rm -rf "$snaps/copy"
are "b:valid copy:missing moved:valid" "rm -rf"
expect 1 "$BIN/snapctl" verify copy
expect 0 "$BIN/snapctl" rm copy
are "b:valid moved:valid" "rm of what is missing"

# Gone from one store, come into another; out of the way and back.
mkdir -p "$WORK/aside"
mv "$snaps/b" "$WORK/aside/b"
are "b:missing moved:valid" "mv out"
mv "$WORK/aside/b" "$snaps/b"
are "b:valid moved:valid" "mv back"
expect 0 "$BIN/snapctl" check

# What was put in the place of another is not taken for it.
mv "$snaps/b" "$WORK/aside/b"
cp -r "$snaps/moved" "$snaps/b"
are "b:replaced moved:valid" "another in its place"
expect 1 "$BIN/snapctl" verify b
says replaced
expect 0 "$BIN/snapctl" reindex --accept b
[ "$(of_list b id)" = "$a" ] || fail "accept: $(names)"

# Not snapshots: no list shows them, and they harm nothing.
mkdir "$snaps/empty" "$snaps/.hidden"
: >"$snaps/file"
ln -s moved "$snaps/link"
mkfifo "$snaps/fifo"
expect 0 timeout 20 "$BIN/snapctl" list
"$BIN/snapctl" list --json | json "[s['name'] for s in d if s['name'] in ('.hidden', 'file', 'link', 'fifo')]" >"$WORK/out"
says "[]"
[ "$(of_list empty status)" = damaged ] || fail "an empty directory: $(names)"
expect 0 "$BIN/snapctl" rm empty

# Many at once.
for n in $(seq 30); do cp -r "$snaps/moved" "$snaps/many$n"; done
[ "$(names | tr ' ' '\n' | grep -c '^many')" -eq 30 ] || fail "30 copies: $(names)"
rm -rf "$snaps"/many*
[ "$(names | tr ' ' '\n' | grep -c '^many.*missing$')" -eq 30 ] || fail "30 removed: $(names)"
