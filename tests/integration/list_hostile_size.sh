#!/usr/bin/env bash
# A manifest that claims 2^63 bytes and more: the size is a number above zero,
# in list and show, for programs and for people.
. "$(dirname "$0")/lib.sh"
requires_kvm

export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
demo_snapshot base
for size in 0x7fffffffffffffff 0x8000000000000000 0xfffffffffffff000; do
	cp -r "$STORE/snapshots/base" "$WORK/forged"
	"$TOOLS/forge" "$WORK/forged/manifest.bin" "memory_size=$size"
	mv "$WORK/forged" "$STORE/snapshots/forged"
	[ "$("$BIN/snapctl" list --json |
		json "[s['memory_bytes'] >= 2**63 - 1 for s in d if s['name'] == 'forged']")" = "[True]" ] ||
		fail "list --json: $("$BIN/snapctl" list --json)"
	"$BIN/snapctl" show --json forged | json "float(d['memory_bytes']) == float($size)" >"$WORK/out"
	grep -q True "$WORK/out" || fail "show --json: $("$BIN/snapctl" show --json forged)"
	"$BIN/snapctl" list >"$WORK/out"
	"$BIN/snapctl" show forged >>"$WORK/out"
	grep -E -- ' -[0-9]' "$WORK/out" && fail "a negative size"
	"$BIN/snapctl" rm forged
done
exit 0
