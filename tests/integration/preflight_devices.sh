#!/usr/bin/env bash
# What the devices of a snapshot have against being restored here is said in one
# report, before anything is opened, made or locked; --check says the same.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires flock
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

mkdir "$WORK/s"
truncate -s 1M "$WORK/ro.img" "$WORK/rw.img" "$WORK/free.img"
truncate -s 2M "$WORK/pmem.img"
start_vmm a --demo-guest --memory 16M --disk-policy external --disk "$WORK/ro.img,ro" \
	--disk "$WORK/rw.img" --disk "$WORK/free.img" --pmem "$WORK/pmem.img,ro" --rng --balloon \
	--vsock "cid=3,path=$WORK/s/v" --console "path=$WORK/s/c"
wait_line a '^tick 3 '
ctl a "snap base" >"$WORK/out"
quit_vmm a

restore=("$BIN/vmm" --restore-snapshot "$WORK/forged" --serial "file=$WORK/serial"
	--disk-policy external)
forge() {
	rm -rf "$WORK/forged"
	cp -r "$STORE/snapshots/base" "$WORK/forged"
	[ $# -eq 0 ] || "$TOOLS/forge" "$WORK/forged/manifest.bin" "$@"
}
# Nothing was made, and no disk is held, or was while the report was made.
untouched() {
	[ ! -e "$WORK/serial" ] || fail "it opened the serial line"
	[ -z "$(ls -A "$WORK/s")" ] || fail "it made $(ls -A "$WORK/s")"
	[ ! -e "$WORK/new.overlay" ] || fail "it made an overlay"
	flock -n "$WORK/free.img" true || fail "a disk is locked"
}
# one WORDS OPTION..: refused in one sentence, the same with --check.
one() {
	local words=$1
	shift
	refused 1 "$words" "${restore[@]}" "$@"
	cp "$WORK/out" "$WORK/report"
	expect 1 timeout 30 "${restore[@]}" "$@" --check
	cmp "$WORK/out" "$WORK/report" || fail "--check says something else"
	untouched
}
forge
expect 0 "${restore[@]}" --check
untouched
# To look at it takes no lock either: it can be restored once the disk is free.
one "none.img" --disk "$WORK/none.img"
one "none.img" --disk "$WORK/ro.img" --disk "$WORK/none.img,overlay=$WORK/new.overlay"
one "no socket can be made" --vsock "path=$WORK/none/v"
one "no socket can be made" --console "path=$WORK/none/c"
one "is no socket" --console "path=$WORK/ro.img"
one "which vsock0 has" --console "path=$WORK/s/v"
one "is longer than" --vsock "path=$WORK/$(printf 'x%.0s' {1..120})"
one "machine has only 1" --vsock "path=$WORK/s/v" --vsock "path=$WORK/s/w"
one "machine has only 3" --disk "$WORK/ro.img" --disk "$WORK/rw.img" --disk "$WORK/free.img" \
	--disk "$WORK/4.img"
one "ro of disk1" --disk "$WORK/ro.img" --disk "$WORK/rw.img,ro"
one "does not know 'x'" --pmem "$WORK/pmem.img,x"

# Of another size, or another content.
for size in 512K 2M; do
	truncate -s $size "$WORK/other.img"
	one "the snapshot knew it with 1048576" --disk "$WORK/other.img"
	one "the snapshot knew it with 1048576" --disk "$WORK/ro.img" --disk "$WORK/other.img"
done
truncate -s 4M "$WORK/other.img"
one "the snapshot knew it with 2097152" --pmem "$WORK/other.img"
cp -p "$WORK/ro.img" "$WORK/kept.img"
touch "$WORK/ro.img"
one "was changed since the snapshot"
expect 0 "${restore[@]}" --disk "$WORK/kept.img" --check
cp -p "$WORK/kept.img" "$WORK/ro.img"
mv "$WORK/pmem.img" "$WORK/gone.img"
one "pmem.img"
mv "$WORK/gone.img" "$WORK/pmem.img"
# A disk that was written since is the user's business.
touch -r "$WORK/rw.img" "$WORK/then"
touch "$WORK/rw.img"
expect 0 "${restore[@]}" --check
says "was written since"
touch -r "$WORK/then" "$WORK/rw.img"

# What others have made of the manifest or the state.
while read -r words; do
	read -r change
	# shellcheck disable=SC2086 # several changes
	forge $change
	one "$words"
done <<'END'
a device rng0 of kind 'virtio-gpu'
device=rng0.kind=virtio-gpu
listed twice
device=rng0.name=disk0
device disk0 at 0xd0005000
device=disk0.address=0xd0005000
interrupt 4; this
device=disk0.interrupt=4
a queue outside RAM
state_virtio=disk0.status=15 state_virtio=disk0.size=64 state_virtio=disk0.ready=1 state_virtio=disk0.desc=0xf000000000
has a status 0xffff
state_virtio=rng0.status=0xffff
a queue index that is out of range
state_virtio=rng0.next_avail=65536
has a queue of size 600
state_virtio=balloon0.size=600
type 99
state_virtio=vsock0.id=99
END

# All of it together.
forge device=console0.path=/none/x device=disk2.path=/none/y state_virtio=rng0.next_avail=65536 \
	state_virtio=disk1.status=0xffff
expect 1 timeout 30 "${restore[@]}" --memory 32M --disk "$WORK/none.img"
for words in "none.img" "/none/y" "no socket can be made in /none" "of rng0" "of disk1" \
	"--memory says"; do
	says "$words"
done
[ "$(wc -l <"$WORK/out")" -eq 6 ] || fail "not six sentences: $(cat "$WORK/out")"
untouched

# As it was it can be restored, and then nobody else.
forge
start_vmm b --restore-snapshot "$WORK/forged" --disk-policy external
ticks_on b
[ -S "$WORK/s/v" ] || fail "no socket"
expect 1 timeout 30 "${restore[@]}" --check
says "another program listens at $WORK/s/v"
[ -S "$WORK/s/v" ] && [ -S "$WORK/s/c" ] || fail "it took the sockets"
quit_vmm b
[ -z "$(ls -A "$WORK/s")" ] || fail "sockets are left"
