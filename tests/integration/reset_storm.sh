#!/usr/bin/env bash
# A guest that resets itself again and again is told of once a second, with how
# often it was; `status` has the number.
. "$(dirname "$0")/lib.sh"
requires_kvm

"$TOOLS/mkkernel" "$WORK/kernel"
mkfifo "$WORK/in"
"$BIN/vmm" --control "$WORK/a.sock" --kernel "$WORK/kernel" --cmdline "word=1 second" \
	--memory 4M <>"$WORK/in" >"$WORK/a.serial" 2>"$WORK/a.log" &
vmm_pid[a]=$!
printed() { [ "$(grep -c '^kernel word=1 second$' "$WORK/a.serial")" -eq "$1" ]; }
until_true 20 printed 1 || fail "it does not boot: $(cat "$WORK/a.log")"
start=$SECONDS
for ((n = 2; n <= 31; n++)); do
	printf r >"$WORK/in"
	until_true 20 printed $n || fail "it has not booted $n times: $(cat "$WORK/a.log")"
done
# One more, when a second has gone by, tells of those before it.
sleep 1.1
printf r >"$WORK/in"
until_true 20 printed 32 || fail "it does not boot again"
took=$((SECONDS - start + 1))
[ "$(ctl a status | field resets)" -eq 31 ] || fail "$(ctl a status)"
lines=$(grep -c 'asked for a reset' "$WORK/a.log")
[ "$lines" -ge 2 ] && [ "$lines" -le $((took + 1)) ] || fail "$lines lines in $took seconds"
told=$(sed -nE 's/.*\(([0-9]+) times since.*/\1/p' "$WORK/a.log" | awk '{ n += $1 } END { print n + 0 }')
single=$(grep -c 'boots again$' "$WORK/a.log" || true)
[ $((told + single)) -eq 31 ] || fail "it tells of $told and $single: $(cat "$WORK/a.log")"
quit_vmm a
