#!/usr/bin/env bash
# merkle_digest_fd against `openssl dgst -sha256`, by pairs in turn, and over a
# sparse file. Called by ./dev bench; JSON=1 prints JSON, PAIRS is how many.
set -euo pipefail
tools=$(cd "$(dirname "$0")/../../build/tests" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/snapfs-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# row NAME FIGURE TARGET: the figure must be at most the target.
row() {
	local reached=yes
	awk "BEGIN { exit !($2 <= $3) }" || reached=no
	if [ -n "${JSON:-}" ]; then
		printf '{"name": "%s", "figure": %.4f, "target": %s, "reached": "%s"}\n' "$1" "$2" "$3" $reached
	else
		printf '%-44s %10.4f  <= %-8s %s\n' "$1" "$2" "$3" $reached
	fi
}

openssl_seconds() {
	local start=${EPOCHREALTIME/[.,]/}
	openssl dgst -sha256 "$1" >"$work/out"
	awk "BEGIN { print (${EPOCHREALTIME/[.,]/} - $start) / 1e6 }"
}

head -c 1G /dev/urandom >"$work/full"
truncate -s 8G "$work/sparse"
head -c 64M /dev/urandom | dd of="$work/sparse" bs=1M seek=4096 conv=notrunc status=none
for tree in '' "$work/tree"; do
	name=${tree:+, with its tree}
	for ((i = 0; i < ${PAIRS:-15}; i++)); do
		a=$("$tools/bench_time" digest "$work/full" ${tree:+"$tree"})
		b=$(openssl_seconds "$work/full")
		awk "BEGIN { print $a / $b }" >>"$work/ratios"
		"$tools/bench_time" digest "$work/sparse" ${tree:+"$tree"} >>"$work/seconds"
	done
	row "digest, ratio to openssl$name" "$(median <"$work/ratios")" 0.7
	row "digest, 8 GiB sparse, s$name" "$(median <"$work/seconds")" 0.2
	rm "$work/ratios" "$work/seconds"
done
