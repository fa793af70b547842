#!/usr/bin/env bash
# --clones starts many machines from one snapshot by one command, each with what its
# number makes its own, tells when they run, and ends with them.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse
requires python3

N=12
demo_snapshot base
sums "$STORE/snapshots/base" >"$WORK/before"
mount_snapfs "$STORE" "$WORK/mnt"

# start_clones OPTION..: in the background; its output in $WORK/clones.
start_clones() {
	"$BIN/vmm" --restore-snapshot "$WORK/mnt/base" --clones "$N" \
		--control "$WORK/c{n}.sock" --serial "file=$WORK/c{n}.serial" "$@" \
		>"$WORK/clones" 2>"$WORK/clones.log" &
	clones=$!
	test_pids+=("$clones")
	until_true 20 grep -q started "$WORK/clones" || fail "they do not start: $(cat "$WORK/clones.log")"
}
start_two() {
	"$BIN/vmm" --restore-snapshot "$WORK/mnt/base" --clones=2 --control "$WORK/c{n}.sock" \
		>"$WORK/clones" 2>"$WORK/clones.log" &
	clones=$!
	test_pids+=("$clones")
	until_true 20 grep -q '^2 clones run, ' "$WORK/clones" || fail "they do not start"
}
states() { json_lines "[d['clone'] for d in D if d.get('state') == '$1']"; }
json_lines() {
	"$python" -c "import json; D = [json.loads(l) for l in open('$WORK/clones')]; print($1)"
}
pid_of() { json_lines "[d['pid'] for d in D if d.get('clone') == $1][0]"; }
ended() { [ "$(json_lines "len([d for d in D if d.get('state') == 'has ended'])")" -eq "$1" ]; }

start_clones --json
[ "$(json_lines "D[-1]['started']")" -eq "$N" ] || fail "not all run: $(cat "$WORK/clones")"
[ "$(json_lines "sorted(d['clone'] for d in D if d.get('state') == 'runs')")" = \
	"$(json_lines "list(range(1, $N + 1))")" ] || fail "each once: $(states runs)"
for i in $(seq "$N"); do
	ticks_on "c$i"
	unbroken "c$i"
	[ "$(readlink "/proc/$(pid_of "$i")/fd/0")" = /dev/null ] || fail "clone $i has our input"
done
# One that is killed is told of, and the others go on.
kill -KILL "$(pid_of 3)"
until_true 10 ended 1 || fail "nobody hears of clone 3's end"
[ "$(json_lines "[(d['clone'], d['status']) for d in D if 'status' in d]")" = "[(3, 137)]" ] ||
	fail "$(cat "$WORK/clones")"
ticks_on c4
ctl c5 quit >/dev/null
until_true 10 ended 2 || fail "nobody hears of clone 5's end"
kill -TERM "$clones"
status=0
wait "$clones" || status=$?
[ "$status" -eq 1 ] || fail "status $status with one clone that was killed"
grep -q "^vmm: 1 of $N clones have failed" "$WORK/clones.log" || fail "$(cat "$WORK/clones.log")"

# In words; ends with 0 where all do; without its parent none goes on.
: >"$WORK/clones"
start_two
[ "$(grep -Ec '^clone [12] runs, process [0-9]+$' "$WORK/clones")" -eq 2 ] || fail "$(cat "$WORK/clones")"
kill -INT "$clones"
wait "$clones" || fail "status $? where all end in order"
start_two
first=$(sed -n 's/^clone 1 runs, process //p' "$WORK/clones")
kill -KILL "$clones"
until_true 10 gone "$first" || fail "a clone outlives its parent"

# What cannot be that of several, and what cannot be at all.
for options in "--control $WORK/x" "--serial file=$WORK/x" "--disk overlay=$WORK/x" \
	"--net tap=x0" "--vsock path=$WORK/x" "--console path=$WORK/x"; do
	# shellcheck disable=SC2086
	refused 2 'put {n} into it' "$BIN/vmm" --restore-snapshot "$WORK/mnt/base" --clones 2 $options
done
refused 2 'goes with --restore-snapshot' "$BIN/vmm" --demo-guest --clones 2
refused 2 'the most is' "$BIN/vmm" --restore-snapshot "$WORK/mnt/base" --clones 5000
expect 1 "$BIN/vmm" --restore-snapshot "$WORK/mnt/nothing" --clones 2
says '2 of 2 clones have failed'
sums "$STORE/snapshots/base" | cmp - "$WORK/before" || fail "clones changed their snapshot"
