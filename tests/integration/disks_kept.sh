#!/usr/bin/env bash
# Disks and pmem that can be written are kept with a snapshot: the frozen files are
# linked into it, the guest goes on over new ones, and a restore needs no option. Where
# files cannot be linked a save says so beforehand, and nothing is lost.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3
truncate -s 1M "$WORK/a"
if cp --reflink=always "$WORK/a" "$WORK/b" 2>/dev/null; then
	skip "this file system makes clones: the test disks_cloned is about that"
fi
pattern() { "$python" -c "import random; random.seed($1); open('$2', 'wb').write(random.randbytes($3 << 20))"; }
pattern 1 "$WORK/rw.img" 1
pattern 2 "$WORK/pmem.img" 4
pattern 3 "$WORK/ro.img" 1
sha() { sha256sum <"$1"; }
rw=$(sha "$WORK/rw.img") pmem=$(sha "$WORK/pmem.img")
snaps=$STORE/snapshots

start_vmm a --demo-guest --memory 16M --disk "$WORK/rw.img" --disk "$WORK/ro.img,ro" --pmem "$WORK/pmem.img"
wait_line a '^tick 3 '
ctl a status >"$WORK/status"
[ "$(field can_save <"$WORK/status")" = true ] || fail "$(cat "$WORK/status")"
ctl a "snap one" >"$WORK/out"
ticks_on a
[ "$(ls -I "*.tree" "$snaps/one/disks")" = $'disk0.0\npmem0.0' ] || fail "disks/: $(ls -la "$snaps/one/disks")"
same() { [ "$(stat -c %i "$1")" = "$(stat -c %i "$2")" ] || fail "$1 is not $2"; }
same "$snaps/one/disks/disk0.0" "$WORK/rw.img"
same "$snaps/one/disks/pmem0.0" "$WORK/pmem.img"
[ "$(stat -c %a "$WORK/rw.img")" = 400 ] || fail "the kept file can be written"
[ -f "$WORK/rw.img.ov1" ] || fail "no overlay for what the guest writes from here on"
grep -q "pmem0: its file is frozen for the snapshot" "$WORK/a.log" || fail "no word on pmem"
[ -f "$snaps/one/memory.tree" ] && [ -f "$snaps/one/disks/disk0.0.tree" ] || fail "no trees: $(ls -R "$snaps/one")"
# A file that is known to be good is not read again for the next save: its tree is linked.
valid() { "$BIN/snapctl" show --json "$1" | json "d['status']" | grep -q '^valid$'; }
until_true 20 valid one || fail "it is not stamped: $("$BIN/snapctl" show one)"
# What the guest writes lands in the overlay alone; a second save keeps that, too.
ctl a "snap two" >"$WORK/out"
ticks_on a
[ "$(ls -I "*.tree" "$snaps/two/disks")" = $'disk0.0\ndisk0.1\npmem0.0' ] || fail "disks/: $(ls "$snaps/two/disks")"
same "$snaps/two/disks/disk0.0" "$WORK/rw.img"
same "$snaps/two/disks/disk0.1" "$WORK/rw.img.ov1"
same "$snaps/two/disks/disk0.0.tree" "$snaps/one/disks/disk0.0.tree"
[ "$(sha "$snaps/two/disks/pmem0.0")" = "$pmem" ] || fail "pmem differs"
! find "/proc/${vmm_pid[a]}/fd" -lname "$WORK/rw.img.ov1" -perm /200 | grep -q . || fail "it can still write what is kept"
quit_vmm a
[ "$(sha "$snaps/two/disks/disk0.0")" = "$rw" ] || fail "a kept file has changed"
"$BIN/snapctl" verify --all >"$WORK/out" || fail "$(cat "$WORK/out")"
"$BIN/snapctl" show two >"$WORK/out"
says "disk0.1"

# A later start of the same disk leaves what is kept as it is.
start_vmm again --demo-guest --memory 16M --disk "$WORK/rw.img"
wait_line again '^tick 3 '
[ -f "$WORK/rw.img.ov2" ] || fail "no overlay"
quit_vmm again

