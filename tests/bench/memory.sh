#!/usr/bin/env bash
# What the host's writing back costs a guest that writes to all of its RAM all the time:
# RAM as a file of the store, shared (the default before the first save), as a file on
# tmpfs, and as anonymous memory (--private-memory, and every machine after a save).
. "$(dirname "$0")/lib.sh"

mib=2048
seconds=10
[ "$pairs" -ge 5 ] || seconds=4

tell_stalls() {
	local name=$1
	shift
	read -r stalls longest rate < <("$tools/bench_stalls" "$seconds" "$mib" "$@")
	row "$name, stores over 10 ms in $seconds s" "$stalls" '<=' "$most"
	row "$name, the longest, ms" "$longest" '<' "$worst"
	row "$name, million stores a second" "$rate" '>' 0
}

most=1000 worst=1000 tell_stalls "file of the store" "$work/ram"
tmpfs=$(mktemp -p /dev/shm)
most=0 worst=100 tell_stalls "file on tmpfs" "$tmpfs"
rm -f "$tmpfs"
most=0 worst=100 tell_stalls "anonymous memory"
