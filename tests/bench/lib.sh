# Shared by the benchmarks: `. "$(dirname "$0")/lib.sh"`. ./dev bench calls them;
# JSON=1 prints JSON, PAIRS is how many pairs are measured. Figures are ratios of one
# run, both sides in turn, each first every other time: the median is told.
# shellcheck shell=bash
set -euo pipefail

build=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../build" && pwd)
# shellcheck disable=SC2034 # used by the benchmarks
tools=$build/tests
export BIN=$build/bin
pairs=${PAIRS:-15}
work=$(mktemp -d "${TMPDIR:-/tmp}/snapfs-bench.XXXXXX")
bench_mounts=()

clean_up() {
	local m
	for m in "${bench_mounts[@]}"; do
		umount -l "$m" 2>/dev/null || fusermount3 -uz "$m" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# row NAME FIGURE RELATION TARGET: whether the figure has that relation to the target.
row() {
	local reached=no
	if awk "BEGIN { exit !($2 $3 $4) }"; then reached=yes; fi
	if [ -n "${JSON:-}" ]; then
		printf '{"name": "%s", "figure": %.4f, "target": "%s %s", "reached": "%s"}\n' \
			"$1" "$2" "$3" "$4" $reached
	else
		printf '%-44s %10.4f  %2s %-6s %s\n' "$1" "$2" "$3" "$4" $reached
	fi
}

# ratio A B: the median of the quotients of what the commands A and B print.
ratio() {
	local i a b
	for ((i = 0; i < pairs; i++)); do
		if ((i % 2)); then a=$($1) b=$($2); else b=$($2) a=$($1); fi
		awk "BEGIN { print $a / $b }"
	done | median
}
