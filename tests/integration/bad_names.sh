#!/usr/bin/env bash
# Names that no snapshot can have are refused with words, by a save and by rename;
# the guest goes on and nothing is made.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 4M
wait_line a '^tick 3 '
ctl a "snap good" >"$WORK/out"
no_save() {
	expect 1 ctl a "snap $1"
	grep -qF -- "$2" "$WORK/out" || fail "snap $1: $(cat "$WORK/out")"
	[ "$(wc -l <"$WORK/out")" -eq 1 ] || fail "snap $1: $(cat "$WORK/out")"
}
long=$(printf '%0200d' 0)
no_save "" "takes a name"
no_save "latest" "'latest'"
no_save ".x" "start with '.'"
no_save "-x" "start with '-'"
no_save "$long" "200 bytes"
no_save "good" "good already"
no_save "two words" "letters, digits"
no_save "a\\b" "letters, digits"
no_save "ä" "letters, digits"
no_save "a*" "letters, digits"
no_save "." "start with '.'"
no_save ".." "start with '.'"
no_save "$WORK/none/deeper" "$WORK/none/deeper"
no_save "$WORK/a.serial/x" "$WORK/a.serial/x"
no_save "/" "'/'"
no_save "$WORK/.." ".."
no_save "$STORE/snapshots/good" "already"
no_save "$STORE/snapshots/latest" "'latest'"
no_save "/proc/x" "/proc/x"
mkdir "$WORK/there"
no_save "$WORK/there" "exists already"
no_save "$WORK/$long" "longer than 128"
# A name of a path with a '..' in it leaves the store alone.
no_save "a/../b" "a/../b"
for name in "" latest .x -x "$long" "a/b" "a/../b" ..; do
	refused 2 "" "$BIN/snapctl" rename -- good "$name"
done
refused 1 "none" "$BIN/snapctl" rm -- none
for name in ../snapshots/good ./good good/ /good . ""; do
	refused 2 "" "$BIN/snapctl" rm -- "$name"
done

ticks_on a
unbroken a
nothing_left "$STORE"
[ "$(ls -A "$STORE/snapshots")" = good ] || fail "made: $(ls -A "$STORE/snapshots")"
# The longest and the oddest that are allowed.
longest=$(printf '%0128d' 0)
for name in "$longest" "a._-+:@Z9" "1"; do
	ctl a "snap $name" >"$WORK/out"
	expect 0 "$BIN/snapctl" verify "$name"
	expect 0 "$BIN/snapctl" rm "$name"
done
# A directory elsewhere: a place like any other, also a relative one.
ctl a "snap $WORK/elsewhere" >"$WORK/out"
start_vmm b --restore-snapshot "$WORK/elsewhere"
ticks_on b
[ "$(ls -A "$STORE/snapshots")" = good ] || fail "made: $(ls -A "$STORE/snapshots")"
[ -z "$(find "$WORK" -mindepth 1 -maxdepth 1 -name "*saving*")" ] || fail "left: $(ls -A "$WORK")"
quit_vmm a
