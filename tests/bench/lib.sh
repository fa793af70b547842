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

# ratio A B: the median of the quotients of what the commands A and B print; both are in
# $work/pairs then.
ratio() {
	local i a b
	for ((i = 0; i < pairs; i++)); do
		if ((i % 2)); then a=$($1) b=$($2); else b=$($2) a=$($1); fi
		echo "$a $b"
	done >"$work/pairs"
	awk '{ print $1 / $2 }' "$work/pairs" | median
}

# of_pairs COLUMN: the median of one side of the last ratio.
of_pairs() { awk -v c="$1" '{ print $c }' "$work/pairs" | median; }

# plot NAME TITLE X Y DATA SERIES..: with --plots a picture docs/plots/NAME.svg of the columns
# 2 and on of the file DATA over its first one; SERIES are their names.
plot() {
	local name=$1 title=$2 x=$3 y=$4 data=$5 i=1 lines=
	shift 5
	[ -n "${PLOTS:-}" ] || return 0
	for series; do
		i=$((i + 1))
		lines+="${lines:+, }'$data' using 1:$i with linespoints linewidth 2 title '$series'"
	done
	mkdir -p "$PLOTS"
	gnuplot <<GNUPLOT
set terminal svg size 640,400 dynamic background rgb 'white' font 'sans,12'
set output '$PLOTS/$name.svg'
set title '$title'
set xlabel '$x'
set ylabel '$y'
set key left top
set grid
set yrange [0:*]
${PLOT_SETTINGS:-}
plot $lines
GNUPLOT
}

# tell SOCKET COMMAND: has a running vmm do it, and prints its answer.
tell() {
	python3 - "$@" <<'PYTHON'
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    s.sendall(sys.argv[2].encode() + b"\n")
    print(s.makefile().readline(), end="")
PYTHON
}

# save_demo STORE NAME VMM OPTION..: a snapshot of the demo guest after its first tick.
save_demo() {
	local store=$1 name=$2 pid
	shift 2
	: >"$work/demo.out"
	"$BIN/vmm" --store "$store" --demo-guest --control "$work/demo.sock" "$@" >"$work/demo.out" &
	pid=$!
	until grep -q '^tick 1 ' "$work/demo.out"; do sleep 0.05; done
	tell "$work/demo.sock" "save-snapshot $name" >"$work/demo.saved"
	tell "$work/demo.sock" quit >/dev/null
	wait "$pid"
	grep -q '"ok": *true' "$work/demo.saved" || {
		cat "$work/demo.saved" >&2
		return 1
	}
}
