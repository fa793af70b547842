#!/usr/bin/env bash
# It serves when it returns, at once and every time; with -f it tells the service
# manager. Nothing of its caller is held open.
. "$(dirname "$0")/lib.sh"
requires_fuse

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
mnt=$WORK/mnt
for _ in 1 2 3 4 5; do
	# The pipe ends only if the daemon has let go of it.
	mkdir -p "$mnt"
	test_mounts+=("$mnt")
	[ -z "$("$BIN/snapfs" --store "$STORE" "$mnt" 2>&1 | cat)" ] || fail "it said something"
	cmp "$mnt/base/state.bin" "$STORE/snapshots/base/state.bin"
	umount "$mnt"
done

# Nor does it hold what else its caller has open.
exec 7<"$WORK"
flock 7
mount_snapfs "$STORE" "$mnt"
exec 7<&-
flock -n "$WORK" true || fail "the daemon holds its caller's lock"
umount "$mnt"

requires python3
python3 - "$WORK/notify" >"$WORK/notified" <<'PYTHON' &
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
for _ in range(2):
    print(s.recv(100).decode(), flush=True)
PYTHON
test_pids+=("$!")
until_true 10 test -S "$WORK/notify" || fail "no socket"
NOTIFY_SOCKET=$WORK/notify "$BIN/snapfs" -f --store "$STORE" "$mnt" 2>/dev/null &
pid=$!
test_pids+=("$pid")
until_true 10 grep -qx READY=1 "$WORK/notified" || fail "not told to be ready"
cmp "$mnt/base/state.bin" "$STORE/snapshots/base/state.bin"
kill "$pid"
until_true 10 grep -qx STOPPING=1 "$WORK/notified" || fail "not told to be stopping"
wait "$pid"
