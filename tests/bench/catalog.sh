#!/usr/bin/env bash
# A store of 100,000 snapshots: how long its list takes, how long the mount takes to come and to
# be listed, and whether a snapshot is found in it as fast as in a store of 100.
. "$(dirname "$0")/lib.sh"

count=100000
for size in 100 "$count"; do
	"$tools/mksnap" "$work/$size" base 1 >/dev/null
	"$tools/bench_many" "$work/$size" base "$size"
	mkdir "$work/mnt-$size"
done
mnt=$work/mnt-$count

# seconds COMMAND..: how long it takes.
seconds() {
	local start=${EPOCHREALTIME/[.,]/}
	"$@" >/dev/null
	awk "BEGIN { print (${EPOCHREALTIME/[.,]/} - $start) / 1e6 }"
}
# times COMMAND..: the median of several.
times() {
	local i
	for ((i = 0; i < pairs; i++)); do seconds "$@"; done | median
}

list() { "$BIN/snapctl" --store "$work/$1" list --json; }
# The first one makes the index of what lies there, and examines each snapshot.
list 100 >/dev/null
row "catalog of 100,000, first list --json, s" "$(seconds list "$count")" '>' 0
row "catalog of 100,000, list --json, s" "$(times list "$count")" '<=' 2

# Until a snapshot is found in it.
serve() {
	"$BIN/snapfs" --store "$work/$1" -o noverify "$work/mnt-$1"
	[ -d "$work/mnt-$1/many-000000" ]
}
start_again() {
	umount -l "$mnt" 2>/dev/null || fusermount3 -uz "$mnt"
	seconds serve "$count"
}
bench_mounts+=("$work/mnt-100" "$mnt")
serve 100
serve "$count"
for ((i = 0; i < pairs; i++)); do start_again; done >"$work/starts"
row "snapfs, start with 100,000 snapshots, s" "$(median <"$work/starts")" '<' 1

# What is not streamed shows its first entries as late as its last ones.
# shellcheck disable=SC2012 # ls is what is measured
list_first() { ls -f "$mnt" | head -n 1000 || true; }
row "ls -f of 100,000, the first 1,000, s" "$(times list_first)" '<' 0.1
row "ls -f of 100,000, s" "$(times ls -f "$mnt")" '>' 0
row "ls -l of 100,000, s" "$(seconds ls -l "$mnt")" '>' 0

# Names of snapshots are never kept by the kernel: each open looks them up again.
open_of() { "$tools/bench_time" open "$work/mnt-$1/many-000050/manifest.bin"; }
of_many() { open_of "$count"; }
of_few() { open_of 100; }
of_many >/dev/null
of_few >/dev/null
row "open of a manifest.bin, of 100,000 to of 100" "$(ratio of_many of_few)" '<=' 1.5
