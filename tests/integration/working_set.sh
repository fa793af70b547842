#!/usr/bin/env bash
# What a restored guest touches is noted beside its snapshot, read ahead by later
# restores, and never more than advice: damaged, foreign or missing it changes nothing.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse
requires python3

"$TOOLS/mkkernel" "$WORK/kernel"
mkfifo "$WORK/in"
"$BIN/vmm" --kernel "$WORK/kernel" --memory 256M --control "$WORK/a.sock" <"$WORK/in" >"$WORK/a.out" 2>&1 &
vmm_pid[a]=$!
test_pids+=("$!")
exec 5>"$WORK/in"
until_true 20 grep -q '^kernel' "$WORK/a.out" || fail "it does not boot"
printf f >&5
until_true 20 grep -q '^filled' "$WORK/a.out" || fail "it does not fill its RAM"
ctl a "save-snapshot base" >/dev/null
snap=$STORE/snapshots/base
set=$snap/working-set
mount_snapfs "$STORE" "$WORK/mnt"
before=$(stat -c %Y "$snap")
expect 1 ctl a working-set
says 'only a machine that was restored'
quit_vmm a
exec 5>&-

# walk OPTION..: a restore that touches what it touches, to the end of its answer.
walk() {
	rm -f "$WORK/walk.out" "$WORK/walk.err"
	{ printf w; until_true 20 grep -q '^walked' "$WORK/walk.out"; sleep "${linger:-0}"; } |
		"$BIN/vmm" --restore-snapshot "$WORK/mnt/base" --control "$WORK/w.sock" "$@" \
			>"$WORK/walk.out" 2>"$WORK/walk.err" &
	local pid=$!
	test_pids+=("$pid")
	until_true 20 grep -q '^walked' "$WORK/walk.out" || fail "$(cat "$WORK/walk.out" "$WORK/walk.err")"
	[ -z "${command:-}" ] || ctl w "$command" >"$WORK/answer"
	[ -z "${linger:-}" ] || until_true 20 grep -q 'working set is noted' "$WORK/walk.err" ||
		fail "nothing is noted: $(cat "$WORK/walk.err")"
	ctl w quit >/dev/null
	wait "$pid"
}
pages() {
	python3 -c "
import struct
b = open('$set', 'rb').read()
n, = struct.unpack('<Q', b[8:16])
print(sum(struct.unpack('<QQ', b[32 + 16 * i:48 + 16 * i])[1] for i in range(n)))"
}

linger=2 walk --record-working-set 1
noted=$(pages)
[ "$noted" -ge 8192 ] && [ "$noted" -lt 40000 ] || fail "$noted pages are noted of 8192 and a few"
cmp "$set" "$WORK/mnt/base/working-set" || fail "the mount shows another"
[ "$(stat -c %Y "$snap")" = "$before" ] || fail "the snapshot's time has changed"
[ "$(stat -c %a "$set")" = 400 ] || fail "its mode"
"$BIN/snapctl" verify base >/dev/null || fail "the snapshot is not valid any more"
"$BIN/snapctl" check >"$WORK/check" || fail "check: $(cat "$WORK/check")"
walk
walk --no-prefetch

# By command, anew, in the place of the old one.
cp "$set" "$WORK/kept"
command=working-set walk
[ "$(field pages <"$WORK/answer")" -ge 8192 ] || fail "$(cat "$WORK/answer")"

# Advice that is no good is said and not followed.
bad() {
	chmod u+w "$set"
	"$@"
	walk
	grep -q 'nothing is read ahead' "$WORK/walk.err" || fail "'$*' goes unseen"
}
bad flip "$set" 40
bad truncate -s 50 "$set"
bad truncate -s 0 "$set"
bad truncate -s 3G "$set"
cp "$WORK/kept" "$WORK/other"
bad dd if=/dev/zero of="$set" bs=1M count=1 status=none
rm "$set"
mkfifo "$set"
walk
rm "$set"
walk
# That of another snapshot.
"$TOOLS/mksnap" "$STORE" other 1 >/dev/null
cp "$WORK/kept" "$STORE/snapshots/other/working-set"
expect 2 "$BIN/vmm" --demo-guest --record-working-set 1
says 'goes with --restore-snapshot'
# A machine whose snapshot is gone is told so.
rm -f "$WORK/walk.out"
{ printf w; sleep 3; } | "$BIN/vmm" --restore-snapshot "$snap" --control "$WORK/w.sock" >"$WORK/walk.out" 2>&1 &
test_pids+=("$!")
until_true 20 grep -q '^walked' "$WORK/walk.out" || fail "$(cat "$WORK/walk.out")"
"$BIN/snapctl" rm base >/dev/null
expect 1 ctl w working-set
says 'not in the store'
ctl w quit >/dev/null