# Restored, twice at once, from the store and through the mount; saved again, and
# restored from that: the chain grows by what each has written.
mv "$WORK/rw.img" "$WORK/elsewhere.img"
rm "$WORK"/rw.img.ov*
restored() {
	start_vmm "$1" --restore-snapshot "$2" "${@:3}"
	ticks_on "$1"
	! grep -q boot "$WORK/$1.serial" || fail "$1 has booted"
}
restored b "$snaps/two"
restored c "$snaps/two"
ctl b "snap three" >"$WORK/out"
ticks_on b
[ "$(ls -I "*.tree" "$snaps/three/disks")" = $'disk0.0\ndisk0.1\ndisk0.2\npmem0.0' ] || fail "disks/: $(ls "$snaps/three/disks")"
[ "$(sha "$snaps/three/disks/pmem0.0")" = "$pmem" ] || fail "pmem differs"
ctl b "snap four" >"$WORK/out"
[ "$(find "$snaps/four/disks" -name 'disk0.*' ! -name '*.tree' | wc -l)" -eq 4 ] || fail "disks/: $(ls "$snaps/four/disks")"
quit_vmm b
quit_vmm c
nothing_left "$STORE"
if [ -r /dev/fuse ] && [ -w /dev/fuse ]; then
	mount_snapfs "$STORE" "$WORK/mnt"
	restored d "$WORK/mnt/four"
	ctl d "snap five" >"$WORK/out"
	quit_vmm d
	"$BIN/snapctl" verify five >"$WORK/out" || fail "$(cat "$WORK/out")"
fi
# External is said of files that the user has; a snapshot's are kept all the same.
restored e "$snaps/four" --disk-policy external
ctl e "snap six" >"$WORK/out"
quit_vmm e
[ "$(find "$snaps/six/disks" -name 'disk0.*' ! -name '*.tree' | wc -l)" -eq 5 ] || fail "disks/: $(ls "$snaps/six/disks")"

# What the guest writes can be given a place; an old overlay is not it.
restored f "$snaps/two" --disk "overlay=$WORK/f.ov"
[ -f "$WORK/f.ov" ] || fail "no overlay"
quit_vmm f
refused 1 "f.ov exists" "$BIN/vmm" --restore-snapshot "$snaps/two" --disk "overlay=$WORK/f.ov" --check
# Another file in place of the kept ones must have the size that the guest knows.
expect 0 "$BIN/vmm" --restore-snapshot "$snaps/two" --disk "$WORK/elsewhere.img" --check
refused 1 "pmem.img) has 4194304 bytes" "$BIN/vmm" --restore-snapshot "$snaps/two" --disk "$WORK/pmem.img" --check
refused 1 "there.img" "$BIN/vmm" --restore-snapshot "$snaps/two" --disk "$WORK/not-there.img" --check

# Damage, and files that do not fit together: nothing is started.
copy() {
	cp -r "$snaps/two" "$WORK/$1"
	chmod -R u+w "$WORK/$1"
}
copy flipped
flip "$WORK/flipped/disks/disk0.0" 70000
refused 1 "disk0.0 does not have the manifest's digest: block 17 (byte 69632 and on) is wrong" \
	"$BIN/vmm" --restore-snapshot "$WORK/flipped" --serial none
copy short
truncate -s 4096 "$WORK/short/disks/disk0.1"
refused 1 "disk0.1" "$BIN/vmm" --restore-snapshot "$WORK/short" --serial none
copy missing
rm "$WORK/missing/disks/pmem0.0"
refused 1 "pmem0.0" "$BIN/vmm" --restore-snapshot "$WORK/missing" --serial none
# A copy of it elsewhere is a whole one.
copy whole
restored g "$WORK/whole"
quit_vmm g

# On another file system, or of no kind that can be linked: said before a save, which is refused.
if [ -d /dev/shm ] && [ "$(stat -c %d /dev/shm)" != "$(stat -c %d "$WORK")" ]; then
	far=$(mktemp -p /dev/shm snapfs-test.XXXXXX)
	truncate -s 1M "$far"
	start_vmm far --demo-guest --memory 16M --disk "$far"
	until_true 20 has_line far '^tick 3 ' || true
	rm "$far" # it lives as long as the machine
	wait_line far '^tick 3 '
	ctl far status >"$WORK/status"
	[ "$(field can_save <"$WORK/status")" = false ] || fail "$(cat "$WORK/status")"
	json "d['cannot_save_because'][0]" <"$WORK/status" >"$WORK/out"
	says "disk0 lies on another file system than the store"
	if ctl far "snap far" >"$WORK/out" 2>&1; then fail "it was saved"; fi
	says "--disk-policy external"
	ticks_on far
	[ ! -e "$snaps/far" ] || fail "a snapshot"
	quit_vmm far
fi
nothing_left "$STORE"
[ -z "$(ls -A "$STORE/ram")" ] || fail "left: $(ls -la "$STORE/ram")"
