#!/usr/bin/env bash
# vmm is killed before each system call of a save (with SNAPFS_TEST_LONG=1; else
# before some of them): its publisher ends by itself, the snapshot is whole or not
# there, nothing else is left, and the next machine saves.
. "$(dirname "$0")/lib.sh"
requires_kvm
[ -x "$TOOLS/kill_at" ] || fail "kill_at is not built"

points=42

save_with_kill() {
	start_vmm a --demo-guest --memory 4M
	wait_line a '^tick 1 '
	publisher=$(publisher_of a)
	rm -f "$WORK/verdict" # the last one's is not to be taken for this one's
	"$TOOLS/kill_at" "${vmm_pid[a]}" "$1" >"$WORK/verdict" 2>"$WORK/ptrace" &
	killer=$!
	test_pids+=("$killer")
	until_true 10 grep -q ready "$WORK/verdict" || skip "no process can be traced here: $(cat "$WORK/ptrace")"
	saved=0
	ctl a "snap $2" >"$WORK/answer" 2>&1 || saved=$?
	kill "$killer" 2>/dev/null || true
	wait "$killer" || true
	verdict=$(tail -n 1 "$WORK/verdict")
}

check_after() {
	local what
	what="$1 ($verdict; $(cat "$WORK/answer"))"
	kill -9 "${vmm_pid[a]}" 2>/dev/null || true
	wait "${vmm_pid[a]}" 2>/dev/null || true
	until_true 20 gone "$publisher" || fail "$what: its publisher lives on"
	[ "$saved" -ne 0 ] || [ -e "$STORE/snapshots/$2" ] || fail "$what: said to be saved, and is not there"
	expect 0 "$BIN/snapctl" list
	if [ -e "$STORE/snapshots/$2" ]; then
		expect 0 "$BIN/snapctl" verify "$2"
		expect 0 "$BIN/snapctl" rm "$2"
	fi
	expect 0 "$BIN/snapctl" check
	nothing_left "$STORE"
	[ -z "$(ls -A "$STORE/ram")" ] || fail "$what: a RAM file is left"
}

save_with_kill 1000000 watched
[ "$saved" -eq 0 ] || fail "a save that is only watched fails: $(cat "$WORK/answer")"
total=${verdict#made }
[ "$total" -gt 30 ] || fail "it made $total system calls: $verdict"
quit_vmm a
step=$((total / points + 1))
[ -z "${SNAPFS_TEST_LONG:-}" ] || step=1
killed=0
for ((n = 1; n <= total; n += step)); do
	save_with_kill $n "at-$n"
	case $verdict in killed*) killed=$((killed + 1)) ;; esac
	check_after "killed at call $n of $total" "at-$n"
done
[ $killed -gt $((total / step / 2)) ] || fail "only $killed were killed"
echo "$killed of $total points"

start_vmm last --demo-guest --memory 4M --control "$WORK/a.sock"
wait_line last '^tick 1 '
"$TOOLS/../guest/guest-ctl" "$WORK/a.sock" "snap last" >"$WORK/out"
expect 0 "$BIN/snapctl" verify --all
