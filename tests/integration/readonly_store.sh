#!/usr/bin/env bash
# A store on a file system that is mounted read-only: it can be listed, verified,
# mounted and restored from; what would write it is refused, and a guest whose save
# is refused goes on.
. "$(dirname "$0")/lib.sh"
requires_kvm
own_mounts

demo_snapshot base
mount --bind "$STORE" "$STORE"
# The publisher of the machine that has just ended may still be closing its files.
until_true 10 mount -o remount,ro,bind "$STORE" || fail "the store stays busy"
! touch "$STORE/x" 2>/dev/null || skip "read-only is not read-only here"

expect 0 "$BIN/snapctl" list
says base
expect 0 "$BIN/snapctl" show base
expect 0 "$BIN/snapctl" verify base
says "base: valid"
says "not kept: the index is in memory: the store cannot be written"
"$BIN/snapctl" verify --all --json >"$WORK/lines" || fail "verify --all: $(cat "$WORK/lines")"
grep -q '"kept": false' "$WORK/lines" || fail "it is said to be kept: $(cat "$WORK/lines")"
start_vmm r --restore-snapshot "$STORE/snapshots/base"
ticks_on r
if [ -w /dev/fuse ]; then
	mount_snapfs "$STORE" "$WORK/mnt"
	start_vmm m --restore-snapshot "$WORK/mnt/base"
	ticks_on m
fi

for command in "rm base" "rename base other"; do
	# shellcheck disable=SC2086
	expect 3 "$BIN/snapctl" $command
	says "$STORE"
done
refused 3 "$STORE" "$BIN/vmm" --demo-guest --memory 4M --serial none
start_vmm a --demo-guest --memory 4M --private-memory
wait_line a '^tick 3 '
for vm in a r; do
	expect 1 ctl $vm "snap new"
	says "$STORE"
	ticks_on $vm
	unbroken $vm
done

mount -o remount,rw,bind "$STORE"
quit_vmm a
start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
ctl a "snap new" >"$WORK/out"
expect 0 "$BIN/snapctl" verify --all
quit_vmm a
