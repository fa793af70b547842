#!/usr/bin/env bash
# vmm runs its guest in the sandbox: no thread of it has capabilities or may gain
# privileges, and its system calls are filtered. Saves, resets, a new publisher,
# the console and the end work in it. --no-sandbox is said loudly.
. "$(dirname "$0")/lib.sh"
requires_kvm

# confined NAME: every thread of it is.
confined() {
	local task n=0 want
	for task in "/proc/${vmm_pid[$1]}/task/"*; do
		for want in 'Seccomp:	2' 'NoNewPrivs:	1' 'CapInh:	0*' 'CapPrm:	0*' \
			'CapEff:	0*' 'CapAmb:	0*'; do
			in_status "$task" "$want"
		done
		if [ "$(id -u)" -eq 0 ]; then in_status "$task" 'CapBnd:	0*'; fi
		n=$((n + 1))
	done
	[ "$n" -ge "$2" ] || fail "$1 has $n threads, not $2"
}
# ThreadSanitizer has a thread of its own, made before: it is filtered, no more.
own_thread=no
if grep -q __tsan_init "$BIN/vmm"; then own_thread=yes; fi
in_status() {
	[ $own_thread = no ] || [ "${2%%:*}" = Seccomp ] || return 0
	# One that closes what a save has left may end meanwhile.
	grep -qx "$2" "$1/status" 2>/dev/null || [ ! -e "$1" ] || fail "$1: $(grep "^${2%%:*}" "$1/status"), not $2"
}

start_vmm a --demo-guest --memory 16M --processors 2
wait_line a '^tick 3 '
confined a 3
publisher=$(publisher_of a)
grep -qx 'Seccomp:	2' "/proc/$publisher/status" && fail "the publisher is confined, too"
for n in 1 2 3; do
	ctl a "save-snapshot s$n" >"$WORK/out" || fail "$(cat "$WORK/out")"
	ticks_on a
done

# Its publisher dies: the next save has another, and that one's successor as well.
for n in 1 2; do
	now=$(pgrep -f "snapctl publish" -g "$publisher" | head -n 1)
	kill -9 "$now"
	until_true 10 gone "$now" || fail "the publisher does not die"
	ctl a "save-snapshot again$n" >"$WORK/out" || fail "$(cat "$WORK/out")"
	ticks_on a
done
expect 0 "$BIN/snapctl" verify --all
ctl a pause >"$WORK/out"
ctl a resume >"$WORK/out"
ticks_on a
confined a 3
quit_vmm a
until_true 10 gone "$publisher" || fail "the publisher is left"
[ ! -s "$WORK/a.log" ] || fail "vmm has something to say: $(cat "$WORK/a.log")"

# Restored, saved again, private memory.
start_vmm b --restore-snapshot "$STORE/snapshots/s3"
ticks_on b
confined b 3
ctl b "save-snapshot b" >"$WORK/out" || fail "$(cat "$WORK/out")"
ticks_on b
quit_vmm b
start_vmm c --demo-guest --memory 8M --private-memory
wait_line c '^tick 3 '
confined c 2
ctl c "save-snapshot c" >"$WORK/out" || fail "$(cat "$WORK/out")"
kill -TERM "${vmm_pid[c]}"
wait "${vmm_pid[c]}" || fail "SIGTERM: it ends with $?"

# A guest that resets itself, with its serial line on standard input and output.
"$TOOLS/mkkernel" "$WORK/kernel"
mkfifo "$WORK/in"
"$BIN/vmm" --control "$WORK/d.sock" --kernel "$WORK/kernel" --cmdline "word=1 second" \
	--memory 16M <>"$WORK/in" >"$WORK/d.serial" 2>"$WORK/d.log" &
vmm_pid[d]=$!
printed() { [ "$(grep -c '^kernel word=1 second$' "$WORK/d.serial")" -eq "$1" ]; }
until_true 20 printed 1 || fail "it does not boot: $(cat "$WORK/d.log")"
confined d 2
for n in 2 3; do
	printf r >"$WORK/in"
	until_true 20 printed $n || fail "it does not boot again: $(cat "$WORK/d.log")"
done
ctl d "save-snapshot d" >"$WORK/out" || fail "$(cat "$WORK/out")"
confined d 2
quit_vmm d

start_vmm e --demo-guest --memory 4M --no-sandbox
wait_line e '^tick 3 '
grep -qx 'Seccomp:	0' "/proc/${vmm_pid[e]}/status" || fail "--no-sandbox has one"
grep -q 'warning: --no-sandbox' "$WORK/e.log" || fail "no word of --no-sandbox"
quit_vmm e
