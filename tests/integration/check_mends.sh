#!/usr/bin/env bash
# What `snapctl check` finds wrong it also mends: each command that it prints is run as
# it is printed, and then nothing is wrong.
. "$(dirname "$0")/lib.sh"
PATH=$BIN:$PATH

fresh() {
	rm -rf "$STORE"
	for name in a b; do "$TOOLS/mksnap" "$STORE" $name 1 >/dev/null; done
	expect 0 snapctl check
}
snap=$STORE/snapshots/a

gone() { rm -r "$snap"; }
replaced() { rm -r "$snap" && "$TOOLS/mksnap" "$WORK/other" a 1 7 >/dev/null && mv "$WORK/other/snapshots/a" "$snap"; }
damaged() { chmod 0600 "$snap/memory.bin" && flip "$snap/memory.bin" 9 && chmod 0400 "$snap/memory.bin" && ! snapctl verify a 2>"$WORK/said"; }
writable() { chmod 0600 "$snap/memory.bin"; }
open_file() { chmod 0444 "$snap/state.bin"; }
open_directory() { chmod 0755 "$snap"; }
open_store() { chmod 0755 "$STORE"; }
tree_missing() { rm -f "$snap/memory.tree"; }
stamps_of_others() { chmod 0644 "$STORE/stamps.db"; }
index_damaged() { head -c 8192 /dev/urandom >"$STORE/catalog.db"; }

for wrong in "gone:its directory is gone" "replaced:it was replaced" "damaged:memory.bin does not have" \
	"writable:memory.bin can be written" "open_file:state.bin is open to everybody" \
	"open_directory:its directory is open" "open_store:the store is open" \
	"tree_missing:memory.tree is missing" "stamps_of_others:stamps.db: it is ignored" \
	"index_damaged:an index that was damaged"; do
	fresh
	"${wrong%%:*}"
	expect 1 snapctl check
	says "${wrong#*:}"
	sed -n 's/^ *mended by: //p' "$WORK/out" >"$WORK/mends"
	[ -s "$WORK/mends" ] || fail "${wrong%%:*}: nothing mends it"
	bash -euc ". '$WORK/mends'" >"$WORK/mended" 2>&1 || fail "${wrong%%:*}: its mend fails: $(cat "$WORK/mends" "$WORK/mended")"
	expect 0 snapctl check
	says "nothing is wrong"
done
