#!/usr/bin/env bash
# A guest that writes random pages all the time is saved ten times while it runs: each
# snapshot but the first is a layer, and restored each has every page as the guest's own
# log in RAM says.
. "$(dirname "$0")/lib.sh"
requires_kvm

"$TOOLS/mkkernel" "$WORK/kernel"
good() { [ "$(grep -c '^good' "$WORK/$1.out")" -ge "$2" ]; }
# start NAME OPTION..: a machine whose serial line is descriptor $in and $WORK/NAME.out.
start() {
	local name=$1
	shift
	# The answers of one before are not this one's.
	rm -f "$WORK/$name.in" "$WORK/$name.out" "$WORK/$name.sock"
	: >"$WORK/$name.out"
	mkfifo "$WORK/$name.in"
	"$BIN/vmm" --control "$WORK/$name.sock" "$@" <"$WORK/$name.in" >"$WORK/$name.out" \
		2>"$WORK/$name.log" &
	vmm_pid[$name]=$!
	test_pids+=("$!")
	exec {in}>"$WORK/$name.in"
}
ask() {
	printf . >&"$in"
	until_true 20 good "$1" "$2" || fail "$1: not every page is what was written: $(tail -n 3 "$WORK/$1.out" "$WORK/$1.log")"
}

start a --kernel "$WORK/kernel" --memory 16M
until_true 20 grep -q kernel "$WORK/a.out" || fail "it does not start"
printf s >&"$in"
ask a 1
a=$in
saves=10
for ((n = 1; n <= saves; n++)); do
	ctl a "snap s$n" >>"$WORK/saved"
	sleep 0.05
done
in=$a
ask a 2
[ "$(grep -c '"layer":true' "$WORK/saved")" -eq $((saves - 1)) ] || fail "not layers: $(cat "$WORK/saved")"
[ "$(of_list s$saves layers)" -ge 2 ] || fail "s$saves has no layers"
cat "$WORK/saved"

for ((n = 1; n <= saves; n++)); do
	start b --restore-snapshot "$STORE/snapshots/s$n"
	ask b 1
	# And a save of what was restored, in its turn.
	if [ $((n % 3)) -eq 0 ]; then
		ctl b "snap t$n" >"$WORK/out"
		says '"layer":true'
	fi
	quit_vmm b
	exec {in}>&-
done
for n in 3 6 9; do
	start b --restore-snapshot "$STORE/snapshots/t$n"
	ask b 1
	quit_vmm b
	exec {in}>&-
done
expect 0 "$BIN/snapctl" verify --all
in=$a
ask a 3
quit_vmm a

# The same with RAM that is no file: the first is whole, and copied in rounds.
start p --kernel "$WORK/kernel" --memory 16M --private-memory
until_true 20 grep -q kernel "$WORK/p.out" || fail "it does not start"
printf s >&"$in"
ask p 1
for n in 1 2 3; do ctl p "snap p$n" >>"$WORK/saved.p"; done
[ "$(grep -c '"layer":true' "$WORK/saved.p")" -eq 2 ] || fail "not layers: $(cat "$WORK/saved.p")"
quit_vmm p
exec {in}>&-
for n in 1 2 3; do
	start b --restore-snapshot "$STORE/snapshots/p$n"
	ask b 1
	quit_vmm b
	exec {in}>&-
done
nothing_left "$STORE"
