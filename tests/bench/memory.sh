#!/usr/bin/env bash
# What the host's writing back costs a guest that writes to all of its RAM all the time:
# RAM as a file of the store, shared (the default before the first save), as a file on
# tmpfs, and as anonymous memory (--private-memory, and every machine after a save).
. "$(dirname "$0")/lib.sh"

mib=2048
seconds=10
[ "$pairs" -ge 5 ] || seconds=4

# tell_stalls NAME MOST WORST [FILE]: of FILE, or of anonymous memory.
tell_stalls() {
	local name=$1 most=$2 worst=$3
	shift 3
	read -r stalls longest rate < <("$tools/bench_stalls" "$seconds" "$mib" "$@")
	row "$name, stores over 10 ms in $seconds s" "$stalls" '<=' "$most"
	row "$name, the longest, ms" "$longest" '<' "$worst"
	row "$name, million stores a second" "$rate" '>' 0
}

tell_stalls "file of the store" 1000 1000 "$work/ram"
tmpfs=$(mktemp -p /dev/shm)
tell_stalls "file on tmpfs" 0 100 "$tmpfs"
rm -f "$tmpfs"
tell_stalls "anonymous memory" 0 100
