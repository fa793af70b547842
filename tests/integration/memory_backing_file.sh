#!/usr/bin/env bash
# --memory-backing-file: made when it is missing, taken (and zeroed) when it is a
# plain file of the right size; whatever may be somebody's snapshot is refused
# with one sentence and stays untouched.
. "$(dirname "$0")/lib.sh"
requires_kvm

ram=$WORK/ram
size=8388608

# left_alone WORDS FILE: a machine on it is refused, and the file is as before.
left_alone() {
	local before after
	before=$(stat -c '%i %h %a %s %Y' "$2")$(sha256sum <"$2")
	refused 1 "$1" "$BIN/vmm" --demo-guest --memory 8M --serial none --memory-backing-file "$2"
	says "$2"
	after=$(stat -c '%i %h %a %s %Y' "$2")$(sha256sum <"$2")
	[ "$before" = "$after" ] || fail "$2 was touched: $before, $after"
}

# Made, also by a relative path; a second machine on it is refused.
(cd "$WORK" && exec "$BIN/vmm" --demo-guest --memory 8M --serial "file=$WORK/a.serial" \
	--control "$WORK/a.sock" --memory-backing-file ram >"$WORK/a.log" 2>&1 </dev/null) &
vmm_pid[a]=$!
test_pids+=("$!")
wait_line a '^tick 3 '
[ "$(stat -c '%s %a' "$ram")" = "$size 600" ] || fail "it was made as $(stat -c '%s %a' "$ram")"
refused 1 "in use by another machine" "$BIN/vmm" --demo-guest --memory 8M --serial none \
	--memory-backing-file "$ram"
ticks_on a
[ -z "$(ls -A "$STORE/ram" 2>/dev/null)" ] || fail "there is a RAM file in the store, too"

# A save links it; from then on it is a snapshot's.
ctl a "save-snapshot base" >"$WORK/out"
snap=$STORE/snapshots/base
[ "$(stat -c '%i %h' "$snap/memory.bin")" = "$(stat -c %i "$ram") 2" ] || fail "it is not linked"
sums "$snap" >"$WORK/before"
ticks_on a
sums "$snap" | cmp - "$WORK/before" || fail "the guest wrote into the snapshot"
quit_vmm a
left_alone "other links" "$ram"
left_alone "other links" "$snap/memory.bin"

# Its own name is not needed any more.
rm "$ram"
expect 0 "$BIN/snapctl" verify base
left_alone "may be part of a snapshot" "$snap/memory.bin"

# What has been used before, of the right size, is emptied first.
head -c $size /dev/zero | tr '\0' x >"$ram"
start_vmm b --demo-guest --memory 8M --memory-backing-file "$ram"
wait_line b '^tick 3 '
cmp -s -n 4194304 -i 4194304:0 "$ram" /dev/zero || fail "stale content is in the guest's RAM"
ctl b "save-snapshot second" >"$WORK/out"
quit_vmm b
expect 0 "$BIN/snapctl" verify second
rm "$ram"

head -c 4096 /dev/urandom >"$WORK/small"
left_alone "has 4096 bytes" "$WORK/small"
head -c $size /dev/urandom >"$WORK/readonly"
chmod 0400 "$WORK/readonly"
left_alone "not writable" "$WORK/readonly"
head -c $size /dev/urandom >"$WORK/one"
ln "$WORK/one" "$WORK/two"
left_alone "other links" "$WORK/one"
ln -s one "$WORK/symlink"
left_alone "symbolic link" "$WORK/symlink"
cp -r "$snap" "$WORK/copy"
chmod -R u+w "$WORK/copy"
left_alone "beside a manifest.bin" "$WORK/copy/memory.bin"
rm "$WORK/two"
if chattr +a "$WORK/one" 2>/dev/null; then
	left_alone "sealed" "$WORK/one"
	chattr -a "$WORK/one"
fi
exec 9<>"$WORK/one"
if flock -xn 9; then left_alone "in use by another machine" "$WORK/one"; fi
exec 9>&-

for path in "$WORK" /dev/null "$WORK/none/ram"; do
	timeout 30 "$BIN/vmm" --demo-guest --memory 8M --serial none --memory-backing-file "$path" \
		>"$WORK/out" 2>&1 </dev/null && fail "$path is taken as RAM"
	says "$path"
done
[ -c /dev/null ] || fail "/dev/null is gone"

# What cannot boot leaves no file, and keeps what is there.
refused 1 "no such file" "$BIN/vmm" --kernel "$WORK/none" --memory 8M --serial none \
	--memory-backing-file "$WORK/new"
[ ! -e "$WORK/new" ] || fail "a RAM file for nothing"
