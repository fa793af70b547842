#!/usr/bin/env bash
# As many devices as a machine can have, and as many vCPUs: saved, restored, saved again.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3
all=() names=
for i in {0..15}; do
	truncate -s 64K "$WORK/$i.img"
	printf 'disk %d' "$i" | dd of="$WORK/$i.img" conv=notrunc status=none
	all+=(--disk "$WORK/$i.img")
	names+="disk$i "
done
refused 2 "at most 16" "$BIN/vmm" --demo-guest --memory 16M --serial none "${all[@]}" --rng
has_disks() {
	ctl "$1" status >"$WORK/status"
	[ "$(json "' '.join(n for n in sorted(d['devices'], key=lambda n: (len(n), n)) if n.startswith('disk')) + ' '" \
		<"$WORK/status")" = "$names" ] || fail "its devices: $(cat "$WORK/status")"
}

start_vmm a --demo-guest --memory 16M --processors 32 "${all[@]}"
wait_line a '^tick 3 '
has_disks a
ctl a "snap one" >"$WORK/out"
ticks_on a
quit_vmm a
for from in one two; do
	start_vmm "$from" --restore-snapshot "$STORE/snapshots/$from"
	ticks_on "$from"
	has_disks "$from"
	! grep -q boot "$WORK/$from.serial" || fail "$from has booted"
	if [ $from = one ]; then ctl one "snap two" >"$WORK/out"; fi
	quit_vmm "$from"
done
for i in {0..15}; do
	grep -qa "^disk $i" "$STORE/snapshots/two/disks/disk$i.0" || fail "disk$i is another's"
done
"$BIN/snapctl" verify --all >"$WORK/out" || fail "$(cat "$WORK/out")"
