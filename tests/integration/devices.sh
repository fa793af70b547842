#!/usr/bin/env bash
# A machine with every kind of virtio device is saved and restored, from the store
# and from the mount; what the host gives it can be another then. Its sockets come
# and go with it, its disks are locked while it runs, a reset leaks nothing.
. "$(dirname "$0")/lib.sh"
requires_kvm
# Taps of its own, which end with the test, where that can be had.
if [ "$(id -u)" -eq 0 ] && [ -z "${SNAPFS_TEST_OWN_NET:-}" ] && [ -c /dev/net/tun ] &&
	command -v ip >/dev/null && unshare --net ip tuntap add tst mode tap 2>/dev/null; then
	rm -rf "$WORK"
	trap - EXIT ERR
	SNAPFS_TEST_OWN_NET=1 exec unshare --net bash "$0"
fi
net=()
if [ -n "${SNAPFS_TEST_OWN_NET:-}" ]; then
	ip tuntap add tap-a mode tap
	ip tuntap add tap-b mode tap
	net=(--net tap=tap-a)
else
	echo "without a network card: no tap can be made here"
fi
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

truncate -s 1M "$WORK/ro.img" "$WORK/rw.img"
truncate -s 4M "$WORK/pmem.img"
ln -s ro.img "$WORK/link.img"
all=(--disk "$WORK/rw.img" --disk "$WORK/link.img,ro" --pmem "$WORK/pmem.img,ro" --rng
	--vsock "cid=3,path=$WORK/v" --console "path=$WORK/c" --balloon "${net[@]}")
names="balloon0 console0 disk0 disk1 ${net[0]:+net0 }pmem0 rng0 vsock0"
has_devices() {
	ctl "$1" status >"$WORK/status"
	[ "$(json "' '.join(sorted(n for n, v in d['devices'].items() if v['kind'].startswith('virtio-')))" \
		<"$WORK/status")" = "$names" ] || fail "its devices: $(cat "$WORK/status")"
	[ "$(json "sum(v['errors'] for v in d['devices'].values() if 'errors' in v)" \
		<"$WORK/status")" -eq 0 ] || fail "errors: $(cat "$WORK/status")"
}
requires python3

start_vmm plain --demo-guest --memory 16M "${all[@]}"
wait_line plain '^tick 3 '
has_devices plain
[ "$(field can_save <"$WORK/status")" = true ] || fail "it cannot be saved: $(cat "$WORK/status")"
[ -S "$WORK/v" ] && [ -S "$WORK/c" ] || fail "no sockets"

# Another machine cannot have what this one has.
other=("$BIN/vmm" --demo-guest --memory 4M --serial none)
refused 3 "rw.img" "${other[@]}" --disk "$WORK/rw.img"
refused 1 "$WORK/v" "${other[@]}" --vsock "cid=4,path=$WORK/v"
refused 1 "$WORK/c" "${other[@]}" --console "path=$WORK/c"
[ -z "${net[0]:-}" ] || refused 1 "tap-a" "${other[@]}" --net tap=tap-a
[ -S "$WORK/v" ] && [ -S "$WORK/c" ] || fail "another machine took the sockets"
ticks_on plain
quit_vmm plain
[ ! -e "$WORK/v" ] && [ ! -e "$WORK/c" ] || fail "sockets are left"

start_vmm a --demo-guest --memory 16M "${all[@]}" --disk-policy external
wait_line a '^tick 3 '
has_devices a
[ "$(field can_save <"$WORK/status")" = true ] || fail "it cannot be saved: $(cat "$WORK/status")"
ctl a "snap base" >"$WORK/out"
ticks_on a
# Once more, of the same machine; and killed in the middle of one.
ctl a "snap second" >"$WORK/out"
ctl a "snap third" >"$WORK/out" 2>&1 &
sleep 0.0$((RANDOM % 5))
kill -9 "${vmm_pid[a]}"
wait "${vmm_pid[a]}" 2>/dev/null || true
wait %% 2>/dev/null || true
[ -S "$WORK/v" ] || fail "who took the socket of the one that was killed?"

# Restored, from the store and from the mount. The dead one's sockets are replaced.
restored() {
	start_vmm "$1" --restore-snapshot "$2" --disk-policy external "${@:3}"
	ticks_on "$1"
	has_devices "$1"
	grep -q boot "$WORK/$1.serial" && fail "$1 has booted"
	return 0
}
restored b "$STORE/snapshots/base"
[ -S "$WORK/v" ] && [ -S "$WORK/c" ] || fail "no sockets"

