#!/usr/bin/env bash
# --private-memory: RAM is in no file until a save writes out the pages that hold
# data; saved, restored and saved again it is the same guest.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 16M --private-memory
wait_line a '^tick 3 '
[ "$(ctl a status | field memory_backing)" = anonymous ] || fail "$(ctl a status)"
[ -z "$(ram_fd a)" ] || fail "it has a RAM file"
for name in one two; do
	frozen_at a >"$WORK/last"
	ctl a "save-snapshot $name" >"$WORK/out"
	cp "$WORK/a.serial" "$WORK/$name.serial"
	start_vmm b --restore-snapshot "$STORE/snapshots/$name"
	ticks_on b
	unbroken $name b
	quit_vmm b
	ctl a resume >"$WORK/out"
	ticks_on a
done
unbroken a
sums "$STORE/snapshots/one" >"$WORK/before"
expect 0 "$BIN/snapctl" verify --all
[ "$(stat -c '%s %a' "$STORE/snapshots/one/memory.bin")" = "16777216 400" ] || fail "memory.bin"
[ $(($(stat -c '%b * %B' "$STORE/snapshots/one/memory.bin"))) -lt 4000000 ] ||
	fail "its zeros take space"
[ "$(of_list two parent_name)" = one ] || fail "the second's parent"
quit_vmm a
sums "$STORE/snapshots/one" | cmp - "$WORK/before" || fail "it has changed"
[ -z "$(ls -A "$STORE/ram")" ] || fail "a RAM file is left"

refused 2 "exclude each other" "$BIN/vmm" --demo-guest --private-memory \
	--memory-backing-file "$WORK/ram"
[ ! -e "$WORK/ram" ] || fail "it made the file"
refused 2 "--private-memory" "$BIN/vmm" --restore-snapshot "$STORE/snapshots/one" --private-memory
