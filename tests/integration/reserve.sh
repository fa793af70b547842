#!/usr/bin/env bash
# The disk space of guest RAM is reserved at start, unless --no-reserve; what was
# never written is given back in the snapshot.
. "$(dirname "$0")/lib.sh"
requires_kvm
mkdir -p "$STORE"
case $(stat -f -c %T "$STORE") in
tmpfs | nfs | overlayfs) skip "nothing is reserved on $(stat -f -c %T "$STORE")" ;;
esac
fallocate -l 1M "$WORK/probe" 2>/dev/null || skip "this file system cannot reserve"

taken() { stat -L -c '%b %B' "$1" | awk '{ print $1 * $2 }'; }

start_vmm a --demo-guest --memory 64M
start_vmm b --demo-guest --memory 64M --no-reserve
start_vmm c --demo-guest --memory 64M --memory-backing-file "$WORK/ram"
for vm in a b c; do wait_line $vm '^tick 3 '; done
[ "$(taken "$(ram_fd a)")" -ge 67108864 ] || fail "not reserved: $(taken "$(ram_fd a)")"
[ "$(taken "$(ram_fd b)")" -lt 8000000 ] || fail "reserved: $(taken "$(ram_fd b)")"
[ "$(taken "$WORK/ram")" -ge 67108864 ] || fail "its own file is not reserved: $(taken "$WORK/ram")"

for vm in a b c; do
	ctl $vm "save-snapshot $vm" >"$WORK/out"
	memory=$STORE/snapshots/$vm/memory.bin
	[ "$(stat -c %s "$memory")" -eq 67108864 ] || fail "the size of $memory"
	[ "$(taken "$memory")" -lt 8000000 ] || fail "$vm: not given back: $(taken "$memory")"
	start_vmm back --restore-snapshot "$STORE/snapshots/$vm"
	ticks_on back
	quit_vmm back
done
