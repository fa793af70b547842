#!/usr/bin/env bash
# The commands of a running machine: pause, resume, status, help, quit; --paused.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 8M --paused
until_true 10 test -S "$WORK/a.sock" || fail "no control socket"
[ "$(ctl a status | field state)" = paused ] || fail "$(ctl a status)"
sleep 0.2
[ ! -s "$WORK/a.serial" ] || fail "it runs before it is resumed"
[ "$(ctl a resume)" = '{"ok":true}' ] || fail "resume"
wait_line a '^tick 3 '

[ "$(ctl a pause)" = '{"ok":true}' ] || fail "pause"
[ "$(ctl a status | field state)" = paused ] || fail "$(ctl a status)"
ctl a pause >/dev/null
cp "$WORK/a.serial" "$WORK/before"
sleep 0.2
cmp "$WORK/a.serial" "$WORK/before" || fail "it prints while it is paused"
ctl a resume >/dev/null
ctl a resume >/dev/null
ticks_on a
unbroken a

ctl a status | json "all([d['ok'], d['state'] == 'running', d['memory_bytes'] == 8 << 20,
	d['vcpus'] == 1, d['memory_backing'] == 'file', d['save'] == 'none', d['exits']['io'] > 50,
	0 <= d['uptime_seconds'] < 300, 'parent' not in d])" >"$WORK/out"
says True
id=$(ctl a "save-snapshot base" | field id)
[ "$(ctl a status | field parent)" = "$id" ] || fail "the parent: $(ctl a status)"

ctl a help >"$WORK/out"
for word in save-snapshot snap pause resume 'balloon SIZE' status quit help; do says "$word"; done
refuses() {
	expect 1 ctl a "$1"
	says '"ok":false'
	says "$2"
}
refuses bogus "unknown command"
refuses "statusx" "unknown command"
refuses "pause now" "no argument"
refuses save-snapshot "takes a name"
refuses "snap  " "takes a name"
refuses "balloon 1M" "no balloon"
[ "$(ctl a "  status  " | field state)" = running ] || fail "blanks around a command"

quit_vmm a
[ ! -e "$WORK/a.sock" ] || fail "the control socket is left"

# A paused machine is restored, saved and ended as any other.
start_vmm b --restore-snapshot "$STORE/snapshots/base" --paused
until_true 10 test -S "$WORK/b.sock" || fail "no control socket"
ctl b "save-snapshot again" >"$WORK/out"
[ "$(ctl b status | field state)" = paused ] || fail "a save resumes it"
[ ! -s "$WORK/b.serial" ] || fail "it runs before it is resumed"
quit_vmm b
start_vmm c --restore-snapshot "$STORE/snapshots/again"
ticks_on c
[ "$(nonce_of c)" = "$(nonce_of a)" ] || fail "it is another guest"
