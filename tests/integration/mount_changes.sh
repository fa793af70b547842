#!/usr/bin/env bash
# What others publish, remove and rename shows in the mount at once, and the
# mount and `snapctl list` agree.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" one 1 1 >/dev/null
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"

# agree NAME..: both show exactly these, the last of which is the latest.
agree() {
	local want latest=${*: -1}
	want=$(printf '%s\n' "$@" | sort)
	[ "$(cd "$mnt" && find . -mindepth 1 -maxdepth 1 -type d ! -name .by-id ! -name .layers -printf '%f\n' | sort)" = \
		"$want" ] || fail "the mount shows $(ls "$mnt"), not $*"
	[ "$("$BIN/snapctl" list | awk 'NR > 1 && $0 !~ /missing/ {print $1}' | sort)" = "$want" ] ||
		fail "list shows something else than $*"
	[ "$(readlink "$mnt/latest")" = "$latest" ] ||
		fail "latest is $(readlink "$mnt/latest"), not $latest"
}

agree one
for round in 1 2 3 4 5; do
	"$TOOLS/mksnap" "$STORE" two 1 2 >/dev/null
	agree one two
	"$BIN/snapctl" rename two three
	[ ! -e "$mnt/two" ] || fail "the old name goes on resolving"
	agree one three
	mv "$STORE/snapshots/three" "$STORE/snapshots/four"
	agree one four
	cmp "$mnt/four/memory.bin" "$STORE/snapshots/four/memory.bin"
	"$BIN/snapctl" rm four
	[ ! -e "$mnt/four" ] || fail "round $round: four is still there"
	agree one
done

# A directory that is open stays what it was, whatever its name does.
"$TOOLS/mksnap" "$STORE" two 1 2 >/dev/null
sum=$(sha256sum <"$mnt/two/memory.bin")
(
	cd "$mnt/two" || exit
	"$BIN/snapctl" rename two other
	"$TOOLS/mksnap" "$STORE" two 1 3 >/dev/null
	[ "$(sha256sum <memory.bin)" = "$sum" ] || fail "the open directory became another one"
	[ "$(sha256sum <"$mnt/two/memory.bin")" != "$sum" ] || fail "two is the old one"
	grep -q '^name: *other$' status || fail "the status has the old name"
)
exec 5<"$mnt/two/memory.bin"
sum=$(sha256sum <"$STORE/snapshots/two/memory.bin")
"$BIN/snapctl" rm two
[ "$(sha256sum <&5)" = "$sum" ] || fail "a removed file cannot be read on"
exec 5<&-
