#!/usr/bin/env bash
# A disk that is full, at start or in the middle of a save: said with sizes and a
# path, the guest goes on, no snapshot appears and nothing is left; once there is
# room the same machine is saved.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires mkfs.ext4
own_mounts

truncate -s 40M "$WORK/disk"
mkfs.ext4 -q -m 0 -b 4096 "$WORK/disk"
mkdir "$STORE"
mount -o loop "$WORK/disk" "$STORE" 2>"$WORK/out" || skip "no loop device: $(cat "$WORK/out")"
chmod 0700 "$STORE"

# Reservation is refused with words; without one, less is needed.
refused 3 "--no-reserve" "$BIN/vmm" --demo-guest --memory 64M --serial none
says "64 MiB"
says "$STORE"
mkdir "$STORE/files"
refused 3 "--no-reserve" "$BIN/vmm" --demo-guest --memory 64M --serial none --memory-backing-file "$STORE/files/ram"
[ ! -e "$STORE/files/ram" ] || fail "a RAM file for nothing"
start_vmm n --demo-guest --memory 64M --no-reserve
wait_line n '^tick 3 '
ctl n "snap sparse" >"$WORK/out"
quit_vmm n
expect 0 "$BIN/snapctl" rm sparse

free_kib() { df -k --output=avail "$STORE" | tail -n 1 | tr -d ' '; }
# Leaves so many KiB free.
fill() {
	local left=$1 at
	at=$(free_kib)
	[ "$at" -le "$left" ] || fallocate -l $(((at - left) * 1024)) "$STORE/files/filler" ||
		dd if=/dev/zero of="$STORE/files/filler" bs=1K count=$((at - left)) status=none || true
}
room() { rm -f "$STORE/files/filler"; }

for kind in file private restored; do
	case $kind in
	file) start_vmm a --demo-guest --memory 8M ;;
	private) start_vmm a --demo-guest --memory 8M --private-memory ;;
	restored) start_vmm a --restore-snapshot "$STORE/snapshots/at-private" ;;
	esac
	ticks_on a
	for left in 0 4 16; do
		fill $left
		if ctl a "snap full-$kind" >"$WORK/out"; then
			# What is left was enough: then it must be whole.
			expect 0 "$BIN/snapctl" verify "full-$kind"
			expect 0 "$BIN/snapctl" rm "full-$kind"
		else
			grep -qiE 'space|room' "$WORK/out" || fail "$kind, $left KiB: $(cat "$WORK/out")"
			[ ! -e "$STORE/snapshots/full-$kind" ] || fail "$kind, $left KiB: it appears"
		fi
		[ $left -gt 0 ] || ! grep -q '"ok":true' "$WORK/out" || fail "$kind: saved on a full disk"
		nothing_left "$STORE"
		[ "$(ctl a status | field state)" = running ] || fail "$kind: $(ctl a status)"
		ticks_on a
		expect 0 timeout 20 "$BIN/snapctl" list
		room
	done
	unbroken a
	ctl a "snap at-$kind" >"$WORK/out" || fail "$kind: not saved when there is room: $(cat "$WORK/out")"
	quit_vmm a
	expect 0 "$BIN/snapctl" verify "at-$kind"
	start_vmm b --restore-snapshot "$STORE/snapshots/at-$kind"
	ticks_on b
	unbroken b
	quit_vmm b
done

# On a full disk snapshots can be removed, which makes room.
fill 0
expect 0 "$BIN/snapctl" rm at-file at-private
[ "$(ls -A "$STORE/snapshots")" = at-restored ] || fail "left: $(ls -A "$STORE/snapshots")"
room
expect 0 "$BIN/snapctl" check
