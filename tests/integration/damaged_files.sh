#!/usr/bin/env bash
# A snapshot with any damage to any file (a flipped bit, cut short, made longer,
# emptied, gone, something else in its place, another snapshot's) is refused with
# one sentence that names the file: from the store, from a copy, by snapctl verify.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
ctl a "save-snapshot good" >"$WORK/out"
quit_vmm a
start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
ctl a "save-snapshot other" >"$WORK/out"
quit_vmm a
good=$STORE/snapshots/good
sums "$good" >"$WORK/before"

# Each is told FILE; makes that damage to it.
cut_short() { truncate -s -1 "$1"; }
cut_half() { truncate -s $(($(stat -c %s "$1") / 2)) "$1"; }
longer() { printf x >>"$1"; }
page_longer() { head -c 4096 /dev/zero >>"$1"; }
emptied() { : >"$1"; }
flipped_first() { flip "$1" 0; }
flipped_middle() { flip "$1" $(($(stat -c %s "$1") / 2)); }
flipped_last() { flip "$1" $(($(stat -c %s "$1") - 1)); }
noise() { dd if=/dev/urandom of="$1" bs=300 count=1 conv=notrunc status=none; }
gone() { rm "$1"; }
a_directory() { rm "$1" && mkdir "$1"; }
a_fifo() { rm "$1" && mkfifo "$1"; }
a_symlink() { mv "$1" "$1.real" && ln -s "${1##*/}.real" "$1"; }
a_dangling_symlink() { rm "$1" && ln -s nowhere "$1"; }
swapped() { rm "$1" && cp "$STORE/snapshots/other/${1##*/}" "$1"; }

damages=(cut_short cut_half longer page_longer emptied flipped_first flipped_middle flipped_last
	noise gone a_directory a_fifo a_symlink a_dangling_symlink swapped)
# In a process of its own to be refused in time if it should hang.
check_one() {
	local file=$1 damage=$2 bad=$STORE/snapshots/bad
	[ ! -e "$bad" ] || expect 0 "$BIN/snapctl" rm bad
	rm -rf "$WORK/copy"
	cp -r "$good" "$bad"
	chmod -R u+w "$bad"
	"$damage" "$bad/$file.bin"
	cp -r --preserve=links "$bad" "$WORK/copy"
	[ "$file/$damage" != manifest/swapped ] || file='\(state\|memory\)'
	for dir in "$bad" "$WORK/copy"; do
		refused 1 "" "$BIN/vmm" --restore-snapshot "$dir" --serial "file=$WORK/serial"
		grep -q "$file\.bin" "$WORK/out" || fail "$1 $damage: no word of it: $(cat "$WORK/out")"
		[ ! -e "$WORK/serial" ] || fail "$1 $damage: it began to start"
	done
	refused 1 "" "$BIN/snapctl" verify bad
	grep -q "$file\.bin" "$WORK/out" || fail "$1 $damage: verify: $(cat "$WORK/out")"
	[ "$(grep -c . "$WORK/out")" -eq 1 ] || fail "$1 $damage: $(cat "$WORK/out")"
}
for file in manifest state memory; do
	for damage in "${damages[@]}"; do check_one $file "$damage"; done
done

[ "$(of_list bad status)" = damaged ] || fail "list does not know it"
expect 1 "$BIN/snapctl" verify --all
says "memory.bin"
expect 1 "$BIN/snapctl" check
says "memory.bin"
# Nobody else suffers, and what is damaged can be removed.
expect 0 "$BIN/snapctl" rm bad
sums "$good" | cmp - "$WORK/before" || fail "another snapshot was changed"
expect 0 "$BIN/snapctl" verify --all
start_vmm b --restore-snapshot "$good"
ticks_on b
