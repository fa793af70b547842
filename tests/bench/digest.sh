#!/usr/bin/env bash
# The digest of a file by all processors, against `openssl dgst -sha256` of the same
# file; and that of a sparse one.
. "$(dirname "$0")/lib.sh"

openssl_digest() {
	local start=${EPOCHREALTIME/[.,]/}
	openssl dgst -sha256 "$work/full" >"$work/out"
	awk "BEGIN { print (${EPOCHREALTIME/[.,]/} - $start) / 1e6 }"
}
digest() { "$tools/bench_time" digest "$work/full"; }
digest_with_tree() { "$tools/bench_time" digest "$work/full" "$work/tree"; }

head -c 1G /dev/urandom >"$work/full"
truncate -s 8G "$work/sparse"
head -c 64M /dev/urandom | dd of="$work/sparse" bs=1M seek=4096 conv=notrunc status=none
openssl_digest >/dev/null
row "digest of 1 GiB, time to openssl's" "$(ratio digest openssl_digest)" '<=' 0.7
row "the same, with its tree written" "$(ratio digest_with_tree openssl_digest)" '<=' 0.7
for ((i = 0; i < pairs; i++)); do "$tools/bench_time" digest "$work/sparse"; done >"$work/seconds"
row "digest of sparse 8 GiB, 64 MiB data, s" "$(median <"$work/seconds")" '<' 0.2
