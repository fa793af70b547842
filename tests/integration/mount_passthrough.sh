#!/usr/bin/env bash
# What is known to be good is read by the kernel itself, past snapfs: it is right,
# it goes on when snapfs is killed, and it changes back when the file does. Opens of
# both kinds at one time never disturb each other.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

mnt=$WORK/mnt
snaps=$STORE/snapshots
for i in 1 2 3; do
	"$TOOLS/mksnap" "$STORE" "s$i" 24 "$i" '' 1 >/dev/null
done
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f -v --store "$STORE" "$mnt" 2>"$WORK/log" &
daemon=$!
test_pids+=("$daemon")
until_true 10 test -d "$mnt/s1" || fail "not mounted"

# Status says who reads, for people and programs.
"$BIN/snapctl" status >"$WORK/status"
grep -q "^mounted at *$mnt\$" "$WORK/status" || fail "$(cat "$WORK/status")"
if ! grep -q '^ *reads *passthrough$' "$WORK/status"; then
	grep -q '^ *reads *daemon: .' "$WORK/status" || fail "$(cat "$WORK/status")"
	skip "no FUSE passthrough here: $(grep reads "$WORK/status")"
fi
"$BIN/snapctl" status --json | "$python" -c '
import json, sys
mounts = json.load(sys.stdin)["mounts"]
assert mounts == [{"mount_point": sys.argv[1], "reads": "passthrough"}], mounts' "$mnt"

# reader FILE: holds it open and mapped; "read" on its input makes it say the sum of
# what the mapping has, "end" ends it.
cat >"$WORK/reader.py" <<'PY'
import hashlib, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
print('open', flush=True)
for line in sys.stdin:
	if line == 'end\n':
		break
	print(hashlib.sha256(held).hexdigest(), flush=True)
PY
start_reader() {
	coproc reader { exec "$python" "$WORK/reader.py" "$1"; }
	test_pids+=("$reader_PID")
	read -r -u "${reader[0]}" word
	[ "$word" = open ] || fail "$1 could not be opened"
}
reader_sum() {
	echo read >&"${reader[1]}"
	read -r -u "${reader[0]}" word
	echo "$word"
}
end_reader() {
	echo end >&"${reader[1]}"
	wait "$reader_PID"
}
sum() { sha256sum "$1" | cut -d' ' -f1; }
kept=$(sum "$snaps/s1/memory.bin")

# Good, then unknown: a new open gets another inode, the old one stays as it is.
start_reader "$mnt/s1/memory.bin"
touch "$snaps/s1/memory.bin"
exec 5<"$mnt/s1/memory.bin"
[ "$(sha256sum <&5 | cut -d' ' -f1)" = "$kept" ] || fail "unknown beside good"
[ "$(reader_sum)" = "$kept" ] || fail "good beside unknown"
is_valid() { grep -q '^state: *valid$' "$mnt/s1/status"; }
until_true 20 is_valid || fail "$(cat "$mnt/s1/status")"
# Unknown, then good: several opens while it is held as it was.
for _ in 1 2 3; do
	[ "$(sum "$mnt/s1/memory.bin")" = "$kept" ] || fail "good beside unknown that is open"
	exec 6<"$mnt/s1/memory.bin"
	[ "$(sum "$mnt/s1/memory.bin")" = "$kept" ] || fail "good beside good"
	exec 6<&-
done
exec 5<&-
end_reader

# What turns bad is refused to the next one who opens it, and to no other file.
start_reader "$mnt/s2/memory.bin"
start=$(reader_sum)
flip "$snaps/s2/memory.bin" 20000000
if cat "$mnt/s2/memory.bin" >/dev/null 2>"$WORK/err"; then fail "damage was served"; fi
grep -q 'Input/output error' "$WORK/err" || fail "$(cat "$WORK/err")"
[ "$(reader_sum)" != "$start" ] || fail "a mapping of the bare file does not show what it has"
end_reader
[ "$(sum "$mnt/s2/disks/disk0.0")" = "$(sum "$snaps/s2/disks/disk0.0")" ] || fail "its disk"
flip "$snaps/s2/memory.bin" 20000000

# Who has it open does not need snapfs any more.
start_reader "$mnt/s3/memory.bin"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
"$TOOLS/bench_time" drop "$snaps/s3/memory.bin"
[ "$(reader_sum)" = "$(sum "$snaps/s3/memory.bin")" ] || fail "it ended with snapfs"
end_reader

# The dead mount is replaced; this one is told to serve by itself.
"$BIN/snapfs" -o nopassthrough --store "$STORE" "$mnt"
"$BIN/snapctl" status | grep -q '^ *reads *daemon: nopassthrough was given$' || fail "status"
[ "$(sum "$mnt/s3/memory.bin")" = "$(sum "$snaps/s3/memory.bin")" ] || fail "without passthrough"
