#!/usr/bin/env bash
# A guest that resets itself boots again, from the same files and command line,
# also in a restored machine. If those files are not the same any more, or gone,
# vmm says so and ends with 0.
. "$(dirname "$0")/lib.sh"
requires_kvm

"$TOOLS/mkkernel" "$WORK/kernel"

# start NAME OPTION..: with its serial line at $WORK/NAME.serial and, by say, at our hand.
start() {
	local name=$1
	shift
	mkfifo "$WORK/$name.in"
	"$BIN/vmm" --control "$WORK/$name.sock" "$@" <>"$WORK/$name.in" >"$WORK/$name.serial" \
		2>"$WORK/$name.log" &
	vmm_pid[$name]=$!
	test_pids+=("$!")
}
say() { printf %s "$2" >"$WORK/$1.in"; }
printed() { [ "$(grep -c "$2" "$WORK/$1.serial")" -eq "$3" ]; }
# boots NAME N: so often it has printed its first words; and it takes input again.
boots() {
	until_true 20 printed "$1" "^kernel word=1 second$" "$2" ||
		fail "$1 has not booted $2 times: $(cat "$WORK/$1.serial" "$WORK/$1.log")"
	local before
	before=$(grep -c alive "$WORK/$1.serial" || true)
	say "$1" .
	until_true 20 printed "$1" alive $((before + 1)) || fail "$1 is deaf"
}

start a --kernel "$WORK/kernel" --cmdline "word=1 second" --memory 16M
boots a 1
say a r
boots a 2
say a t
boots a 3
grep -q "asked for a reset" "$WORK/a.log" || fail "no word of the reset"

# Saved, it takes no damage by a reset; the restored one goes on, and can reset, too.
ctl a "save-snapshot base" >"$WORK/out"
sums "$STORE/snapshots/base" >"$WORK/before"
say a r
boots a 4
sums "$STORE/snapshots/base" | cmp - "$WORK/before" || fail "the reset changed the snapshot"
start b --restore-snapshot "$STORE/snapshots/base"
boots b 0
say b r
boots b 1
ctl b "save-snapshot second" >"$WORK/out"
say b t
boots b 2
sums "$STORE/snapshots/base" | cmp - "$WORK/before" || fail "the reset changed the snapshot"
"$BIN/snapctl" show --json second | json "d['kernel'] + ' ' + d['cmdline']" >"$WORK/out"
says "$WORK/kernel word=1 second"
quit_vmm b

# Another kernel is in its place, then none. The restore itself does not need it.
ends() {
	local status=0
	say "$1" r
	wait "${vmm_pid[$1]}" || status=$?
	[ "$status" -eq 0 ] || fail "$1 ends with $status"
	grep -q "$2" "$WORK/$1.log" || fail "$1 does not say why: $(cat "$WORK/$1.log")"
}
printf x >>"$WORK/kernel"
start c --restore-snapshot "$STORE/snapshots/second"
boots c 0
ends c "not the file that this machine booted from"
ends a "not the file that this machine booted from"
rm "$WORK/kernel"
start d --restore-snapshot "$STORE/snapshots/second"
boots d 0
ends d "$WORK/kernel"
expect 0 "$BIN/snapctl" verify --all
