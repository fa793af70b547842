#!/usr/bin/env bash
# A layer, a map or a tree that is damaged or missing: verify says which and where, and
# mends what can be mended.
. "$(dirname "$0")/lib.sh"
requires python3
ctl=$BIN/snapctl

"$TOOLS/mksnap" "$STORE" base 4 >/dev/null
"$TOOLS/mksnap" "$STORE" one 0 --parent base --pages 3,200-499 5 >/dev/null
"$TOOLS/mksnap" "$STORE" two 0 --parent one --pages 7,210z 6 >/dev/null
good=$STORE/snapshots/two

# spoilt FILE OFFSET WORDS..: a copy of the snapshot with a bit flipped there is damaged.
spoilt() {
	rm -rf "$STORE/snapshots/bad"
	cp -r "$good" "$STORE/snapshots/bad"
	chmod 0600 "$STORE/snapshots/bad/$1"
	flip "$STORE/snapshots/bad/$1" "$2"
	chmod 0400 "$STORE/snapshots/bad/$1"
	expect 1 "$ctl" verify bad
	says "$1"
	says "$3"
	[ "$(of_list bad status)" = damaged ] || fail "bad is $(of_list bad status)"
	refused 1 damaged "$ctl" flatten bad
	expect 0 "$ctl" verify two
}
spoilt layers/0.ram 8200 "block 2 (byte 8192 and on) is wrong"
spoilt layers/1.ram $((4096 * 131 + 5)) "block 131"
spoilt layers/2.map 20 "does not have the manifest's digest"

# missing FILE: likewise, without it.
missing() {
	rm -rf "$STORE/snapshots/bad"
	cp -r "$good" "$STORE/snapshots/bad"
	rm -f "$STORE/snapshots/bad/$1"
	expect 1 "$ctl" verify bad
	says "damaged"
	nothing_left "$STORE"
}
missing layers/0.ram
missing layers/1.ram
missing layers/1.map

# A tree is made again, of each layer.
expect 0 "$ctl" rm bad
for layer in 0 1; do
	rm -f "$good/layers/$layer.tree"
	expect 1 "$ctl" check
	says "layers/$layer.tree is missing"
	expect 0 "$ctl" verify two
	says "layers/$layer.tree of snapshot two was missing: made anew"
	expect 0 "$ctl" check
done

# Its layers are a link to elsewhere: nothing is written there.
cp -r "$good" "$WORK/elsewhere"
cp -r "$good" "$STORE/snapshots/linked"
rm -rf "$STORE/snapshots/linked/layers"
ln -s "$WORK/elsewhere/layers" "$STORE/snapshots/linked/layers"
rm -f "$WORK/elsewhere/layers/0.tree"
expect 1 "$ctl" verify linked
[ ! -e "$WORK/elsewhere/layers/0.tree" ] || fail "a tree was made outside of the store"
expect 1 "$ctl" check
says "layers is not a directory of its own"
