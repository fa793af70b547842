#!/usr/bin/env bash
# Guest RAM that the host cannot give any more (its file was cut short): vmm lives,
# says host-memory-fault with page and cause, and `resume` goes on once it is mended.
. "$(dirname "$0")/lib.sh"
requires_kvm

ram=$WORK/ram
start_vmm a --demo-guest --memory 8M --memory-backing-file "$ram"
wait_line a '^tick 3 '
ctl a pause >"$WORK/out"
cp "$ram" "$WORK/content"
truncate -s 0 "$ram"
ctl a resume >"$WORK/out"

is_faulted() { [ "$(ctl a status | field state)" = host-memory-fault ]; }
until_true 10 is_faulted || fail "no host-memory-fault: $(ctl a status; cat "$WORK/a.log")"
kill -0 "${vmm_pid[a]}" || fail "vmm has died"
grep -q "host-memory-fault" "$WORK/a.log" || fail "the log: $(cat "$WORK/a.log")"
grep -Eq "guest address 0x[0-9a-f]+000|which page" "$WORK/a.log" || fail "no page: $(cat "$WORK/a.log")"
ctl a status >"$WORK/out"
says '"fault":"'

# Not mended: it stands there again, and cannot be saved.
ctl a resume >"$WORK/out"
until_true 10 is_faulted || fail "not mended, it goes on: $(ctl a status)"
if expect 1 ctl a "snap broken"; then says "resume"; fi
[ ! -e "$STORE/snapshots/broken" ] || fail "a broken guest was saved"
cp "$WORK/a.serial" "$WORK/before"
sleep 0.2
cmp "$WORK/a.serial" "$WORK/before" || fail "it prints while it stands"

# Mended in place, it goes on where it stood, and is saved as any other.
cat "$WORK/content" >"$ram"
ctl a resume >"$WORK/out"
ticks_on a 10
unbroken a
[ "$(ctl a status | field state)" = running ] || fail "$(ctl a status)"
ctl a "snap mended" >"$WORK/out"
start_vmm b --restore-snapshot "$STORE/snapshots/mended"
ticks_on b
[ "$(nonce_of b)" = "$(nonce_of a)" ] || fail "the mended guest is another"

# It can also just be ended.
ctl a pause >"$WORK/out"
quit_vmm b
start_vmm c --demo-guest --memory 8M --memory-backing-file "$WORK/other"
wait_line c '^tick 3 '
truncate -s 0 "$WORK/other"
stands() { [ "$(ctl c status | field state)" = host-memory-fault ]; }
until_true 10 stands || fail "no host-memory-fault while it runs: $(ctl c status)"
quit_vmm c
quit_vmm a
