#!/usr/bin/env bash
# memory.bin (1 GiB, a third of it data) through the mount, stamped, against the
# bare file in the store: speed ratios, and how long an open() takes. And one that nobody
# has verified yet, against reading the bare file and hashing it by all processors.
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

# Not verified: each block is hashed before it is given out, so the least is the time of
# read(2) of the bare file, and that of hashing its bytes, all of them data, by all processors
# as fast as `openssl dgst` does by one. A change of the file's time takes its stamp away; the
# open starts the verification of the whole beside the reads that are measured, as it does for
# everybody, and the next measurement waits until that has ended. Nothing else is verified
# (noverify). In the store's page cache the file is (warm) or not (cold), in the mount's never.
"$tools/mksnap" "$work/full" full 512 1 '' 0 1 >/dev/null
mkdir "$work/unverified"
bench_mounts+=("$work/unverified")
"$BIN/snapfs" --store "$work/full" -o noverify "$work/unverified"
bare=$work/full/snapshots/full/memory.bin
mounted=$work/unverified/full/memory.bin
chmod u+w "$bare"
sync -f "$bare"

is_stamped() { grep -q '^memory: *stamped' "$work/unverified/full/status"; }
take_stamp() {
	until is_stamped; do sleep 0.05; done
	touch "$bare"
	grep -q '^memory: *unverified' "$work/unverified/full/status"
}
of_unverified() {
	take_stamp
	[ $heat = warm ] || "$tools/bench_time" drop "$bare"
	"$tools/bench_time" read "$mounted"
}
openssl_seconds() {
	local start=${EPOCHREALTIME/[.,]/}
	openssl dgst -sha256 "$bare" >/dev/null
	awk "BEGIN { print (${EPOCHREALTIME/[.,]/} - $start) / 1e6 }"
}
least() {
	local read hash
	[ $heat = warm ] || "$tools/bench_time" drop "$bare"
	read=$("$tools/bench_time" read "$bare")
	hash=$(openssl_seconds)
	awk "BEGIN { print $read + $hash / $(nproc) }"
}
"$BIN/snapctl" --store "$work/full" verify full >/dev/null
for heat in cold warm; do
	row "unverified rung, $heat read, speed to the least" "$(ratio least of_unverified)" '>=' 0.8
done
