#!/usr/bin/env bash
# The second save of a guest of 4 GiB in which 16 MiB have changed: what it writes against
# what has changed, its time against that of writing and syncing 16 MiB, and its pause.
# (How the pause of a first save goes with RAM is a matter of real page tables: see
# tests/rig/pause.sh.)
. "$(dirname "$0")/lib.sh"

store=$work/store
changed=$((16 << 20))
"$tools/mkkernel" "$work/kernel"
mkfifo "$work/in"
"$BIN/vmm" --store "$store" --kernel "$work/kernel" --memory 4G --no-reserve --timing \
	--control "$work/vmm.sock" <"$work/in" >"$work/out" 2>"$work/err" &
guest=$!
trap 'kill "$guest" 2>/dev/null; clean_up' EXIT
exec 5>"$work/in"

# ask LETTER WORD: has the guest do that, to its answer.
ask() {
	local before
	before=$(grep -c "^$2" "$work/out" || true)
	printf %s "$1" >&5
	until [ "$(grep -c "^$2" "$work/out")" -gt "$before" ]; do sleep 0.01; done
}
number() { sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p" "$work/saved"; }
n=0
# Sets the seconds, as vmm has them: from the command to its answer.
save() {
	n=$((n + 1))
	tell "$work/vmm.sock" "save-snapshot s$n" >"$work/saved"
	grep -q '"ok": *true' "$work/saved" || {
		cat "$work/saved" >&2
		exit 1
	}
	seconds=$(sed -n 's/.*"total_us": \([0-9]*\).*/\1/p' "$work/err" | tail -n 1 |
		awk '{ print $1 / 1e6 }')
}
plain() {
	local start=${EPOCHREALTIME/[.,]/}
	dd if="$work/bytes" of="$work/plain" bs=1M conv=fsync status=none
	awk "BEGIN { print (${EPOCHREALTIME/[.,]/} - $start) / 1e6 }"
	rm "$work/plain"
}

until grep -q '^kernel' "$work/out"; do sleep 0.01; done
head -c "$changed" /dev/urandom >"$work/bytes"
ask f filled
save
number pause_us >"$work/first"
for ((i = 0; i < pairs && i < 12; i++)); do
	ask c changed
	save
	awk "BEGIN { print $seconds / $(plain) }" >>"$work/times"
	awk "BEGIN { print $(number written_bytes) / $changed }" >>"$work/written"
	number pause_us >>"$work/pauses"
done
tell "$work/vmm.sock" quit >/dev/null
wait "$guest"
row "second save, 16 MiB of 4 GiB, bytes to those" "$(median <"$work/written")" '<=' 1.3
row "the same, time to writing 16 MiB and sync" "$(median <"$work/times")" '<=' 3
row "the same, pause, ms" "$(median <"$work/pauses" | awk '{ print $1 / 1e3 }')" '<' 10
row "first save of 4 GiB, pause, ms" "$(awk '{ print $1 / 1e3 }' "$work/first")" '<' 10
