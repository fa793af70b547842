#!/usr/bin/env bash
# --trust-memory restores a copy without reading its memory.bin, and says so loudly;
# manifest and state are checked all the same.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 16M
wait_line a '^tick 3 '
frozen_at a >"$WORK/last"
ctl a "save-snapshot base" >"$WORK/out"
quit_vmm a
cp -r "$STORE/snapshots/base" "$WORK/copy"
chmod -R u+w "$WORK/copy"
flip "$WORK/copy/memory.bin" 12000000 # where the guest never looks

refused 1 "memory.bin" "$BIN/vmm" --restore-snapshot "$WORK/copy"
start_vmm b --restore-snapshot "$WORK/copy" --trust-memory
ticks_on b
unbroken a b
grep -q "warning.*not verified" "$WORK/b.log" || fail "it is not said: $(cat "$WORK/b.log")"
quit_vmm b

flip "$WORK/copy/state.bin" 100
refused 1 "state.bin" "$BIN/vmm" --restore-snapshot "$WORK/copy" --trust-memory
flip "$WORK/copy/state.bin" 100
truncate -s 8M "$WORK/copy/memory.bin"
refused 1 "memory.bin" "$BIN/vmm" --restore-snapshot "$WORK/copy" --trust-memory
