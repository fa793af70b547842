#!/usr/bin/env bash
# --timing says on standard error, one JSON object a line, where the time of a
# start and of each save went; without it nothing is said.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

# line NAME WHAT: the phases of the last line about WHAT, checked: the named ones are
# there, none is negative, and together they are the total, to rounding.
line() {
	local name=$1 what=$2
	shift 2
	grep "\"timing\": \"$what\"" "$WORK/$name.log" | tail -n 1 >"$WORK/line"
	[ -s "$WORK/line" ] || fail "$name says nothing of its $what: $(cat "$WORK/$name.log")"
	json "all(k in d['us'] for k in '$*'.split()) and all(v >= 0 for v in d['us'].values()) \
		and d['total_us'] - len(d['us']) <= sum(d['us'].values()) <= d['total_us'] \
		and 0 < d['total_us'] < 60e6" <"$WORK/line" >"$WORK/out"
	grep -qx True "$WORK/out" || fail "$what: $(cat "$WORK/line")"
}

start_vmm a --demo-guest --memory 16M --timing
wait_line a '^tick 3 '
line a boot options publisher kvm ram vm state load devices loop sandbox start
for n in 1 2; do
	ctl a "save-snapshot s$n" >"$WORK/saved"
	line a save ask quiesce hold state freeze resume commit publish
	[ "$(grep -c '"timing": "save"' "$WORK/a.log")" -eq "$n" ] || fail "not one line a save"
	# The pause is what lies between quiesce and commit, measured beside it, without what
	# vmm itself waited for a CPU when the guest went on.
	json "d['pause_us'] <= 1000 + sum(d['us'][k] for k in ('hold', 'state', 'freeze', 'resume')) and
		d['pause_us'] + 1000 >= sum(d['us'][k] for k in ('hold', 'state', 'freeze'))" \
		<"$WORK/line" >"$WORK/out"
	grep -qx True "$WORK/out" || fail "the pause is something else: $(cat "$WORK/line")"
	[ "$(field pause_us <"$WORK/saved")" = "$(json "d['pause_us']" <"$WORK/line")" ] ||
		fail "two pauses: $(cat "$WORK/saved" "$WORK/line")"
done
expect 1 ctl a "save-snapshot s1"
[ "$(grep -c '"timing": "save"' "$WORK/a.log")" -eq 2 ] || fail "a refused save is timed"
quit_vmm a

start_vmm b --restore-snapshot "$STORE/snapshots/s2" --timing
ticks_on b
line b restore options publisher verify machine ram vm state devices loop sandbox start
quit_vmm b
[ "$(wc -l <"$WORK/b.log")" -eq 1 ] || fail "more than a line: $(cat "$WORK/b.log")"
start_vmm c --restore-snapshot "$STORE/snapshots/s2"
ticks_on c
quit_vmm c
[ ! -s "$WORK/c.log" ] || fail "timing without --timing: $(cat "$WORK/c.log")"
