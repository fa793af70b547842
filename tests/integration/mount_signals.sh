#!/usr/bin/env bash
# SIGTERM and SIGINT unmount; a busy mount is detached and still serves those
# who have it open. `umount` ends the daemon; SIGHUP does not.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 4 >/dev/null
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")

is_mounted() { grep -q " $mnt " /proc/self/mountinfo; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
start() {
	"$@" "$BIN/snapfs" -f --store "$STORE" "$mnt" 2>"$WORK/log" &
	pid=$!
	test_pids+=("$pid")
	until_true 10 is_mounted || fail "not mounted"
	[ -e "$mnt/base/status" ]
}
ends_well() {
	local status=0
	until_true 10 is_gone "$pid" || fail "it goes on after $1"
	wait "$pid" || status=$?
	[ "$status" -eq 0 ] || fail "exit status $status after $1"
	! is_mounted || fail "still mounted after $1"
}

# A command in the background of a script has SIGINT ignored: start it by one that has not.
for signal in TERM INT; do
	start env --default-signal=INT
	kill "-$signal" "$pid"
	ends_well "SIG$signal"
done
start env
umount "$mnt"
ends_well umount

start env
exec 5<"$mnt/base/memory.bin"
kill -TERM "$pid"
until_true 10 eval '! is_mounted' || fail "a busy mount is not detached"
cmp - "$STORE/snapshots/base/memory.bin" <&5 || fail "who has it open is not served"
grep -q "in use" "$WORK/log" || fail "no word of the users"
exec 5<&-
ends_well "the last close"

start env
exec 5<"$mnt/base/memory.bin"
kill -TERM "$pid"
until_true 10 eval '! is_mounted' || fail "not detached"
kill -TERM "$pid"
until_true 10 is_gone "$pid" || fail "a second signal does not end it"
exec 5<&-

# In the background: none of its affair.
mount_snapfs "$STORE" "$mnt"
daemon=
for entry in /proc/[0-9]*; do
	if [ "$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null)" = "$BIN/snapfs --store $STORE $mnt " ]; then
		daemon=${entry#/proc/}
	fi
done
[ -n "$daemon" ] || fail "no daemon"
kill -HUP "$daemon"
sleep 0.2
cmp "$mnt/base/state.bin" "$STORE/snapshots/base/state.bin" || fail "SIGHUP ended it"
kill -TERM "$daemon"
until_true 10 eval '! is_mounted' || fail "SIGTERM did not unmount"
