#!/usr/bin/env bash
# --check says whether a snapshot can be restored here, and stops: 0 or 1, no guest.
. "$(dirname "$0")/lib.sh"
requires_kvm

demo_snapshot base
snap=$STORE/snapshots/base
sums "$snap" >"$WORK/before"
expect 0 "$BIN/vmm" --restore-snapshot "$snap" --check --serial "file=$WORK/serial"
says "$snap can be restored here"
[ "$(wc -l <"$WORK/out")" -eq 1 ] || fail "it says more: $(cat "$WORK/out")"
[ ! -e "$WORK/serial" ] || fail "it opened the serial line"
expect 0 "$BIN/vmm" --check --restore-snapshot "$snap" --memory 16M --processors 1
sums "$snap" | cmp - "$WORK/before" || fail "it changed the snapshot"

refused 1 "leave it out" "$BIN/vmm" --restore-snapshot "$snap" --check --memory 32M
refused 2 "--check" "$BIN/vmm" --check --demo-guest
cp -r "$snap" "$WORK/copy"
flip "$WORK/copy/memory.bin" 9000000
refused 1 "memory.bin" "$BIN/vmm" --restore-snapshot "$WORK/copy" --check
rm -f "$WORK/copy/state.bin"
refused 1 "state.bin" "$BIN/vmm" --restore-snapshot "$WORK/copy" --check
mkdir "$WORK/empty"
refused 1 "is not a snapshot" "$BIN/vmm" --restore-snapshot "$WORK/empty" --check
refused 1 "there is no snapshot" "$BIN/vmm" --restore-snapshot "$WORK/none" --check
refused 1 "not a directory" "$BIN/vmm" --restore-snapshot "$snap/memory.bin" --check
