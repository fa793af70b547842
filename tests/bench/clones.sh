#!/usr/bin/env bash
# 200 machines of 512 MiB restored from one snapshot in the mount by one command, against
# restores that copy the RAM first; and what of the host's memory an idle one takes.
. "$(dirname "$0")/lib.sh"

clones=200
store=$work/store
mnt=$work/mnt
mkdir "$mnt"
save_demo "$store" base --memory 512M
"$BIN/snapctl" --store "$store" verify base >/dev/null
bench_mounts+=("$mnt")
"$BIN/snapfs" --store "$store" "$mnt"

available() { sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo; }

# start N DIR OPTION..: sets the seconds until they all run and the KiB that each takes.
start() {
	local n=$1 dir=$2 before after pid
	shift 2
	before=$(available)
	"$BIN/vmm" --store "$store" --trust-memory --restore-snapshot "$dir" --clones "$n" --json \
		"$@" >"$work/clones" 2>"$work/clones.err" &
	pid=$!
	until grep -q started "$work/clones"; do sleep 0.02; done
	sleep 1
	after=$(available)
	kill -TERM "$pid"
	wait "$pid"
	seconds=$(sed -n 's/.*"started": '"$n"', "seconds": \([0-9.]*\).*/\1/p' "$work/clones")
	[ -n "$seconds" ] || {
		echo "bench clones: not all $n have started: $(tail -n 3 "$work/clones.err")" >&2
		exit 1
	}
	kib=$(((before - after) / n))
}

# One start as by a monitor that copies all RAM before its guest runs: sets the seconds.
copied() {
	local start=${EPOCHREALTIME/[.,]/}
	rm -rf "$work/copy"
	mkdir "$work/copy"
	cp --sparse=never "$store/snapshots/base/"{manifest,state,memory}.bin "$work/copy/"
	start=$((${EPOCHREALTIME/[.,]/} - start))
	start 1 "$work/copy" --paused
	seconds=$(awk "BEGIN { print $start / 1e6 + $seconds }")
}

copied
for ((i = 0; i < (pairs > 5 ? 5 : pairs); i++)); do
	copied
	copy=$seconds
	start "$clones" "$mnt/base" --paused
	awk "BEGIN { print $copy * $clones / $seconds }" >>"$work/ratios"
	echo "$kib" >>"$work/kib"
	start "$clones" "$mnt/base"
	echo "$seconds" >>"$work/running"
done
row "starts of $clones clones, times those by copies" "$(median <"$work/ratios")" '>=' 30
row "$clones clones started and running, s" "$(median <"$work/running")" '<' 60
row "host memory of an idle clone, MiB" "$(median <"$work/kib" | awk '{ print $1 / 1024 }')" '<=' 6
