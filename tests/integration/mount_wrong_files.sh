#!/usr/bin/env bash
# A file of another length, an empty one, and one of another snapshot, with its tree or
# without: refused by name in the mount, whether its tree is good, bad or missing, while
# the other files are served. A manifest that is whole but an older one is "replaced".
. "$(dirname "$0")/lib.sh"
requires_fuse

snaps=$STORE/snapshots
"$TOOLS/mksnap" "$STORE" good 2 1 '' 1 >/dev/null
"$TOOLS/mksnap" "$STORE" other 2 2 '' 1 >/dev/null
# All states of mksnap are the same: one of its own, before the mount knows the snapshot.
cp -r "$snaps/other" "$WORK/other"
"$TOOLS/forge" "$WORK/other/manifest.bin" state_vcpu_version=7
cp -r "$WORK/other" "$snaps/third"
! cmp -s "$WORK/other/state.bin" "$snaps/good/state.bin" || fail "the states are the same"

# Each is told FILE.
page_shorter() { truncate -s -4096 "$1"; }
byte_shorter() { truncate -s -1 "$1"; }
byte_longer() { truncate -s +1 "$1"; }
page_longer() { truncate -s +4096 "$1"; }
emptied() { truncate -s 0 "$1"; }
swapped() { cp "$WORK/other/$2" "$1"; }
# As what it has in the place of a tree would have it.
tree_of() {
	case $1 in
	memory.bin) echo memory.tree ;;
	*) echo "$1.tree" ;;
	esac
}
swapped_with_tree() {
	swapped "$@"
	cp "$WORK/other/$(tree_of "$2")" "${1%/"$2"}/$(tree_of "$2")"
}
swapped_without_tree() {
	swapped "$@"
	rm -f "${1%/"$2"}/$(tree_of "$2")"
}
flipped_without_tree() {
	flip "$1" 70000
	rm -f "${1%/"$2"}/$(tree_of "$2")"
}
# Both are wrong in the same place: the topmost block of the tree, and one that lies lower.
flipped_both_on_top() {
	flip "$1" 70000
	flip "${1%/"$2"}/$(tree_of "$2")" 9
}
flipped_both_below() {
	flip "$1" 70000
	flip "${1%/"$2"}/$(tree_of "$2")" 4100
}

files=(manifest.bin state.bin memory.bin disks/disk0.0)
declare -A damage
any=(page_shorter byte_shorter byte_longer page_longer emptied swapped)
with_tree=(swapped_with_tree swapped_without_tree flipped_without_tree flipped_both_on_top
	flipped_both_below)
for file in state.bin memory.bin disks/disk0.0; do
	hows=("${any[@]}")
	[ "$file" = state.bin ] || hows+=("${with_tree[@]}")
	for how in "${hows[@]}"; do
		name=${file##*/}.$how
		cp -r "$snaps/good" "$snaps/$name"
		chmod -R u+w "$snaps/$name"
		"$how" "$snaps/$name/$file" "$file"
		damage[$name]=$file
	done
done

mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt" -o noverify

# right_or_refused FILE WANT: it is EIO, and no byte before that is a wrong one.
right_or_refused() {
	if timeout 20 cat "$1" >"$WORK/read" 2>"$WORK/err"; then fail "$1 was served"; fi
	grep -q 'Input/output error' "$WORK/err" || fail "$1: $(cat "$WORK/err")"
	cmp -n "$(stat -c %s "$WORK/read")" "$WORK/read" "$2" || fail "$1: wrong bytes"
}
for name in "${!damage[@]}"; do
	for file in "${files[@]}"; do
		if [ "$file" = "${damage[$name]}" ]; then
			right_or_refused "$mnt/$name/$file" "$snaps/good/$file"
			right_or_refused "$mnt/$name/$file" "$snaps/good/$file"
		else
			cmp "$mnt/$name/$file" "$snaps/good/$file" || fail "$name: $file suffers"
		fi
	done
	grep -q '^state: *damaged$' "$mnt/$name/status" || fail "$name: $(cat "$mnt/$name/status")"
	grep -q "^problem: .*${damage[$name]}" "$mnt/$name/status" ||
		fail "$name: $(cat "$mnt/$name/status")"
	# Nobody can say which block it is.
	[[ $name != *flipped* ]] || ! grep -q '^problem: .*block' "$mnt/$name/status" ||
		fail "$name: $(cat "$mnt/$name/status")"
done
for file in "${files[@]}"; do
	cmp "$mnt/good/$file" "$snaps/good/$file" || fail "good/$file suffers"
	cmp "$mnt/third/$file" "$WORK/other/$file" || fail "third/$file suffers"
done

# --- a manifest that is whole, but the one that it had before ---

# Whole when it gets there: who looks may do so at any time.
cp -r "$snaps/good" "$WORK/older"
cp "$WORK/older/manifest.bin" "$WORK/before"
"$TOOLS/forge" "$WORK/older/manifest.bin" clock=1
mv "$WORK/older" "$snaps/older"
cmp "$mnt/older/memory.bin" "$snaps/good/memory.bin"
cmp "$mnt/older/manifest.bin" "$snaps/older/manifest.bin"
cp "$WORK/before" "$snaps/older/manifest.bin"
for file in "${files[@]}"; do
	right_or_refused "$mnt/older/$file" "$snaps/good/$file"
done
grep -q '^state: *replaced$' "$mnt/older/status" || fail "$(cat "$mnt/older/status")"
[ "$(of_list older status)" = replaced ] || fail "list says $(of_list older status)"
refused 1 replaced "$BIN/snapctl" verify older
