#!/usr/bin/env bash
# latest, parent and .by-id lead where they should, and only there.
. "$(dirname "$0")/lib.sh"
requires_fuse

mnt=$WORK/mnt
mkdir -p "$STORE/snapshots"
mount_snapfs "$STORE" "$mnt"
[ ! -L "$mnt/latest" ] || fail "an empty store has a latest"

a=$("$TOOLS/mksnap" "$STORE" a 1 1)
b=$("$TOOLS/mksnap" "$STORE" b 1 2 "$a")
[ "$(readlink "$mnt/latest")" = b ] || fail "latest"
[ "$(readlink "$mnt/b/parent")" = ../a ] || fail "parent of b"
[ ! -e "$mnt/a/parent" ] || fail "a has a parent"
[ "$(readlink "$mnt/.by-id/$a")" = ../a ] || fail ".by-id of a"
[ "$(ls "$mnt/.by-id")" = "$(printf '%s\n' "$a" "$b" | sort)" ] || fail "the list of ids"
cmp "$mnt/b/parent/state.bin" "$mnt/.by-id/$a/state.bin"
grep -q '^parent: *a$' "$mnt/b/status" || fail "status does not name the parent"

"$BIN/snapctl" rename a renamed
[ "$(readlink "$mnt/b/parent")" = ../renamed ] || fail "parent after its rename"
[ "$(readlink "$mnt/.by-id/$a")" = ../renamed ] || fail ".by-id after the rename"
"$BIN/snapctl" rm renamed
[ ! -L "$mnt/b/parent" ] || fail "a parent that is gone"
[ "$(ls "$mnt/.by-id")" = "$b" ] || fail "an id that is gone"
[ ! -e "$mnt/.by-id/${b^^}" ] || fail "ids have one spelling"

# A copy repeats the id: the link leads to one of them, once.
cp -a "$STORE/snapshots/b" "$STORE/snapshots/c"
[ "$(ls "$mnt/.by-id")" = "$b" ] || fail "the id of a copy is listed twice"
[ -e "$mnt/.by-id/$b/state.bin" ] || fail "the id of a copy leads nowhere"
