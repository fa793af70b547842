#!/usr/bin/env bash
# A restored, still paused machine that is saved again has the state that it was
# restored from, less what counts time: with one vCPU and with three, once and again.
. "$(dirname "$0")/lib.sh"
requires_kvm
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

same() {
	"$TOOLS/statediff" "$STORE/snapshots/$1/state.bin" "$STORE/snapshots/$2/state.bin" || {
		fail "$2 is not $1"
	}
}

for n in 1 3; do
	start_vmm "a$n" --demo-guest --memory 16M --processors $n
	wait_line "a$n" '^tick 3 '
	ctl "a$n" "snap base$n" >"$WORK/out"
	quit_vmm "a$n"

	from=base$n
	for again in 1 2; do
		start_vmm "b$n" --restore-snapshot "$STORE/snapshots/$from" --paused
		until_true 20 ctl "b$n" status >"$WORK/out" || fail "it does not start"
		ctl "b$n" "snap again$n.$again" >"$WORK/out"
		[ ! -s "$WORK/b$n.serial" ] || fail "the guest has run"
		same "base$n" "again$n.$again"
		# And it is alive: the guest is told of its restore when it goes on.
		ctl "b$n" resume >"$WORK/out"
		ticks_on "b$n"
		quit_vmm "b$n"
		from=again$n.$again
	done
	# Layers over the base, until they are made flat.
	for again in 1 2; do
		expect 0 "$BIN/snapctl" flatten "again$n.$again"
		cmp "$STORE/snapshots/base$n/memory.bin" "$STORE/snapshots/again$n.$again/memory.bin" ||
			fail "its RAM has changed"
	done
done
# The comparison sees a difference where there is one.
if "$TOOLS/statediff" "$STORE/snapshots/base1/state.bin" "$STORE/snapshots/base3/state.bin" \
	>"$WORK/out"; then
	fail "statediff sees no difference"
fi
says "the number of vCPUs"
