#!/usr/bin/env bash
# A restore through the mount, from the start of vmm to the guest's first byte, against
# the least that KVM costs with as much RAM (bench_floor).
. "$(dirname "$0")/lib.sh"

store=$work/store
mnt=$work/mnt
mkdir "$mnt"

floor() { "$tools/bench_spawn" "$tools/bench_floor" "$mnt/$size/memory.bin"; }
restore() {
	"$tools/bench_spawn" "$BIN/vmm" --store "$store" --restore-snapshot "$mnt/$size" \
		2>"$work/restore.err"
}

for size in 128M 512M 2G 8G; do save_demo "$store" "$size" --memory "$size" --no-reserve; done
bench_mounts+=("$mnt")
"$BIN/snapfs" --store "$store" "$mnt"
for size in 128M 512M 2G 8G; do
	"$BIN/snapctl" --store "$store" verify "$size" >/dev/null
	floor >/dev/null
	restore >/dev/null
	row "restore of $size through the mount, to the floor" "$(ratio restore floor)" '<=' 2.0
	echo "$(numfmt --from=iec --to-unit=Mi "$size")" "$(of_pairs 1)" "$(of_pairs 2)" |
		awk '{ print $1, $2 * 1e3, $3 * 1e3 }' >>"$work/plot"
done
PLOT_SETTINGS='set logscale x 2' plot restore 'Start of vmm to the first byte of its guest' \
	'RAM, MiB' 'ms' "$work/plot" 'restore through the mount' 'least that KVM costs'
size=128M
for ((i = 0; i < pairs; i++)); do restore; done >"$work/seconds"
row "restore of 128M through the mount, ms" "$(median <"$work/seconds" | awk '{ print $1 * 1e3 }')" '<' 5

# The first useful answer of a guest of 256 MiB that reads 32 MiB of its RAM, scattered,
# with nothing of the snapshot in memory: with its working set noted, and without.
"$tools/mkkernel" "$work/kernel"
{ printf f; sleep 5; } | "$BIN/vmm" --store "$store" --kernel "$work/kernel" --memory 256M \
	--control "$work/fill.sock" >"$work/fill.out" 2>/dev/null &
filler=$!
until grep -q '^filled' "$work/fill.out"; do sleep 0.1; done
tell "$work/fill.sock" 'save-snapshot filled' >/dev/null
tell "$work/fill.sock" quit >/dev/null
wait "$filler"
sync -f "$store"
"$BIN/snapctl" --store "$store" verify filled >/dev/null

answer() {
	"$tools/bench_time" drop "$store/snapshots/filled/memory.bin"
	printf w | "$tools/bench_spawn" "$BIN/vmm" --store "$store" \
		--restore-snapshot "$mnt/filled" "$@" 2>/dev/null
}
with_set() { answer; }
without_set() { answer --no-prefetch; }

"$tools/bench_time" drop "$store/snapshots/filled/memory.bin"
{ printf w; sleep 2; } | "$BIN/vmm" --store "$store" --restore-snapshot "$mnt/filled" \
	--record-working-set 1 --control "$work/fill.sock" >/dev/null 2>"$work/record.err" &
filler=$!
until grep -q 'working set is noted' "$work/record.err"; do sleep 0.1; done
tell "$work/fill.sock" quit >/dev/null
wait "$filler"
row "first answer, cold, with the working set" "$(ratio with_set without_set)" '<=' 0.8
