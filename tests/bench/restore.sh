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
done
size=128M
for ((i = 0; i < pairs; i++)); do restore; done >"$work/seconds"
row "restore of 128M through the mount, ms" "$(median <"$work/seconds" | awk '{ print $1 * 1e3 }')" '<' 5
