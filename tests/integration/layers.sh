#!/usr/bin/env bash
# Snapshots in layers: listed, drawn, counted, compared, removed one by one, and made flat.
. "$(dirname "$0")/lib.sh"
requires python3
ctl=$BIN/snapctl

"$TOOLS/mksnap" "$STORE" base 8 >/dev/null
"$TOOLS/mksnap" "$STORE" one 8 --parent base --pages 3,10-19,40z 5 >/dev/null
"$TOOLS/mksnap" "$STORE" two 0 --parent one --pages 0,11,130-400 6 >/dev/null
"$TOOLS/mksnap" "$STORE" side 0 --parent one --pages 2047 7 >/dev/null
base_id=$(of_list base id)

[ "$(of_list base layers) $(of_list one layers) $(of_list two layers)" = "0 2 3" ] ||
	fail "the layers are not listed"
[ "$(of_list two parent_name)" = one ] || fail "the parent is not listed"
[ "$(of_list two parent)" = "$(of_list one id)" ] || fail "the parent's id is not listed"
expect 0 "$ctl" check

# du: what is shared counts once, and is nobody's own.
blocks=$(find "$STORE/snapshots" -type f -printf '%i %b\n' | sort -u | awk '{ n += $2 * 512 } END { print n }')
[ "$("$ctl" du --json | json "d['stored_bytes']")" = "$blocks" ] || fail "du does not add up"
own=$(stat -c '%b' "$STORE"/snapshots/two/{manifest.bin,state.bin,layers/2.{ram,map,tree},layers/1.map} |
	awk '{ n += $1 * 512 } END { print n }')
[ "$("$ctl" du --json | json "[s['unique_bytes'] for s in d['snapshots'] if s['name'] == 'two'][0]")" = "$own" ] ||
	fail "du gives two another share"
[ "$(of_list two unique_bytes)" = "$own" ] || fail "list and du differ"
expect 0 "$ctl" du
says together

expect 0 "$ctl" tree
sed 's/ *[0-9.]* [KM]*i*B$//' "$WORK/out" | diff - <(printf '%s\n' base '└─ one' '   ├─ two' '   └─ side') ||
	fail "another tree is drawn"

# diff: the pages that were written, by guest address.
expect 0 "$ctl" diff base one
says "0x000000003000-0x000000004000        1 page"
says "0x00000000a000-0x000000014000       10 pages"
"$ctl" diff --json one two >"$WORK/diff"
[ "$(json "d['changed_pages']" <"$WORK/diff")" = 273 ] || fail "not the pages that were written"
[ "$(json "sum(r['bytes'] for r in d['ranges']) == d['changed_bytes']" <"$WORK/diff")" = True ] ||
	fail "the ranges do not add up"
"$TOOLS/mksnap" "$STORE" other 4 >/dev/null
refused 1 "different RAM" "$ctl" diff base other
refused 1 "there is no snapshot nobody" "$ctl" diff base nobody
refused 2 "diff needs A B" "$ctl" diff base

# flatten: the same snapshot, with the same content; the others are as they were.
cp -r "$STORE/snapshots/two" "$WORK/copy"
id=$(of_list two id)
expect 0 "$ctl" flatten two
says "two: flat"
expect 0 "$ctl" flatten two
says "is flat already"
[ "$(of_list two id) $(of_list two layers) $(of_list two status)" = "$id 0 valid" ] || fail "two is another one now"
[ ! -e "$STORE/snapshots/two/layers" ] || fail "two has layers still"
[ "$(stat -c %a "$STORE/snapshots/two/memory.bin")" = 400 ] || fail "the new file can be written"
cp -r "$WORK/copy" "$STORE/snapshots/copy"
[ "$("$ctl" diff --json copy two | json "d['changed_pages']")" = 0 ] || fail "flatten changed the RAM"
expect 0 "$ctl" verify --all
nothing_left "$STORE"
[ "$("$ctl" show --json two | json "d['memory_digest']")" = \
	"$("$ctl" show --json copy | json "d['memory_digest']")" ] || fail "another digest"

# rm, in whatever order, hurts no other, nor what is known of it.
expect 0 "$ctl" rm base
[ "$(of_list one status) $(of_list side status)" = "valid valid" ] || fail "removing hurts others"
expect 0 "$ctl" tree
says "(gone: $base_id)"
expect 0 "$ctl" rm one
expect 0 "$ctl" verify side two
expect 0 "$ctl" rm two
expect 0 "$ctl" verify side
[ "$(of_list side unique_bytes)" = "$(of_list side stored_bytes)" ] || fail "nobody shares with side any more"

# check: what does not belong there, what may be written.
touch "$STORE/snapshots/side/layers/9.ram"
chmod 0600 "$STORE/snapshots/side/layers/1.map"
expect 1 "$ctl" check
says "layers/9.ram is in it and not in its manifest"
says "layers/1.map can be written"
