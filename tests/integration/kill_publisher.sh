#!/usr/bin/env bash
# The publisher is killed before each system call of a save (with SNAPFS_TEST_LONG=1;
# else before some of them): the guest goes on, the snapshot is whole or not there,
# nothing else is left, and the next machine saves.
. "$(dirname "$0")/lib.sh"
requires_kvm
[ -x "$TOOLS/kill_at" ] || fail "kill_at is not built"

points=24

# A machine whose publisher is counted: killed at call $1. Sets verdict.
save_with_kill() {
	start_vmm a --demo-guest --memory 4M
	wait_line a '^tick 1 '
	local publisher
	publisher=$(publisher_of a)
	rm -f "$WORK/verdict" # the last one's is not to be taken for this one's
	"$TOOLS/kill_at" "$publisher" "$1" >"$WORK/verdict" 2>"$WORK/ptrace" &
	killer=$!
	test_pids+=("$killer")
	until_true 10 grep -q ready "$WORK/verdict" || skip "no process can be traced here: $(cat "$WORK/ptrace")"
	saved=0
	ctl a "snap $2" >"$WORK/answer" || saved=$?
	if [ "$saved" -eq 0 ]; then sleep 0.05; fi
	kill "$killer" 2>/dev/null || true
	wait "$killer" || true
	verdict=$(tail -n 1 "$WORK/verdict")
}

check_after() {
	local what
	what="$1 ($verdict; $(cat "$WORK/answer"))"
	ticks_on a 2
	unbroken a
	if [ "$saved" -ne 0 ]; then
		grep -q '"ok":false,"error":".*publisher' "$WORK/answer" || fail "$what: no clear answer"
	elif [ ! -e "$STORE/snapshots/$2" ]; then
		fail "$what: said to be saved, and is not there"
	fi
	expect 0 "$BIN/snapctl" list
	if [ -e "$STORE/snapshots/$2" ]; then
		expect 0 "$BIN/snapctl" verify "$2"
		expect 0 "$BIN/snapctl" rm "$2"
	fi
	expect 0 "$BIN/snapctl" check
	nothing_left "$STORE"
	[ -z "$(ls -A "$STORE/ram")" ] || fail "$what: a RAM file is left"
	# The next save has another one, unless it was killed before it had left a spare.
	if ctl a "snap more" >"$WORK/more"; then
		expect 0 "$BIN/snapctl" rm more
	else
		grep -q '"error":".*publisher.*no other can be started' "$WORK/more" ||
			fail "$what: the next save: $(cat "$WORK/more")"
		spareless=$((spareless + 1))
	fi
	quit_vmm a
}

# How many there are: of a save into a store that is there, and into a fresh one.
for store in fresh used; do
	[ $store = used ] || rm -rf "$STORE"
	save_with_kill 1000000 "$store"
	[ "$saved" -eq 0 ] || fail "a save that is only watched fails: $(cat "$WORK/answer")"
	total=${verdict#made }
	[ "$total" -gt 30 ] || fail "it made $total system calls: $verdict"
	quit_vmm a
	step=$((total / points + 1))
	[ -z "${SNAPFS_TEST_LONG:-}" ] || step=1
	killed=0 spareless=0
	for ((n = 1; n <= total; n += step)); do
		[ $store = used ] || rm -rf "$STORE"
		save_with_kill $n "at-$n"
		case $verdict in killed*) killed=$((killed + 1)) ;; esac
		check_after "killed at call $n of $total" "at-$n"
	done
	[ $killed -gt $((total / step / 2)) ] || fail "only $killed were killed"
	points=12
	[ "$spareless" -lt 8 ] || fail "no spare after $spareless points"
	echo "$store store: $killed of $total points, $spareless before there was a spare"
done

start_vmm last --demo-guest --memory 4M
wait_line last '^tick 1 '
ctl last "snap last" >"$WORK/out"
quit_vmm last
expect 0 "$BIN/snapctl" verify --all
