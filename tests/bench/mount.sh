#!/usr/bin/env bash
# memory.bin (1 GiB, a third of it data) through the mount, stamped, against the
# bare file in the store: speed ratios, and how long an open() takes.
. "$(dirname "$0")/lib.sh"

"$tools/mksnap" "$work/store" base 1024 >/dev/null
mkdir "$work/mnt"
bench_mounts+=("$work/mnt")
"$BIN/snapfs" --store "$work/store" "$work/mnt"
bare=$work/store/snapshots/base/memory.bin
mounted=$work/mnt/base/memory.bin
"$BIN/snapctl" --store "$work/store" verify base >/dev/null
grep -q '^memory: *stamped' "$work/mnt/base/status" || {
	echo "bench mount: memory.bin is not stamped" >&2
	exit 1
}
sync -f "$bare"

# Pages of the bare file, and those that the mount has of its own where the daemon serves it.
cold() {
	"$tools/bench_time" drop "$mounted"
	"$tools/bench_time" drop "$bare"
}
warm() { :; }
of_bare() { $heat && "$tools/bench_time" "$what" "$bare"; }
of_mounted() { $heat && "$tools/bench_time" "$what" "$mounted"; }

for heat in cold warm; do
	for what in mmap random read; do
		of_mounted >/dev/null
		of_bare >/dev/null
		row "mount, $heat $what, speed to the bare file's" "$(ratio of_bare of_mounted)" '>=' 0.95
	done
done
what=open heat=warm
for ((i = 0; i < pairs; i++)); do of_mounted; done >"$work/opens"
row "mount, open() of 1 GiB, us" "$(median <"$work/opens" | awk '{ print $1 * 1e6 }')" '<' 100