# Two of one snapshot: each with its own.
cp "$WORK/rw.img" "$WORK/rw2.img"
mkdir "$WORK/two"
(cd "$WORK/two" && : >here)
restored c "$STORE/snapshots/base" --disk "$WORK/rw2.img" --vsock "cid=9,path=$WORK/two/v" \
	--console "path=$WORK/two/c" ${net[0]:+--net tap=tap-b}
[ -S "$WORK/two/v" ] && [ -S "$WORK/two/c" ] && [ -S "$WORK/v" ] || fail "no sockets of its own"
quit_vmm b
[ -S "$WORK/two/v" ] && [ ! -e "$WORK/v" ] || fail "the wrong sockets went"
quit_vmm c

if [ -r /dev/fuse ] && [ -w /dev/fuse ]; then
	mount_snapfs "$STORE" "$WORK/mnt"
	restored d "$WORK/mnt/second"
	quit_vmm d
fi

# Restored, paused and saved again it is what it was, once and again.
from=base
for again in one two; do
	start_vmm "r$again" --restore-snapshot "$STORE/snapshots/$from" --paused --disk-policy external
	until_true 20 ctl "r$again" status >"$WORK/out" || fail "it does not start: $(cat "$WORK/r$again.log")"
	ctl "r$again" "snap $again" >"$WORK/out"
	# What has been told of its being another machine than the one saved may differ.
	"$TOOLS/statediff" "$STORE/snapshots/base/state.bin" "$STORE/snapshots/$again/state.bin" ||
		fail "$again is not base"
	quit_vmm "r$again"
	from=$again
done
"$BIN/snapctl" verify --all >"$WORK/out" || fail "$(cat "$WORK/out")"

# A disk whose name is gone or another's is what it was to the machine that has it.
cp "$WORK/pmem.img" "$WORK/pmem2.img"
start_vmm e --demo-guest --memory 16M --disk "$WORK/rw2.img,ro" --pmem "$WORK/pmem2.img,ro"
wait_line e '^tick 3 '
mv "$WORK/rw2.img" "$WORK/rw3.img"
mv "$WORK/pmem2.img" "$WORK/pmem3.img"
truncate -s 3M "$WORK/rw2.img"
ctl e "snap renamed" >"$WORK/out" || fail "$(cat "$WORK/out")"
ticks_on e
quit_vmm e
expect 1 "$BIN/vmm" --restore-snapshot "$STORE/snapshots/renamed" --check
says "rw2.img) has 3145728 bytes"
says "pmem2.img"
expect 0 "$BIN/vmm" --restore-snapshot "$STORE/snapshots/renamed" --check \
	--disk "$WORK/rw3.img" --pmem "$WORK/pmem3.img"

# Resets leave no descriptor and no thread behind.
"$TOOLS/mkkernel" "$WORK/kernel"
mkfifo "$WORK/in"
"$BIN/vmm" --control "$WORK/k.sock" --kernel "$WORK/kernel" --cmdline "word=1 second" --memory 4M \
	"${all[@]}" <>"$WORK/in" >"$WORK/k.serial" 2>"$WORK/k.log" &
vmm_pid[k]=$!
printed() { [ "$(grep -c '^kernel word=1 second$' "$WORK/k.serial")" -eq "$1" ]; }
until_true 20 printed 1 || fail "it does not boot: $(cat "$WORK/k.log")"
has() { find "/proc/${vmm_pid[k]}/$1" -mindepth 1 -maxdepth 1 | wc -l; }
fds=$(has fd) tasks=$(has task) maps=$(wc -l <"/proc/${vmm_pid[k]}/maps")
for ((n = 2; n <= 21; n++)); do
	printf r >"$WORK/in"
	until_true 20 printed $n || fail "it has not booted $n times: $(cat "$WORK/k.log")"
done
[ "$(has fd)" -le "$fds" ] || fail "$fds descriptors have become $(has fd)"
[ "$(has task)" -eq "$tasks" ] || fail "$tasks threads have become $(has task)"
[ "$(wc -l <"/proc/${vmm_pid[k]}/maps")" -le $((maps + 8)) ] || fail "$maps mappings have become more"
quit_vmm k
