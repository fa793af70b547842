#!/usr/bin/env bash
# The publisher, then vmm itself, is killed before each system call of a save of a
# machine with a disk and pmem (with SNAPFS_TEST_LONG=1; else before some of them): no
# byte of their files is changed or lost, the snapshot is whole or not there, and the
# disk can be started and saved again.
. "$(dirname "$0")/lib.sh"
requires_kvm
[ -x "$TOOLS/kill_at" ] || fail "kill_at is not built"

disk=$WORK/disk.img pmem=$WORK/pmem.img
sha() { sha256sum <"$1"; }
head -c 1M /dev/urandom >"$WORK/disk.kept"
head -c 2M /dev/urandom >"$WORK/pmem.kept"
disk_sum=$(sha "$WORK/disk.kept") pmem_sum=$(sha "$WORK/pmem.kept")
# An overlay that says nothing of any block: its map's first page, after the header, is zeros.
says_nothing() { [ "$(dd if="$1" bs=4096 skip=1 count=1 status=none | tr -d '\0' | wc -c)" -eq 0 ]; }

# save_with_kill VICTIM N NAME: a machine whose VICTIM is killed at call N. Sets verdict.
save_with_kill() {
	rm -f "$disk" "$disk".ov* "$pmem"
	cp "$WORK/disk.kept" "$disk"
	cp "$WORK/pmem.kept" "$pmem"
	start_vmm a --demo-guest --memory 4M --disk "$disk" --pmem "$pmem"
	wait_line a '^tick 1 '
	publisher=$(publisher_of a)
	pid=$publisher
	[ "$1" = publisher ] || pid=${vmm_pid[a]}
	rm -f "$WORK/verdict" # the last one's is not to be taken for this one's
	"$TOOLS/kill_at" "$pid" "$2" >"$WORK/verdict" 2>"$WORK/ptrace" &
	killer=$!
	test_pids+=("$killer")
	until_true 10 grep -q ready "$WORK/verdict" || skip "no process can be traced here: $(cat "$WORK/ptrace")"
	saved=0
	ctl a "snap $3" >"$WORK/answer" 2>&1 || saved=$?
	kill "$killer" 2>/dev/null || true
	wait "$killer" || true
	verdict=$(tail -n 1 "$WORK/verdict")
}

# check_disk WHAT: the files are what they were, with nothing but new overlays over them.
check_disk() {
	local over
	[ "$(sha "$disk")" = "$disk_sum" ] || fail "$1: the disk has changed"
	[ "$(sha "$pmem")" = "$pmem_sum" ] || fail "$1: the pmem file has changed"
	for over in "$disk".ov*; do
		[ ! -e "$over" ] || says_nothing "$over" || fail "$1: $over has blocks that nobody wrote"
	done
	[ -z "$(find "$WORK" -maxdepth 1 -name '.*')" ] || fail "$1: left: $(ls -A "$WORK")"
}

# check_store WHAT NAME: the snapshot is whole, with the disk's content, or not there.
check_store() {
	[ "$saved" -ne 0 ] || [ -e "$STORE/snapshots/$2" ] || fail "$1: said to be saved, and is not there"
	expect 0 "$BIN/snapctl" list
	if [ -e "$STORE/snapshots/$2" ]; then
		expect 0 "$BIN/snapctl" verify "$2"
		[ "$(sha "$STORE/snapshots/$2/disks/disk0.0")" = "$disk_sum" ] || fail "$1: the disk of the snapshot"
		[ "$(sha "$STORE/snapshots/$2/disks/pmem0.0")" = "$pmem_sum" ] || fail "$1: the pmem of the snapshot"
		expect 0 "$BIN/snapctl" rm "$2"
	fi
	expect 0 "$BIN/snapctl" check
	nothing_left "$STORE"
	[ -z "$(ls -A "$STORE/ram")" ] || fail "$1: a file is left in ram/"
}

# The guest goes on, and its disk with it: saved by the next publisher, if there is one.
check_after_publisher() {
	ticks_on a 2
	unbroken a
	check_store "$1" "$2"
	if ctl a "snap more" >"$WORK/more"; then
		expect 0 "$BIN/snapctl" verify more
		[ "$(sha "$STORE/snapshots/more/disks/disk0.0")" = "$disk_sum" ] || fail "$1: the disk of the next save"
		[ "$(sha "$STORE/snapshots/more/disks/pmem0.0")" = "$pmem_sum" ] || fail "$1: the pmem of the next save"
		expect 0 "$BIN/snapctl" rm more
	else
		grep -q '"error":".*publisher.*no other can be started' "$WORK/more" ||
			fail "$1: the next save: $(cat "$WORK/more")"
	fi
	quit_vmm a
}

check_after_vmm() {
	kill -9 "${vmm_pid[a]}" 2>/dev/null || true
	wait "${vmm_pid[a]}" 2>/dev/null || true
	until_true 20 gone "$publisher" || fail "$1: its publisher lives on"
	check_store "$1" "$2"
}

# The disk is started anew as it is left, saved, and restored.
start_again() {
	start_vmm b --demo-guest --memory 4M --disk "$disk"
	wait_line b '^tick 1 '
	ctl b "snap again" >"$WORK/answer" || fail "$1: not saved again: $(cat "$WORK/answer")"
	quit_vmm b
	expect 0 "$BIN/snapctl" verify again
	[ "$(sha "$STORE/snapshots/again/disks/disk0.0")" = "$disk_sum" ] || fail "$1: the disk saved again"
	expect 0 "$BIN/vmm" --restore-snapshot "$STORE/snapshots/again" --check
	expect 0 "$BIN/snapctl" rm again
}

for victim in publisher vmm; do
	save_with_kill $victim 1000000 watched
	[ "$saved" -eq 0 ] || fail "a save that is only watched fails: $(cat "$WORK/answer")"
	total=${verdict#made }
	[ "$total" -gt 30 ] || fail "it made $total system calls: $verdict"
	quit_vmm a
	expect 0 "$BIN/snapctl" rm watched
	step=$((total / 8 + 1))
	[ -z "${SNAPFS_TEST_LONG:-}" ] || step=1
	killed=0
	for ((n = 1; n <= total; n += step)); do
		what="$victim killed at call $n of $total"
		save_with_kill $victim $n "at-$n"
		what="$what ($verdict; $(cat "$WORK/answer"))"
		case $verdict in killed*) killed=$((killed + 1)) ;; esac
		"check_after_$victim" "$what" "at-$n"
		check_disk "$what"
		start_again "$what"
		check_disk "$what, started again"
	done
	[ $killed -gt $((total / step / 2)) ] || fail "only $killed were killed"
	echo "$victim: $killed of $total points"
done
