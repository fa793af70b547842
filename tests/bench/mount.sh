#!/usr/bin/env bash
# memory.bin (1 GiB, a third of it data) through the mount, on the stamped rung,
# against the bare file in the store: speed ratios by pairs in turn, and how long
# an open() takes. Called by ./dev bench; JSON=1 prints JSON, PAIRS is how many.
set -euo pipefail
build=$(cd "$(dirname "$0")/../../build" && pwd)
export BIN=$build/bin
work=$(mktemp -d "${TMPDIR:-/tmp}/snapfs-bench.XXXXXX")
clean_up() {
	umount -l "$work/mnt" 2>/dev/null || fusermount3 -uz "$work/mnt" 2>/dev/null || true
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# row NAME FIGURE RELATION TARGET
row() {
	local reached=yes
	awk "BEGIN { exit !($2 $3 $4) }" || reached=no
	if [ -n "${JSON:-}" ]; then
		printf '{"name": "%s", "figure": %.4f, "target": "%s %s", "reached": "%s"}\n' \
			"$1" "$2" "$3" "$4" $reached
	else
		printf '%-44s %10.4f  %s %-8s %s\n' "$1" "$2" "$3" "$4" $reached
	fi
}

# timed cold|warm WHAT FILE: cold drops the bare file's pages, and those that the mount
# has of its own where the daemon serves it.
timed() {
	[ "$1" = warm ] || {
		"$build/tests/bench_time" drop "$3"
		"$build/tests/bench_time" drop "$bare"
	}
	"$build/tests/bench_time" "$2" "$3"
}

"$build/tests/mksnap" "$work/store" base 1024 >/dev/null
"$BIN/snapctl" --store "$work/store" verify base >/dev/null
mkdir "$work/mnt"
"$BIN/snapfs" --store "$work/store" "$work/mnt"
bare=$work/store/snapshots/base/memory.bin
grep -q '^memory: *stamped' "$work/mnt/base/status" || {
	echo "bench mount: memory.bin is not on the stamped rung" >&2
	exit 1
}
sync -f "$bare"
for heat in cold warm; do
	for what in mmap random read; do
		for ((i = 0; i < ${PAIRS:-15}; i++)); do
			a=$(timed $heat $what "$work/mnt/base/memory.bin")
			b=$(timed $heat $what "$bare")
			awk "BEGIN { print $b / $a }" >>"$work/ratios"
		done
		row "mount, $what $heat, speed ratio to bare" "$(median <"$work/ratios")" '>=' 0.95
		rm "$work/ratios"
	done
done
for ((i = 0; i < ${PAIRS:-15}; i++)); do timed warm open "$work/mnt/base/memory.bin"; done >"$work/opens"
row "mount, open() of 1 GiB, us" "$(median <"$work/opens" | awk '{ print $1 * 1e6 }')" '<' 100
