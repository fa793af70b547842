#!/usr/bin/env bash
# A tree that is missing or bad: check says so and how to mend it, verify makes it again
# from the file and says so, if the file is what the manifest says.
. "$(dirname "$0")/lib.sh"
requires python3
ctl=$BIN/snapctl

"$TOOLS/mksnap" "$STORE" a 2 1 "" 2 >/dev/null
snap=$STORE/snapshots/a
expect 0 "$ctl" check
for tree in memory.tree disks/disk0.1.tree; do
	cp "$snap/$tree" "$WORK/good"
	for how in missing emptied bad; do
		chmod 0600 "$snap/$tree"
		case $how in
		missing) rm "$snap/$tree" ;;
		emptied) : >"$snap/$tree" ;;
		bad) flip "$snap/$tree" 40 ;;
		esac
		expect 1 "$ctl" check
		says "$tree is missing or of no use"
		mend=$(sed -n 's/^ *mended by: //p' "$WORK/out")
		[ "$mend" = "snapctl verify a" ] || fail "it is mended by '$mend'"
		expect 0 "$ctl" verify a
		says "a: valid"
		says "$tree of snapshot a was"
		says ": made anew"
		cmp "$snap/$tree" "$WORK/good" || fail "$tree, $how: another one was made"
		[ "$(stat -c %a "$snap/$tree")" = 400 ] || fail "$tree can be written"
		[ "$(of_list a status)" = valid ] || fail "$tree, $how: it is $(of_list a status)"
		expect 0 "$ctl" check
	done
done
expect 0 "$ctl" verify a
if grep -q anew "$WORK/out"; then fail "a good tree is made anew"; fi

# Of a damaged file none is made.
rm -f "$snap/memory.tree"
chmod 0600 "$snap/memory.bin"
flip "$snap/memory.bin" 5000
refused 1 "memory.bin" "$ctl" verify a
[ ! -e "$snap/memory.tree" ] || fail "a tree of what is damaged"
